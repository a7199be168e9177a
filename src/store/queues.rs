//! The four queues as operators see them: their backlog, and pausing.
//!
//! A queue is paused by a row of `queue_pauses`, which every claim looks at: a pause holds for all
//! processes from its commit on, and outlives them. What runs already runs to its end.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{
    Database, StoreError,
    audit::{self, Actor, AuditTarget, OperatorAction},
    postgres::columns::{Column, MaybeTime, Time, readable},
};
use crate::domain::JobKind;

/// Counts of a queue go up to this; more is not counted, so that a long backlog costs nobody's
/// request. The view `operator.queues` has the same limit.
pub const MAX_COUNT: i64 = 10_000;

/// How a queue stands.
#[derive(Debug, Clone)]
pub struct QueueStats {
    pub queue: JobKind,
    /// Jobs that wait for a worker, at most [`MAX_COUNT`].
    pub due: i64,
    /// Jobs that wait for their time, at most [`MAX_COUNT`].
    pub scheduled: i64,
    /// Jobs that a worker holds.
    pub running: i64,
    /// Jobs that stopped, at most [`MAX_COUNT`].
    pub failed: i64,
    /// Jobs done in the last full minute.
    pub done_per_minute: i64,
    /// How long the longest waiting due job has been due.
    pub oldest_due_age: Option<Duration>,
    pub paused: Option<Pause>,
}

/// A queue's pause.
#[derive(Debug, Clone)]
pub struct Pause {
    pub at: DateTime<Utc>,
    pub by: String,
    pub note: Option<String>,
}

/// The four queues, in their order.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<QueueStats>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            queue AS "queue!: JobKind", due AS "due!", scheduled AS "scheduled!",
            running AS "running!", failed AS "failed!", done_per_minute AS "done_per_minute!",
            extract(epoch FROM oldest_due_age)::float8 AS oldest_due_seconds,
            paused_at AS "paused_at!: MaybeTime", paused_by, pause_note
        FROM operator.queues
        "#
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| QueueStats {
            queue: row.queue,
            due: row.due,
            scheduled: row.scheduled,
            running: row.running,
            failed: row.failed,
            done_per_minute: row.done_per_minute,
            oldest_due_age: row
                .oldest_due_seconds
                // Out of range for a job that an import made due at the beginning of time.
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            paused: Option::<DateTime<Utc>>::from(row.paused_at)
                .zip(row.paused_by)
                .map(|(at, by)| Pause { at, by, note: row.pause_note }),
        })
        .collect())
}

/// One queue.
pub async fn get(executor: impl PgExecutor<'_>, queue: JobKind) -> Result<QueueStats, StoreError> {
    let mut queues = list(executor).await?;
    // The view has a row for each kind.
    Ok(queues.swap_remove(queue.index()))
}

/// The queues that are paused.
pub async fn pauses(executor: impl PgExecutor<'_>) -> Result<Vec<(JobKind, Pause)>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT queue AS "queue: Column<JobKind>", paused_at AS "paused_at: Time", paused_by, note
        FROM queue_pauses
        "#
    )
    .fetch_all(executor)
    .await?;
    Ok(readable(rows, |row| {
        let pause = Pause { at: row.paused_at.at(), by: row.paused_by, note: row.note };
        Ok((row.queue.0?, pause))
    }))
}

/// For how long at least one of `queues` was paused after `since`.
pub async fn paused_since(
    executor: impl PgExecutor<'_>,
    queues: &[JobKind],
    since: DateTime<Utc>,
) -> Result<Duration, StoreError> {
    let queues: Vec<String> = queues.iter().map(|queue| queue.as_str().to_owned()).collect();
    let seconds = sqlx::query_scalar!(
        r#"
        -- The union: two that were paused together count once.
        SELECT COALESCE(
            sum(extract(epoch FROM upper(paused) - GREATEST(lower(paused), $2))), 0
        )::float8 AS "seconds!"
        FROM (
            SELECT unnest(range_agg(tstzrange(paused_at, resumed_at))) AS paused
            FROM (
                -- A range that ends before it begins would fail the query, and one that ends in the
                -- future would stop every deadline.
                SELECT queue, paused_at, resumed_at FROM past_pauses
                WHERE resumed_at > $2 AND resumed_at <= clock_timestamp()
                    AND paused_at <= resumed_at AND isfinite(paused_at)
                UNION ALL
                SELECT queue, paused_at, clock_timestamp() FROM queue_pauses
                WHERE paused_at <= clock_timestamp()
            ) AS pauses
            WHERE queue = ANY ($1::text[])
        ) AS pauses
        WHERE upper(paused) > $2
        "#,
        &queues,
        since,
    )
    .fetch_one(executor)
    .await?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Pauses a queue for all processes; nothing changes where it is paused already.
pub async fn pause(
    pool: &Database,
    queue: JobKind,
    actor: Actor<'_>,
) -> Result<QueueStats, StoreError> {
    let mut tx = super::begin(pool).await?;
    let paused = sqlx::query!(
        r#"
        INSERT INTO queue_pauses (queue, paused_by, note)
        VALUES ($1, $2, $3)
        ON CONFLICT (queue) DO NOTHING
        "#,
        queue.as_str(),
        actor.operator,
        actor.note,
    )
    .execute(&mut *tx)
    .await?;
    if paused.rows_affected() > 0 {
        let target = AuditTarget { queue: Some(queue.as_str()), ..AuditTarget::default() };
        audit::record(&mut tx, actor, OperatorAction::PauseQueue, target).await?;
    }
    let figures = get(&mut *tx, queue).await?;
    tx.commit().await?;
    Ok(figures)
}

/// Resumes a queue for all processes; nothing changes where it is not paused.
pub async fn resume(
    pool: &Database,
    queue: JobKind,
    actor: Actor<'_>,
) -> Result<QueueStats, StoreError> {
    let mut tx = super::begin(pool).await?;
    let resumed = sqlx::query!(
        r#"
        WITH ended AS (
            DELETE FROM queue_pauses WHERE queue = $1 RETURNING queue, paused_at
        )
        INSERT INTO past_pauses (queue, paused_at, resumed_at)
        SELECT queue, LEAST(paused_at, clock_timestamp()), clock_timestamp() FROM ended
        "#,
        queue.as_str()
    )
    .execute(&mut *tx)
    .await?;
    if resumed.rows_affected() > 0 {
        let target = AuditTarget { queue: Some(queue.as_str()), ..AuditTarget::default() };
        audit::record(&mut tx, actor, OperatorAction::ResumeQueue, target).await?;
    }
    let figures = get(&mut *tx, queue).await?;
    tx.commit().await?;
    Ok(figures)
}
