-- Counting and listing due jobs, and jobs that run, without walking dead index entries.
--
-- Every claim leaves a dead entry in the index of the due jobs, every lease one in the index of the
-- leased ones. While a session holds an older snapshot (a dump, a report, a forgotten transaction),
-- neither vacuum nor a scan may remove them: after ten minutes at 500 transactions a second there
-- are millions, all of them before the entries that count. A floor says where a scan may start: no
-- job of the queue that waits was due before it, or no job that runs was leased before it.
CREATE TABLE queue_floors (
    name        text        NOT NULL,
    floor       timestamptz NOT NULL DEFAULT '-infinity',
    swept_to    timestamptz DEFAULT '-infinity',
    swept_at    timestamptz NOT NULL DEFAULT '-infinity',
    advanced_at timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT queue_floors_pkey PRIMARY KEY (name),
    CONSTRAINT queue_floors_name_known CHECK (name IN (
        'create_transaction', 'create_at_third_party', 'update_status', 'notify_client', 'leased'
    ))
-- Each row is updated every few seconds.
) WITH (fillfactor = 50);
COMMENT ON TABLE queue_floors IS 'Where a scan of the due or of the leased jobs may start. Worker processes move the floors forward; claims do not read them.';
COMMENT ON COLUMN queue_floors.name IS 'A queue, for its due jobs; leased, for the jobs that run.';
COMMENT ON COLUMN queue_floors.floor IS 'No job that waits has an earlier run_at; for leased, no job that runs has an earlier lock_at.';
COMMENT ON COLUMN queue_floors.swept_to IS 'How far the present sweep has looked for jobs below the floor; null between two sweeps.';
COMMENT ON COLUMN queue_floors.swept_at IS 'When the last sweep ended.';
COMMENT ON COLUMN queue_floors.advanced_at IS 'When the floor was last looked after.';
INSERT INTO queue_floors (name) VALUES
    ('create_transaction'), ('create_at_third_party'), ('update_status'), ('notify_client'),
    ('leased');

