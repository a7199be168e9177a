-- As in the other views: times that are infinite have no difference to another before PostgreSQL 17.
CREATE OR REPLACE VIEW operator.findings AS
SELECT
    transaction_id, finding, detail, first_found_at,
    now() - LEAST(GREATEST(first_found_at, '0001-01-01Z'), '9999-12-31Z') AS age,
    last_checked_at, checks, next_check_at
FROM reconcile_findings
WHERE closed_at IS NULL;
