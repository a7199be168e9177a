-- no-transaction
-- Its place has been taken by `failed_jobs_by_state`.
DROP INDEX CONCURRENTLY IF EXISTS failed_jobs_open_by_age;
