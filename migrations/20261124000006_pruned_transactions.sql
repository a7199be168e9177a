-- What retention needs to know about what it has removed.
SET LOCAL lock_timeout = '2s';

ALTER TABLE transactions
    ADD COLUMN pruned_at timestamptz,
    ADD COLUMN evidence_pruned_at timestamptz,
    -- NOT VALID: no scan under this lock; a later file validates it under a weaker one.
    ADD CONSTRAINT transactions_pending_is_not_pruned
        CHECK (status <> 'pending' OR pruned_at IS NULL) NOT VALID;

COMMENT ON COLUMN transactions.pruned_at IS 'Set: it has ended and its four job rows were removed by age. This row stays, so that its id stays taken.';
COMMENT ON COLUMN transactions.evidence_pruned_at IS 'Set: its evidence up to then was removed by age.';
COMMENT ON TABLE transactions IS 'One row for each accepted transaction, for ever; written in the same SQL statement as its four jobs in apalis.jobs.';
