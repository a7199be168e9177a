//! What one run of a create works with, and how it ends where the create may have gone through.

use std::time::Duration;

use serde_json::json;

use super::{CalledThirdParty, Job, JobContext};
use crate::{
    domain::EvidenceKind,
    outbound::CallTurn,
    store::{evidence::BACKOFF, jobs::outcomes::Outcome, transactions::Transaction},
};

/// One run of the job.
#[derive(Clone, Copy)]
pub(super) struct CreateRun<'a> {
    pub context: &'a JobContext,
    pub party: &'a CalledThirdParty,
    pub job: &'a Job,
    pub transaction: &'a Transaction,
    /// In the third party's budget of calls: the create goes next after its lookup.
    pub turn: &'a CallTurn,
}

/// It may exist: the next try begins after `backoff`, or when the third party asks for it.
pub(super) fn ambiguous(
    backoff: Duration,
    retry_after: Option<Duration>,
    reason: String,
) -> Outcome {
    let detail = json!({ "error": reason, BACKOFF: backoff.as_secs_f64() });
    let delay = backoff.max(retry_after.unwrap_or_default());
    Outcome::retry(delay, reason).with_evidence(EvidenceKind::CreateAmbiguous, detail)
}
