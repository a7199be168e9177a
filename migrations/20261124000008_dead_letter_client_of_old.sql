-- no-transaction
-- The client of the dead letters that are there. Each row in a transaction of its own: while it
-- waits for a row this holds nothing that somebody else could wait for.
DO $$
DECLARE
    letter record;
BEGIN
    -- The record that this file was applied is flushed after all of it.
    SET synchronous_commit = off;
    FOR letter IN
        SELECT failed_jobs.id, transactions.client_id
        FROM failed_jobs
        JOIN transactions ON transactions.id = failed_jobs.transaction_id
        WHERE failed_jobs.client_id IS NULL
    LOOP
        UPDATE failed_jobs SET client_id = letter.client_id WHERE id = letter.id;
        COMMIT;
    END LOOP;
    RESET synchronous_commit;
END
$$;
