//! The job rows as operators see them: listing, retrying, cancelling.
//!
//! Each state has its order: what waits by when it is due, what runs by when it began, what stopped
//! by when it stopped, all else newest first. Every order is an index's, so that no list reads the
//! millions of finished rows.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{JobPlan, UnknownThirdParty, job_control};
use crate::{
    domain::{DeadLetterState, JobKind, JobState},
    store::{
        Database, StoreError,
        audit::{self, Actor, AuditTarget, OperatorAction},
        dead_letters,
        postgres::columns::{AnyJson, MaybeTime, Time},
        transactions, wanted,
    },
};

/// A job row, decoded.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// A ULID, where Quartet wrote the row.
    pub id: String,
    pub queue: JobKind,
    pub state: JobState,
    /// `None` where the row's key is no uuid.
    pub transaction_id: Option<Uuid>,
    pub attempts: i32,
    pub max_attempts: i32,
    /// When it is or was due.
    pub run_at: Time,
    /// When it was done, failed or cancelled.
    pub done_at: Option<Time>,
    pub last_error: Option<String>,
    /// `[{attempt, at, error}]`, oldest first.
    pub errors: Value,
    /// The worker that runs it.
    pub worker: Option<String>,
    pub leased_at: Option<Time>,
    /// When that worker was last seen.
    pub worker_seen_at: Option<DateTime<Utc>>,
    /// update_status: polls done so far, as of the last snooze.
    pub polls: Option<i32>,
}

/// Where a page ends: the next one starts after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCursor {
    /// The time that the list is ordered by.
    pub at: Time,
    pub id: String,
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub queue: Option<JobKind>,
    pub state: Option<JobState>,
    pub transaction_id: Option<Uuid>,
    pub cursor: Option<JobCursor>,
}

/// The columns of [`JobRow`], from `operator.jobs`.
macro_rules! select_jobs {
    ($rest:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            JobRow,
            r#"
            SELECT
                jobs.id AS "id!", jobs.queue AS "queue!: JobKind", jobs.state AS "state!: JobState",
                jobs.transaction_id, jobs.attempts AS "attempts!",
                jobs.max_attempts AS "max_attempts!",
                jobs.run_at AS "run_at!: Time", jobs.done_at AS "done_at!: MaybeTime",
                jobs.last_error, jobs.errors AS "errors!: AnyJson", jobs.worker,
                jobs.leased_at AS "leased_at!: MaybeTime",
                jobs.worker_seen_at AS "worker_seen_at!: MaybeTime", jobs.polls
            "# + $rest,
            $($argument),+
        )
    };
}

/// Jobs, in the order of their state.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &JobFilter,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    if let Some(transaction_id) = filter.transaction_id {
        return of_transaction(executor, transaction_id, filter).await;
    }
    match filter.state {
        Some(state @ (JobState::Due | JobState::Scheduled)) => {
            waiting(executor, filter, state, limit).await
        }
        Some(JobState::Running) => running(executor, filter, limit).await,
        Some(JobState::Failed) => stopped(executor, filter, "Failed", limit).await,
        Some(JobState::Cancelled) => stopped(executor, filter, "Killed", limit).await,
        Some(JobState::Done) => newest(executor, filter, Some("Done"), limit).await,
        None => newest(executor, filter, None, limit).await,
    }
}

/// The cursor after `row` in a list of `state`.
pub fn cursor(row: &JobRow, state: Option<JobState>) -> JobCursor {
    let at = match state {
        Some(JobState::Running) => row.leased_at,
        Some(JobState::Failed | JobState::Cancelled) => row.done_at,
        _ => Some(row.run_at),
    };
    // Null is after all times, for Postgres.
    JobCursor { at: at.unwrap_or(Time::infinity()), id: row.id.clone() }
}

async fn of_transaction(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    filter: &JobFilter,
) -> Result<Vec<JobRow>, StoreError> {
    Ok(select_jobs!(
        r#"
        FROM operator.jobs
        WHERE idempotency_key = $1 AND queue = ANY ($2::text[])
            AND ($3::text IS NULL OR state = $3)
            -- There are four at most: one page.
            AND $4::text IS NULL
        ORDER BY array_position($2::text[], queue)
        "#,
        transaction_id.to_string(),
        &wanted(filter.queue),
        filter.state.map(JobState::as_str),
        filter.cursor.as_ref().map(|cursor| &cursor.id) as _,
    )
    .fetch_all(executor)
    .await?)
}

