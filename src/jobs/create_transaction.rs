//! Job 1: creates the transaction from the job's own payload if it does not exist.
//!
//! The accept statement has normally written it. This job makes the other three safe to replay
//! after a restore or an import: they wait for the transaction to be there. A duplicate is not an
//! error. A crash leaves the row or not; the next run finds out.

use std::sync::Arc;

use super::{Job, JobContext, poison};
use crate::store::{
    StoreError,
    jobs::{JobPayload, outcomes::Outcome},
    transactions,
};

/// Runs the job.
pub async fn run(context: Arc<JobContext>, job: Job) -> Result<Outcome, StoreError> {
    let JobPayload::Create(new) = &job.payload else {
        return Ok(poison("the payload does not hold the transaction".to_owned()));
    };
    if job.transaction().is_none() {
        transactions::insert_if_absent(&context.pool, new).await?;
    }
    Ok(Outcome::done())
}
