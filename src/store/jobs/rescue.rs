//! Taking the jobs of workers that are gone.
//!
//! A worker that was not seen for `dead_after`, by the database's clock, is marked dead first
//! ([`mark_dead`]). From then on it cannot come back: its renewals find it dead, its claims get
//! nothing, and a trigger keeps an earlier release from renewing it. Its jobs are then taken in
//! batches of bounded size, each a SQL transaction of its own, by any number of processes at once
//! ([`take`]): a row that another process takes is skipped. A claim of the dead worker that was
//! under way while it was marked is found by a later batch, because the worker's row stays until no
//! job names it ([`remove`]).
//!
//! A worker that was seen in the future is one of before the database's clock was set back, living
//! or dead. It counts as seen now, so that a living one has the time to renew itself.
//!
//! A crash half-way leaves a marked worker with some jobs; the next rescuer goes on with it.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::leases;
use crate::{
    domain::DeadLetterKind,
    store::{Database, StoreError, postgres::database::in_time_of},
};

const SOURCE: &str = "lease";
/// How long a batch may take. While an old snapshot is held, the first one reads all that the dead
/// worker ever held.
const BATCH_LIMIT: Duration = Duration::from_secs(65);
/// The constraint that keeps a worker's row while a job names it.
const WORKER_FOREIGN_KEY: &str = "fk_worker_lock_by";

/// Marks every worker of `queues` dead that was not seen for `dead_after`. Returns all that are
/// marked, by whomever.
///
/// Marks nothing unless a worker in `own` was renewed within `recent`. After a stall of the
/// database every worker looks dead, and this may be the first statement that it executes.
pub async fn mark_dead(
    executor: impl PgExecutor<'_>,
    queues: &[String],
    dead_after: Duration,
    own: &[String],
    recent: Duration,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        WITH seen_ahead AS (
            UPDATE apalis.workers
            SET last_seen = clock_timestamp()
            WHERE id = ANY (ARRAY(
                SELECT id
                FROM apalis.workers
                WHERE worker_type = ANY ($1::text[]) AND dead_at IS NULL
                    AND last_seen > clock_timestamp() + make_interval(secs => $5)
                FOR NO KEY UPDATE SKIP LOCKED
            ))
        ), marked AS (
            UPDATE apalis.workers
            SET dead_at = clock_timestamp()
            WHERE id = ANY (ARRAY(
                SELECT id
                FROM apalis.workers
                WHERE worker_type = ANY ($1::text[]) AND dead_at IS NULL
                    AND last_seen < clock_timestamp() - make_interval(secs => $3)
                    AND EXISTS (
                        SELECT FROM apalis.workers AS own
                        WHERE own.id = ANY ($2::text[])
                            AND own.last_seen >= clock_timestamp() - make_interval(secs => $4)
                    )
                -- A renewal that comes now waits, and then finds the worker dead. One that is under
                -- way is a sign of life.
                FOR NO KEY UPDATE SKIP LOCKED
            ))
            RETURNING id
        )
        SELECT id AS "id!" FROM marked
        UNION
        SELECT id FROM apalis.workers WHERE worker_type = ANY ($1) AND dead_at IS NOT NULL
        "#,
        queues,
        own,
        dead_after.as_secs_f64(),
        recent.as_secs_f64(),
        leases::MAX_AHEAD.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?)
}

/// A job that was taken from a dead worker.
#[derive(Debug, Clone)]
pub struct TakenJob {
    pub id: String,
    pub queue: String,
    pub transaction_id: Option<Uuid>,
    /// Attempts so far, with the lost one.
    pub attempts: i32,
    /// Whether they are used up, so that it is a dead letter now.
    pub used_up: bool,
    pub error: String,
}

/// Takes a bounded number of jobs from workers that are marked dead. If it returns none, all that
/// are left are being taken or ended by another session. A lost lease costs an attempt; a create
/// may have reached the third party, so that it waits `create_backoff`; a job whose attempts are
/// used up becomes a `poison` dead letter.
pub async fn take(
    pool: &Database,
    dead: &[String],
    create_backoff: Duration,
) -> Result<Vec<TakenJob>, StoreError> {
    let mut tx = crate::store::begin(pool).await?;
    let batch = async {
        sqlx::query!("SET LOCAL statement_timeout = '60s'").execute(&mut *tx).await?;
        let taken = take_batch(&mut tx, dead, create_backoff).await?;
        let used_up: Vec<String> =
            taken.iter().filter(|job| job.used_up).map(|job| job.id.clone()).collect();
        if !used_up.is_empty() {
            open_poison(&mut tx, &used_up).await?;
        }
        Ok::<_, StoreError>(taken)
    };
    let taken = in_time_of(BATCH_LIMIT, batch).await?;
    tx.commit().await?;
    Ok(taken)
}

