-- A scan of the table, under a lock that lets rows be read and written.
ALTER TABLE transactions VALIDATE CONSTRAINT transactions_pending_is_not_pruned;
