-- Quartet's own processes announce what they commit on the channel quartet_due after the commit,
-- gathered, because a pending NOTIFY serialises commits. What anybody else writes into the job
-- table, by hand, by an import or a restore, is announced by a trigger, once a statement.
CREATE FUNCTION quartet_wake() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_notify('quartet_due', '');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION quartet_wake IS 'Tells the workers to look for due jobs.';

CREATE TRIGGER quartet_wake
    AFTER INSERT OR UPDATE OF status, run_at ON apalis.jobs
    FOR EACH STATEMENT
    WHEN (current_setting('application_name') IS DISTINCT FROM 'quartet')
    EXECUTE FUNCTION quartet_wake();