async fn take_batch(
    conn: &mut PgConnection,
    dead: &[String],
    create_backoff: Duration,
) -> Result<Vec<TakenJob>, StoreError> {
    Ok(sqlx::query_as!(
        TakenJob,
        r#"
        WITH taken AS (
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
                    'Err', 'lease lost: worker ' || lock_by || ' was not seen any more',
                    'errors', CASE
                        WHEN jsonb_typeof(last_result -> 'errors') = 'array'
                        THEN last_result -> 'errors'
                        ELSE '[]'
                    END || jsonb_build_object(
                        'attempt', LEAST(attempts, 2147483646) + 1, 'at', clock_timestamp(),
                        'error', 'lease lost: worker ' || lock_by || ' was not seen any more'
                    )
                )
            -- An array rather than a join: Postgres then looks the few ids up. SKIP LOCKED: what
            -- another process takes, and what a webhook is just ending.
            WHERE id = ANY (ARRAY(
                SELECT id
                FROM apalis.jobs
                WHERE lock_by = ANY ($1::text[])
                LIMIT 500
                FOR NO KEY UPDATE SKIP LOCKED
            ))
            RETURNING
                id, job_type, quartet_uuid(idempotency_key) AS transaction_id, attempts,
                status = 'Failed' AS used_up, last_result ->> 'Err' AS error
        ), ambiguous AS (
            INSERT INTO transaction_events (transaction_id, kind, source, detail)
            SELECT transactions.id, 'create_ambiguous', $3, jsonb_build_object(
                'error', taken.error, 'backoff_s', $2::float8
            )
            FROM taken
            JOIN transactions ON transactions.id = taken.transaction_id
            WHERE job_type = 'create_at_third_party'
        )
        SELECT
            id AS "id!", job_type AS "queue!", transaction_id, attempts AS "attempts!",
            used_up AS "used_up!", error AS "error!"
        FROM taken
        "#,
        dead,
        create_backoff.as_secs_f64(),
        SOURCE,
    )
    .fetch_all(conn)
    .await?)
}

/// Opens the dead letters of jobs that have just lost their last attempt. Where a job has an open
/// one, that one is brought up to date instead.
async fn open_poison(conn: &mut PgConnection, job_ids: &[String]) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH opened AS (
            INSERT INTO failed_jobs
                (kind, cause, transaction_id, client_id, job_id, queue, job, reason, attempts)
            SELECT
                $3, 'job:' || id, quartet_uuid(idempotency_key),
                (SELECT client_id FROM transactions WHERE id = quartet_uuid(idempotency_key)),
                id, job_type,
                to_jsonb(jobs) - 'job' || jsonb_build_object('payload', encode(job, 'escape')),
                'the job''s lease was lost and its ' || attempts
                    || ' attempts are used up: it may kill its worker',
                COALESCE(last_result -> 'errors', '[]')
            FROM apalis.jobs
            WHERE id = ANY ($1::text[])
            ON CONFLICT (cause) WHERE state = 'open' DO UPDATE
            SET kind = excluded.kind, job = excluded.job, reason = excluded.reason,
                attempts = failed_jobs.attempts || excluded.attempts
            RETURNING id, kind, transaction_id, reason
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT transactions.id, 'dead_letter_opened', $2,
            jsonb_build_object('dead_letter_id', opened.id, 'kind', opened.kind, 'reason', reason)
        FROM opened
        JOIN transactions ON transactions.id = opened.transaction_id
        "#,
        job_ids,
        SOURCE,
        DeadLetterKind::Poison.as_str(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes those of the workers that are marked dead, and that no job names any more.
pub async fn remove(executor: impl PgExecutor<'_>, dead: &[String]) -> Result<(), StoreError> {
    let removed = sqlx::query!(
        r#"
        DELETE FROM apalis.workers
        WHERE id = ANY (ARRAY(
            SELECT id
            FROM apalis.workers
            WHERE id = ANY ($1::text[]) AND dead_at IS NOT NULL
                AND NOT EXISTS (SELECT FROM apalis.jobs WHERE lock_by = workers.id)
            -- A claim under way holds the row: what it takes is for another batch.
            FOR UPDATE SKIP LOCKED
        ))
        "#,
        dead
    )
    .execute(executor)
    .await
    .map_err(StoreError::from);
    match removed {
        // A claim that was committed between the look at the jobs and the removal.
        Err(error) if error.constraint() == Some(WORKER_FOREIGN_KEY) => Ok(()),
        removed => removed.map(drop),
    }
}
