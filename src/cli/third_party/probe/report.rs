//! What was observed, against what the profile says.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::CliError;
use crate::{
    cli::table::{Table, shortened},
    profiles::Reading,
};

/// Most characters of an observation in the table; JSON has all of it.
const MAX_OBSERVED: usize = 240;

/// How an observation compares with the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Differs,
    /// It differs so that money would be lost or doubled.
    Dangerous,
    /// It says neither: the third party did not answer.
    Inconclusive,
    NotTried,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Differs => "differs",
            Self::Dangerous => "DANGEROUS",
            Self::Inconclusive => "inconclusive",
            Self::NotTried => "not tried",
        }
    }

    fn is_difference(self) -> bool {
        matches!(self, Self::Differs | Self::Dangerous)
    }
}

struct Row {
    check: &'static str,
    expected: String,
    observed: String,
    verdict: Verdict,
    took: Option<Duration>,
}

/// The checks so far.
pub(super) struct Report {
    profile: String,
    base_url: String,
    rows: Vec<Row>,
    create_backoff: Option<Duration>,
}

impl Report {
    pub fn new(profile: &str, base_url: &str) -> Self {
        Self {
            profile: profile.to_owned(),
            base_url: base_url.to_owned(),
            rows: Vec::new(),
            create_backoff: None,
        }
    }

    pub fn add(
        &mut self,
        check: &'static str,
        expected: &str,
        observed: impl Into<String>,
        verdict: Verdict,
        took: impl Into<Option<Duration>>,
    ) {
        let (expected, observed, took) = (expected.to_owned(), observed.into(), took.into());
        self.rows.push(Row { check, expected, observed, verdict, took });
    }

    pub fn not_tried(&mut self, check: &'static str, expected: &str, why: &str) {
        self.add(check, expected, why, Verdict::NotTried, None);
    }

    pub fn suggest_create_backoff(&mut self, backoff: Duration) {
        self.create_backoff = Some(backoff);
    }

    fn differences(&self) -> usize {
        self.rows.iter().filter(|row| row.verdict.is_difference()).count()
    }

    /// Whether all that was tried is as the profile says.
    pub fn has_passed(&self) -> bool {
        let passed = |row: &Row| matches!(row.verdict, Verdict::Ok | Verdict::NotTried);
        self.rows.iter().all(passed) && self.rows.iter().any(|row| row.verdict == Verdict::Ok)
    }

    /// An error where anything differs.
    pub fn result(&self) -> Result<(), CliError> {
        match self.differences() {
            0 => Ok(()),
            1 => Err(CliError::Failed("the third party is not as its profile says".to_owned())),
            n => Err(CliError::Failed(format!(
                "the third party is not as its profile says, in {n} checks"
            ))),
        }
    }

    pub fn print(&self, is_json: bool) -> Result<(), CliError> {
        if is_json {
            println!("{}", self.as_json());
            return Ok(());
        }
        println!("# {} at {}", self.profile, self.base_url);
        let mut table = Table::new(["check", "the profile says", "observed", ""]).narrow();
        for row in &self.rows {
            let took = row.took.map(|took| format!(" ({})", seconds(took))).unwrap_or_default();
            let observed = format!("{}{took}", shortened(&row.observed, MAX_OBSERVED));
            let verdict = row.verdict.as_str().to_owned();
            table.add_row([row.check.to_owned(), row.expected.clone(), observed, verdict]);
        }
        println!("{table}");
        if let Some(backoff) = self.create_backoff {
            println!(
                "By this one transaction QUARTET_THIRD_PARTY__CREATE_BACKOFF={}s would be enough:\n\
                 the time limit of a create, and twice the time until it showed.",
                backoff.as_secs()
            );
        }
        Ok(())
    }

    fn as_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "check": row.check, "expected": row.expected, "observed": row.observed,
                "verdict": row.verdict.as_str().to_lowercase(),
                "took_ms": row.took.map(|took| took.as_millis() as u64),
            })
        });
        json!({
            "profile": self.profile, "base_url": self.base_url,
            "differences": self.differences(), "checks": rows.collect::<Vec<_>>(),
            "create_backoff_seconds": self.create_backoff.map(|backoff| backoff.as_secs()),
        })
    }
}

/// What an answer was read as, by which rule, and its text, which is without our secrets.
pub(super) fn described<M>(means: &str, reading: &Reading<M>) -> String {
    let Reading { said, strange, decided_by, status, provider_id, .. } = reading;
    let word = status.as_ref().map(|status| format!(", {}", status.word)).unwrap_or_default();
    let id = provider_id.as_ref().map(|id| format!(", their id {id}")).unwrap_or_default();
    let said = strange.as_ref().unwrap_or(said);
    let rule =
        decided_by.rule.map(|rule| format!(" by {}.answers[{rule}]", decided_by.call.as_str()));
    format!("{means}{}{word}{id}: {said}", rule.unwrap_or_default())
}

pub(super) fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}
