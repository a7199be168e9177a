//! What a scrape of the metrics reads beside the queues: counts with a limit, never of a history.

use std::time::Duration;

use sqlx::PgExecutor;

use super::{StoreError, jobs::leases, wanted};
use crate::domain::{DeadLetterKind, JobKind, ThirdPartyName};

/// Open dead letters are counted up to this, for each kind, and transactions for each third party.
const MAX_COUNT: i64 = 10_000;
/// Names of third parties that are looked at.
const MAX_NAMES: i32 = 50;

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

/// Pending transactions of third parties that are not among `known`, counted up to a limit, of the
/// first of them by name.
pub async fn pending_elsewhere(
    executor: impl PgExecutor<'_>,
    known: &[ThirdPartyName],
) -> Result<Vec<(ThirdPartyName, i64)>, StoreError> {
    let known: Vec<&str> = known.iter().map(ThirdPartyName::as_str).collect();
    let found = sqlx::query!(
        r#"
        -- A jump in the index from each name to the next, however many rows each one has.
        WITH RECURSIVE named (name, position) AS (
            (
                SELECT third_party, 1 FROM transactions
                WHERE third_party <> 'third-party'
                ORDER BY third_party LIMIT 1
            )
            UNION ALL
            SELECT (
                SELECT third_party FROM transactions
                WHERE third_party <> 'third-party' AND third_party > named.name
                ORDER BY third_party LIMIT 1
            ), position + 1
            FROM named
            WHERE name IS NOT NULL AND position < $2
        )
        SELECT 'third-party' AS "name!", count(*) AS "count!"
        FROM (
            SELECT FROM transactions
            WHERE status = 'pending' AND third_party = 'third-party'
                AND 'third-party' <> ALL ($1::text[])
            ORDER BY created_at DESC, id DESC
            LIMIT $3
        ) AS counted
        UNION ALL
        SELECT name, pending.count
        FROM named
        CROSS JOIN LATERAL (
            SELECT count(*) FROM (
                SELECT FROM transactions
                -- The first is the index's own condition.
                WHERE third_party <> 'third-party' AND third_party = named.name
                    AND status = 'pending'
                -- The index's order: nothing else is read, whatever plan the server makes.
                ORDER BY created_at DESC, id DESC
                LIMIT $3
            ) AS counted
        ) AS pending
        WHERE name IS NOT NULL AND name <> ALL ($1)
        "#,
        &known as &[&str],
        MAX_NAMES,
        MAX_COUNT,
    )
    .fetch_all(executor)
    .await?;
    let waiting = found.into_iter().filter(|row| row.count > 0);
    // What is no name is an operator's already.
    let waiting = waiting.filter(|row| ThirdPartyName::check(&row.name).is_ok());
    Ok(waiting.map(|row| (row.name.into(), row.count)).collect())
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
            AND last_seen <= clock_timestamp() + make_interval(secs => $3)
        GROUP BY queue.position
        ORDER BY queue.position
        "#,
        &queues,
        dead_after.as_secs_f64(),
        leases::MAX_AHEAD.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    Ok(JobKind::ALL.iter().copied().zip(counts).collect())
}
