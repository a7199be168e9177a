//! What a scrape of the metrics reads beside the queues: counts with a limit, never of a history.

use std::time::Duration;

use sqlx::PgExecutor;

use super::{StoreError, wanted};
use crate::domain::{DeadLetterKind, JobKind};

/// Open dead letters are counted up to this, for each kind.
const MAX_COUNT: i64 = 10_000;

/// Open dead letters by kind, each counted up to a limit; in the order of the kinds.
pub async fn open_dead_letters(
    executor: impl PgExecutor<'_>,
) -> Result<Vec<(DeadLetterKind, i64)>, StoreError> {
    let kinds = wanted::<DeadLetterKind>(None);
    let counts = sqlx::query_scalar!(
        r#"
        SELECT open.count AS "count!"
        FROM unnest($1::text[]) WITH ORDINALITY AS known (kind, position)
        CROSS JOIN LATERAL (
            -- The limit bounds what an outage of many transactions costs a scrape.
            SELECT count(*) FROM (
                SELECT FROM failed_jobs WHERE kind = known.kind AND state = 'open' LIMIT $2
            ) AS counted
        ) AS open
        ORDER BY known.position
        "#,
        &kinds,
        MAX_COUNT,
    )
    .fetch_all(executor)
    .await?;
    Ok(DeadLetterKind::ALL.iter().copied().zip(counts).collect())
}

/// Workers of all processes that were seen within `dead_after`, by queue; in the order of the
/// queues.
pub async fn workers_alive(
    executor: impl PgExecutor<'_>,
    dead_after: Duration,
) -> Result<Vec<(JobKind, i64)>, StoreError> {
    let queues = wanted::<JobKind>(None);
    let counts = sqlx::query_scalar!(
        r#"
        SELECT count(workers.id) AS "count!"
        FROM unnest($1::text[]) WITH ORDINALITY AS queue (name, position)
        LEFT JOIN apalis.workers ON worker_type = queue.name
            AND last_seen >= clock_timestamp() - make_interval(secs => $2)
        GROUP BY queue.position
        ORDER BY queue.position
        "#,
        &queues,
        dead_after.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    Ok(JobKind::ALL.iter().copied().zip(counts).collect())
}
