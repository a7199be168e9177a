-- no-transaction
-- The claim's index: what waits, in the order it falls due. The client is its last column, so that a
-- claim for one client passes over the others' entries without reading their rows.
CREATE INDEX CONCURRENTLY IF NOT EXISTS quartet_jobs_waiting
    ON apalis.jobs (job_type, run_at, client_id) WHERE status = 'Pending';
