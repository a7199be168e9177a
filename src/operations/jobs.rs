//! Retrying and cancelling a job.

use super::Operations;
use crate::store::{
    audit::Actor,
    jobs::job_list::{self, JobActionError, JobRow},
};

impl Operations {
    /// Makes a job due now ([`job_list::retry`]).
    pub async fn retry_job(&self, id: &str, actor: Actor<'_>) -> Result<JobRow, JobActionError> {
        let job = job_list::retry(&self.pool, id, &self.plan, actor).await?;
        self.wake_workers();
        Ok(job)
    }

    /// Ends a job that waits ([`job_list::cancel`]).
    pub async fn cancel_job(&self, id: &str, actor: Actor<'_>) -> Result<JobRow, JobActionError> {
        job_list::cancel(&self.pool, id, actor).await
    }
}
