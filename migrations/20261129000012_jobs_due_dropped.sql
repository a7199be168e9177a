-- no-transaction
-- quartet_jobs_waiting takes its place, also for a process of an earlier release.
DROP INDEX CONCURRENTLY IF EXISTS apalis.quartet_jobs_due;
