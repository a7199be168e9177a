-- no-transaction
-- The same index by another name.
DROP INDEX CONCURRENTLY IF EXISTS apalis.idx_apalis_workers_last_seen;