-- A table of its own, into which writers insert without waiting for each other.
CREATE TABLE queue_floor_resets (
    id    bigint      GENERATED ALWAYS AS IDENTITY,
    name  text        NOT NULL,
    floor timestamptz NOT NULL,
    CONSTRAINT queue_floor_resets_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE queue_floor_resets IS 'What somebody else than Quartet has written into the job table since the floors were last moved: the floors are no higher than this.';
COMMENT ON COLUMN queue_floor_resets.id IS 'Order of writing.';
COMMENT ON COLUMN queue_floor_resets.name IS 'A queue, or leased.';
COMMENT ON COLUMN queue_floor_resets.floor IS 'The earliest run_at of the jobs that were written and wait, or lock_at of those that run.';

-- With the rights of the owner, so that whoever may change the job table needs no further right.
CREATE FUNCTION quartet_lower_floors() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
BEGIN
    -- Whatever the floors are now: they may be higher when this is committed.
    INSERT INTO queue_floor_resets (name, floor)
    SELECT job_type, min(run_at)
    FROM written
    WHERE status = 'Pending' AND job_type IN (
        'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
    )
    GROUP BY job_type
    UNION ALL
    SELECT 'leased', min(lock_at) FROM written WHERE lock_by IS NOT NULL HAVING min(lock_at) IS NOT NULL;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION quartet_lower_floors IS 'Lowers the floors to what was written.';

-- One for each kind of statement: a trigger that sees what was written can have one kind alone, and
-- no list of columns.
CREATE TRIGGER quartet_lower_floors_insert
    AFTER INSERT ON apalis.jobs
    REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT
    WHEN (current_setting('application_name') IS DISTINCT FROM 'quartet')
    EXECUTE FUNCTION quartet_lower_floors();
CREATE TRIGGER quartet_lower_floors_update
    AFTER UPDATE ON apalis.jobs
    REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT
    WHEN (current_setting('application_name') IS DISTINCT FROM 'quartet')
    EXECUTE FUNCTION quartet_lower_floors();

CREATE VIEW operator.floors AS
SELECT
    name,
    LEAST(
        floor,
        (SELECT min(resets.floor) FROM queue_floor_resets AS resets WHERE resets.name = floors.name)
    ) AS floor
FROM queue_floors AS floors;
COMMENT ON VIEW operator.floors IS 'Where a scan of the due or of the leased jobs may start: WHERE run_at >= floor keeps a query fast while another session holds a snapshot.';
COMMENT ON COLUMN operator.floors.name IS 'A queue, for run_at of its due jobs; leased, for leased_at of the jobs that run.';
COMMENT ON COLUMN operator.floors.floor IS 'There is no such job before it.';

-- Looks for the first job of `name` from `since` on, in windows of time, until `stop` or until it
-- has taken longer than `budget`: one window is all that a statement walks for nothing.
CREATE FUNCTION quartet_look(
    name text, since timestamptz, stop timestamptz, budget interval,
    OUT reached timestamptz, OUT is_found boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
AS $$
DECLARE
    deadline CONSTANT timestamptz := clock_timestamp() + budget;
    until timestamptz;
    job_at timestamptz;
BEGIN
    reached := since;
    is_found := false;
    WHILE reached < stop AND clock_timestamp() < deadline LOOP
        -- What is a month old is rare enough for one window. The nearer the present, the smaller
        -- the windows: dead entries are recent ones.
        until := CASE
            WHEN reached < stop - interval '30 days' THEN stop - interval '30 days'
            ELSE LEAST(stop, reached + GREATEST((stop - reached) / 64, interval '1 second'))
        END;
        IF name = 'leased' THEN
            SELECT lease.lock_at INTO job_at
            FROM apalis.workers
            -- By worker, as the index has it. The lease of a running job names one.
            CROSS JOIN LATERAL (
                SELECT lock_at FROM apalis.jobs
                WHERE lock_by = workers.id AND lock_at >= reached AND lock_at < until
                ORDER BY lock_at
                LIMIT 1
            ) AS lease
            ORDER BY lease.lock_at
            LIMIT 1;
        ELSE
            SELECT run_at INTO job_at
            FROM apalis.jobs
            WHERE job_type = quartet_look.name AND status = 'Pending'
                AND run_at >= reached AND run_at < until
            ORDER BY run_at
            LIMIT 1;
        END IF;
        IF job_at IS NOT NULL THEN
            reached := job_at;
            is_found := true;
            RETURN;
        END IF;
        reached := until;
    END LOOP;
END
$$;
COMMENT ON FUNCTION quartet_look IS 'The first due job of a queue, or the oldest lease, from a time on; found, or how far it has looked.';

CREATE FUNCTION quartet_advance_floors() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $$
DECLARE
    -- Times are those of the beginning of an SQL transaction: one that is under way may still write
    -- a job that was due, or leased, when it began. None of Quartet's lasts as long as this.
    stop CONSTANT timestamptz := clock_timestamp() - interval '20 seconds';
    resets CONSTANT bigint[] := ARRAY(SELECT id FROM queue_floor_resets);
    old record;
    look record;
    sweep record;
    is_swept boolean;
BEGIN
    -- One process at a time, every few seconds.
    PERFORM FROM queue_floors
    WHERE name = 'leased' AND advanced_at < clock_timestamp() - interval '4 seconds'
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR old IN SELECT * FROM queue_floors ORDER BY name LOOP
        look := quartet_look(
            old.name,
            LEAST(old.floor, (
                SELECT min(floor) FROM queue_floor_resets
                WHERE name = old.name AND id = ANY (resets)
            )),
            stop, '100 ms'
        );
        UPDATE queue_floors SET floor = look.reached, advanced_at = clock_timestamp()
        WHERE name = old.name;
        -- Nothing of Quartet's writes below a floor. A sweep finds what does so all the same, such
        -- as a process of an earlier release.
        CONTINUE WHEN old.swept_to IS NULL
            AND old.swept_at > clock_timestamp() - interval '5 minutes';
        sweep := quartet_look(
            old.name, COALESCE(old.swept_to, '-infinity'), look.reached, '20 ms'
        );
        is_swept := sweep.is_found OR sweep.reached >= look.reached;
        UPDATE queue_floors
        SET floor = CASE WHEN sweep.is_found THEN sweep.reached ELSE floor END,
            swept_to = CASE WHEN NOT is_swept THEN sweep.reached END,
            swept_at = CASE WHEN is_swept THEN clock_timestamp() ELSE swept_at END
        WHERE name = old.name;
    END LOOP;
    DELETE FROM queue_floor_resets WHERE id = ANY (resets);
END
$$;
COMMENT ON FUNCTION quartet_advance_floors IS 'Moves the floors forward, in some tens of milliseconds at most; called by worker processes every few seconds.';

-- As before, from the floors on; and the running jobs by their workers, from the oldest lease on.
CREATE OR REPLACE VIEW operator.queues AS
SELECT
    queue.name AS queue,
    -- Counts stop at 10,000: a list that operators look at must not read a long backlog.
    (
        SELECT count(*) FROM (
            SELECT FROM apalis.jobs
            WHERE job_type = queue.name AND status = 'Pending' AND run_at <= now()
                AND run_at >= (SELECT floor FROM operator.floors WHERE name = queue.name)
            LIMIT 10000
        ) AS counted
    ) AS due,
    (
        SELECT count(*) FROM (
            SELECT FROM apalis.jobs
            WHERE job_type = queue.name AND status = 'Pending' AND run_at > now()
            LIMIT 10000
        ) AS counted
    ) AS scheduled,
    COALESCE(running.jobs, 0) AS running,
    (
        SELECT count(*) FROM (
            SELECT FROM apalis.jobs
            WHERE job_type = queue.name AND status IN ('Failed', 'Killed') AND status = 'Failed'
            LIMIT 10000
        ) AS counted
    ) AS failed,
    now() - (
        SELECT GREATEST(run_at, '0001-01-01Z') FROM apalis.jobs
        WHERE job_type = queue.name AND status = 'Pending' AND run_at <= now()
            AND run_at >= (SELECT floor FROM operator.floors WHERE name = queue.name)
        ORDER BY run_at
        LIMIT 1
    ) AS oldest_due_age,
    COALESCE((
        SELECT value FROM minute_figures
        WHERE minute = date_trunc('minute', now(), 'UTC') - interval '1 minute'
            AND figure = 'jobs' AND label = queue.name || '/done'
    ), 0) AS done_per_minute,
    queue_pauses.queue IS NOT NULL AS paused,
    queue_pauses.paused_at,
    queue_pauses.paused_by,
    queue_pauses.note AS pause_note
FROM (
    VALUES (1, 'create_transaction'), (2, 'create_at_third_party'), (3, 'update_status'),
        (4, 'notify_client')
) AS queue (position, name)
LEFT JOIN queue_pauses ON queue_pauses.queue = queue.name
LEFT JOIN (
    SELECT lease.job_type, count(*) AS jobs
    FROM apalis.workers
    CROSS JOIN LATERAL (
        SELECT job_type FROM apalis.jobs
        WHERE lock_by = workers.id
            AND lock_at >= (SELECT floor FROM operator.floors WHERE name = 'leased')
        -- Not flattened: it stays a lookup by worker and time.
        OFFSET 0
    ) AS lease
    GROUP BY lease.job_type
) AS running ON running.job_type = queue.name
ORDER BY queue.position;

DO $$
BEGIN
    GRANT SELECT ON operator.floors TO quartet_reader;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
