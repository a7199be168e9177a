-- no-transaction
-- Dead letters by state and kind, newest first. Takes the place of `failed_jobs_open_by_age`.
CREATE INDEX CONCURRENTLY IF NOT EXISTS failed_jobs_by_state
    ON failed_jobs (state, kind, opened_at DESC, id DESC);
