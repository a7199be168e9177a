-- no-transaction
-- A client's dead letters by state, newest first. Takes the place of `failed_jobs_by_client`.
CREATE INDEX CONCURRENTLY IF NOT EXISTS failed_jobs_by_client_and_state
    ON failed_jobs (client_id, state, opened_at DESC, id DESC) WHERE client_id IS NOT NULL;
