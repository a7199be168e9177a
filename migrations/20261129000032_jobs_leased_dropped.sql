-- no-transaction
-- Its place has been taken by `quartet_jobs_leased_since`.
DROP INDEX CONCURRENTLY IF EXISTS apalis.quartet_jobs_leased;
