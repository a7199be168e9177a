//! What an answer was read as, and which rule of which profile decided it.

use std::fmt;

use super::rule::{CreateMeans, LookupMeans};
use crate::domain::ReportedStatus;

/// An answer as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub code: u16,
    /// The text, or why there is none, such as "the answer broke off".
    pub body: Result<&'a str, &'a str>,
}

/// A call to a third party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Create,
    Lookup,
}

impl Call {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Lookup => "lookup",
        }
    }
}

/// What decided the meaning of an answer, for dead letters and `explain`:
/// `pawapay: create.answers[3] (code 200, /status is "REJECTED")`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedBy {
    pub profile: String,
    pub call: Call,
    /// Counted from 1; `None`: no rule matched, and the code alone decided.
    pub rule: Option<usize>,
    /// What the rule tests, or the code.
    pub test: String,
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, call, rule, test } = self;
        match rule {
            Some(rule) => write!(f, "{profile}: {}.answers[{rule}] ({test})", call.as_str()),
            None => write!(f, "{profile}: no rule of {}.answers ({test})", call.as_str()),
        }
    }
}

/// A status word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadStatus {
    /// As it was written, cut.
    pub word: String,
    /// `None`: the profile does not know the word, which counts as pending.
    pub meaning: Option<ReportedStatus>,
    /// It is completed and may still be taken back.
    pub is_reversible: bool,
}

impl ReadStatus {
    /// What it counts as.
    pub fn reported(&self) -> ReportedStatus {
        self.meaning.unwrap_or(ReportedStatus::Pending)
    }
}

/// What an answer was read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<M> {
    pub means: M,
    /// The third party's id.
    pub provider_id: Option<String>,
    /// `None`: there is none, or it cannot be read.
    pub status: Option<ReadStatus>,
    /// What the profile's `reason` points at.
    pub reason: Option<String>,
    /// What of the answer could not be used, or is not as the profile says, for an operator:
    /// `answered 200 without a status: {}`.
    pub strange: Option<String>,
    /// The answer itself, cut: `answered 400: {"error":…}`.
    pub said: String,
    pub decided_by: DecidedBy,
    /// The answer's status code.
    pub code: u16,
}

/// What the answer to a create was read as.
pub type CreateAnswer = Reading<CreateMeans>;
/// What the answer to a lookup was read as.
pub type LookupAnswer = Reading<LookupMeans>;

impl<M> Reading<M> {
    /// The status, where its word is known.
    pub fn known_status(&self) -> Option<ReportedStatus> {
        self.status.as_ref().and_then(|status| status.meaning)
    }
}

impl CreateAnswer {
    /// Whether the request may have gone through although it was not answered so: a 'later' may
    /// also mean that the answer was lost behind a gateway, or that one with the same key is under
    /// way, which need not be of this process.
    pub fn may_be_lost(&self) -> bool {
        match self.means {
            CreateMeans::Ambiguous => true,
            // With these codes nothing was done, even if a proxy sent them.
            CreateMeans::Later => !matches!(self.code, 421 | 425 | 429),
            _ => false,
        }
    }

    /// Whether the third party as a whole seems to be down.
    pub fn is_outage(&self) -> bool {
        let is_answer = matches!(self.code, 200..=299 | 400..=499);
        matches!(self.means, CreateMeans::Ambiguous | CreateMeans::Later) && !is_answer
    }
}

impl LookupAnswer {
    /// Whether our credentials were refused.
    pub fn is_unauthorized(&self) -> bool {
        self.means == LookupMeans::NoAnswer && matches!(self.code, 401 | 403 | 407)
    }

    /// Whether the third party as a whole seems to be down.
    pub fn is_outage(&self) -> bool {
        self.means == LookupMeans::NoAnswer && !matches!(self.code, 200..=299 | 400..=499)
    }
}
