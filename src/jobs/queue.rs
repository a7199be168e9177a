//! Quartet's backend for apalis workers: what is leased to a worker, through apalis's `Persistence`
//! seam.
//!
//! apalis's stock storage rounds times to seconds, retries at once, stalls its polling and dies
//! with one failed query. Here a fetch waits for jobs that are leased to the worker: by a claim
//! (`claimer`), or by another statement ([`crate::store::direct_leases`]). It ends with an
//! error only when the worker's lease is lost or its claims have ended, so that the supervisor
//! starts the worker under a new name. Outcomes are written by the [`super::runner`], never by
//! apalis's acknowledgement.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use apalis::prelude::{Task, WorkerContext};
use apalis_core::backend::persistence::{Persistence, TaskEvent};
use futures_util::future;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    JobContext, JobDefinition, LeaseKeeper, Slot, WorkerLease,
    claimer::{Claimer, ClaimerParts, MAX_BATCH},
};
use crate::{
    domain::{
        JobKind,
        claim_plan::{ClaimPlan, HoldLimit},
    },
    store::{
        StoreError,
        direct_leases::{ClientHold, HandedJob, LeaseTaker, TakerParts},
        holds::{Hold, Holds},
        jobs::ClaimedJob,
    },
};

/// A claimed job in its slot, which is free again when this is dropped.
#[derive(Debug)]
pub struct LeasedJob {
    pub claimed: Arc<ClaimedJob>,
    pub lease: WorkerLease,
    pub slot: Arc<Slot>,
    hold: Hold,
    _client_hold: ClientHold,
}

impl LeasedJob {
    /// Its run has ended, and its outcome is written.
    pub fn end(self) {
        self.hold.end();
    }
}

/// Why a worker must end and start again.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the worker's lease is lost")]
    LeaseLost,
    #[error("the worker claims nothing any more")]
    ClaimsEnded,
    #[error("the worker could not be registered")]
    Register(#[source] StoreError),
    #[error("jobs are written by the accept statement alone, never pushed")]
    Push,
}

/// One worker's view of its queue.
#[derive(Debug, Clone)]
pub struct JobQueue {
    queue: &'static str,
    slot_count: usize,
    hold_limit: HoldLimit,
    context: Arc<JobContext>,
    keeper: Arc<LeaseKeeper>,
    /// Filled by `register`; shared with the clones that apalis makes for each call.
    registration: Arc<OnceLock<Registration>>,
}

/// A worker that apalis has registered. Its claims end when this is dropped.
#[derive(Debug)]
pub struct Registration {
    pub lease: WorkerLease,
    /// What takes the jobs that are leased to the worker.
    pub taker: Arc<LeaseTaker>,
    /// Cancelled when nothing more is claimed, also where that ended by a panic.
    claims_ended: CancellationToken,
    _claims: AbortOnDropHandle<()>,
}

impl JobQueue {
    /// The queue of `definition`'s jobs.
    pub fn new(
        definition: &JobDefinition,
        context: &Arc<JobContext>,
        keeper: Arc<LeaseKeeper>,
    ) -> Self {
        Self {
            queue: definition.queue,
            slot_count: definition.concurrency as usize,
            hold_limit: definition.hold_limit,
            context: context.clone(),
            keeper,
            registration: Arc::default(),
        }
    }

    /// The worker, once apalis has registered it.
    pub fn registration(&self) -> Arc<OnceLock<Registration>> {
        self.registration.clone()
    }

    /// Starts claiming for the worker. From now on other statements lease jobs to it, too, while
    /// nothing waits before them.
    fn start(&self, lease: WorkerLease, holds: Holds) -> Registration {
        let context = &self.context;
        let slots = Arc::new(Semaphore::new(self.slot_count));
        let plan = Arc::new(Mutex::new(ClaimPlan::new(self.hold_limit, MAX_BATCH)));
        // The first claim looks without being woken.
        let more = Arc::new(AtomicBool::new(true));
        let parts = TakerParts {
            worker: lease.worker().to_owned(),
            queue: self.queue,
            slots: slots.clone(),
            slot_count: self.slot_count,
            plan: plan.clone(),
            holds: holds.clone(),
            wakeups: context.wakeups.clone(),
        };
        let taker = Arc::new(LeaseTaker::new(parts, self.may_run(&lease, more.clone())));
        let claimer = Claimer::new(ClaimerParts {
            queue: self.queue,
            claims: context.claims.clone(),
            wakeups: context.wakeups.clone(),
            stopping: context.stopping.clone(),
            slots,
            hold_limit: self.hold_limit,
            holds,
            plan,
            more,
            latency: context.latency.clone(),
            lease: lease.clone(),
            taker: taker.clone(),
        });
        let claims_ended = CancellationToken::new();
        let ended = claims_ended.clone().drop_guard();
        let claims = tokio::spawn(async move {
            let _ended = ended;
            claimer.run().await;
        });
        context.direct_leases.open(self.queue, taker.clone());
        Registration { lease, taker, claims_ended, _claims: AbortOnDropHandle::new(claims) }
    }

