-- Whose job it is, so that a claim can give each client its share of a queue.

SET LOCAL lock_timeout = '2s';

-- No rewrite: the default is a constant. Rows that an earlier release or an import wrote keep it;
-- they are claimed like any other, and count as one client's.
ALTER TABLE apalis.jobs
    ADD COLUMN client_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';

COMMENT ON COLUMN apalis.jobs.client_id IS 'The client that posted the transaction; all zeros where that is not known. Claims share a queue between clients by it.';
