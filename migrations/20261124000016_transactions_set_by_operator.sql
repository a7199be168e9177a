-- no-transaction
-- What operators decided lately, which reconciliation compares: few among millions.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transactions_set_by_operator ON transactions (settled_at)
    WHERE settled_by = 'operator';
