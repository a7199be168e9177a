//! What is known after a call to the third party, however it is called.

use std::time::Duration;

use super::sender::SendError;
use crate::{
    domain::ReportedStatus,
    telemetry::labels::{CreateResult, LookupResult},
};

/// What the third party says about a transaction that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusReport {
    /// `None`: the answer had no status that is known.
    pub status: Option<ReportedStatus>,
    /// What of the answer could not be used, for an operator.
    pub unusable: Option<String>,
    /// The third party's id.
    pub provider_id: Option<String>,
    /// Which rule of which profile read the answer; `None`: Quartet's own contract.
    pub rule: Option<String>,
    /// SHA-256 of that profile, in hex.
    pub profile_hash: Option<String>,
}

impl StatusReport {
    /// A report that could not be used.
    pub(super) fn unusable(reason: String) -> Self {
        Self { unusable: Some(reason), ..Self::default() }
    }
}

/// Why a create was not answered with 2xx.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// 504, a timeout, a broken connection or another 5xx: it may have gone through. Where a used
    /// connection broke, that says nothing of the third party as a whole.
    #[error("ambiguous: {reason}")]
    Ambiguous { reason: String, is_outage: bool },
    /// No connection could be opened: it was not sent.
    #[error("unreachable: {reason}")]
    Unreachable { reason: String },
    /// It was not sent: it found no place on a connection, or that broke before.
    #[error("not sent: {reason}")]
    NotSent { reason: String },
    /// 421, 429 or 503, or not processed by its own word: not now. Behind a gateway, 503 may also
    /// mean that the answer was lost.
    #[error("busy: {reason}")]
    Busy { reason: String, retry_after: Option<Duration>, may_be_lost: bool, is_outage: bool },
    /// 409: it exists there already.
    #[error("it exists there already")]
    AlreadyExists(StatusReport),
    /// Something exists there, and we do not know what.
    #[error("unclear: {reason}")]
    Unclear { reason: String },
    /// 401, 403 or 407: our credentials were refused, and likely not this transaction.
    #[error("the credentials were refused: {reason}")]
    Unauthorized { reason: String },
    /// We were refused a token, and the request for that names no transaction: it was not sent.
    #[error("no token: {reason}")]
    NoToken { reason: String },
    /// Another 4xx: never.
    #[error("rejected: {reason}")]
    Rejected { reason: String },
    /// Another worker may have created it meanwhile: it was not sent.
    #[error("the worker's lease was lost before it was sent")]
    Stale,
}

impl CreateError {
    /// Whether the third party as a whole seems to be down: no answer, a 5xx, or a redirect to
    /// nowhere. A refusal is an answer, and so is 'not so fast' (429).
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Ambiguous { is_outage, .. } | Self::Busy { is_outage, .. } => *is_outage,
            Self::Unreachable { .. } => true,
            Self::AlreadyExists(_)
            | Self::Unclear { .. }
            | Self::Unauthorized { .. }
            | Self::NoToken { .. }
            | Self::Rejected { .. }
            | Self::NotSent { .. }
            | Self::Stale => false,
        }
    }

    /// Whether it says nothing of the third party as a whole, not even that it answers.
    pub fn says_nothing(&self) -> bool {
        matches!(
            self,
            Self::Ambiguous { is_outage: false, .. } | Self::NotSent { .. } | Self::Stale
        )
    }

    pub(super) fn result(&self) -> CreateResult {
        match self {
            Self::Ambiguous { .. } => CreateResult::Ambiguous,
            Self::Unreachable { .. } => CreateResult::Unreachable,
            Self::NotSent { .. } => CreateResult::NotSent,
            Self::Busy { .. } => CreateResult::Busy,
            // It exists there, whatever it is.
            Self::AlreadyExists(_) | Self::Unclear { .. } => CreateResult::Exists,
            Self::Unauthorized { .. } | Self::NoToken { .. } => CreateResult::Unauthorized,
            Self::Rejected { .. } => CreateResult::Rejected,
            Self::Stale => CreateResult::Stale,
        }
    }
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It exists there.
    Found(StatusReport),
    /// 404, or 405 and 501: it is not there, or lookups are not offered.
    Absent,
    /// An operator must look, as where two transactions have our id.
    Unclear { reason: String },
}