    /// Says whether a job that is due now may run at once: nothing is known to wait before it, and
    /// the worker and the third party take it.
    fn may_run(
        &self,
        lease: &WorkerLease,
        more: Arc<AtomicBool>,
    ) -> impl Fn() -> bool + Send + Sync + 'static {
        let (lease, stopping) = (lease.clone(), self.context.stopping.clone());
        // The context holds what holds this.
        let context = Arc::downgrade(&self.context);
        let asks_third_party = self.queue == JobKind::CreateAtThirdParty.as_str();
        move || {
            let is_left_alone = || {
                let context = context.upgrade();
                context.is_none_or(|context| context.third_parties.are_left_alone())
            };
            let ends = stopping.is_cancelled() || lease.is_lost();
            !(more.load(Ordering::Acquire) || ends || asks_third_party && is_left_alone())
        }
    }

    fn task(&self, handed: HandedJob, lease: &WorkerLease) -> Task<LeasedJob> {
        let HandedJob { claimed, slot, hold, client_hold } = handed;
        self.context.metrics.claimed(self.queue, claimed.late);
        Task::new(LeasedJob {
            claimed: Arc::new(claimed),
            lease: lease.clone(),
            slot: Arc::new(Slot::new(slot)),
            hold,
            _client_hold: client_hold,
        })
    }
}

impl Persistence for JobQueue {
    type Compact = LeasedJob;
    type Response = Infallible;
    type Error = QueueError;

    async fn register(&mut self, worker: &WorkerContext) -> Result<(), QueueError> {
        let holds = Holds::default();
        let registered = self.keeper.register(worker.name(), self.queue, holds.clone()).await;
        let lease = registered.map_err(QueueError::Register)?;
        // Set once: apalis registers a worker once, and each start has a queue of its own.
        self.registration.get_or_init(|| self.start(lease, holds));
        Ok(())
    }

    /// The keeper renews for all workers at once; here the worker only learns whether it was taken
    /// for dead. A renewal that is merely late, as after an outage, ends nothing.
    async fn heartbeat(&mut self, _: &WorkerContext) -> Result<(), QueueError> {
        match self.registration.get() {
            Some(registration) if !registration.lease.is_lost() => Ok(()),
            _ => Err(QueueError::LeaseLost),
        }
    }

    async fn fetch_next(&mut self, _: &WorkerContext) -> Result<Vec<Task<LeasedJob>>, QueueError> {
        let registration = self.registration.get().ok_or(QueueError::LeaseLost)?;
        let Registration { lease, taker, claims_ended, .. } = registration;
        tokio::select! {
            biased;
            // The supervisor stops the worker now; until then nothing more is begun.
            () = self.context.stopping.cancelled() => future::pending().await,
            () = lease.lost() => Err(QueueError::LeaseLost),
            () = claims_ended.cancelled() => Err(QueueError::ClaimsEnded),
            handed = taker.handed() => {
                Ok(handed.into_iter().map(|handed| self.task(handed, lease)).collect())
            }
        }
    }

    /// Nothing to do: the supervisor releases whatever a stopped worker still holds.
    async fn reenqueue_abandoned(
        &mut self,
        _: Vec<Task<LeasedJob>>,
        _: &WorkerContext,
    ) -> Result<u64, QueueError> {
        Ok(0)
    }

    /// Nothing to do: outcomes are written with their effects, and no such events are sent.
    async fn handle_events(
        &mut self,
        _: Vec<TaskEvent<Infallible>>,
        _: &WorkerContext,
    ) -> Result<(), QueueError> {
        Ok(())
    }

    async fn push_tasks(&mut self, _: Vec<Task<LeasedJob>>) -> Result<(), QueueError> {
        Err(QueueError::Push)
    }
}
