-- no-transaction
-- A heartbeat updates one column, which apalis indexes twice: each wrote six index entries, and every
-- lease looks its worker up among those that a held snapshot keeps. The table has a few rows.
DROP INDEX CONCURRENTLY IF EXISTS apalis.lsidx;