/// A lookup that was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lookup got no answer: {reason}")]
pub struct LookupError {
    pub reason: String,
    pub retry_after: Option<Duration>,
    pub kind: LookupErrorKind,
}

/// What a lookup that was not answered says of the third party as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupErrorKind {
    /// It seems to be down, as in [`CreateError::is_outage`].
    Outage,
    /// It refused our credentials (401, 403), or a proxy on the way did (407).
    Unauthorized,
    /// We were refused a token, and the request for that names no transaction.
    NoToken,
    /// It answers, but this answer cannot be used.
    Unusable,
    /// Nothing: it was not asked, because it cannot be.
    NotAsked,
    /// Nothing: it was not sent, because no call of the third party's budget was free in time.
    OverBudget,
    /// Nothing, not even that it answers: the lookup was not sent, or ended with a used connection.
    Inconclusive,
}

impl LookupError {
    pub(super) fn new(kind: LookupErrorKind, reason: String) -> Self {
        Self { reason, retry_after: None, kind }
    }

    /// Nothing was asked.
    pub fn not_asked(reason: String) -> Self {
        Self::new(LookupErrorKind::NotAsked, format!("not asked: {reason}"))
    }

    pub fn is_outage(&self) -> bool {
        self.kind == LookupErrorKind::Outage
    }

    /// Whether our credentials were refused.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.kind, LookupErrorKind::Unauthorized | LookupErrorKind::NoToken)
    }

    /// Whether it says nothing of the third party.
    pub fn is_inconclusive(&self) -> bool {
        self.kind == LookupErrorKind::Inconclusive || self.is_over_budget()
    }

    pub fn is_over_budget(&self) -> bool {
        self.kind == LookupErrorKind::OverBudget
    }

    pub(super) fn result(&self) -> LookupResult {
        match self.kind {
            LookupErrorKind::Outage | LookupErrorKind::Unusable => LookupResult::NoAnswer,
            LookupErrorKind::Unauthorized | LookupErrorKind::NoToken => LookupResult::Unauthorized,
            LookupErrorKind::NotAsked
            | LookupErrorKind::OverBudget
            | LookupErrorKind::Inconclusive => LookupResult::Queued,
        }
    }
}

impl From<SendError> for LookupError {
    fn from(error: SendError) -> Self {
        let kind = if matches!(error, SendError::OverBudget) {
            LookupErrorKind::OverBudget
        } else if error.is_outage() {
            LookupErrorKind::Outage
        } else if error.says_nothing() {
            LookupErrorKind::Inconclusive
        } else {
            LookupErrorKind::Unusable
        };
        Self::new(kind, error.reason())
    }
}

impl From<SendError> for CreateError {
    fn from(error: SendError) -> Self {
        let (reason, is_outage) = (error.reason(), error.is_outage());
        match error {
            SendError::Stale => Self::Stale,
            SendError::NoConnection(_) => Self::Unreachable { reason },
            SendError::Queued | SendError::OverBudget | SendError::Missed => {
                Self::NotSent { reason }
            }
            // Without its body it counts for nothing, whatever of its head was read.
            SendError::Broken { is_sent: false, is_reused: true, .. } => Self::NotSent { reason },
            SendError::Broken { is_sent: false, .. } => Self::Unreachable { reason },
            SendError::Refused(_) => {
                Self::Busy { reason, retry_after: None, may_be_lost: false, is_outage: false }
            }
            SendError::Late | SendError::Broken { is_sent: true, .. } => {
                Self::Ambiguous { reason, is_outage }
            }
        }
    }
}
