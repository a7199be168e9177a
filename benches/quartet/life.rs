//! What Postgres allows: the rows of whole transactions by plain SQL, without any program.
//!
//! A transaction is accepted with its four jobs, the first two are claimed, the answer to the
//! create settles it, the notification is claimed, and ends. Each step is one statement for a batch
//! of transactions, and one commit. Rows are named by their keys, so that nothing is searched, and
//! two connections share no rows.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use ulid::Ulid;
use uuid::Uuid;

use crate::{database::Database, error::BenchError};

/// Which versions of the rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// Each job that runs is first written as one that waits, then as one that runs, then as one
    /// that has ended.
    EachStep,
    /// What can be known when a row is written is written then: create_transaction is done,
    /// create_at_third_party runs, and so does notify_client once the transaction is settled.
    Fewest,
}

impl Versions {
    pub const ALL: [Self; 2] = [Self::EachStep, Self::Fewest];

    /// Versions of the four job rows of a transaction.
    pub fn of_jobs(self) -> f64 {
        match self {
            Self::EachStep => 12.0,
            Self::Fewest => 8.0,
        }
    }
}

/// Transactions of one statement.
pub const BATCH: usize = 100;
pub const CONNECTIONS: usize = 2;

/// As Quartet's sessions: rows are looked up by index, however few there were when the statement
/// was planned.
const SESSION: [(&str, &str); 3] =
    [("enable_seqscan", "off"), ("enable_nestloop", "off"), ("jit", "off")];

/// `$1` transactions, `$2` client, `$3` job ids, kind by kind, `$4` the worker that runs the second
/// kind from then on, if any. Payloads are as long as Quartet's.
const ACCEPT: &str = "
    WITH accepted AS (
        INSERT INTO transactions (id, client_id, content_hash, amount, currency, reference)
        SELECT id, $2, sha256('limit'), 1250, 'EUR', 'Invoice 117' FROM unnest($1::uuid[]) AS id
        ON CONFLICT (id) DO NOTHING
    ), jobs AS (
        INSERT INTO apalis.jobs
            (id, job_type, job, max_attempts, run_at, idempotency_key, client_id, status, attempts,
            done_at, last_result, lock_by, lock_at)
        SELECT job.id, kind.name, convert_to(kind.payload, 'UTF8'), kind.attempts,
            now() + make_interval(secs => kind.delay), job.transaction_id::text, $2,
            CASE WHEN born_done THEN 'Done' WHEN born_running THEN 'Running' ELSE 'Pending' END,
            CASE WHEN born_done THEN 1 ELSE 0 END,
            CASE WHEN born_done THEN clock_timestamp() END,
            CASE WHEN born_done THEN '{\"Ok\": null}'::jsonb END,
            CASE WHEN born_running THEN $4 END,
            CASE WHEN born_running THEN now() END
        FROM (
            SELECT id, transaction_id, (position - 1) / cardinality($1::uuid[]) + 1 AS number
            FROM ROWS FROM (unnest($3::text[]), unnest($1 || $1 || $1 || $1)) WITH ORDINALITY
                AS job (id, transaction_id, position)
        ) AS job
        JOIN (
            VALUES
                (1, 'create_transaction', 5, 0.0,
                    '{\"id\":\"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51\",' ||
                    '\"client_id\":\"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a52\",\"amount\":1250,' ||
                    '\"currency\":\"EUR\",\"reference\":\"Invoice 117\"}'),
                (2, 'create_at_third_party', 5, 0.0,
                    '{\"transaction_id\":\"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51\"}'),
                (3, 'update_status', 5, 0.2,
                    '{\"transaction_id\":\"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51\"}'),
                (4, 'notify_client', 15, 0.2,
                    '{\"transaction_id\":\"01936f1e-7d1c-7d5e-9d27-3b5d3c1f0a51\"}')
        ) AS kind (number, name, attempts, delay, payload) ON kind.number = job.number
        CROSS JOIN LATERAL (
            SELECT $4::text IS NOT NULL AND kind.number = 1, $4 IS NOT NULL AND kind.number = 2
        ) AS born (born_done, born_running)
    )
    INSERT INTO transaction_events (transaction_id, kind, source)
    SELECT id, 'accepted', 'api' FROM unnest($1::uuid[]) AS id";

/// `$1` jobs, `$2` worker.
const CLAIM: &str = "
    UPDATE apalis.jobs SET status = 'Running', lock_by = $2, lock_at = now()
    -- Not `=`: the index of those that wait would be read as a whole.
    WHERE id = ANY ($1::text[]) AND status IS NOT DISTINCT FROM 'Pending'";

/// `$1` transactions, `$2` jobs that end, `$3` update_status, `$4` notify_client, `$5` worker, `$6`
/// the worker that runs notify_client from then on, if any.
const SETTLE: &str = "
    WITH ended AS (
        UPDATE apalis.jobs
        SET status = 'Done', attempts = attempts + 1, done_at = clock_timestamp(), lock_by = NULL,
            lock_at = NULL, last_result = '{\"Ok\": null}'
        WHERE id = ANY ($2::text[]) AND status = 'Running' AND lock_by IS NOT DISTINCT FROM $5
    ), settled AS (
        UPDATE transactions
        SET status = 'completed', version = version + 1, settled_at = now(),
            settled_by = 'third_party_response', updated_at = now()
        WHERE id = ANY ($1::uuid[])
    ), update_status AS (
        UPDATE apalis.jobs
        SET status = 'Done', done_at = now(), last_result = '{\"Ok\": null}'
        WHERE id = ANY ($3::text[])
    ), notify_client AS (
        UPDATE apalis.jobs
        SET status = CASE WHEN $6::text IS NULL THEN 'Pending' ELSE 'Running' END, run_at = now(),
            lock_by = $6, lock_at = CASE WHEN $6 IS NOT NULL THEN now() END
        WHERE id = ANY ($4::text[])
    )
    INSERT INTO transaction_events (transaction_id, kind, source, detail)
    SELECT id, 'created_at_third_party', 'create_at_third_party',
        '{\"status\": \"completed\"}'::jsonb
    FROM unnest($1) AS id
    UNION ALL
    SELECT id, 'settled', 'create_at_third_party',
        '{\"status\": \"completed\", \"version\": 2, \"settled_by\": \"third_party_response\"}'
    FROM unnest($1) AS id";

