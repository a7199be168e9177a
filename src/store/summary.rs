//! How a set of transactions stands, for `quartet demo`.

use sqlx::PgExecutor;
use uuid::Uuid;

use super::StoreError;

/// How many transactions stand where.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub pending: i64,
    pub completed: i64,
    pub declined: i64,
    pub failed: i64,
    /// The client acknowledged the last version, or an operator has to decide.
    pub ended: i64,
}

/// Counts `ids`.
pub async fn progress(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Progress, StoreError> {
    Ok(sqlx::query_as!(
        Progress,
        r#"
        SELECT
            count(*) FILTER (WHERE status = 'pending') AS "pending!",
            count(*) FILTER (WHERE status = 'completed') AS "completed!",
            count(*) FILTER (WHERE status = 'declined') AS "declined!",
            count(*) FILTER (WHERE status = 'failed') AS "failed!",
            count(*) FILTER (
                WHERE status <> 'pending' AND notified_version = version
                OR EXISTS (
                    SELECT FROM failed_jobs
                    WHERE transaction_id = transactions.id AND state = 'open'
                )
            ) AS "ended!"
        FROM transactions
        WHERE id = ANY ($1)
        "#,
        ids
    )
    .fetch_one(executor)
    .await?)
}

/// How many jobs of one queue are in one state.
#[derive(Debug, Clone)]
pub struct JobCount {
    pub queue: String,
    /// As in `apalis.jobs.status`.
    pub status: String,
    pub count: i64,
}

/// Counts the jobs of `ids` by queue and status.
pub async fn job_counts(
    executor: impl PgExecutor<'_>,
    ids: &[String],
) -> Result<Vec<JobCount>, StoreError> {
    Ok(sqlx::query_as!(
        JobCount,
        r#"
        SELECT job_type AS queue, status, count(*) AS "count!"
        FROM apalis.jobs
        WHERE idempotency_key = ANY ($1)
            AND job_type IN ('create_transaction', 'create_at_third_party', 'update_status', 'notify_client')
        GROUP BY job_type, status
        "#,
        ids
    )
    .fetch_all(executor)
    .await?)
}

/// How one transaction was settled.
#[derive(Debug, Clone)]
pub struct Settled {
    pub settled_by: String,
    /// From accept to final status.
    pub seconds: f64,
}

/// How each of `ids` that is settled was settled.
pub async fn settled(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<Vec<Settled>, StoreError> {
    Ok(sqlx::query_as!(
        Settled,
        r#"
        SELECT
            settled_by AS "settled_by!",
            (extract(epoch FROM settled_at) - extract(epoch FROM created_at))::float8 AS "seconds!"
        FROM transactions
        WHERE id = ANY ($1) AND settled_at IS NOT NULL
        "#,
        ids
    )
    .fetch_all(executor)
    .await?)
}

/// How often something happened.
#[derive(Debug, Clone)]
pub struct Count {
    pub name: String,
    pub count: i64,
}

/// Counts the evidence about `ids` by kind.
pub async fn evidence_counts(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<Vec<Count>, StoreError> {
    Ok(sqlx::query_as!(
        Count,
        r#"
        SELECT kind AS name, count(*) AS "count!"
        FROM transaction_events
        WHERE transaction_id = ANY ($1)
        GROUP BY kind
        "#,
        ids
    )
    .fetch_all(executor)
    .await?)
}

/// Counts the dead letters about `ids` by kind, whatever their state.
pub async fn dead_letter_counts(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<Vec<Count>, StoreError> {
    Ok(sqlx::query_as!(
        Count,
        r#"
        SELECT kind AS name, count(*) AS "count!"
        FROM failed_jobs
        WHERE transaction_id = ANY ($1)
        GROUP BY kind
        ORDER BY kind
        "#,
        ids
    )
    .fetch_all(executor)
    .await?)
}
