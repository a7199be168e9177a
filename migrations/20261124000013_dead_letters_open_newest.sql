-- no-transaction
-- All open ones, newest first, whatever their kind.
CREATE INDEX CONCURRENTLY IF NOT EXISTS failed_jobs_open_newest
    ON failed_jobs (opened_at DESC, id DESC) WHERE state = 'open';
