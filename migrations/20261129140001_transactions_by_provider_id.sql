-- no-transaction
-- A third party's id names one transaction. Only those that have one are in the index.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS transactions_provider_id_key
    ON transactions (third_party, provider_id) WHERE provider_id IS NOT NULL;
