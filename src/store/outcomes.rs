//! Writing how a job ended: the fence, the job row and all effects in one SQL transaction.
//!
//! The fence is the lease, matched by worker and time of claim. Where it does not match (the job
//! was rescued, or a webhook ended it) nothing is written, but for one thing: a final status that
//! was seen and contradicts the present one is kept as a conflict, because it is a fact about the
//! third party and not an outcome of the job.
//!
//! An outcome may be written again after a lost connection: if the first commit took place, the
//! lease is gone and the second write changes nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    audit::Actor,
    dead_letters,
    evidence::{self, NewEvidence},
    jobs::{ClaimedJob, Lease},
    settle,
    transactions::{self, Transaction},
};
use crate::domain::{
    DeadLetterKind, DeadLetterState, Decision, EvidenceKind, JobKind, RunOutcome, SettledBy, Status,
};

/// How a run of a job ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What becomes of the job.
    pub next: Next,
    /// What was seen, in order.
    pub evidence: Vec<(EvidenceKind, Value)>,
    /// A status that the third party reported.
    pub report: Option<(Status, SettledBy)>,
    /// The version that the client was sent.
    pub notified: Option<Notified>,
}

/// What becomes of a job.
#[derive(Debug, Clone)]
pub enum Next {
    /// It is done.
    Done,
    /// It goes on later; this was no failure and costs no attempt.
    Snooze { delay: Duration, count: Option<SnoozeCount> },
    /// It failed and is tried again later, if an attempt is left; else `exhausted`.
    Retry { delay: Duration, error: String },
    /// It stops, for an operator.
    Dead { kind: DeadLetterKind, reason: String, error: Option<String> },
    /// The transaction cannot be created: it becomes `failed`, and the job stops, for an operator.
    GiveUp { kind: DeadLetterKind, reason: String, error: Option<String> },
}

/// What a snooze counts, for the next run.
#[derive(Debug, Clone, Copy)]
pub enum SnoozeCount {
    /// update_status: polls done so far.
    Polls(u32),
    /// How often in a row it has waited for a transaction that is not there.
    Waits(u32),
    /// create_at_third_party: its own calls in a row that failed while the circuit was open.
    Probes(u32),
    /// update_status, while the third party is left alone: polls done so far, where the deadline
    /// counts from, because such time does not count, and as in [`Self::Probes`].
    LeftAlone { polls: u32, poll_since: DateTime<Utc>, probes: u32 },
}

impl SnoozeCount {
    /// The keys and the values in the row's metadata.
    fn entries(self) -> (Vec<String>, Vec<String>) {
        let entries = match self {
            Self::Polls(count) => vec![("polls", count.to_string())],
            Self::Waits(count) => vec![("waits", count.to_string())],
            Self::Probes(count) => vec![("probes", count.to_string())],
            Self::LeftAlone { polls, poll_since, probes } => vec![
                ("polls", polls.to_string()),
                ("poll_since", poll_since.to_rfc3339()),
                ("probes", probes.to_string()),
            ],
        };
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).unzip()
    }
}

/// A version that was sent to the client.
#[derive(Debug, Clone, Copy)]
pub struct Notified {
    pub version: i32,
    /// Whether the client acknowledged it.
    pub delivered: bool,
}

impl Outcome {
    /// An outcome without effects.
    pub fn new(next: Next) -> Self {
        Self { next, evidence: Vec::new(), report: None, notified: None }
    }

    /// Goes on after `delay`, without having failed.
    pub fn snooze(delay: Duration) -> Self {
        Self::new(Next::Snooze { delay, count: None })
    }

    /// Done, without effects.
    pub fn done() -> Self {
        Self::new(Next::Done)
    }

    /// Failed; again after `delay`.
    pub fn retry(delay: Duration, error: impl Into<String>) -> Self {
        Self::new(Next::Retry { delay, error: error.into() })
    }

    /// Adds something that was seen.
    pub fn with_evidence(mut self, kind: EvidenceKind, detail: Value) -> Self {
        self.evidence.push((kind, detail));
        self
    }

    /// Adds a status that the third party reported.
    pub fn with_report(mut self, status: Status, by: SettledBy) -> Self {
        self.report = Some((status, by));
        self
    }

    /// Adds the version that the client was sent.
    pub fn with_notified(mut self, version: i32, delivered: bool) -> Self {
        self.notified = Some(Notified { version, delivered });
        self
    }

    /// Whether the transaction's row decides or changes anything here.
    fn needs_transaction(&self, job: &ClaimedJob) -> bool {
        self.report.is_some()
            || self.notified.is_some()
            || match self.next {
                Next::GiveUp { .. } | Next::Dead { kind: DeadLetterKind::Deadline, .. } => true,
                Next::Retry { .. } => job.is_last_attempt(),
                _ => false,
            }
    }
}

