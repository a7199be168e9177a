-- no-transaction
-- Its place has been taken by `failed_jobs_by_client_and_state`.
DROP INDEX CONCURRENTLY IF EXISTS failed_jobs_by_client;