async fn waiting(
    executor: impl PgExecutor<'_>,
    filter: &JobFilter,
    state: JobState,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    Ok(select_jobs!(
        r#"
        FROM unnest($1::text[]) AS wanted (queue)
        -- A range of the index for each queue, merged. From the floor on: before it there are the
        -- dead entries of jobs that were due.
        CROSS JOIN LATERAL (
            SELECT * FROM operator.jobs
            WHERE queue = wanted.queue AND status = 'Pending'
                AND run_at >= CASE
                    WHEN $2 THEN (SELECT floor FROM operator.floors WHERE name = wanted.queue)
                    ELSE now() + interval '1 us'
                END
                AND run_at <= CASE WHEN $2 THEN now() ELSE 'infinity' END
                AND ($4::text IS NULL OR (run_at, id) > ($3, $4))
            ORDER BY run_at, id
            LIMIT $5
        ) AS jobs
        ORDER BY jobs.run_at, jobs.id
        LIMIT $5
        "#,
        &wanted(filter.queue),
        state == JobState::Due,
        filter.cursor.as_ref().map(|cursor| cursor.at) as _,
        filter.cursor.as_ref().map(|cursor| &cursor.id) as _,
        limit,
    )
    .fetch_all(executor)
    .await?)
}

async fn running(
    executor: impl PgExecutor<'_>,
    filter: &JobFilter,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    Ok(select_jobs!(
        r#"
        FROM apalis.workers
        -- A range of the index for each worker, merged.
        CROSS JOIN LATERAL (
            SELECT * FROM operator.jobs
            WHERE worker = workers.id AND queue = ANY ($1::text[])
                AND leased_at >= (SELECT floor FROM operator.floors WHERE name = 'leased')
                AND ($3::text IS NULL OR (leased_at, id) > ($2, $3))
            ORDER BY leased_at, id
            LIMIT $4
        ) AS jobs
        ORDER BY jobs.leased_at, jobs.id
        LIMIT $4
        "#,
        &wanted(filter.queue),
        filter.cursor.as_ref().map(|cursor| cursor.at) as _,
        filter.cursor.as_ref().map(|cursor| &cursor.id) as _,
        limit,
    )
    .fetch_all(executor)
    .await?)
}

async fn stopped(
    executor: impl PgExecutor<'_>,
    filter: &JobFilter,
    status: &str,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    Ok(select_jobs!(
        r#"
        FROM unnest($1::text[]) AS wanted (queue)
        CROSS JOIN LATERAL (
            SELECT * FROM operator.jobs
            -- Said twice: the first is the index's own condition.
            WHERE queue = wanted.queue AND status IN ('Failed', 'Killed') AND status = $2
                AND ($4::text IS NULL OR (done_at, id) < ($3, $4))
            ORDER BY done_at DESC, id DESC
            LIMIT $5
        ) AS jobs
        ORDER BY jobs.done_at DESC, jobs.id DESC
        LIMIT $5
        "#,
        &wanted(filter.queue),
        status,
        filter.cursor.as_ref().map(|cursor| cursor.at) as _,
        filter.cursor.as_ref().map(|cursor| &cursor.id) as _,
        limit,
    )
    .fetch_all(executor)
    .await?)
}

async fn newest(
    executor: impl PgExecutor<'_>,
    filter: &JobFilter,
    status: Option<&str>,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    Ok(select_jobs!(
        r#"
        FROM operator.jobs
        WHERE queue = ANY ($1::text[])
            AND ($2::text IS NULL OR status = $2)
            AND ($3::text IS NULL OR id < $3)
        -- ULIDs: the order of writing.
        ORDER BY id DESC
        LIMIT $4
        "#,
        &wanted(filter.queue),
        status,
        filter.cursor.as_ref().map(|cursor| &cursor.id) as _,
        limit,
    )
    .fetch_all(executor)
    .await?)
}

