//! What one run of a create works with.

use super::{CalledThirdParty, Job, JobContext};
use crate::store::transactions::Transaction;

/// One run of the job.
#[derive(Clone, Copy)]
pub(super) struct CreateRun<'a> {
    pub context: &'a JobContext,
    pub party: &'a CalledThirdParty,
    pub job: &'a Job,
    pub transaction: &'a Transaction,
}
