//! Leases in apalis's worker registry, `apalis.workers`: registering and renewing workers, and
//! giving back what is leased to a living one that does not know of it.
//!
//! A worker's name is new at each start. A worker that was not seen for `dead_after` (by the
//! database's clock) is marked dead and loses its jobs ([`super::rescue`]): its renewals find it
//! dead or its row gone, so that it learns of its death.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Lease;
use crate::store::{StoreError, postgres::columns::Time};

/// The constraint that is violated where a job is leased to a worker that is not registered, and
/// where a worker is removed that a job is leased to.
pub const WORKER_FOREIGN_KEY: &str = "fk_worker_lock_by";

/// A worker that was seen further ahead was seen before the database's clock was set back. Not
/// zero: after a failover another machine's clock may be somewhat behind.
pub(in crate::store) const MAX_AHEAD: Duration = Duration::from_secs(60);

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

/// Renews the leases of `workers`; returns those that are not dead.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    workers: &[String],
) -> Result<Renewed, StoreError> {
    let rows = sqlx::query!(
        r#"
        UPDATE apalis.workers
        SET last_seen = clock_timestamp()
        WHERE id = ANY ($1::text[]) AND dead_at IS NULL
        RETURNING id, last_seen AS "last_seen!: Time"
        "#,
        workers
    )
    .fetch_all(executor)
    .await?;
    let at = rows.first().map(|row| row.last_seen.at());
    Ok(Renewed { alive: rows.into_iter().map(|row| row.id).collect(), at })
}

/// What a renewal found.
#[derive(Debug)]
pub struct Renewed {
    /// The workers that were not taken for dead.
    pub alive: Vec<String>,
    /// When that was, by the database's clock; `None` where there are none.
    pub at: Option<DateTime<Utc>>,
}

/// Removes a worker that holds no job any more.
pub async fn remove(executor: impl PgExecutor<'_>, worker: &str) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM apalis.workers WHERE id = $1", worker).execute(executor).await?;
    Ok(())
}

/// A lease in the database.
#[derive(Debug)]
pub struct HeldLease {
    pub lease: Lease,
    /// Whose job it is, where its row says that.
    pub transaction_id: Option<Uuid>,
}

/// The leases of `workers` that began at least `min_age` ago, but not more than `max_age`.
pub async fn held(
    executor: impl PgExecutor<'_>,
    workers: &[String],
    min_age: Duration,
    max_age: Duration,
) -> Result<Vec<HeldLease>, StoreError> {
    let held = sqlx::query!(
        r#"
        SELECT id, lock_by AS "worker!", lock_at AS "locked_at!: Time",
            quartet_uuid(idempotency_key) AS transaction_id
        FROM apalis.jobs
        -- Bounded on both sides by the index: while an old snapshot is held, it has an entry for
        -- each job that the worker ever held.
        WHERE lock_by = ANY ($1::text[])
            AND lock_at >= now() - make_interval(secs => $3)
            AND lock_at <= now() - make_interval(secs => $2)
        "#,
        workers,
        min_age.as_secs_f64(),
        max_age.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    Ok(held
        .into_iter()
        .map(|row| HeldLease {
            lease: Lease { job_id: row.id, worker: row.worker, locked_at: row.locked_at.at() },
            transaction_id: row.transaction_id,
        })
        .collect())
}

/// Gives back jobs whose leases nobody holds, without costing an attempt. A create that was
/// `started` may have reached the third party: it waits `create_backoff`, and its next run looks it
/// up first. Returns the queue of each that was given back.
pub async fn give_back(
    executor: impl PgExecutor<'_>,
    leases: &[Lease],
    started: &[String],
    create_backoff: Duration,
) -> Result<Vec<String>, StoreError> {
    let ids: Vec<&str> = leases.iter().map(|lease| lease.job_id.as_str()).collect();
    let workers: Vec<&str> = leases.iter().map(|lease| lease.worker.as_str()).collect();
    let times: Vec<DateTime<Utc>> = leases.iter().map(|lease| lease.locked_at).collect();
    Ok(sqlx::query_scalar!(
        r#"
        WITH released AS (
            UPDATE apalis.jobs
            SET status = 'Pending', lock_by = NULL, lock_at = NULL,
                run_at = now() + make_interval(secs => CASE
                    WHEN job_type = 'create_at_third_party' AND id = ANY ($4::text[])
                    THEN $5::float8
                    ELSE 0
                END)
            WHERE id = ANY ($1::text[])
                -- Exactly these leases.
                AND (lock_by, lock_at) = (
                    ($2::text[])[array_position($1, id)],
                    ($3::timestamptz[])[array_position($1, id)]
                )
            RETURNING id, job_type, idempotency_key
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source, detail)
            SELECT transactions.id, 'create_ambiguous', 'lease',
                jsonb_build_object(
                    'error', 'the run ended before an answer came', 'backoff_s', $5::float8
                )
            FROM released
            JOIN transactions ON transactions.id = quartet_uuid(released.idempotency_key)
            WHERE job_type = 'create_at_third_party' AND released.id = ANY ($4)
        )
        SELECT job_type AS "queue!" FROM released
        "#,
        &ids as _,
        &workers as _,
        &times,
        started,
        create_backoff.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?)
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
            AND last_seen <= clock_timestamp() + make_interval(secs => $2)
            AND worker_type IN (
                'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
            )
        GROUP BY worker_type
        "#,
        dead_after.as_secs_f64(),
        MAX_AHEAD.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?)
}
