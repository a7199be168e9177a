//! Leases in apalis's worker registry, `apalis.workers`: registering, renewing, and taking jobs
//! from workers that are gone.
//!
//! A worker's name is new at each start. A worker that was not seen for `dead_after` (by the
//! database's clock) loses its jobs and its row in one SQL transaction; from then on its renewals
//! find no row and its claims break the foreign key, so that it learns of its death.

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    Database, StoreError, dead_letters,
    evidence::{self, NewEvidence},
};
use crate::domain::{DeadLetterKind, EvidenceKind, JobKind};

const SOURCE: &str = "lease";

/// Registers a worker of `queue`.
pub async fn register(
    executor: impl PgExecutor<'_>,
    worker: &str,
    queue: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
        VALUES ($1, $2, 'quartet', '', now(), now())
        "#,
        worker,
        queue
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Renews the leases of `workers`; returns those that still exist.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    workers: &[String],
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        UPDATE apalis.workers SET last_seen = clock_timestamp() WHERE id = ANY ($1::text[])
        RETURNING id
        "#,
        workers
    )
    .fetch_all(executor)
    .await?)
}

/// Removes a worker that holds no job any more.
pub async fn remove(executor: impl PgExecutor<'_>, worker: &str) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM apalis.workers WHERE id = $1", worker).execute(executor).await?;
    Ok(())
}

/// Takes the jobs of every worker of `queues` that was not seen for `dead_after`, and removes the
/// worker. A lost lease costs an attempt; a create may have reached the third party, so that it
/// waits `create_backoff`; a job whose attempts are used up becomes a `poison` dead letter.
/// Returns how many jobs were taken.
pub async fn rescue(
    pool: &Database,
    queues: &[String],
    dead_after: Duration,
    create_backoff: Duration,
) -> Result<usize, StoreError> {
    let mut tx = super::begin(pool).await?;
    let dead = sqlx::query_scalar!(
        r#"
        SELECT id
        FROM apalis.workers
        WHERE worker_type = ANY ($1::text[])
            AND last_seen < clock_timestamp() - make_interval(secs => $2)
        -- One rescuer a worker; and a renewal that comes now waits, and then finds no row.
        FOR UPDATE SKIP LOCKED
        "#,
        queues,
        dead_after.as_secs_f64(),
    )
    .fetch_all(&mut *tx)
    .await?;
    if dead.is_empty() {
        tx.commit().await?;
        return Ok(0);
    }
    let taken = sqlx::query!(
        r#"
        WITH lost AS (
            SELECT id, 'lease lost: worker ' || lock_by || ' was not seen any more' AS error
            FROM apalis.jobs
            WHERE lock_by = ANY ($1::text[])
            FOR NO KEY UPDATE
        )
        UPDATE apalis.jobs
        -- The limit: one row with the largest number must not fail the rescue of all others.
        SET attempts = LEAST(attempts, 2147483646) + 1,
            status = CASE
                WHEN LEAST(attempts, 2147483646) + 1 < max_attempts THEN 'Pending' ELSE 'Failed'
            END,
            done_at = CASE
                WHEN LEAST(attempts, 2147483646) + 1 >= max_attempts THEN clock_timestamp()
            END,
            run_at = clock_timestamp() + make_interval(
                secs => CASE WHEN job_type = 'create_at_third_party' THEN $2::float8 ELSE 0 END
            ),
            lock_by = NULL, lock_at = NULL,
            last_result = jsonb_build_object(
                'Err', lost.error,
                'errors', CASE
                    WHEN jsonb_typeof(last_result -> 'errors') = 'array'
                    THEN last_result -> 'errors'
                    ELSE '[]'
                END || jsonb_build_object(
                    'attempt', LEAST(attempts, 2147483646) + 1, 'at', clock_timestamp(),
                    'error', lost.error
                )
            )
        FROM lost
        WHERE jobs.id = lost.id
        RETURNING
            jobs.id, job_type, quartet_uuid(idempotency_key) AS transaction_id, attempts,
            status = 'Failed' AS "used_up!", lost.error AS "error!"
        "#,
        &dead,
        create_backoff.as_secs_f64(),
    )
    .fetch_all(&mut *tx)
    .await?;
    for job in &taken {
        let transaction_id = job.transaction_id.map(tracing::field::display);
        tracing::warn!(
            queue = job.job_type,
            job_id = job.id,
            transaction_id,
            attempt = job.attempts,
            "{}",
            job.error
        );
        if job.job_type == JobKind::CreateAtThirdParty.as_str() {
            append_ambiguous(&mut tx, job.transaction_id, &job.error).await?;
        }
        if job.used_up {
            let reason = format!(
                "the job's lease was lost and its {} attempts are used up: it may kill its worker",
                job.attempts
            );
            let kind = DeadLetterKind::Poison;
            dead_letters::open_for_job(&mut tx, &job.id, kind, &reason, None, SOURCE).await?;
        }
    }
    sqlx::query!("DELETE FROM apalis.workers WHERE id = ANY ($1::text[])", &dead)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(taken.len())
}

async fn append_ambiguous(
    conn: &mut PgConnection,
    transaction_id: Option<Uuid>,
    error: &str,
) -> Result<(), StoreError> {
    let Some(transaction_id) = transaction_id else { return Ok(()) };
    let ambiguous = NewEvidence {
        kind: EvidenceKind::CreateAmbiguous,
        source: SOURCE,
        detail: json!({ "error": error }),
    };
    evidence::append(conn, transaction_id, &ambiguous).await
}

/// How many workers of a queue are alive.
#[derive(Debug, Clone)]
pub struct AliveWorkers {
    pub queue: String,
    pub workers: i64,
}

/// The workers that were seen within `dead_after`, by queue; a queue without any has no entry.
pub async fn count_alive(
    executor: impl PgExecutor<'_>,
    dead_after: Duration,
) -> Result<Vec<AliveWorkers>, StoreError> {
    Ok(sqlx::query_as!(
        AliveWorkers,
        r#"
        SELECT worker_type AS queue, count(*) AS "workers!"
        FROM apalis.workers
        WHERE last_seen >= clock_timestamp() - make_interval(secs => $1)
            AND worker_type IN (
                'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
            )
        GROUP BY worker_type
        "#,
        dead_after.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?)
}
