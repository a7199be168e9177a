//! The dead-letter store, `failed_jobs`: opening and closing. Reading is in `list`.
//!
//! A dead letter is opened in the SQL transaction of the state that it explains. A unique index
//! over the open ones' cause keeps a second one for the same cause away. What operators do to one
//! is in [`super::dead_letter_actions`].

mod list;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

pub use self::list::{Filter, OpenCount, count_open, get, list, open_ids};
use super::{
    StoreError,
    audit::Actor,
    evidence::{self, NewEvidence},
    postgres::columns::{Column, Time},
};
use crate::domain::{DeadLetterKind, DeadLetterState, EvidenceKind, LastAnswers};

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
    /// The name of the transaction's client, where both are known.
    pub client: Option<String>,
    pub job_id: Option<String>,
    pub queue: Option<String>,
    pub job: Option<Value>,
    pub reason: String,
    pub detail: Value,
    pub attempts: Value,
    pub opened_at: Time,
    pub closed_at: Option<DateTime<Utc>>,
    pub closed_by: Option<String>,
    pub note: Option<String>,
}

/// A row as it is stored.
struct StoredDeadLetter {
    id: Uuid,
    kind: Column<DeadLetterKind>,
    state: Column<DeadLetterState>,
    transaction_id: Option<Uuid>,
    client: Option<String>,
    job_id: Option<String>,
    queue: Option<String>,
    job: Option<Value>,
    reason: String,
    detail: Value,
    attempts: Value,
    opened_at: Time,
    closed_at: Option<DateTime<Utc>>,
    closed_by: Option<String>,
    note: Option<String>,
}

impl StoredDeadLetter {
    fn read(self) -> Result<DeadLetter, String> {
        let id = self.id;
        Ok(DeadLetter {
            id,
            kind: self.kind.0.map_err(|why| format!("the kind of dead letter {id}: {why}"))?,
            state: self.state.0.map_err(|why| format!("the state of dead letter {id}: {why}"))?,
            transaction_id: self.transaction_id,
            client: self.client,
            job_id: self.job_id,
            queue: self.queue,
            job: self.job,
            reason: self.reason,
            detail: self.detail,
            attempts: self.attempts,
            opened_at: self.opened_at,
            closed_at: self.closed_at,
            closed_by: self.closed_by,
            note: self.note,
        })
    }
}

