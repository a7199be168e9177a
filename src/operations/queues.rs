//! Pausing and resuming a queue.

use super::Operations;
use crate::{
    domain::JobKind,
    store::{
        StoreError,
        audit::Actor,
        queues::{self, QueueStats},
    },
};

impl Operations {
    /// Pauses a queue for all processes: no job of it begins, what runs ends.
    pub async fn pause_queue(
        &self,
        queue: JobKind,
        actor: Actor<'_>,
    ) -> Result<QueueStats, StoreError> {
        queues::pause(&self.pool, queue, actor).await
    }

    /// Resumes a queue for all processes.
    pub async fn resume_queue(
        &self,
        queue: JobKind,
        actor: Actor<'_>,
    ) -> Result<QueueStats, StoreError> {
        let stats = queues::resume(&self.pool, queue, actor).await?;
        self.wake_workers();
        Ok(stats)
    }
}
