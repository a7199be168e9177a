-- no-transaction
-- For lists of one third party. Where there is only the one without a name nothing is in it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transactions_by_third_party
    ON transactions (third_party, status, created_at DESC, id DESC)
    WHERE third_party <> 'third-party';
