-- Autovacuum of jobs and transactions comes by a share of the table, with a floor for small ones.
-- docs/database.md has the reasons.
--
-- Under load, more than 2 % of the pages have something to remove within a minute, and a pass then
-- reads all indexes from end to end. With a threshold that hardly grows with the table there was one
-- each minute, which cost more and more as the table grew. Now each removed row costs the reading of
-- twenty entries of each index at most, whatever the size.
ALTER TABLE apalis.jobs SET (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.1
);
ALTER TABLE transactions SET (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.1
);
