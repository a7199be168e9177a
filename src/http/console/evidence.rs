//! The evidence about a transaction as a timeline, and the failed attempts of a job.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::format::{self, Clock};
use crate::{
    domain::{EvidenceKind, Status},
    store::evidence::Evidence,
};

/// One step of the timeline.
#[derive(Debug)]
pub struct Step {
    pub id: i64,
    /// The day, where it is another than the step's before.
    pub day: Option<String>,
    pub at: Clock,
    /// How long after the first step.
    pub since: String,
    pub title: &'static str,
    pub source: String,
    pub tone: &'static str,
    pub facts: Vec<(String, String)>,
}

/// The steps, oldest first.
pub fn timeline(evidence: Vec<Evidence>) -> Vec<Step> {
    let begin = evidence.first().map(|first| first.at);
    let mut day = None;
    let mut new_day = |at: DateTime<Utc>| {
        let before = day.replace(at.date_naive());
        (before != day).then(|| format::day(at))
    };
    evidence.into_iter().map(|evidence| step(new_day(evidence.at), evidence, begin)).collect()
}

fn step(day: Option<String>, evidence: Evidence, begin: Option<DateTime<Utc>>) -> Step {
    let since = begin.and_then(|begin| (evidence.at - begin).to_std().ok()).unwrap_or_default();
    let (title, tone) = title(&evidence);
    let pairs = evidence.detail.as_object().into_iter().flatten();
    let facts = pairs.filter(|(_, value)| !value.is_null());
    Step {
        id: evidence.id,
        day,
        at: Clock(evidence.at),
        since: format!("+{}", format::format_duration(since)),
        title,
        source: evidence.source.replace('_', " "),
        tone,
        facts: facts.map(|(name, value)| (name.replace('_', " "), format::plain(value))).collect(),
    }
}

/// One attempt's error, as job rows and dead letters keep it.
#[derive(Debug)]
pub struct Attempt {
    pub number: String,
    pub at: Option<DateTime<Utc>>,
    pub error: String,
}

/// The attempts of `[{attempt, at, error}]`, in their order.
pub fn attempts(attempts: &Value) -> Vec<Attempt> {
    let attempts = attempts.as_array().into_iter().flatten();
    let read = |attempt: &Value| Attempt {
        number: format::plain(&attempt["attempt"]),
        at: attempt["at"].as_str().and_then(|at| at.parse().ok()),
        error: format::plain(&attempt["error"]),
    };
    attempts.map(read).collect()
}

/// What a piece of evidence is called, and its tone.
fn title(evidence: &Evidence) -> (&'static str, &'static str) {
    match evidence.kind {
        EvidenceKind::Accepted => ("Accepted", "calm"),
        EvidenceKind::FoundAtThirdParty => ("Found at the third party", "calm"),
        EvidenceKind::CreatedAtThirdParty => ("Created at the third party", "calm"),
        EvidenceKind::CreateAmbiguous => ("Create without a clear answer", "busy"),
        EvidenceKind::PollStatus => ("Polled", "calm"),
        EvidenceKind::Webhook => ("Webhook", "calm"),
        EvidenceKind::Settled if is_completed(evidence) => ("Settled", "good"),
        EvidenceKind::Settled => ("Settled", "bad"),
        EvidenceKind::Conflict => ("Contradiction", "bad"),
        EvidenceKind::ClientNotified => ("Client notified", "good"),
        EvidenceKind::ClientRefused => ("Client refused", "busy"),
        EvidenceKind::DeadLetterOpened => ("Dead letter opened", "bad"),
        EvidenceKind::DeadLetterClosed => ("Dead letter closed", "good"),
        EvidenceKind::Operator => ("Operator acted", "busy"),
    }
}

fn is_completed(settled: &Evidence) -> bool {
    settled.detail["status"] == Status::Completed.as_str()
}
