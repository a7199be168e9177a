-- no-transaction
-- The operators' lists over all clients, by status: pending ones are found among millions of
-- others, and a list of all statuses merges four ordered ranges.
--
-- Like every index on a table in use: built while it is written to, which is possible as the only
-- statement of a file without a transaction. `quartet migrate` drops what an interrupted build left.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transactions_by_status
    ON transactions (status, created_at DESC, id DESC);
