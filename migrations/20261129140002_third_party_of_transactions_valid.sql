-- A scan of the table, under a lock that lets rows be read and written.
SET LOCAL lock_timeout = '2s';

ALTER TABLE transactions
    VALIDATE CONSTRAINT transactions_third_party_length,
    VALIDATE CONSTRAINT transactions_provider_id_length;
