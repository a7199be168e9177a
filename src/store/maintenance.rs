//! The single-run leases of the periodic tasks, `maintenance_tasks`: acquiring, renewing,
//! releasing.
//!
//! A row, not an advisory lock: it needs no session, so that it works through a pooler, and it
//! shows who holds it. All times are the database's. A holder that is gone is replaced when its
//! lease has ended; a holder that was replaced learns of it at its next renewal. A lease that ends
//! too far ahead was taken before the database's clock was set back, and holds nobody up.
//!
//! A row that is missing, as after a copy of some tables, is a task that is due: [`acquire`] writes
//! it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;

use super::{
    StoreError,
    postgres::columns::{Column, MaybeJson, MaybeTime, Time, readable},
};
use crate::domain::MaintenanceTask;

/// No lease ends further ahead, unless one's own does.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);

/// A row of `maintenance_tasks`.
#[derive(Debug, Clone)]
pub struct TaskState {
    pub name: MaintenanceTask,
    pub held_by: Option<String>,
    pub held_until: Option<DateTime<Utc>>,
    pub due_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub last_result: Option<Value>,
    pub last_error: Option<String>,
}

/// All tasks, by name.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<TaskState>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            name AS "name: Column<MaintenanceTask>", held_by,
            held_until AS "held_until!: MaybeTime", due_at AS "due_at: Time",
            started_at AS "started_at!: MaybeTime", finished_at AS "finished_at!: MaybeTime",
            last_result AS "last_result!: MaybeJson", last_error
        FROM maintenance_tasks
        ORDER BY name
        "#
    )
    .fetch_all(executor)
    .await?;
    Ok(readable(rows, |row| {
        Ok(TaskState {
            name: row.name.0.map_err(|why| format!("a maintenance task's name: {why}"))?,
            held_by: row.held_by,
            held_until: row.held_until.into(),
            due_at: row.due_at.at(),
            started_at: row.started_at.into(),
            finished_at: row.finished_at.into(),
            last_result: row.last_result.into(),
            last_error: row.last_error,
        })
    }))
}

/// How long until `task` is due and nobody holds it; zero when it may be acquired now, for `lease`.
pub async fn until_free(
    executor: impl PgExecutor<'_>,
    task: MaintenanceTask,
    lease: Duration,
) -> Result<Duration, StoreError> {
    let seconds = sqlx::query_scalar!(
        r#"
        -- A lease that ends too far ahead is none, as in `acquire`. Epochs rather than a difference
        -- of times, which an infinite one has not.
        SELECT (
            extract(epoch FROM GREATEST(due_at, CASE
                WHEN held_until <= clock_timestamp() + make_interval(secs => $2) THEN held_until
            END))
            - extract(epoch FROM clock_timestamp())
        )::float8 AS "seconds!"
        FROM maintenance_tasks
        WHERE name = $1
        "#,
        task.as_str(),
        lease.max(MAX_AHEAD).as_secs_f64(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(seconds.map_or(Duration::ZERO, |left| Duration::from_secs_f64(left.clamp(0.0, 1e9))))
}

/// Who holds `task`, and until when unless the lease is renewed.
pub async fn holder(
    executor: impl PgExecutor<'_>,
    task: MaintenanceTask,
) -> Result<Option<(String, DateTime<Utc>)>, StoreError> {
    let held = sqlx::query!(
        r#"
        SELECT held_by AS "held_by!", held_until AS "held_until!: Time"
        FROM maintenance_tasks
        WHERE name = $1 AND held_until > clock_timestamp() AND isfinite(held_until)
        "#,
        task.as_str(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(held.map(|held| (held.held_by, held.held_until.at())))
}

/// What a task is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// It is due.
    Due,
    /// Somebody wants it now.
    OnDemand,
    /// A run that writes nothing: the row only keeps others away meanwhile.
    DryRun,
}

/// Takes `task` for `lease`, unless somebody holds it, or it is not due and the occasion asks for
/// that. Returns whether it did. `holder` is new for each run.
pub async fn acquire(
    executor: impl PgExecutor<'_>,
    task: MaintenanceTask,
    holder: &str,
    lease: Duration,
    occasion: Occasion,
) -> Result<bool, StoreError> {
    let acquired = sqlx::query!(
        r#"
        INSERT INTO maintenance_tasks AS task (name, held_by, held_until, due_at, started_at)
        VALUES (
            $1, $2, clock_timestamp() + make_interval(secs => $3), clock_timestamp(),
            CASE WHEN NOT $5 THEN clock_timestamp() END
        )
        ON CONFLICT (name) DO UPDATE
        SET held_by = excluded.held_by, held_until = excluded.held_until,
            started_at = COALESCE(excluded.started_at, task.started_at)
        WHERE (
                task.held_until IS NULL OR task.held_until <= clock_timestamp()
                OR task.held_until > clock_timestamp() + make_interval(secs => $6)
            )
            AND (NOT $4 OR task.due_at <= clock_timestamp())
        "#,
        task.as_str(),
        holder,
        lease.as_secs_f64(),
        occasion == Occasion::Due,
        occasion == Occasion::DryRun,
        lease.max(MAX_AHEAD).as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(acquired.rows_affected() > 0)
}

/// Prolongs the lease; `false` when somebody else has taken over, and the run must stop. A lease
/// that ended and that nobody took is still the holder's.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    task: MaintenanceTask,
    holder: &str,
    lease: Duration,
) -> Result<bool, StoreError> {
    let renewed = sqlx::query!(
        r#"
        UPDATE maintenance_tasks
        SET held_until = clock_timestamp() + make_interval(secs => $3)
        WHERE name = $1 AND held_by = $2
        "#,
        task.as_str(),
        holder,
        lease.as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(renewed.rows_affected() > 0)
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// What it did, a JSON object; kept from before where there is none.
    pub result: Option<Value>,
    pub error: Option<String>,
    /// When the task is due next, from now; `None` leaves that as it is.
    pub due_in: Option<Duration>,
}

/// Gives `task` back after a dry run, as if it had not been taken.
pub async fn release_dry_run(
    executor: impl PgExecutor<'_>,
    task: MaintenanceTask,
    holder: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE maintenance_tasks
        SET held_by = NULL, held_until = NULL
        WHERE name = $1 AND held_by = $2
        "#,
        task.as_str(),
        holder,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Gives `task` back; nothing happens where somebody else has taken over.
pub async fn release(
    executor: impl PgExecutor<'_>,
    task: MaintenanceTask,
    holder: &str,
    end: &RunEnd,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE maintenance_tasks
        SET held_by = NULL, held_until = NULL, finished_at = clock_timestamp(),
            last_result = COALESCE($3, last_result), last_error = $4,
            due_at = COALESCE(clock_timestamp() + make_interval(secs => $5), due_at)
        WHERE name = $1 AND held_by = $2
        "#,
        task.as_str(),
        holder,
        end.result,
        end.error,
        end.due_in.map(|due_in| due_in.as_secs_f64()),
    )
    .execute(executor)
    .await?;
    Ok(())
}
