-- no-transaction
-- Those that retention removes.
CREATE INDEX CONCURRENTLY IF NOT EXISTS failed_jobs_closed_by_age
    ON failed_jobs (closed_at) WHERE closed_at IS NOT NULL;
