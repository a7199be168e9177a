//! Polls that a hint makes due: a webhook that proves nothing, or says nothing final.
//!
//! A hint moves the next poll of its transaction forward, and no further than the bound allows: at
//! most one in `MIN_GAP`, and after the deadline of polls one in `MIN_GAP_AFTER_DEADLINE`. The
//! job's row says until when (`hinted_at` in its metadata, milliseconds since 1970), so the bound
//! holds for all processes together. A hint that comes too soon is not lost: the poll is due at the
//! end of the gap. Nor is one lost that comes while a poll is under way, which may have asked before
//! the status changed: the running job's row takes the time alone, and the outcome of the run
//! ([`super::outcomes`]) makes the next poll due then. The lease stays as it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    domain::DeadLetterKind,
    store::{
        self, Database, StoreError,
        postgres::{batch::Locked, columns::Time},
        transactions,
    },
};

/// The shortest time between two polls that hints make due of one transaction.
const MIN_GAP: Duration = Duration::from_secs(10);
/// The same once polling has ended at its deadline.
const MIN_GAP_AFTER_DEADLINE: Duration = Duration::from_secs(600);

/// Those of `ids` at this third party whose poll a hint would move: they are pending, and their job
/// is due later than the gap allows, or has ended at the deadline, or runs and has no hint yet.
pub async fn movable(
    executor: impl PgExecutor<'_>,
    third_party: &str,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar!(
        r#"
        SELECT transactions.id
        FROM transactions
        CROSS JOIN LATERAL (
            SELECT status, run_at, lock_at, metadata -> 'hinted_at' AS hinted_at, EXISTS (
                    SELECT FROM failed_jobs
                    WHERE job_id = jobs.id AND closed_at IS NULL AND kind = $2
                ) AS is_late
            FROM apalis.jobs
            WHERE job_type = 'update_status' AND idempotency_key = transactions.id::text LIMIT 1
        ) AS job
        WHERE transactions.id = ANY ($1::uuid[]) AND transactions.status = 'pending'
            AND third_party = $5 AND (
            job.status = 'Pending' AND job.run_at > GREATEST(
                now(),
                -- The end of the gap, as in `hint`.
                CASE WHEN job.hinted_at ~ '^[0-9]{1,14}$' THEN LEAST(
                    to_timestamp(job.hinted_at::bigint / 1000.0), now()
                ) + make_interval(secs => CASE WHEN job.is_late THEN $4::float8 ELSE $3 END) END
            )
            OR job.status = 'Failed' AND job.is_late
            OR job.status = 'Running' AND CASE
                WHEN job.hinted_at ~ '^[0-9]{1,14}$'
                THEN to_timestamp(job.hinted_at::bigint / 1000.0) <= job.lock_at
                ELSE true
            END
        )
        ORDER BY transactions.id
        "#,
        ids,
        DeadLetterKind::Deadline.as_str(),
        MIN_GAP.as_secs_f64(),
        MIN_GAP_AFTER_DEADLINE.as_secs_f64(),
        third_party,
    )
    .fetch_all(executor)
    .await?)
}

/// Makes the polls of these transactions due after these delays, or at the end of the gap. Returns
/// when those are due that were moved, and after how long.
pub async fn hint(
    pool: &Database,
    hints: &[(Uuid, Duration)],
) -> Result<Vec<(DateTime<Utc>, Duration)>, StoreError> {
    if hints.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = store::begin(pool).await?;
    // Lock order: the transactions' rows before their jobs.
    let ids: Vec<Uuid> = hints.iter().map(|(id, _)| *id).collect();
    transactions::lock_all(&mut tx, &ids, Locked::Wait).await?;
    let keys: Vec<String> = hints.iter().map(|(id, _)| id.to_string()).collect();
    let delays: Vec<f64> = hints.iter().map(|(_, delay)| delay.as_secs_f64()).collect();
    let moved = sqlx::query!(
        r#"
        WITH hinted AS (
            SELECT job.id, job.is_late, GREATEST(
                now() + make_interval(secs => hint.delay),
                -- What is no number of milliseconds counts as none.
                CASE WHEN job.hinted_at ~ '^[0-9]{1,14}$' THEN LEAST(
                    to_timestamp(job.hinted_at::bigint / 1000.0), now()
                ) + make_interval(
                    secs => CASE WHEN job.is_late THEN $4::float8 ELSE $3::float8 END
                ) END
            ) AS due_at
            FROM unnest($1::text[], $2::float8[]) AS hint (key, delay)
            CROSS JOIN LATERAL (
                -- Past its deadline, whether it has ended or an earlier hint has it poll once more.
                SELECT id, metadata -> 'hinted_at' AS hinted_at, EXISTS (
                    SELECT FROM failed_jobs
                    WHERE job_id = jobs.id AND closed_at IS NULL AND kind = $5
                ) AS is_late
                FROM apalis.jobs
                WHERE job_type = 'update_status' AND idempotency_key = hint.key LIMIT 1
            ) AS job
        ), moved AS (
            UPDATE apalis.jobs
            SET status = 'Pending', run_at = hinted.due_at,
                -- The deadline has passed for one that has ended: it polls once.
                attempts = CASE WHEN is_late THEN 0 ELSE attempts END,
                done_at = NULL,
                last_result = CASE WHEN is_late THEN NULL ELSE last_result END,
                metadata = COALESCE(metadata, '') || hstore(
                    'hinted_at', floor(extract(epoch FROM hinted.due_at) * 1000)::bigint::text
                )
            FROM hinted
            WHERE jobs.id = hinted.id AND jobs.id = ANY (ARRAY(SELECT id FROM hinted)) AND (
                status = 'Pending' AND run_at > hinted.due_at
                OR status = 'Failed' AND is_late
            )
            RETURNING run_at
        ), noted AS (
            -- Later than its claim, by which the outcome knows it. The first hint of a run says it
            -- all: the next poll comes after them.
            UPDATE apalis.jobs
            SET metadata = COALESCE(metadata, '') || hstore(
                    'hinted_at', ceil(extract(epoch FROM hinted.due_at) * 1000)::bigint::text
                )
            FROM hinted
            WHERE jobs.id = hinted.id AND jobs.id = ANY (ARRAY(SELECT id FROM hinted))
                AND status = 'Running' AND CASE
                    WHEN metadata -> 'hinted_at' ~ '^[0-9]{1,14}$'
                    THEN to_timestamp((metadata -> 'hinted_at')::bigint / 1000.0) <= lock_at
                    ELSE true
                END
        )
        SELECT run_at AS "run_at!: Time",
            GREATEST(extract(epoch FROM run_at - now()), 0)::float8 AS "delay!"
        FROM moved
        "#,
        &keys,
        &delays,
        MIN_GAP.as_secs_f64(),
        MIN_GAP_AFTER_DEADLINE.as_secs_f64(),
        DeadLetterKind::Deadline.as_str(),
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(moved
        .into_iter()
        .map(|row| (row.run_at.at(), Duration::try_from_secs_f64(row.delay).unwrap_or_default()))
        .collect())
}
