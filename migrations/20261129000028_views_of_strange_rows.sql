-- An infinite time has no age, and would fail the query over all other rows: ages count from the
-- nearest time that the API can show. Nothing else of these views changes.
CREATE OR REPLACE VIEW operator.transactions AS
SELECT
    transactions.id,
    clients.name AS client,
    transactions.status,
    transactions.version,
    transactions.notified_version,
    transactions.notified_version = transactions.version AS client_told,
    transactions.amount,
    transactions.currency,
    transactions.reference,
    transactions.metadata,
    transactions.created_at,
    transactions.settled_at,
    transactions.settled_by,
    now() - LEAST(GREATEST(transactions.created_at, '0001-01-01Z'), '9999-12-31Z') AS age,
    CASE WHEN transactions.settled_at IS NOT NULL THEN
        LEAST(GREATEST(transactions.settled_at, '0001-01-01Z'), '9999-12-31Z')
            - LEAST(GREATEST(transactions.created_at, '0001-01-01Z'), '9999-12-31Z')
    END AS time_to_final,
    transactions.client_id,
    transactions.pruned_at
FROM transactions
JOIN clients ON clients.id = transactions.client_id;

CREATE OR REPLACE VIEW operator.dead_letters AS
SELECT
    failed_jobs.id,
    failed_jobs.kind,
    failed_jobs.state,
    failed_jobs.transaction_id,
    clients.name AS client,
    failed_jobs.queue,
    failed_jobs.reason,
    jsonb_array_length(failed_jobs.attempts) AS attempts,
    failed_jobs.attempts -> -1 ->> 'error' AS last_error,
    failed_jobs.opened_at,
    now() - LEAST(GREATEST(failed_jobs.opened_at, '0001-01-01Z'), '9999-12-31Z') AS age,
    failed_jobs.closed_at,
    failed_jobs.closed_by,
    failed_jobs.note,
    failed_jobs.job_id,
    failed_jobs.detail
FROM failed_jobs
LEFT JOIN clients ON clients.id = failed_jobs.client_id;
