//! How a job ended, and writing it: the fence, the job row and all effects in one SQL transaction
//! (`write`).
//!
//! The fence is the lease, matched by worker and time of claim. Where it does not match (the job
//! was rescued, or a webhook ended it) nothing is written, but for one thing: a final status that
//! was seen and contradicts the present one is kept as a conflict, because it is a fact about the
//! third party and not an outcome of the job.
//!
//! An outcome may be written again after a lost connection: if the first commit took place, the
//! lease is gone and the second write changes nothing.

mod ended_jobs;
mod write;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::ClaimedJob;
use crate::{
    domain::{
        DeadLetterKind, EvidenceKind, JobKind, LastAnswers, RunOutcome, SettledBy, Status,
        ThirdPartyName,
    },
    store::transactions::Transaction,
};
pub use write::Outcomes;

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
    /// The last answers to its polls, for its dead letter.
    pub answers: LastAnswers,
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
#[derive(Debug, Clone)]
pub enum SnoozeCount {
    /// update_status: polls done so far.
    Polls { polls: u32, answers: LastAnswers },
    /// How often it has waited for a transaction that is not there.
    Waits(u32),
    /// notify_client: it waits for its client's callback host.
    HostDown(HostDown),
    /// create_at_third_party: its own calls in a row that failed while the circuit was open.
    Probes(u32),
    /// The third party refuses our credentials: how often it refused this create in a row, and its
    /// answer.
    Refused { probes: u32, answer: String },
    /// update_status, while the third party is not called: the polls so far; the start of the
    /// deadline, moved because this time does not count; and the failed calls, as in
    /// [`Self::Probes`].
    LeftAlone { polls: u32, poll_since: DateTime<Utc>, probes: u32, answers: LastAnswers },
    /// The third party is not configured in this process; and what is counted meanwhile.
    NotConfigured { third_party: ThirdPartyName, count: Option<Box<Self>> },
}

/// A callback host that does not answer.
#[derive(Debug, Clone)]
pub struct HostDown {
    /// How often the job was postponed because of that, since it last had fresh attempts.
    pub waits: u32,
    /// Since when no call was answered.
    pub since: DateTime<Utc>,
    /// How the last call ended.
    pub error: String,
}

/// Most characters of an error in a row's metadata.
const MAX_ERROR: usize = 300;

impl SnoozeCount {
    /// As an hstore literal, for the row's metadata.
    fn to_hstore(&self) -> String {
        match self {
            Self::Polls { polls, answers } => format!("polls=>{polls}{}", answers_pairs(answers)),
            Self::Waits(count) => format!("waits=>{count}"),
            Self::HostDown(HostDown { waits, since, error }) => format!(
                r#"waits=>{waits},host_down_since=>"{}",host_error=>{}"#,
                since.to_rfc3339(),
                quoted(error, MAX_ERROR),
            ),
            Self::Probes(count) => format!("probes=>{count}"),
            Self::Refused { probes, answer } => {
                format!("probes=>{probes},last_answer=>{}", quoted(answer, MAX_ERROR))
            }
            Self::LeftAlone { polls, poll_since, probes, answers } => format!(
                r#"polls=>{polls},poll_since=>"{}",probes=>{probes}{}"#,
                poll_since.to_rfc3339(),
                answers_pairs(answers),
            ),
            Self::NotConfigured { third_party, count } => {
                let mut pairs = format!("not_configured=>{}", quoted(third_party, MAX_ERROR));
                if let Some(count) = count {
                    pairs = format!("{},{pairs}", count.to_hstore());
                }
                pairs
            }
        }
    }
}

/// The answers to polls, as further pairs of an hstore literal.
fn answers_pairs(answers: &LastAnswers) -> String {
    let Some(last) = answers.last() else { return String::new() };
    let json = quoted(&answers.to_json().to_string(), usize::MAX);
    match last.strange {
        true => format!(",answers=>{json},last_answer=>{}", quoted(&last.answer, MAX_ERROR)),
        false => format!(",answers=>{json}"),
    }
}

/// Text as a quoted value of an hstore literal, cut.
fn quoted(text: &str, most: usize) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars().filter(|character| !character.is_control()).take(most) {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
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
        Self {
            next,
            evidence: Vec::new(),
            report: None,
            notified: None,
            answers: LastAnswers::default(),
        }
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
}

/// What became of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    Applied {
        /// Jobs of this process's queues that are now due after a delay.
        due: Vec<Due>,
        /// How the run ended.
        run: RunOutcome,
        /// What settled the transaction, and when that was accepted, where this outcome did.
        settled: Option<(SettledBy, DateTime<Utc>)>,
    },
    /// The lease belongs to somebody else: nothing was written.
    LeaseLost,
}

/// A job that was made due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub queue: &'static str,
    pub run_at: DateTime<Utc>,
    /// From the commit to `run_at`.
    pub delay: Duration,
}

/// The row's next state, after the transaction's row had its say.
#[derive(Debug)]
pub enum End<'a> {
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

/// A run of a job that has ended.
#[derive(Debug, Clone)]
pub struct EndedRun {
    pub queue: &'static str,
    pub job: Arc<ClaimedJob>,
    pub outcome: Outcome,
}

/// What becomes of the job row, and the status that is reported, given the transaction as it is.
/// Pure: writing it is another matter.
pub fn decide<'a>(
    EndedRun { queue, job, outcome, .. }: &'a EndedRun,
    current: Option<&Transaction>,
) -> (End<'a>, Option<(Status, SettledBy)>) {
    let status = current.map(|current| current.status);
    let settled = matches!(status, Some(Status::Completed | Status::Declined));
    // The jobs that are about the third party, and have no purpose once it has reported an end.
    let finds_out = [JobKind::CreateAtThirdParty, JobKind::UpdateStatus]
        .iter()
        .any(|kind| kind.as_str() == *queue);
    let newer = match (current, outcome.notified) {
        (Some(current), Some(notified)) => current.version > notified.version,
        _ => false,
    };
    let end = match &outcome.next {
        // No lost wake-up: the status changed while the client was being notified, or was not
        // called.
        Next::Done
        | Next::Retry { .. }
        | Next::Snooze { .. }
        | Next::Dead { kind: DeadLetterKind::Exhausted, .. }
            if newer =>
        {
            End::Again
        }
        Next::Done => End::Done,
        Next::Snooze { delay, count } => End::Snooze { delay: *delay, count: count.clone() },
        // It was settled while this was on its way: there is nothing left to give up.
        Next::GiveUp { .. } if settled => End::Done,
        Next::Retry { .. } if settled && finds_out && job.is_last_attempt() => End::Done,
        Next::Retry { error, .. } if job.is_last_attempt() => End::Dead {
            kind: DeadLetterKind::Exhausted,
            reason: format!("all {} attempts failed: {error}", job.attempt()),
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
