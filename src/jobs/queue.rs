//! Quartet's backend for apalis workers: its own claim on apalis's tables, through apalis's
//! `Persistence` seam.
//!
//! apalis's stock storage rounds times to seconds, retries at once, stalls its polling and dies
//! with one failed query. Here a fetch waits until a slot is free and something is due (see
//! [`crate::store::wakeups`]), claims what fits into the free slots, shared between clients
//! ([`crate::domain::claim_plan`]), and survives outages of the database. It also takes what other
//! statements have leased to the worker ([`crate::store::direct_leases`]). It ends with an error
//! only when the worker's lease is lost, so that the supervisor starts the worker under a new name.
//! Outcomes are written by the [`super::runner`], never by apalis's acknowledgement.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use apalis::prelude::{Task, WorkerContext};
use apalis_core::backend::persistence::{Persistence, TaskEvent};
use futures_util::future;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{JobContext, JobDefinition, LeaseKeeper, Slot, WorkerLease, claim_pace::ClaimPace};
use crate::{
    domain::{
        JobKind,
        claim_plan::{ClaimPlan, ClaimScans, HoldLimit},
    },
    store::{
        StoreError,
        direct_leases::{ClientHold, DirectLeases, HandedJob, LeaseTaker, TakerParts},
        holds::{Hold, Holds, Known},
        jobs::{
            ClaimedJob,
            claims::{Claim, Claims, Wanted},
            leases::WORKER_FOREIGN_KEY,
        },
        postgres::coalesce::Coalescer,
        wakeups::{Backlog, Wakeups},
    },
    telemetry::Metrics,
};

/// Most jobs of one claim.
const MAX_BATCH: usize = 500;
/// First and longest wait after a claim that failed.
const CLAIM_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

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

/// Slots for a claim.
struct FreeSlots {
    slots: OwnedSemaphorePermit,
    /// How many are free, as the plan of the claim counts them.
    counted: usize,
}

/// Why a worker must end and start again.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the worker's lease is lost")]
    LeaseLost,
    #[error("the worker could not be registered")]
    Register(#[source] StoreError),
    #[error("jobs are written by the accept statement alone, never pushed")]
    Push,
}

