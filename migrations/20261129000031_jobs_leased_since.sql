-- no-transaction
-- The leased rows by worker and time. A dead worker's jobs are found by the first column, and it
-- serves the foreign key check when a worker is removed, as `quartet_jobs_leased` did; each process
-- compares its recent leases with what it holds, by both. Takes the place of `quartet_jobs_leased`.
CREATE INDEX CONCURRENTLY IF NOT EXISTS quartet_jobs_leased_since
    ON apalis.jobs (lock_by, lock_at) WHERE lock_by IS NOT NULL;
