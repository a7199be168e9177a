//! What one run of a create works with.

use super::{CalledThirdParty, Job, JobContext};
use crate::{outbound::CallTurn, store::transactions::Transaction};

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
