//! What holds one waiting job up that its own row does not say at first sight: its client's share
//! of a queue, its client's callback host, and a third party that is not configured.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::store::StoreError;

/// Most running jobs that are counted.
const MAX_COUNT: i64 = 10_000;

/// Who runs in a queue, by client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunningShares {
    /// Running jobs of the client that is asked about.
    pub own: i64,
    /// Those of all others.
    pub others: i64,
    /// Those of the one of the others that has most.
    pub most_of_another: i64,
}

/// How the running jobs of `queue` are shared out between `client_id` and the others.
pub async fn running_shares(
    executor: impl PgExecutor<'_>,
    queue: &str,
    client_id: Uuid,
) -> Result<RunningShares, StoreError> {
    Ok(sqlx::query_as!(
        RunningShares,
        r#"
        WITH running AS (
            SELECT transactions.client_id, count(*) AS jobs
            FROM (
                SELECT quartet_uuid(idempotency_key) AS transaction_id
                FROM apalis.jobs
                -- The leased rows, which are few.
                WHERE lock_by IS NOT NULL AND status = 'Running' AND job_type = $1
                LIMIT $3
            ) AS leased
            JOIN transactions ON transactions.id = leased.transaction_id
            GROUP BY transactions.client_id
        )
        SELECT
            COALESCE(sum(jobs) FILTER (WHERE client_id = $2), 0)::bigint AS "own!",
            COALESCE(sum(jobs) FILTER (WHERE client_id <> $2), 0)::bigint AS "others!",
            COALESCE(max(jobs) FILTER (WHERE client_id <> $2), 0)::bigint AS "most_of_another!"
        FROM running
        "#,
        queue,
        client_id,
        MAX_COUNT,
    )
    .fetch_one(executor)
    .await?)
}

/// The third party that was not configured in the process which ran the job last, where it waits
/// for that.
pub async fn not_configured(
    executor: impl PgExecutor<'_>,
    job_id: &str,
) -> Result<Option<String>, StoreError> {
    let found = sqlx::query_scalar!(
        "SELECT metadata -> 'not_configured' FROM apalis.jobs WHERE id = $1 AND status = 'Pending'",
        job_id
    );
    Ok(found.fetch_optional(executor).await?.flatten())
}

/// Why a notify_client job was postponed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postponement {
    /// Since when the callback host does not answer; `None` where that cannot be read.
    pub since: Option<DateTime<Utc>>,
    /// How the last call of the host ended.
    pub error: String,
    /// How often the job was postponed for it.
    pub waits: u32,
}

/// Whether and why a job waits for its client's callback host.
pub async fn postponement(
    executor: impl PgExecutor<'_>,
    job_id: &str,
) -> Result<Option<Postponement>, StoreError> {
    let row = sqlx::query!(
        r#"
        SELECT
            -- As text: a row with a strange value must not fail the explanation.
            metadata -> 'host_down_since' AS since, metadata -> 'host_error' AS error,
            metadata -> 'waits' AS waits
        FROM apalis.jobs
        WHERE id = $1 AND status = 'Pending' AND metadata ? 'host_error'
        "#,
        job_id
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| Postponement {
        since: row.since.and_then(|since| since.parse().ok()),
        error: row.error.unwrap_or_default(),
        waits: row.waits.and_then(|waits| waits.parse().ok()).unwrap_or_default(),
    }))
}
