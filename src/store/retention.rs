//! Removing by age what has ended, a batch a call.
//!
//! A transaction that has ended loses its four job rows together; its own row stays, with
//! `pruned_at`, so that its id stays taken and a late webhook finds it. Nothing else removes job
//! rows, and nothing removes transactions.
//!
//! Ages are judged by the database's clock, under the locks of `store`'s order; what somebody else
//! holds is left for another time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use ulid::Ulid;
use uuid::Uuid;

use super::{
    Database, StoreError,
    postgres::columns::{MaybeTime, Time},
};

/// A step of the walk along the job table's primary key.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The transactions whose create_transaction rows are in this step.
    pub transactions: Vec<Uuid>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<String>,
}

/// The next transactions whose job rows were written before `written_before`, after the job id
/// `after`. Ids are ULIDs, which begin with the time: the primary key is an index by age, and the
/// job table needs no other one for this.
pub async fn walk(
    executor: impl PgExecutor<'_>,
    written_before: DateTime<Utc>,
    after: &str,
    limit: i64,
) -> Result<Walk, StoreError> {
    let millis = u64::try_from(written_before.timestamp_millis()).unwrap_or_default();
    let rows = sqlx::query!(
        r#"
        SELECT id, quartet_uuid(idempotency_key) AS transaction_id
        FROM apalis.jobs
        WHERE id > $1 AND id < $2 AND job_type = 'create_transaction'
        ORDER BY id
        LIMIT $3
        "#,
        after,
        Ulid::from_parts(millis, 0).to_string(),
        limit,
    )
    .fetch_all(executor)
    .await?;
    let is_full = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit;
    let next = rows.last().filter(|_| is_full).map(|row| row.id.clone());
    let transactions = rows.into_iter().filter_map(|row| row.transaction_id).collect();
    Ok(Walk { transactions, next })
}

