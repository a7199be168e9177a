-- Whose transaction a dead letter is about, so that a client's dead letters are found by index.
--
-- Like every ALTER of a table in use: in a file of its own, so that no second lock is asked for
-- while this one is held, and with a bound on the wait for it, behind which everybody else waits.
SET LOCAL lock_timeout = '2s';

ALTER TABLE failed_jobs ADD COLUMN client_id uuid;

COMMENT ON COLUMN failed_jobs.client_id IS 'The client of the transaction; null where the transaction was unknown when this was opened.';
