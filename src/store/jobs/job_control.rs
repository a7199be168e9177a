//! What operators do to job rows: make due, run again, cancel. The caller holds the transaction's
//! row locked, and has looked at the job's state.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::{domain::JobKind, store::StoreError};

/// Locks a job row until the SQL transaction ends; returns its status.
pub(in crate::store) async fn lock(
    executor: impl PgExecutor<'_>,
    id: &str,
) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT status FROM apalis.jobs WHERE id = $1 FOR NO KEY UPDATE", id)
        .fetch_optional(executor)
        .await?)
}

/// Locks one of a transaction's job rows until the SQL transaction ends; returns its id and status.
pub(in crate::store) async fn lock_of(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    kind: JobKind,
) -> Result<Option<(String, String)>, StoreError> {
    let locked = sqlx::query!(
        r#"
        SELECT id, status FROM apalis.jobs
        WHERE job_type = $1 AND idempotency_key = $2::uuid::text
        FOR NO KEY UPDATE
        "#,
        kind.as_str(),
        transaction_id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(locked.map(|job| (job.id, job.status)))
}

/// Makes a job that waits due now; a create that may have gone through, at the end of its backoff.
pub(in crate::store) async fn make_due(
    executor: impl PgExecutor<'_>,
    id: &str,
    create_backoff: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE apalis.jobs
        SET run_at = GREATEST(
            now(),
            (
                -- Its worker knows the third party's backoff, and has written it down; others may have
                -- another one in their settings. No later than from now on, whatever the evidence
                -- says.
                SELECT max(LEAST(at, now()) + make_interval(secs => GREATEST($2, CASE
                    WHEN jsonb_typeof(detail -> 'backoff_s') = 'number'
                    THEN LEAST((detail ->> 'backoff_s')::numeric, 31536000)::float8
                END)))
                FROM transaction_events
                WHERE transaction_id = quartet_uuid(idempotency_key)
                    AND kind = 'create_ambiguous' AND job_type = 'create_at_third_party'
            )
        )
        WHERE id = $1
        "#,
        id,
        create_backoff.as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Makes a job that has ended due now, with fresh attempts; a create that may have gone through, at
/// the end of its backoff.
pub(in crate::store) async fn reactivate(
    conn: &mut PgConnection,
    id: &str,
    create_backoff: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE apalis.jobs
        SET status = 'Pending', attempts = 0, done_at = NULL, last_result = NULL,
            -- Polling starts anew, and with it the deadline; the trace goes on.
            metadata = COALESCE(slice(metadata, ARRAY['traceparent']), '') || CASE
                WHEN job_type = $2 THEN hstore('poll_since', to_char(
                    now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
                ))
                ELSE ''
            END
        WHERE id = $1
        "#,
        id,
        JobKind::UpdateStatus.as_str(),
    )
    .execute(&mut *conn)
    .await?;
    make_due(conn, id, create_backoff).await
}

/// Ends a job that waits.
pub(in crate::store) async fn cancel(
    executor: impl PgExecutor<'_>,
    id: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE apalis.jobs SET status = 'Killed', done_at = clock_timestamp() WHERE id = $1",
        id
    )
    .execute(executor)
    .await?;
    Ok(())
}
