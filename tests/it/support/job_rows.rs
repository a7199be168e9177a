//! Rows of apalis's tables as a test looks at them, past the API.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::wait_for;

/// A job's row.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct JobRow {
    pub id: String,
    pub status: String,
    pub attempts: i32,
    pub max_attempts: i32,
    pub run_at: DateTime<Utc>,
    pub lock_by: Option<String>,
    pub lock_at: Option<DateTime<Utc>>,
}

/// The job of this kind of a transaction.
pub async fn job_row(pool: &PgPool, transaction: Uuid, queue: &str) -> JobRow {
    let query = "SELECT id, status, attempts, max_attempts, run_at, lock_by, lock_at
        FROM apalis.jobs WHERE idempotency_key = $1 AND job_type = $2";
    sqlx::query_as(query).bind(transaction.to_string()).bind(queue).fetch_one(pool).await.unwrap()
}

/// Waits until that job is in `status`.
pub async fn wait_job(
    pool: &PgPool,
    transaction: Uuid,
    queue: &str,
    status: &str,
    bound: Duration,
) -> JobRow {
    wait_for(&format!("{queue} of {transaction} is {status}"), bound, async || {
        let row = job_row(pool, transaction, queue).await;
        (row.status == status).then_some(row)
    })
    .await
}

/// When evidence of this kind was written, oldest first.
pub async fn event_times(pool: &PgPool, transaction: Uuid, kind: &str) -> Vec<DateTime<Utc>> {
    let query =
        "SELECT at FROM transaction_events WHERE transaction_id = $1 AND kind = $2 ORDER BY id";
    sqlx::query_scalar(query).bind(transaction).bind(kind).fetch_all(pool).await.unwrap()
}

/// The registered workers of a queue whose names hold `part`.
pub async fn workers(pool: &PgPool, queue: &str, part: &str) -> Vec<String> {
    let query = "SELECT id FROM apalis.workers
        WHERE worker_type = $1 AND strpos(id, $2) > 0 ORDER BY id";
    sqlx::query_scalar(query).bind(queue).bind(part).fetch_all(pool).await.unwrap()
}

/// Registers a worker that is no process, and gives it a job. It lives for a minute, unless it
/// [`die`]s.
pub async fn lease_to(pool: &PgPool, worker: &str, transaction: Uuid, queue: &str) {
    let register =
        "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
        VALUES ($1, $2, 'quartet', '', now() + interval '1 minute', now())";
    sqlx::query(register).bind(worker).bind(queue).execute(pool).await.unwrap();
    let lease = "UPDATE apalis.jobs SET status = 'Running', lock_by = $1, lock_at = now()
        WHERE idempotency_key = $2 AND job_type = $3";
    let leased = sqlx::query(lease).bind(worker).bind(transaction.to_string()).bind(queue);
    assert_eq!(leased.execute(pool).await.unwrap().rows_affected(), 1);
}

/// The worker of [`lease_to`] dies now: it is not seen any more.
pub async fn die(pool: &PgPool, worker: &str) {
    let died = sqlx::query("UPDATE apalis.workers SET last_seen = now() WHERE id = $1");
    assert_eq!(died.bind(worker).execute(pool).await.unwrap().rows_affected(), 1);
}

/// Parks a transaction's other jobs, so that this one is alone; `None` makes all due.
pub async fn park_all_but(pool: &PgPool, transaction: Uuid, queue: Option<&str>) {
    let park = "UPDATE apalis.jobs
        SET run_at = CASE WHEN $2::text IS NULL THEN now() ELSE now() + interval '1 hour' END
        WHERE idempotency_key = $1 AND status = 'Pending' AND job_type IS DISTINCT FROM $2";
    sqlx::query(park).bind(transaction.to_string()).bind(queue).execute(pool).await.unwrap();
}
