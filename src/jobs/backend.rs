//! The apalis backend over a [`JobQueue`]: what polls it, through apalis's `Persisted`.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_core::backend::{
    BackendConfig,
    finalize::Ephemeral,
    persistence::{Persisted, State},
};
use tower_layer::Identity;

use super::queue::{JobQueue, LeasedJob, QueueError};

/// The apalis backend over a [`JobQueue`].
pub struct QueueBackend {
    persisted: Persisted<JobQueue>,
    heartbeat: Duration,
}

impl QueueBackend {
    /// A backend whose worker checks its lease every `heartbeat` while it is idle.
    pub fn new(queue: JobQueue, heartbeat: Duration) -> Self {
        Self { persisted: Persisted::new(queue), heartbeat }
    }
}

impl Backend for QueueBackend {
    type Task = Task<LeasedJob>;
    type Error = QueueError;

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), QueueError>> {
        self.persisted.poll_ready(cx, worker, self.heartbeat)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, QueueError>>> {
        let polled = self.persisted.poll_next(cx, worker);
        if polled.is_pending() && matches!(self.persisted.state(), State::Ready) {
            // apalis parks after an empty fetch without a waker that anything will wake: its
            // heartbeat timer may have fired during the fetch. A fetch here waits by itself, so
            // that going round again at once is no busy loop.
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), QueueError>> {
        self.persisted.poll_close(cx, worker)
    }
}

impl BackendConfig for QueueBackend {
    type Args = LeasedJob;
    type Id = String;
    type Kind = Ephemeral;
    type Config = Duration;
    type Layer = Identity;

    fn config(&self) -> &Duration {
        &self.heartbeat
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
