-- When autovacuum comes, for tables of any size: up to 100 million job rows and 20 million
-- transactions. docs/database.md has the reasons at length.
--
-- A pass reads the pages that changed since the last one. It reads the indexes as a whole only where
-- more than 2 % of the table's pages have something to remove, a rule of Postgres that grows with
-- the table by itself; so the size of a table is no reason to come rarely. A fixed number of rows for
-- all sizes is: an ANALYZE, which reads 30,000 pages at random and holds a snapshot meanwhile, came
-- every minute under load.
--
-- Rows are frozen at the first pass: after the seconds in which they are written most stay as they
-- are until they are removed, and a pass against wraparound then finds nothing left to read.

-- Each job row has about ten versions within seconds. The pages that those left are found soon; a
-- pass may do five times as much in a time as by default, so that it keeps up at any rate, but does
-- not take a whole disk for itself.
ALTER TABLE apalis.jobs SET (
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_scale_factor = 0.002,
    autovacuum_analyze_threshold = 50000,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 2,
    autovacuum_vacuum_cost_limit = 1000,
    autovacuum_freeze_min_age = 0
);

-- Three versions within seconds, and the table grows for ever: by default a pass would come after
-- four million dead rows, which lists of pending transactions would walk until then.
ALTER TABLE transactions SET (
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_threshold = 50000,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 1000,
    autovacuum_freeze_min_age = 0
);

-- Written once, and removed by age. Passes for what was inserted come by number, not by share: each
-- is small, and freezes its rows for good.
ALTER TABLE transaction_events SET (
    autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_threshold = 1000000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_analyze_threshold = 100000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 1000,
    autovacuum_freeze_min_age = 0
);
ALTER TABLE webhook_deliveries SET (
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_analyze_threshold = 50000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_freeze_min_age = 0
);

-- Few, but an outage may open many at once, and a bulk replay closes them.
ALTER TABLE failed_jobs SET (
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.05
);

-- Room for the next heartbeats on the same page.
ALTER TABLE apalis.workers SET (fillfactor = 50);
