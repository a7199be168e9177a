-- The accept statement as one plain statement, for pgbench: what the schema and the disk allow
-- without a server in front of them. The same rows as src/store/accept.rs writes: a
-- transaction, its four jobs, its first evidence. Ids grow with time, as Quartet's do; payloads
-- are constants of the same length, because Quartet builds them outside the database.
\set n :n + 1
WITH accepted AS (
    INSERT INTO transactions (id, client_id, content_hash, amount, currency, reference)
    VALUES (
        (lpad(to_hex(:n::bigint), 12, '0') || '70008' || lpad(to_hex(:client_id::bigint), 15, '0'))::uuid,
        '00000000-0000-0000-0000-000000000001',
        '\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f',
        1250, 'EUR', 'Invoice 117'
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING *
), new_jobs AS (
    INSERT INTO apalis.jobs (id, job_type, job, max_attempts, run_at, idempotency_key, metadata)
    SELECT
        '01' || lpad(:n::bigint::text, 18, '0') || lpad(:client_id::bigint::text, 5, '0') || job.number,
        job.job_type, job.payload, job.max_attempts,
        now() + make_interval(secs => job.delay), accepted.id::text, NULL
    FROM accepted, (VALUES
        (0, 'create_transaction', convert_to('{"id":"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51","client_id":"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a52","amount":1250,"currency":"EUR","reference":"Invoice 117"}', 'UTF8'), 5, 0.0),
        (1, 'create_at_third_party', convert_to('{"transaction_id":"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51"}', 'UTF8'), 5, 0.0),
        (2, 'update_status', convert_to('{"transaction_id":"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51"}', 'UTF8'), 5, 0.2),
        (3, 'notify_client', convert_to('{"transaction_id":"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51"}', 'UTF8'), 15, 0.2)
    ) AS job (number, job_type, payload, max_attempts, delay)
), evidence AS (
    INSERT INTO transaction_events (transaction_id, kind, source)
    SELECT id, 'accepted', 'api' FROM accepted
)
SELECT * FROM accepted;