/// One worker's view of its queue.
#[derive(Debug, Clone)]
pub struct JobQueue {
    queue: &'static str,
    claims: Coalescer<Claims>,
    keeper: Arc<LeaseKeeper>,
    wakeups: Wakeups,
    stopping: CancellationToken,
    /// Filled by `register`; shared with the clones that apalis makes for each call.
    lease: Arc<OnceLock<WorkerLease>>,
    metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    slot_count: usize,
    hold_limit: HoldLimit,
    holds: Holds,
    plan: Arc<Mutex<ClaimPlan>>,
    /// The last claim took all it could: there may be more, without waiting for a wake-up.
    more: Arc<AtomicBool>,
    /// A wake-up that no claim has followed yet.
    is_woken: Arc<AtomicBool>,
    pace: Arc<Mutex<ClaimPace>>,
    /// The next claim must look when the next job falls due.
    seeks_next: Arc<AtomicBool>,
    direct_leases: DirectLeases,
    /// For the circuit. It holds what holds the taker.
    context: Weak<JobContext>,
    /// Filled by `register`, as the lease is.
    taker: Arc<OnceLock<Arc<LeaseTaker>>>,
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
            claims: context.claims.clone(),
            keeper,
            wakeups: context.wakeups.clone(),
            stopping: context.stopping.clone(),
            metrics: context.metrics.clone(),
            lease: Arc::default(),
            slots: Arc::new(Semaphore::new(definition.concurrency as usize)),
            slot_count: definition.concurrency as usize,
            hold_limit: definition.hold_limit,
            holds: Holds::default(),
            plan: Arc::new(Mutex::new(ClaimPlan::new(definition.hold_limit, MAX_BATCH))),
            // The first fetch looks without being woken.
            more: Arc::new(AtomicBool::new(true)),
            is_woken: Arc::default(),
            pace: Arc::default(),
            seeks_next: Arc::new(AtomicBool::new(true)),
            direct_leases: context.direct_leases.clone(),
            context: Arc::downgrade(context),
            taker: Arc::default(),
        }
    }

    /// What takes jobs for the worker beside its claims, once apalis has registered it.
    pub fn taker(&self) -> Arc<OnceLock<Arc<LeaseTaker>>> {
        self.taker.clone()
    }

    /// From now on other statements lease jobs to `worker`, while nothing waits before them.
    fn open_taker(&self, worker: &str) {
        let parts = TakerParts {
            worker: worker.to_owned(),
            queue: self.queue,
            slots: self.slots.clone(),
            slot_count: self.slot_count,
            plan: self.plan.clone(),
            holds: self.holds.clone(),
            wakeups: self.wakeups.clone(),
        };
        let (more, stopping, context) =
            (self.more.clone(), self.stopping.clone(), self.context.clone());
        let is_left_alone =
            move || context.upgrade().is_none_or(|context| context.circuit.wait().is_some());
        let asks_third_party = self.queue == JobKind::CreateAtThirdParty.as_str();
        let taker = Arc::new(LeaseTaker::new(parts, move || {
            let is_left_alone = asks_third_party && is_left_alone();
            !(more.load(Ordering::Acquire) || stopping.is_cancelled() || is_left_alone)
        }));
        // Set once, as the lease is.
        let _ = self.taker.set(taker.clone());
        self.direct_leases.open(self.queue, taker);
    }

    /// The worker's lease, once apalis has registered the worker.
    pub fn lease(&self) -> Arc<OnceLock<WorkerLease>> {
        self.lease.clone()
    }

    /// Waits until something is likely due and takes free slots for it. Nothing is lost where this
    /// is dropped.
    async fn wait_for_work(&self) -> Option<FreeSlots> {
        if !self.more.load(Ordering::Acquire) && !self.is_woken.load(Ordering::Acquire) {
            if self.wakeups.due(self.queue).await {
                self.seeks_next.store(true, Ordering::Release);
            }
            self.is_woken.store(true, Ordering::Release);
            self.plan().wake();
        }
        let next = self.pace().next();
        if let Some(next) = next {
            tokio::time::sleep_until(next.into()).await;
        }
        self.take_slots().await
    }

    /// A job that other statements leased to the worker.
    fn handed(&self, handed: HandedJob, lease: &WorkerLease) -> Task<LeasedJob> {
        let HandedJob { claimed, slot, hold, client_hold } = handed;
        self.metrics.claimed(self.queue, claimed.late);
        Task::new(LeasedJob {
            claimed: Arc::new(claimed),
            lease: lease.clone(),
            slot: Arc::new(Slot::new(slot)),
            hold,
            _client_hold: client_hold,
        })
    }

    /// Waits for work and claims it, or takes what others have leased to the worker.
    async fn fetch(
        &self,
        lease: &WorkerLease,
        taker: &LeaseTaker,
    ) -> Result<Vec<Task<LeasedJob>>, QueueError> {
        let (mut wait, longest) = CLAIM_RETRY;
        loop {
            // Neither comes first always: each would hold the other up.
            let slots = tokio::select! {
                handed = taker.handed() => {
                    let tasks = handed.into_iter().map(|handed| self.handed(handed, lease));
                    return Ok(tasks.collect());
                }
                slots = self.wait_for_work() => slots,
            };
            let Some(FreeSlots { mut slots, counted }) = slots else {
                return future::pending().await;
            };
            self.is_woken.store(false, Ordering::Release);
            let scans = self.plan_scans(counted);
            let began = Instant::now();
            // Until all that was claimed is held.
            let pending = self.holds.begin_claim();
            match self.claim(lease, &scans).await {
                Ok(claim) => {
                    let holds: Vec<_> = claim
                        .jobs
                        .iter()
                        .map(|claimed| (self.holds.hold(claimed), self.client_hold(claimed)))
                        .collect();
                    drop(pending);
                    self.pace().claimed(began, claim.jobs.is_empty());
                    self.record(&scans, counted, &claim);
                    if claim.jobs.is_empty() {
                        continue;
                    }
                    let tasks = claim.jobs.into_iter().zip(holds).filter_map(
                        |(claimed, (hold, client_hold))| {
                            // There are as many permits as claimed rows at least.
                            let slot = Arc::new(Slot::new(slots.split(1)?));
                            self.metrics.claimed(self.queue, claimed.late);
                            let (claimed, lease) = (Arc::new(claimed), lease.clone());
                            Some(Task::new(LeasedJob {
                                claimed,
                                lease,
                                slot,
                                hold,
                                _client_hold: client_hold,
                            }))
                        },
                    );
                    return Ok(tasks.collect());
                }
                Err(error) if error.constraint() == Some(WORKER_FOREIGN_KEY) => {
                    return Err(QueueError::LeaseLost);
                }
                Err(error) => {
                    let queue = self.queue;
                    tracing::warn!(error = &error as &dyn std::error::Error, queue, "claim failed");
                    self.more.store(true, Ordering::Release);
                    pending.unanswered();
                    if error.took_too_long() {
                        // It may have walked too many old entries: the watcher finds what is left.
                        self.plan().forget_floors();
                    }
                    drop(slots);
                    // Spread, so that not all processes come at once when the database is back.
                    tokio::time::sleep(wait.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
                    wait = (wait * 2).min(longest);
                }
            }
        }
    }

    fn client_hold(&self, claimed: &ClaimedJob) -> ClientHold {
        ClientHold::new(self.queue, &self.plan, &self.wakeups, claimed.client_id)
    }

    /// The scans of the next claim, given what was reported since the last one.
    fn plan_scans(&self, free: usize) -> ClaimScans {
        let reports = self.wakeups.take_reports(self.queue);
        let mut plan = self.plan();
        if let Some(run_at) = reports.lowest {
            plan.lower(run_at);
        }
        if let Some(stragglers) = reports.stragglers {
            plan.found(stragglers);
        }
        plan.scans(free)
    }

    /// Records what a claim gave, and what it left.
    fn record(&self, scans: &ClaimScans, free: usize, claim: &Claim) {
        if let Some(delay) = claim.next_due {
            self.wakeups.seen(self.queue, delay);
        }
        let mut plan = self.plan();
        let more = match claim.at {
            Some(at) => {
                let scanned =
                    claim.jobs.iter().filter(|job| !scans.has_straggler(&job.lease.job_id));
                let scanned: Vec<_> = scanned.map(|job| (job.client_id, job.run_at)).collect();
                plan.claimed(scans, free, at, &scanned)
            }
            // Paused: nothing was looked at. A resumed queue is announced.
            None => false,
        };
        let has_stragglers = plan.has_stragglers();
        let from = plan.covered_from().filter(|_| more || plan.has_apart());
        drop(plan);
        self.more.store(more || (has_stragglers && claim.at.is_some()), Ordering::Release);
        self.wakeups.set_backlog(self.queue, Backlog { from, has_stragglers });
    }

    /// Claims what is due, after giving back what an unanswered claim may have taken.
    async fn claim(&self, lease: &WorkerLease, scans: &ClaimScans) -> Result<Claim, StoreError> {
        let known: Option<Known> = self.holds.unsure();
        let wanted = Wanted {
            queue: self.queue,
            worker: lease.worker().to_owned(),
            scans: scans.clone(),
            seeks_next: self.seeks_next.load(Ordering::Acquire),
            holds: known.clone(),
        };
        let claim = self.claims.submit(wanted).await?;
        if let Some(known) = known {
            self.holds.compared(&known);
        }
        self.seeks_next.store(false, Ordering::Release);
        Ok(claim)
    }

    /// Whether other statements than claims lease jobs of this queue.
    fn leases_directly(&self) -> bool {
        let kinds = [JobKind::CreateAtThirdParty, JobKind::NotifyClient];
        kinds.iter().any(|kind| kind.as_str() == self.queue)
    }

    fn pace(&self) -> MutexGuard<'_, ClaimPace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self) -> MutexGuard<'_, ClaimPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Free slots up to [`MAX_BATCH`]; waits for the first. `None` never comes: nobody closes it.
    async fn take_slots(&self) -> Option<FreeSlots> {
        let mut slots = self.slots.clone().acquire_owned().await.ok()?;
        let free = (1 + self.slots.available_permits()).min(MAX_BATCH);
        // While nothing waits, as much is left for what other statements lease to this worker
        // meanwhile: without a slot they would leave it to the next claim, and so on.
        let leaves_half = match self.hold_limit {
            // Such a claim takes no more than half of them.
            HoldLimit::LeaveAsMuchFree => true,
            HoldLimit::None => self.leases_directly() && !self.more.load(Ordering::Acquire),
        };
        let taken = if leaves_half { free.div_ceil(2) } else { free };
        let more = taken - 1;
        if let Ok(rest) = self.slots.clone().try_acquire_many_owned(more as u32) {
            slots.merge(rest);
        }
        let counted = match self.hold_limit {
            HoldLimit::LeaveAsMuchFree if slots.num_permits() == taken => free,
            _ => slots.num_permits(),
        };
        Some(FreeSlots { slots, counted })
    }
}