/// `$1` transactions, `$2` notify_client, `$3` worker.
const NOTIFIED: &str = "
    WITH ended AS (
        UPDATE apalis.jobs
        SET status = 'Done', attempts = attempts + 1, done_at = clock_timestamp(), lock_by = NULL,
            lock_at = NULL, last_result = '{\"Ok\": null}'
        WHERE id = ANY ($2::text[]) AND status = 'Running' AND lock_by IS NOT DISTINCT FROM $3
    ), notified AS (
        UPDATE transactions SET notified_version = version WHERE id = ANY ($1::uuid[])
    )
    INSERT INTO transaction_events (transaction_id, kind, source, detail)
    SELECT id, 'client_notified', 'notify_client', '{\"status\": \"completed\", \"version\": 2}'
    FROM unnest($1) AS id";

/// What must be of each transaction.
const ENDED: &str = "
    SELECT count(*)
    FROM transactions
    JOIN (
        SELECT idempotency_key FROM apalis.jobs
        WHERE status = 'Done' AND lock_by IS NULL
        GROUP BY idempotency_key HAVING count(*) = 4
    ) AS jobs ON jobs.idempotency_key = transactions.id::text
    JOIN (
        SELECT transaction_id FROM transaction_events
        GROUP BY transaction_id HAVING count(*) = 4
    ) AS events ON events.transaction_id = transactions.id
    WHERE status = 'completed' AND notified_version = 2";

/// Writes the lives of at least `transactions`; how many there were and how long it took.
pub async fn live(
    database: &Database,
    transactions: usize,
    versions: Versions,
) -> Result<(usize, Duration), BenchError> {
    let client: Uuid = sqlx::query_scalar(
        "INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ('limit', sha256('limit'), 'http://127.0.0.1/', 'none')
        RETURNING id",
    )
    .fetch_one(&database.pool)
    .await?;
    let options: PgConnectOptions = database.url().parse()?;
    // As Quartet's own connections: what others write is announced by a trigger.
    let options = options.application_name("quartet").options(SESSION);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let worker = worker(&database.pool).await?;
        connections.push((options.connect().await?, worker));
    }
    let batches = transactions.div_ceil(BATCH * CONNECTIONS);
    let began = Instant::now();
    try_join_all(connections.into_iter().map(|(mut connection, worker)| {
        tokio::spawn(async move {
            for _ in 0..batches {
                live_batch(&mut connection, client, &worker, versions).await?;
            }
            // What it counted is then in the statistics.
            connection.close().await
        })
    }))
    .await
    .map_err(BenchError::Task)?
    .into_iter()
    .collect::<Result<Vec<()>, _>>()?;
    Ok((batches * BATCH * CONNECTIONS, began.elapsed()))
}

/// Fails unless this many transactions have ended, in every row.
pub async fn check(database: &Database, written: usize) -> Result<(), BenchError> {
    let ended: i64 = sqlx::query_scalar(ENDED).fetch_one(&database.pool).await?;
    if usize::try_from(ended) != Ok(written) {
        let what = format!("{ended} of {written} transactions have ended by plain SQL");
        return Err(BenchError::Incomplete(what));
    }
    Ok(())
}

async fn worker(pool: &PgPool) -> Result<String, sqlx::Error> {
    let worker = Ulid::generate().to_string();
    sqlx::query(
        "INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
        VALUES ($1, 'plain_sql', 'plain_sql', now())",
    )
    .bind(&worker)
    .execute(pool)
    .await?;
    Ok(worker)
}

async fn live_batch(
    connection: &mut PgConnection,
    client: Uuid,
    worker: &str,
    versions: Versions,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = (0..BATCH).map(|_| Uuid::now_v7()).collect();
    let jobs: Vec<String> = (0..4 * BATCH).map(|_| Ulid::generate().to_string()).collect();
    let (create, rest) = jobs.split_at(BATCH);
    let (create_there, rest) = rest.split_at(BATCH);
    let (update_status, notify_client) = rest.split_at(BATCH);

    // The worker of what runs from the moment at which it is written.
    let at_once = (versions == Versions::Fewest).then_some(worker);
    sqlx::query(ACCEPT)
        .bind(&ids)
        .bind(client)
        .bind(&jobs)
        .bind(at_once)
        .execute(&mut *connection)
        .await?;
    let ending = match versions {
        Versions::EachStep => {
            let both = &jobs[..2 * BATCH];
            sqlx::query(CLAIM).bind(both).bind(worker).execute(&mut *connection).await?;
            [create, create_there].concat()
        }
        Versions::Fewest => create_there.to_vec(),
    };
    sqlx::query(SETTLE)
        .bind(&ids)
        .bind(ending)
        .bind(update_status)
        .bind(notify_client)
        .bind(worker)
        .bind(at_once)
        .execute(&mut *connection)
        .await?;
    if versions == Versions::EachStep {
        sqlx::query(CLAIM).bind(notify_client).bind(worker).execute(&mut *connection).await?;
    }
    sqlx::query(NOTIFIED).bind(&ids).bind(notify_client).bind(worker).execute(connection).await?;
    Ok(())
}