/// Opens one unless the same cause has an open one already; returns whether it did.
pub async fn open(
    conn: &mut PgConnection,
    new: &NewDeadLetter,
    source: &'static str,
) -> Result<bool, StoreError> {
    let opened = sqlx::query_scalar!(
        r#"
        INSERT INTO failed_jobs (kind, cause, transaction_id, client_id, reason, detail, attempts)
        VALUES (
            $1, $2, $3, (SELECT client_id FROM transactions WHERE id = $3), $4, $5,
            -- It has no job whose attempts it could hold: what the third party said last, of which
            -- the caller has written the evidence.
            (
                SELECT COALESCE(jsonb_agg(jsonb_build_object(
                    'attempt', number,
                    'at', at,
                    'error', left(source || ': ' || COALESCE(
                        detail ->> 'answer', detail ->> 'error',
                        'it is ' || COALESCE(detail ->> 'status', 'there')
                    ), 500)
                ) ORDER BY number), '[]')
                FROM (
                    SELECT row_number() OVER (ORDER BY id) AS number, at, source, detail
                    FROM (
                        SELECT * FROM transaction_events
                        WHERE transaction_id = $3 AND kind IN (
                            'found_at_third_party', 'created_at_third_party', 'create_ambiguous',
                            'poll_status', 'webhook'
                        )
                        ORDER BY id DESC
                        LIMIT 4
                    ) AS last
                ) AS answers
            )
        )
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

/// Why a job stops.
#[derive(Debug)]
pub struct JobEnd<'a> {
    pub kind: DeadLetterKind,
    pub reason: &'a str,
    /// The last attempt's.
    pub error: Option<&'a str>,
    /// The last answers to its polls: they are its attempts.
    pub answers: &'a LastAnswers,
}

/// Opens one for a job row as it is now, before the caller ends the job. Where the job has an open
/// one, that one is brought up to date instead.
pub async fn open_for_job(
    conn: &mut PgConnection,
    job_id: &str,
    JobEnd { kind, reason, error, answers }: &JobEnd<'_>,
    source: &'static str,
) -> Result<(), StoreError> {
    let opened = sqlx::query!(
        r#"
        INSERT INTO failed_jobs
            (kind, cause, transaction_id, client_id, job_id, queue, job, reason, attempts)
        SELECT
            $2,
            -- An id of any length has room in the index over the causes.
            'job:' || CASE WHEN octet_length(id) <= 100 THEN id ELSE md5(id) END,
            quartet_uuid(idempotency_key),
            (SELECT client_id FROM transactions WHERE id = quartet_uuid(idempotency_key)),
            id, job_type,
            to_jsonb(jobs) - 'job' || jsonb_build_object('payload', encode(job, 'escape')),
            $3,
            CASE
                WHEN jsonb_typeof(last_result -> 'errors') = 'array' THEN last_result -> 'errors'
                ELSE '[]'
            END || $5::jsonb || CASE
                WHEN $4::text IS NULL THEN '[]'
                ELSE jsonb_build_array(jsonb_build_object(
                    'attempt', LEAST(attempts, 2147483646) + 1, 'at', clock_timestamp(), 'error', $4
                ))
            END
        FROM apalis.jobs
        WHERE id = $1
        ON CONFLICT (cause) WHERE state = 'open' DO UPDATE
        SET kind = excluded.kind, job = excluded.job, reason = excluded.reason,
            -- Of polls the last answers say it all; a hint may have many more of them made.
            attempts = CASE WHEN excluded.kind = $6 THEN '[]' ELSE failed_jobs.attempts END
                || excluded.attempts
        RETURNING id, transaction_id
        "#,
        job_id,
        kind.as_str(),
        reason,
        *error,
        answers.to_json(),
        DeadLetterKind::Deadline.as_str(),
    )
    .fetch_one(&mut *conn)
    .await?;
    match opened.transaction_id {
        Some(transaction_id) => {
            let opened = opened_evidence(opened.id, *kind, reason, source);
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

/// Closes the open dead letter of a job, if it has one: the job has now succeeded, or runs again.
/// Returns its id.
pub async fn close_for_job(
    executor: impl PgExecutor<'_>,
    job_id: &str,
    state: DeadLetterState,
    by: Actor<'_>,
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        WITH closed AS (
            UPDATE failed_jobs
            SET state = $2, closed_at = clock_timestamp(), closed_by = $3, note = $4
            WHERE job_id = $1 AND state = 'open'
            RETURNING id, kind, transaction_id
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source, detail)
            SELECT transactions.id, 'dead_letter_closed', $3,
                jsonb_build_object('dead_letter_id', closed.id, 'kind', kind, 'state', $2::text)
            FROM closed
            JOIN transactions ON transactions.id = closed.transaction_id
        )
        SELECT id FROM closed
        "#,
        job_id,
        state.as_str(),
        by.operator,
        by.note,
    )
    .fetch_optional(executor)
    .await?)
}

/// Closes an open dead letter; returns whether it was open.
pub(super) async fn close(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    state: DeadLetterState,
    by: Actor<'_>,
) -> Result<bool, StoreError> {
    let closed = sqlx::query!(
        r#"
        UPDATE failed_jobs
        SET state = $2, closed_at = clock_timestamp(), closed_by = $3, note = $4
        WHERE id = $1 AND state = 'open'
        "#,
        id,
        state.as_str(),
        by.operator,
        by.note,
    )
    .execute(executor)
    .await?;
    Ok(closed.rows_affected() > 0)
}
