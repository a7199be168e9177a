//! Rows that are there before a run: written by SQL, as the API and the workers would have left
//! them.

use uuid::Uuid;

use crate::{
    clock::{Moment, moment},
    database::Database,
    error::BenchError,
};

/// Transactions of one statement.
const BATCH: i64 = 50_000;

/// `$1` the first number, `$2` the last one, `$3` the age of the newest in seconds: a transaction
/// for each number, older ones first, with ids that grow with time.
const IDS: &str = "
    WITH client AS (SELECT id FROM clients ORDER BY created_at LIMIT 1), numbered AS (
        SELECT number, client.id AS client_id,
            (lpad(to_hex((extract(epoch FROM now() - make_interval(secs => $3)) * 1000)::bigint
                - $2 + number), 12, '0') || '70008' || lpad(to_hex(number), 15, '0'))::uuid AS id,
            now() - make_interval(secs => $3) - ($2 - number) * interval '1 ms' AS created_at
        FROM client, generate_series($1::bigint, $2::bigint) AS number
    )";

/// Ended ones: completed, told, all four jobs done, with the evidence that the invariants ask for.
const FINISHED: &str = ", accepted AS (
        INSERT INTO transactions (id, client_id, content_hash, amount, currency, reference, status,
            version, notified_version, settled_at, settled_by, created_at, updated_at)
        SELECT id, client_id, sha256('seed'), 1250, 'EUR', 'Invoice 117', 'completed',
            2, 2, created_at, 'third_party_response', created_at, created_at
        FROM numbered
    ), evidence AS (
        INSERT INTO transaction_events (transaction_id, at, kind, source, detail)
        SELECT id, created_at, 'settled', 'create_at_third_party',
            '{\"status\": \"completed\", \"version\": 2, \"settled_by\": \"third_party_response\"}'
        FROM numbered
    )
    INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at,
        last_result, idempotency_key)
    SELECT '00' || lpad(numbered.number::text, 23, '0') || kind.place, kind.name,
        convert_to(json_build_object('transaction_id', id)::text, 'UTF8'),
        'Done', 1, 5, created_at, created_at, '{\"Ok\": null}', id::text
    FROM numbered, unnest(ARRAY['create_transaction', 'create_at_third_party', 'update_status',
        'notify_client']) WITH ORDINALITY AS kind (name, place)";

/// Ones that are polled: created at the third party, `pending` told, the next poll minutes away.
const POLLED: &str = ", accepted AS (
        INSERT INTO transactions (id, client_id, content_hash, amount, currency, reference,
            notified_version, created_at, updated_at)
        SELECT id, client_id, sha256('seed'), 1250, 'EUR', 'Invoice 117', 1, created_at, created_at
        FROM numbered
    )
    INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at,
        last_result, idempotency_key)
    SELECT '00' || lpad(numbered.number::text, 23, '0') || kind.place, kind.name,
        convert_to(json_build_object('transaction_id', id)::text, 'UTF8'),
        CASE kind.name WHEN 'update_status' THEN 'Pending' ELSE 'Done' END,
        CASE kind.name WHEN 'update_status' THEN 0 ELSE 1 END, 5,
        CASE kind.name WHEN 'update_status' THEN now() + interval '5 minutes' ELSE created_at END,
        CASE kind.name WHEN 'update_status' THEN NULL ELSE created_at END,
        CASE kind.name WHEN 'update_status' THEN NULL ELSE '{\"Ok\": null}'::jsonb END, id::text
    FROM numbered, unnest(ARRAY['create_transaction', 'create_at_third_party', 'update_status',
        'notify_client']) WITH ORDINALITY AS kind (name, place)";

/// Ones accepted now, the polls after `$4` seconds: the accept statement for many.
const ACCEPTED: &str = ", accepted AS (
        INSERT INTO transactions (id, client_id, content_hash, amount, currency, reference)
        SELECT id, client_id, sha256('seed'), 1250, 'EUR', 'Invoice 117' FROM numbered
    ), evidence AS (
        INSERT INTO transaction_events (transaction_id, kind, source)
        SELECT id, 'accepted', 'api' FROM numbered
    ), jobs AS (
        INSERT INTO apalis.jobs (id, job_type, job, max_attempts, run_at, idempotency_key)
        SELECT '01' || lpad(numbered.number::text, 23, '0') || kind.place, kind.name,
            convert_to(CASE kind.name
                WHEN 'create_transaction' THEN json_build_object('id', id, 'client_id', client_id,
                    'amount', 1250, 'currency', 'EUR', 'reference', 'Invoice 117')
                ELSE json_build_object('transaction_id', id)
            END::text, 'UTF8'),
            CASE kind.name WHEN 'notify_client' THEN 15 ELSE 5 END,
            now() + make_interval(secs => CASE kind.name
                WHEN 'notify_client' THEN 0.2 WHEN 'update_status' THEN $4 ELSE 0
            END), id::text
        FROM numbered, unnest(ARRAY['create_transaction', 'create_at_third_party', 'update_status',
            'notify_client']) WITH ORDINALITY AS kind (name, place)
    )
    SELECT id FROM numbered";

/// Ended transactions of yesterday: four finished job rows each.
pub async fn finished(database: &Database, transactions: i64) -> Result<(), BenchError> {
    write(database, FINISHED, transactions, 86_400.0).await
}

/// Transactions of the last minutes that wait for a poll, which no run lives to see.
pub async fn polled(database: &Database, transactions: i64) -> Result<(), BenchError> {
    write(database, POLLED, transactions, 60.0).await
}

async fn write(
    database: &Database,
    rows: &'static str,
    transactions: i64,
    age: f64,
) -> Result<(), BenchError> {
    let mut first = 1;
    while first <= transactions {
        let last = transactions.min(first + BATCH - 1);
        let older = (transactions - last) as f64 / 1000.0;
        sqlx::query(sqlx::AssertSqlSafe(format!("{IDS}{rows}")))
            .bind(first)
            .bind(last)
            .bind(age + older)
            .execute(&database.pool)
            .await?;
        first = last + 1;
    }
    for vacuum in ["VACUUM ANALYZE transactions", "VACUUM ANALYZE apalis.jobs"] {
        sqlx::query(vacuum).execute(&database.pool).await?;
    }
    Ok(())
}

/// Accepts by SQL, behind Quartet's back: `numbers` tell one call's transactions from another's.
/// The first poll is due after `first_poll_secs`. Returns the ids.
pub async fn accepted(
    database: &Database,
    numbers: std::ops::RangeInclusive<i64>,
    first_poll_secs: f64,
) -> Result<Vec<Uuid>, BenchError> {
    let ids = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{IDS}{ACCEPTED}")))
        .bind(numbers.start())
        .bind(numbers.end())
        .bind(0.0)
        .bind(first_poll_secs)
        .fetch_all(&database.pool)
        .await?;
    Ok(ids)
}

/// When each transaction was accepted, by the database's clock.
pub async fn accepted_at(database: &Database) -> Result<Vec<(Uuid, Moment)>, BenchError> {
    let rows: Vec<(Uuid, chrono::DateTime<chrono::Utc>)> =
        sqlx::query_as("SELECT id, created_at FROM transactions").fetch_all(&database.pool).await?;
    Ok(rows.into_iter().map(|(id, at)| (id, moment(at))).collect())
}
