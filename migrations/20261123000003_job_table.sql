-- What Quartet changes about apalis's job table, and why. The table itself comes from
-- apalis-postgres's own migrations, which run before these.

-- A pending NOTIFY makes Postgres take one global lock at commit, so that a trigger that notifies
-- for each inserted job halves the accept rate at 8 connections. Quartet's workers learn of due
-- jobs in their own process after the commit, and from one polling statement a process otherwise.
ALTER TABLE apalis.jobs DISABLE TRIGGER notify_workers;

-- Both repeat another index: the primary key, and the index on lock_by that follows.
ALTER TABLE apalis.jobs DROP CONSTRAINT IF EXISTS unique_job_id;
DROP INDEX IF EXISTS apalis.unique_job_id;
DROP INDEX IF EXISTS apalis.lidx;

-- Finished rows carry no lock_by in Quartet: an index over the leased rows alone stays small. It
-- finds a dead worker's jobs, and it serves the foreign key check when a worker is removed.
DROP INDEX IF EXISTS apalis.idx_apalis_jobs_lock_by;
CREATE INDEX quartet_jobs_leased ON apalis.jobs (lock_by) WHERE lock_by IS NOT NULL;

-- The claim's index: only what waits, in the order it falls due. Replaces apalis's, which orders
-- by priority first (Quartet has none) and keeps failed rows.
DROP INDEX IF EXISTS apalis.idx_apalis_jobs_fetch_partial;
CREATE INDEX quartet_jobs_due ON apalis.jobs (job_type, run_at) WHERE status = 'Pending';

-- A running job always names its worker, so that every running job has somebody whose death
-- releases it; a waiting or finished one names none. For Quartet's queues alone: apalis's own
-- acknowledgement leaves lock_by on finished rows, and other programs may use the same table.
ALTER TABLE apalis.jobs ADD CONSTRAINT quartet_jobs_lease_while_running CHECK (
    job_type NOT IN ('create_transaction', 'create_at_third_party', 'update_status', 'notify_client')
    OR (status IN ('Running', 'Queued')) = (lock_by IS NOT NULL)
);
ALTER TABLE apalis.jobs ADD CONSTRAINT quartet_jobs_status_known CHECK (
    job_type NOT IN ('create_transaction', 'create_at_third_party', 'update_status', 'notify_client')
    OR status IN ('Pending', 'Queued', 'Running', 'Done', 'Failed', 'Killed')
);

-- Each job row is updated two or more times within seconds of its birth: vacuum by a fixed number
-- of dead rows rather than by a share of a table that grows for days, and leave room on the page.
ALTER TABLE apalis.jobs SET (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE FUNCTION quartet_uuid(value text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN value ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        THEN value::uuid
    END;
COMMENT ON FUNCTION quartet_uuid IS 'The transaction id in an idempotency_key, or null where the text is no lower-case uuid: a strange row must not fail the query over all others.';

COMMENT ON TABLE apalis.jobs IS 'apalis''s job table. Each transaction has exactly four rows, for ever: create_transaction, create_at_third_party, update_status, notify_client.';
COMMENT ON COLUMN apalis.jobs.id IS 'ULID.';
COMMENT ON COLUMN apalis.jobs.job_type IS 'The queue.';
COMMENT ON COLUMN apalis.jobs.job IS 'The payload, JSON.';
COMMENT ON COLUMN apalis.jobs.idempotency_key IS 'The transaction''s id; unique together with job_type.';
COMMENT ON COLUMN apalis.jobs.status IS 'Pending (waits for run_at), Running (leased), Done, Failed (stopped; see failed_jobs), Killed (cancelled).';
COMMENT ON COLUMN apalis.jobs.attempts IS 'Attempts that ended: failed ones, lost leases and the successful last one. A snooze is none.';
COMMENT ON COLUMN apalis.jobs.max_attempts IS 'At this many attempts without success the job becomes a dead letter.';
COMMENT ON COLUMN apalis.jobs.run_at IS 'When it is or was due.';
COMMENT ON COLUMN apalis.jobs.lock_by IS 'The worker that holds the lease, while it runs.';
COMMENT ON COLUMN apalis.jobs.lock_at IS 'When the lease began; with lock_by it is the fence that an outcome must match.';
COMMENT ON COLUMN apalis.jobs.done_at IS 'When it was done, failed or cancelled.';
COMMENT ON COLUMN apalis.jobs.last_result IS '{"Err": last error, "errors": [{attempt, at, error}]} or {"Ok": null}.';
COMMENT ON COLUMN apalis.jobs.metadata IS 'polls = polls done by update_status; waits = waits in a row for a transaction that is missing; poll_since = where the deadline counts from after a replay.';
COMMENT ON COLUMN apalis.jobs.priority IS 'Unused.';
COMMENT ON TABLE apalis.workers IS 'apalis''s worker registry: one row for each running worker; a worker unseen for WORKER__DEAD_AFTER loses its leases and its row.';
