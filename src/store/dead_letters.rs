//! The dead-letter store, `failed_jobs`: opening, closing, reading, replaying.
//!
//! A dead letter is opened in the SQL transaction of the state that it explains. A unique index
//! over the open ones' cause keeps a second one for the same cause away.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    evidence::{self, NewEvidence},
    settle,
    transactions::{self, Cursor},
};
use crate::domain::{DeadLetterKind, DeadLetterState, EvidenceKind, JobKind, SettledBy, Status};

/// One that does not come from a job row.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    pub kind: DeadLetterKind,
    pub cause: String,
    pub transaction_id: Uuid,
    pub reason: String,
    pub detail: Value,
}

/// A row of `failed_jobs`.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub id: Uuid,
    pub kind: DeadLetterKind,
    pub state: DeadLetterState,
    pub transaction_id: Option<Uuid>,
    pub job_id: Option<String>,
    pub queue: Option<String>,
    pub job: Option<Value>,
    pub reason: String,
    pub detail: Value,
    pub attempts: Value,
    pub opened_at: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
    pub closed_by: Option<String>,
    pub note: Option<String>,
}

/// Opens one unless the same cause has an open one already; tells whether it did.
pub async fn open(
    conn: &mut PgConnection,
    new: &NewDeadLetter,
    source: &'static str,
) -> Result<bool, StoreError> {
    let opened = sqlx::query_scalar!(
        r#"
        INSERT INTO failed_jobs (kind, cause, transaction_id, reason, detail)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (cause) WHERE state = 'open' DO NOTHING
        RETURNING id
        "#,
        new.kind.as_str(),
        new.cause,
        new.transaction_id,
        new.reason,
        new.detail,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(id) = opened else { return Ok(false) };
    let opened = opened_evidence(id, new.kind, &new.reason, source);
    evidence::append(conn, new.transaction_id, &opened).await?;
    Ok(true)
}

/// Opens one for a job row as it is now, before the caller ends the job. `error` is the last
/// attempt's. Where the job has an open one, that one is brought up to date instead.
pub async fn open_for_job(
    conn: &mut PgConnection,
    job_id: &str,
    kind: DeadLetterKind,
    reason: &str,
    error: Option<&str>,
    source: &'static str,
) -> Result<(), StoreError> {
    let opened = sqlx::query!(
        r#"
        INSERT INTO failed_jobs
            (kind, cause, transaction_id, job_id, queue, job, reason, attempts)
        SELECT
            $2, 'job:' || id, quartet_uuid(idempotency_key), id, job_type,
            to_jsonb(jobs) - 'job' || jsonb_build_object('payload', encode(job, 'escape')),
            $3,
            COALESCE(last_result -> 'errors', '[]') || CASE
                WHEN $4::text IS NULL THEN '[]'
                ELSE jsonb_build_array(jsonb_build_object(
                    'attempt', attempts + 1, 'at', clock_timestamp(), 'error', $4
                ))
            END
        FROM apalis.jobs
        WHERE id = $1
        ON CONFLICT (cause) WHERE state = 'open' DO UPDATE
        SET kind = excluded.kind, job = excluded.job, reason = excluded.reason,
            attempts = failed_jobs.attempts || excluded.attempts
        RETURNING id, transaction_id
        "#,
        job_id,
        kind.as_str(),
        reason,
        error,
    )
    .fetch_one(&mut *conn)
    .await?;
    match opened.transaction_id {
        Some(transaction_id) => {
            let opened = opened_evidence(opened.id, kind, reason, source);
            evidence::append(conn, transaction_id, &opened).await
        }
        None => Ok(()),
    }
}

fn opened_evidence(
    id: Uuid,
    kind: DeadLetterKind,
    reason: &str,
    source: &'static str,
) -> NewEvidence {
    NewEvidence {
        kind: EvidenceKind::DeadLetterOpened,
        source,
        detail: json!({ "dead_letter_id": id, "kind": kind.as_str(), "reason": reason }),
    }
}

/// Resolves the open dead letter of a job that has now succeeded.
pub async fn resolve_for_job(
    executor: impl PgExecutor<'_>,
    job_id: &str,
    closed_by: &'static str,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH resolved AS (
            UPDATE failed_jobs
            SET state = 'resolved', closed_at = clock_timestamp(), closed_by = $2
            WHERE job_id = $1 AND state = 'open'
            RETURNING id, kind, transaction_id
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT transactions.id, 'dead_letter_closed', $2,
            jsonb_build_object('dead_letter_id', resolved.id, 'kind', kind, 'state', 'resolved')
        FROM resolved
        JOIN transactions ON transactions.id = resolved.transaction_id
        "#,
        job_id,
        closed_by,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// One dead letter.
pub async fn get(
    executor: impl PgExecutor<'_>,
    id: Uuid,
) -> Result<Option<DeadLetter>, StoreError> {
    Ok(sqlx::query_as!(
        DeadLetter,
        r#"
        SELECT
            id, kind AS "kind: DeadLetterKind", state AS "state: DeadLetterState", transaction_id,
            job_id, queue, job, reason, detail, attempts, opened_at, closed_at, closed_by, note
        FROM failed_jobs
        WHERE id = $1
        "#,
        id
    )
    .fetch_optional(executor)
    .await?)
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub kind: Option<DeadLetterKind>,
    pub state: Option<DeadLetterState>,
    pub transaction_id: Option<Uuid>,
    pub cursor: Option<Cursor>,
}

/// Dead letters, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<DeadLetter>, StoreError> {
    Ok(sqlx::query_as!(
        DeadLetter,
        r#"
        SELECT
            id, kind AS "kind: DeadLetterKind", state AS "state: DeadLetterState", transaction_id,
            job_id, queue, job, reason, detail, attempts, opened_at, closed_at, closed_by, note
        FROM failed_jobs
        WHERE ($1::text IS NULL OR kind = $1)
            AND ($2::text IS NULL OR state = $2)
            AND ($3::uuid IS NULL OR transaction_id = $3)
            AND (opened_at, id) < (COALESCE($4, 'infinity'::timestamptz), $5)
        ORDER BY opened_at DESC, id DESC
        LIMIT $6
        "#,
        filter.kind.map(DeadLetterKind::as_str),
        filter.state.map(DeadLetterState::as_str),
        filter.transaction_id,
        filter.cursor.map(|cursor| cursor.at),
        filter.cursor.map_or(Uuid::max(), |cursor| cursor.id),
        limit,
    )
    .fetch_all(executor)
    .await?)
}

/// Why a dead letter was not replayed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("there is no dead letter with this id")]
    NotFound,
    #[error("the dead letter is {0} already")]
    Closed(DeadLetterState),
    #[error("a status_conflict has nothing to replay: an operator resolves or discards it")]
    NothingToReplay,
    #[error("the transaction that the webhook names is still unknown")]
    StillUnknown,
    #[error("its job row no longer exists")]
    JobGone,
    #[error("its job is running")]
    JobRunning,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Replays an open dead letter: its job row becomes due now with fresh attempts, or, for an
/// `unknown_transaction`, the webhook's status is applied now. Returns the closed dead letter.
pub async fn replay(
    pool: &PgPool,
    id: Uuid,
    operator: &str,
    note: Option<&str>,
) -> Result<DeadLetter, ReplayError> {
    let mut tx = super::begin(pool).await?;
    // Lock order: the transaction's row before its jobs, those before the dead letter.
    let letter = get(&mut *tx, id).await?.ok_or(ReplayError::NotFound)?;
    let transaction = match letter.transaction_id {
        Some(transaction_id) => transactions::lock(&mut tx, transaction_id).await?,
        None => None,
    };
    match (letter.kind, &letter.job_id) {
        (DeadLetterKind::StatusConflict, _) => return Err(ReplayError::NothingToReplay),
        (DeadLetterKind::UnknownTransaction, _) => {
            let transaction = transaction.as_ref().ok_or(ReplayError::StillUnknown)?;
            let reported = letter.detail["status"].as_str().and_then(|word| word.parse().ok());
            let reported: Status = reported.ok_or(ReplayError::NothingToReplay)?;
            settle::apply(&mut tx, transaction, reported, SettledBy::Webhook, "operator").await?;
        }
        (_, Some(job_id)) => reactivate(&mut tx, job_id).await?,
        (_, None) => return Err(ReplayError::NothingToReplay),
    }
    let closed = sqlx::query!(
        r#"
        UPDATE failed_jobs
        SET state = 'replayed', closed_at = clock_timestamp(), closed_by = $2, note = $3
        WHERE id = $1 AND state = 'open'
        "#,
        id,
        operator,
        note,
    )
    .execute(&mut *tx)
    .await?;
    if closed.rows_affected() == 0 {
        // Read again: somebody else may have closed it while this waited for the locks.
        let state = get(&mut *tx, id).await?.map_or(letter.state, |letter| letter.state);
        return Err(ReplayError::Closed(state));
    }
    if let Some(transaction_id) = letter.transaction_id {
        let replayed = NewEvidence {
            kind: EvidenceKind::Operator,
            source: "operator",
            detail: json!({
                "action": "replay", "dead_letter_id": id, "kind": letter.kind.as_str(),
                "operator": operator, "note": note,
            }),
        };
        evidence::append(&mut *tx, transaction_id, &replayed).await?;
    }
    let closed = get(&mut *tx, id).await?.ok_or(ReplayError::NotFound)?;
    tx.commit().await?;
    Ok(closed)
}

/// Makes a stopped job due now, with fresh attempts.
async fn reactivate(conn: &mut PgConnection, job_id: &str) -> Result<(), ReplayError> {
    let status = sqlx::query_scalar!(
        "SELECT status FROM apalis.jobs WHERE id = $1 FOR NO KEY UPDATE",
        job_id
    )
    .fetch_optional(&mut *conn)
    .await?;
    match status.as_deref() {
        None => return Err(ReplayError::JobGone),
        Some("Running" | "Queued") => return Err(ReplayError::JobRunning),
        Some(_) => {}
    }
    sqlx::query!(
        r#"
        UPDATE apalis.jobs
        SET status = 'Pending', run_at = now(), attempts = 0, done_at = NULL, last_result = NULL,
            -- Polling starts anew, and with it the deadline.
            metadata = CASE
                WHEN job_type = $2 THEN hstore('poll_since', to_char(
                    now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
                ))
            END
        WHERE id = $1
        "#,
        job_id,
        JobKind::UpdateStatus.as_str(),
    )
    .execute(conn)
    .await?;
    Ok(())
}
