-- no-transaction
-- A client's dead letters, newest first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS failed_jobs_by_client
    ON failed_jobs (client_id, opened_at DESC, id DESC) WHERE client_id IS NOT NULL;