/// What became of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    Applied {
        /// Jobs of this process's queues that are now due after a delay.
        due: Vec<(&'static str, Duration)>,
        /// How the run ended.
        run: RunOutcome,
        /// What settled the transaction, and how long after its accept (by this process's clock),
        /// where this outcome did.
        settled: Option<(SettledBy, Duration)>,
    },
    /// The lease belongs to somebody else: nothing was written.
    LeaseLost,
}

/// The row's next state, after the transaction's row had its say.
enum End<'a> {
    Done,
    /// Due again at once, with fresh attempts.
    Again,
    Snooze {
        delay: Duration,
        count: Option<SnoozeCount>,
    },
    Retry {
        delay: Duration,
        error: &'a str,
    },
    Dead {
        kind: DeadLetterKind,
        reason: String,
        error: Option<&'a str>,
    },
}

impl End<'_> {
    fn outcome(&self) -> RunOutcome {
        match self {
            Self::Done => RunOutcome::Done,
            Self::Again => RunOutcome::Again,
            Self::Snooze { .. } => RunOutcome::Snoozed,
            Self::Retry { .. } => RunOutcome::Retried,
            Self::Dead { .. } => RunOutcome::Dead,
        }
    }
}

/// Writes `outcome` of `job`, a job of `queue` about `transaction_id`.
pub async fn write(
    pool: &PgPool,
    queue: &'static str,
    job: &ClaimedJob,
    transaction_id: Option<Uuid>,
    outcome: &Outcome,
) -> Result<Written, StoreError> {
    let mut tx = super::begin(pool).await?;
    let current = match transaction_id {
        Some(id) if outcome.needs_transaction(job) => transactions::lock(&mut tx, id).await?,
        _ => None,
    };
    let (end, report) = decide(queue, job, outcome, current.as_ref());
    if !end_job(&mut tx, queue, job, &end).await? {
        tx.rollback().await?;
        keep_contradiction(pool, queue, transaction_id, outcome).await?;
        return Ok(Written::LeaseLost);
    }

    if let Some(id) = transaction_id {
        for (kind, detail) in &outcome.evidence {
            let seen = NewEvidence { kind: *kind, source: queue, detail: detail.clone() };
            evidence::append(&mut *tx, id, &seen).await?;
        }
    }
    let (mut due, mut settled) = (Vec::new(), None);
    if let (Some(current), Some((status, by))) = (&current, report) {
        let decision = settle::apply(&mut tx, current, status, by, queue).await?;
        if decision == Decision::Settle {
            due.push((JobKind::NotifyClient.as_str(), Duration::ZERO));
            settled = Some((by, current.age()));
        }
    }
    if let (Some(current), Some(Notified { version, delivered: true })) =
        (&current, outcome.notified)
    {
        transactions::record_notified(&mut *tx, current.id, version).await?;
        let by = Actor { operator: queue, note: None };
        let state = DeadLetterState::Resolved;
        dead_letters::close_for_job(&mut *tx, &job.lease.job_id, state, by).await?;
    }
    tx.commit().await?;

    match end {
        End::Again => due.push((queue, Duration::ZERO)),
        End::Snooze { delay, .. } | End::Retry { delay, .. } => due.push((queue, delay)),
        End::Done | End::Dead { .. } => {}
    }
    Ok(Written::Applied { due, run: end.outcome(), settled })
}

fn decide<'a>(
    queue: &str,
    job: &ClaimedJob,
    outcome: &'a Outcome,
    current: Option<&Transaction>,
) -> (End<'a>, Option<(Status, SettledBy)>) {
    let status = current.map(|current| current.status);
    let settled = matches!(status, Some(Status::Completed | Status::Declined));
    // The jobs that are about the third party, and have no purpose once it has reported an end.
    let finds_out = [JobKind::CreateAtThirdParty, JobKind::UpdateStatus]
        .iter()
        .any(|kind| kind.as_str() == queue);
    let newer = match (current, outcome.notified) {
        (Some(current), Some(notified)) => current.version > notified.version,
        _ => false,
    };
    let end = match &outcome.next {
        // No lost wake-up: the status changed while the client was being told.
        Next::Done | Next::Retry { .. } if newer => End::Again,
        Next::Done => End::Done,
        Next::Snooze { delay, count } => End::Snooze { delay: *delay, count: *count },
        // It was settled while this was on its way: there is nothing left to give up.
        Next::GiveUp { .. } if settled => End::Done,
        Next::Retry { .. } if settled && finds_out && job.is_last_attempt() => End::Done,
        Next::Retry { error, .. } if job.is_last_attempt() => End::Dead {
            kind: DeadLetterKind::Exhausted,
            reason: format!("all {} attempts failed; the last one: {error}", job.attempts + 1),
            error: Some(error),
        },
        Next::Retry { delay, error } => End::Retry { delay: *delay, error },
        Next::Dead { kind: DeadLetterKind::Deadline, .. }
            if status.is_some_and(Status::is_final) =>
        {
            End::Done
        }
        Next::Dead { kind, reason, error } | Next::GiveUp { kind, reason, error } => {
            End::Dead { kind: *kind, reason: reason.clone(), error: error.as_deref() }
        }
    };
    let gave_up = matches!((&outcome.next, &end), (Next::GiveUp { .. }, End::Dead { .. }));
    let report =
        if gave_up { Some((Status::Failed, SettledBy::CreationFailure)) } else { outcome.report };
    (end, report)
}