impl Persistence for JobQueue {
    type Compact = LeasedJob;
    type Response = Infallible;
    type Error = QueueError;

    async fn register(&mut self, worker: &WorkerContext) -> Result<(), QueueError> {
        let registered = self.keeper.register(worker.name(), self.queue, self.holds.clone()).await;
        let lease = registered.map_err(QueueError::Register)?;
        // Set once: apalis registers a worker once, and each start has a queue of its own.
        let _ = self.lease.set(lease);
        self.open_taker(worker.name());
        Ok(())
    }

    /// The keeper renews for all workers at once; here the worker only learns whether it was taken
    /// for dead. A renewal that is merely late, as after an outage, ends nothing.
    async fn heartbeat(&mut self, _: &WorkerContext) -> Result<(), QueueError> {
        match self.lease.get() {
            Some(lease) if !lease.is_lost() => Ok(()),
            _ => Err(QueueError::LeaseLost),
        }
    }

    async fn fetch_next(&mut self, _: &WorkerContext) -> Result<Vec<Task<LeasedJob>>, QueueError> {
        let lease = self.lease.get().ok_or(QueueError::LeaseLost)?;
        let taker = self.taker.get().ok_or(QueueError::LeaseLost)?;
        tokio::select! {
            biased;
            // The supervisor stops the worker now; until then nothing more is claimed.
            () = self.stopping.cancelled() => future::pending().await,
            () = lease.lost() => Err(QueueError::LeaseLost),
            fetched = self.fetch(lease, taker) => fetched,
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
