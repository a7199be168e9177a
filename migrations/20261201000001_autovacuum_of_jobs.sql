-- Autovacuum of jobs comes when a fifth of the table can be removed, as by Postgres's own default,
-- and works at the server's pace. docs/database.md has the reasons.
--
-- Each pass reads all indexes of the table from end to end. With a twentieth, at a steady high load,
-- that was as much as is written, and a third of a core. Claims do not need it: they begin behind the
-- entries of jobs that have ended. A pace of a table's own is not shared between the passes that run
-- at the same time: three of them at five times the default left the load too little of two cores.
ALTER TABLE apalis.jobs SET (autovacuum_vacuum_scale_factor = 0.2);
ALTER TABLE apalis.jobs RESET (autovacuum_vacuum_cost_limit, autovacuum_vacuum_cost_delay);
ALTER TABLE transactions RESET (autovacuum_vacuum_cost_limit);
ALTER TABLE transaction_events RESET (autovacuum_vacuum_cost_limit);