/// Ends this run of the job row; `false` when the lease is somebody else's.
async fn end_job(
    conn: &mut PgConnection,
    queue: &'static str,
    job: &ClaimedJob,
    end: &End<'_>,
) -> Result<bool, StoreError> {
    let Lease { job_id, worker, locked_at } = &job.lease;
    let ended = match end {
        End::Done => {
            sqlx::query!(
                r#"
                UPDATE apalis.jobs
                SET status = 'Done', attempts = attempts + 1, done_at = clock_timestamp(),
                    lock_by = NULL, lock_at = NULL,
                    last_result = COALESCE(last_result - 'Err', '{}') || '{"Ok": null}'
                WHERE id = $1 AND lock_by = $2 AND lock_at = $3 AND status = 'Running'
                "#,
                job_id,
                worker,
                locked_at
            )
            .execute(conn)
            .await?
        }
        End::Again => {
            sqlx::query!(
                r#"
                UPDATE apalis.jobs
                SET status = 'Pending', attempts = 0, run_at = clock_timestamp(),
                    lock_by = NULL, lock_at = NULL, last_result = NULL
                WHERE id = $1 AND lock_by = $2 AND lock_at = $3 AND status = 'Running'
                "#,
                job_id,
                worker,
                locked_at
            )
            .execute(conn)
            .await?
        }
        End::Snooze { delay, count } => {
            let (keys, values) = count.map(SnoozeCount::entries).unzip();
            sqlx::query!(
                r#"
                UPDATE apalis.jobs
                SET status = 'Pending', run_at = clock_timestamp() + make_interval(secs => $4),
                    lock_by = NULL, lock_at = NULL,
                    -- Strict: without a count the row's metadata stays. Waits and probes are counted
                    -- in a row.
                    metadata = COALESCE(
                        delete(COALESCE(metadata, ''), ARRAY['waits', 'probes'])
                            || hstore($5::text[], $6::text[]),
                        metadata
                    )
                WHERE id = $1 AND lock_by = $2 AND lock_at = $3 AND status = 'Running'
                "#,
                job_id,
                worker,
                locked_at,
                delay.as_secs_f64(),
                keys.as_deref(),
                values.as_deref(),
            )
            .execute(conn)
            .await?
        }
        End::Retry { delay, error } => {
            sqlx::query!(
                r#"
                UPDATE apalis.jobs
                SET status = 'Pending', attempts = attempts + 1,
                    run_at = clock_timestamp() + make_interval(secs => $4),
                    lock_by = NULL, lock_at = NULL,
                    last_result = jsonb_build_object(
                        'Err', $5::text,
                        'errors', COALESCE(last_result -> 'errors', '[]') || jsonb_build_object(
                            'attempt', attempts + 1, 'at', clock_timestamp(), 'error', $5::text
                        )
                    )
                WHERE id = $1 AND lock_by = $2 AND lock_at = $3 AND status = 'Running'
                "#,
                job_id,
                worker,
                locked_at,
                delay.as_secs_f64(),
                error,
            )
            .execute(conn)
            .await?
        }
        End::Dead { kind, reason, error } => {
            let held = sqlx::query!(
                r#"
                SELECT FROM apalis.jobs
                WHERE id = $1 AND lock_by = $2 AND lock_at = $3 AND status = 'Running'
                FOR NO KEY UPDATE
                "#,
                job_id,
                worker,
                locked_at
            )
            .fetch_optional(&mut *conn)
            .await?;
            if held.is_none() {
                return Ok(false);
            }
            // The row as it was, before it changes.
            dead_letters::open_for_job(&mut *conn, job_id, *kind, reason, *error, queue).await?;
            sqlx::query!(
                r#"
                UPDATE apalis.jobs
                SET status = 'Failed', attempts = attempts + 1, done_at = clock_timestamp(),
                    lock_by = NULL, lock_at = NULL,
                    last_result = COALESCE(last_result, '{}') || jsonb_build_object('Err', $2::text)
                WHERE id = $1
                "#,
                job_id,
                error.unwrap_or(reason),
            )
            .execute(conn)
            .await?
        }
    };
    Ok(ended.rows_affected() > 0)
}

/// Keeps a final status that was seen without a lease, where it contradicts the present one.
async fn keep_contradiction(
    pool: &PgPool,
    queue: &'static str,
    transaction_id: Option<Uuid>,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    let (Some(id), Some((reported, by))) = (transaction_id, outcome.report) else { return Ok(()) };
    let mut tx = super::begin(pool).await?;
    if let Some(current) = transactions::lock(&mut tx, id).await?
        && current.status.decide(reported, by) == Decision::Conflict
    {
        settle::open_conflict(&mut tx, &current, reported, by, queue).await?;
        tx.commit().await?;
    }
    Ok(())
}
