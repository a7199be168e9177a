-- A worker that is taken for dead is marked first, and loses its jobs in as many batches as it
-- takes; its row goes when no job names it any more.
SET LOCAL lock_timeout = '2s';

ALTER TABLE apalis.workers ADD COLUMN dead_at timestamptz;

COMMENT ON COLUMN apalis.workers.dead_at IS 'When it was taken for dead; from then on it renews and claims nothing, and its jobs are given to others.';
COMMENT ON TABLE apalis.workers IS 'apalis''s worker registry: one row for each running worker; a worker unseen for WORKER__DEAD_AFTER is marked dead, loses its leases, and then its row.';

-- A dead worker stays dead, also for a process of an earlier release, whose renewals do not look at
-- the mark: they find no row, as if it were gone.
CREATE FUNCTION quartet_keep_dead() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION quartet_keep_dead IS 'Skips the renewal of a worker that is marked dead.';

CREATE TRIGGER quartet_keep_dead
    BEFORE UPDATE OF last_seen ON apalis.workers
    FOR EACH ROW
    WHEN (OLD.dead_at IS NOT NULL)
    EXECUTE FUNCTION quartet_keep_dead();