/// One job.
pub async fn get(executor: impl PgExecutor<'_>, id: &str) -> Result<Option<JobRow>, StoreError> {
    Ok(select_jobs!("FROM operator.jobs WHERE id = $1", id).fetch_optional(executor).await?)
}

/// Why nothing was done to a job.
#[derive(Debug, thiserror::Error)]
pub enum JobActionError {
    #[error("there is no job with this id")]
    NotFound,
    #[error("the job is running: wait until this run has ended")]
    Running,
    #[error("the job is {0} already")]
    Ended(JobState),
    #[error(transparent)]
    UnknownThirdParty(#[from] UnknownThirdParty),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for JobActionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Makes a job due now: one that waits keeps its attempts, one that has ended gets fresh ones, and
/// its open dead letter is closed as replayed. A create that may have gone through is not tried
/// again sooner than its backoff; one that is done is not made again at all, because a third party
/// whose lookup does not show it would have it twice.
pub async fn retry(
    pool: &Database,
    id: &str,
    plan: &JobPlan,
    actor: Actor<'_>,
) -> Result<JobRow, JobActionError> {
    let mut tx = crate::store::begin(pool).await?;
    let job = lock(&mut tx, id).await?;
    let mut closed = None;
    let transaction = match job.transaction_id {
        Some(id) => transactions::get(&mut *tx, id).await?,
        None => None,
    };
    match job.state {
        JobState::Running => return Err(JobActionError::Running),
        JobState::Done if job.queue == JobKind::CreateAtThirdParty => {
            return Err(JobActionError::Ended(job.state));
        }
        _ => {}
    }
    let backoff = plan.retry_backoff(Some(job.queue), transaction.as_ref())?;
    match job.state {
        JobState::Running | JobState::Due => {}
        JobState::Scheduled => job_control::make_due(&mut *tx, id, backoff).await?,
        JobState::Done | JobState::Failed | JobState::Cancelled => {
            job_control::reactivate(&mut tx, id, backoff).await?;
            let state = DeadLetterState::Replayed;
            closed = dead_letters::close_for_job(&mut *tx, id, state, actor).await?;
        }
    }
    record(&mut tx, OperatorAction::RetryJob, &job, closed, actor).await?;
    let job = get(&mut *tx, id).await?.ok_or(JobActionError::NotFound)?;
    tx.commit().await?;
    Ok(job)
}

/// Ends a job that waits. The row stays, and a webhook still settles the transaction.
pub async fn cancel(pool: &Database, id: &str, actor: Actor<'_>) -> Result<JobRow, JobActionError> {
    let mut tx = crate::store::begin(pool).await?;
    let job = lock(&mut tx, id).await?;
    match job.state {
        JobState::Running => return Err(JobActionError::Running),
        JobState::Due | JobState::Scheduled => {}
        ended => return Err(JobActionError::Ended(ended)),
    }
    job_control::cancel(&mut *tx, id).await?;
    record(&mut tx, OperatorAction::CancelJob, &job, None, actor).await?;
    let job = get(&mut *tx, id).await?.ok_or(JobActionError::NotFound)?;
    tx.commit().await?;
    Ok(job)
}

/// The job, locked after its transaction.
async fn lock(tx: &mut sqlx::PgConnection, id: &str) -> Result<JobRow, JobActionError> {
    let job = get(&mut *tx, id).await?.ok_or(JobActionError::NotFound)?;
    if let Some(transaction_id) = job.transaction_id {
        transactions::lock(&mut *tx, transaction_id).await?;
    }
    job_control::lock(&mut *tx, id).await?;
    // Read again: it may have changed while this waited.
    get(&mut *tx, id).await?.ok_or(JobActionError::NotFound)
}

async fn record(
    tx: &mut sqlx::PgConnection,
    action: OperatorAction,
    before: &JobRow,
    dead_letter_id: Option<Uuid>,
    actor: Actor<'_>,
) -> Result<(), StoreError> {
    let target = AuditTarget {
        transaction_id: before.transaction_id,
        dead_letter_id,
        job_id: Some(&before.id),
        queue: Some(before.queue.as_str()),
        detail: Map::from_iter([("state_before".to_owned(), before.state.as_str().into())]),
    };
    audit::record(tx, actor, action, target).await
}