/// Removes the job rows of those of `candidates` that have ended: final, without an open dead
/// letter, all four job rows finished, and all of this for longer than `age`. Returns how many
/// transactions were pruned.
pub async fn prune_jobs(
    pool: &Database,
    candidates: &[Uuid],
    age: Duration,
) -> Result<u64, StoreError> {
    let mut tx = super::begin(pool).await?;
    // A statement of its own: the next one then sees what was committed before these locks.
    let locked = sqlx::query_scalar!(
        r#"
        SELECT id
        FROM transactions
        WHERE id = ANY ($1) AND status <> 'pending' AND pruned_at IS NULL
            AND settled_at < clock_timestamp() - make_interval(secs => $2)
        ORDER BY id
        FOR NO KEY UPDATE SKIP LOCKED
        "#,
        candidates,
        age.as_secs_f64(),
    )
    .fetch_all(&mut *tx)
    .await?;
    if locked.is_empty() {
        return Ok(0);
    }
    let pruned = sqlx::query!(
        r#"
        WITH candidate AS (
            SELECT wanted.id, wanted.id::text AS key
            FROM unnest($1::uuid[]) AS wanted (id)
            WHERE NOT EXISTS (
                SELECT FROM failed_jobs WHERE transaction_id = wanted.id AND state = 'open'
            )
        ), job AS MATERIALIZED (
            -- By key and by each kind, so that the unique index is used. Locked before it is
            -- judged: an operator may be waking one of them.
            SELECT jobs.id, candidate.id AS transaction_id, jobs.status, jobs.done_at
            FROM candidate
            JOIN apalis.jobs ON idempotency_key = key AND job_type IN (
                'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
            )
            FOR UPDATE OF jobs SKIP LOCKED
        ), ended AS (
            SELECT transaction_id
            FROM job
            GROUP BY transaction_id
            HAVING count(*) = 4 AND bool_and(
                status IN ('Done', 'Failed', 'Killed')
                AND COALESCE(done_at < clock_timestamp() - make_interval(secs => $2), false)
            )
        ), removed AS (
            DELETE FROM apalis.jobs
            WHERE id = ANY (ARRAY(SELECT job.id FROM job JOIN ended USING (transaction_id)))
        )
        UPDATE transactions SET pruned_at = clock_timestamp()
        WHERE id = ANY (ARRAY(SELECT transaction_id FROM ended))
        "#,
        &locked,
        age.as_secs_f64(),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(pruned.rows_affected())
}

/// Where the walk along the pruned transactions stands.
#[derive(Debug, Clone, Copy)]
pub struct EvidenceCursor {
    pub settled_at: Time,
    pub id: Uuid,
}

/// What a step of a walk did.
#[derive(Debug, Clone)]
pub struct Pruned<Cursor> {
    /// Rows removed.
    pub removed: u64,
    /// Where the next step begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// Removes all evidence of the next pruned transactions whose last piece is older than `age`. Only
/// a pruned transaction loses evidence: nothing will be decided by it any more.
pub async fn prune_evidence(
    pool: &Database,
    age: Duration,
    after: Option<EvidenceCursor>,
    limit: i64,
) -> Result<Pruned<EvidenceCursor>, StoreError> {
    let mut tx = super::begin(pool).await?;
    let rows = sqlx::query!(
        r#"
        SELECT id, settled_at AS "settled_at!: Time"
        FROM transactions
        WHERE pruned_at IS NOT NULL
            AND (evidence_pruned_at IS NULL OR evidence_pruned_at < pruned_at)
            AND settled_at < clock_timestamp() - make_interval(secs => $1)
            AND (settled_at, id) > (COALESCE($2, '-infinity'::timestamptz), $3)
        ORDER BY settled_at, id
        LIMIT $4
        FOR NO KEY UPDATE SKIP LOCKED
        "#,
        age.as_secs_f64(),
        after.map(|cursor| cursor.settled_at) as _,
        after.map_or(Uuid::nil(), |cursor| cursor.id),
        limit,
    )
    .fetch_all(&mut *tx)
    .await?;
    let is_full = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit;
    let next = rows
        .last()
        .filter(|_| is_full)
        .map(|row| EvidenceCursor { settled_at: row.settled_at, id: row.id });
    let ids: Vec<Uuid> = rows.into_iter().map(|row| row.id).collect();
    let removed = sqlx::query_scalar!(
        r#"
        WITH old AS (
            SELECT wanted.id
            FROM unnest($1::uuid[]) AS wanted (id)
            WHERE NOT EXISTS (
                SELECT FROM transaction_events
                WHERE transaction_id = wanted.id
                    AND at >= clock_timestamp() - make_interval(secs => $2)
            )
        ), removed AS (
            DELETE FROM transaction_events
            WHERE transaction_id = ANY (ARRAY(SELECT id FROM old))
            RETURNING id
        ), noted AS (
            UPDATE transactions SET evidence_pruned_at = clock_timestamp()
            WHERE id = ANY (ARRAY(SELECT id FROM old))
        )
        SELECT count(*) AS "count!" FROM removed
        "#,
        &ids,
        age.as_secs_f64(),
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Pruned { removed: removed.unsigned_abs(), next })
}

/// Removes up to `limit` webhook deliveries older than `age`, received at `after` or later: the
/// entries of those that an earlier step removed are not read again.
pub async fn prune_webhooks(
    executor: impl PgExecutor<'_>,
    age: Duration,
    after: Option<Time>,
    limit: i64,
) -> Result<Pruned<Time>, StoreError> {
    let step = sqlx::query!(
        r#"
        WITH removed AS (
            DELETE FROM webhook_deliveries
            WHERE webhook_id = ANY (ARRAY(
                SELECT webhook_id
                FROM webhook_deliveries
                WHERE received_at < now() - make_interval(secs => $1)
                    AND received_at >= COALESCE($2, '-infinity'::timestamptz)
                ORDER BY received_at
                LIMIT $3
            ))
            RETURNING received_at
        )
        SELECT count(*) AS "removed!", max(received_at) AS "last!: MaybeTime" FROM removed
        "#,
        age.as_secs_f64(),
        after as _,
        limit,
    )
    .fetch_one(executor)
    .await?;
    Ok(Pruned { removed: step.removed.unsigned_abs(), next: step.last.into() })
}

/// Where the walk along the closed dead letters stands.
#[derive(Debug, Clone, Copy)]
pub struct ClosedCursor {
    pub closed_at: Time,
    pub id: Uuid,
}

/// Removes those of the next dead letters that were closed longer than `age` ago. One about a
/// transaction that is not pruned stays: it explains a job that stopped, and keeps a conflict that
/// was decided from being opened again.
pub async fn prune_dead_letters(
    executor: impl PgExecutor<'_>,
    age: Duration,
    after: Option<ClosedCursor>,
    limit: i64,
) -> Result<Pruned<ClosedCursor>, StoreError> {
    let step = sqlx::query!(
        r#"
        WITH step AS (
            SELECT id, closed_at, transaction_id
            FROM failed_jobs
            WHERE closed_at < now() - make_interval(secs => $1)
                AND (closed_at, id) > (COALESCE($2, '-infinity'::timestamptz), $3)
            ORDER BY closed_at, id
            LIMIT $4
        ), removed AS (
            DELETE FROM failed_jobs
            WHERE id = ANY (ARRAY(
                SELECT step.id
                FROM step
                WHERE NOT EXISTS (
                    SELECT FROM transactions
                    WHERE transactions.id = step.transaction_id AND pruned_at IS NULL
                )
            ))
            RETURNING id
        )
        SELECT
            (SELECT count(*) FROM removed) AS "removed!",
            (SELECT count(*) FROM step) AS "seen!",
            last.closed_at AS "closed_at!: MaybeTime", last.id AS "id?"
        FROM (SELECT) AS one
        LEFT JOIN (SELECT closed_at, id FROM step ORDER BY closed_at DESC, id DESC LIMIT 1) AS last
            ON true
        "#,
        age.as_secs_f64(),
        after.map(|cursor| cursor.closed_at) as _,
        after.map_or(Uuid::nil(), |cursor| cursor.id),
        limit,
    )
    .fetch_one(executor)
    .await?;
    let next = match (step.closed_at.into(), step.id) {
        (Some(closed_at), Some(id)) if step.seen >= limit => Some(ClosedCursor { closed_at, id }),
        _ => None,
    };
    Ok(Pruned { removed: step.removed.unsigned_abs(), next })
}

/// Removes up to `limit` findings of reconciliation that were closed longer than `age` ago, at
/// `after` or later.
pub async fn prune_findings(
    executor: impl PgExecutor<'_>,
    age: Duration,
    after: Option<Time>,
    limit: i64,
) -> Result<Pruned<Time>, StoreError> {
    let step = sqlx::query!(
        r#"
        WITH removed AS (
            DELETE FROM reconcile_findings
            WHERE transaction_id = ANY (ARRAY(
                SELECT transaction_id
                FROM reconcile_findings
                WHERE closed_at < now() - make_interval(secs => $1)
                    AND closed_at >= COALESCE($2, '-infinity'::timestamptz)
                ORDER BY closed_at
                LIMIT $3
            ))
            RETURNING closed_at
        )
        SELECT count(*) AS "removed!", max(closed_at) AS "last!: MaybeTime" FROM removed
        "#,
        age.as_secs_f64(),
        after as _,
        limit,
    )
    .fetch_one(executor)
    .await?;
    Ok(Pruned { removed: step.removed.unsigned_abs(), next: step.last.into() })
}
