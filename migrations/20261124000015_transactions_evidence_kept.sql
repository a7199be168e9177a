-- no-transaction
-- Whose evidence may still be removed. Neither accepting nor settling touches this index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transactions_evidence_kept ON transactions (settled_at, id)
    WHERE pruned_at IS NOT NULL AND (evidence_pruned_at IS NULL OR evidence_pruned_at < pruned_at);
