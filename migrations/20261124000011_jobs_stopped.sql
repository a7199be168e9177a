-- no-transaction
-- Jobs that stopped: few, and looked for by operators.
CREATE INDEX CONCURRENTLY IF NOT EXISTS quartet_jobs_stopped
    ON apalis.jobs (job_type, done_at DESC, id DESC) WHERE status IN ('Failed', 'Killed');
