//! Claims what is due for one worker, and hands it to the worker.
//!
//! A claim waits until a slot is free and something is due (see [`crate::store::wakeups`]), takes
//! what fits into the free slots, shared between clients ([`crate::domain::claim_plan`]), and is
//! tried again while the database is away. It runs beside what takes the jobs, so that a job which
//! another statement has leased to the worker ([`crate::store::direct_leases`]) never waits for a
//! claim.
//!
//! It ends when the process stops, when the lease is lost and when the worker's row is gone. A
//! claim that is under way then is waited for by [`LeaseTaker::close`], and what it leased is
//! given back.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{WorkerLease, claim_pace::ClaimPace};
use crate::{
    domain::{
        Backoff, JobKind, Retries,
        claim_plan::{ClaimPlan, ClaimScans, HoldLimit},
    },
    store::{
        StoreError,
        direct_leases::{ClientHold, HandedJob, LeaseTaker},
        holds::{Holds, Known},
        jobs::{
            ClaimedJob,
            claims::{Claim, Claims, Wanted},
            job_latency::JobLatency,
            leases::WORKER_FOREIGN_KEY,
        },
        postgres::coalesce::Coalescer,
        wakeups::{Backlog, Wakeups},
    },
};

/// Most jobs of one claim.
pub(super) const MAX_BATCH: usize = 500;
/// Waits after a claim that failed; jittered, so that not all processes come at once when the
/// database is back.
const CLAIM_RETRY: Backoff =
    Backoff { base: Duration::from_millis(250), max_delay: Duration::from_secs(2) };

/// Slots for a claim.
struct FreeSlots {
    slots: OwnedSemaphorePermit,
    /// How many are free, as the plan of the claim counts them.
    counted: usize,
}

/// Claims for one worker.
#[derive(Debug)]
pub(super) struct Claimer {
    parts: ClaimerParts,
    /// A wake-up that no claim has followed yet.
    is_woken: bool,
    pace: ClaimPace,
    /// The next claim must look when the next job falls due.
    seeks_next: bool,
}

/// What a [`Claimer`] works with.
#[derive(Debug)]
pub(super) struct ClaimerParts {
    pub queue: &'static str,
    pub claims: Coalescer<Claims>,
    pub wakeups: Wakeups,
    pub stopping: CancellationToken,
    pub slots: Arc<Semaphore>,
    pub hold_limit: HoldLimit,
    pub holds: Holds,
    pub plan: Arc<Mutex<ClaimPlan>>,
    /// The last claim took all it could: there may be more, without waiting for a wake-up.
    pub more: Arc<AtomicBool>,
    /// How long jobs wait for the database.
    pub latency: JobLatency,
    pub lease: WorkerLease,
    pub taker: Arc<LeaseTaker>,
}

impl ClaimerParts {
    /// How much later than they are due this queue's jobs are claimed now: those of the queues whose
    /// first jobs may turn out not to be needed.
    fn lag(&self) -> Duration {
        let scheduled = [JobKind::UpdateStatus, JobKind::NotifyClient];
        match scheduled.iter().any(|kind| kind.as_str() == self.queue) {
            true => self.latency.lag(Instant::now()),
            false => Duration::ZERO,
        }
    }
}

impl Claimer {
    /// One that has not claimed anything yet.
    pub fn new(parts: ClaimerParts) -> Self {
        Self { parts, is_woken: false, pace: ClaimPace::default(), seeks_next: true }
    }

    /// Claims until the worker takes nothing more.
    pub async fn run(mut self) {
        let (lease, stopping) = (self.parts.lease.clone(), self.parts.stopping.clone());
        let ends = async || {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = lease.lost() => {}
            }
        };
        let mut retries = Retries::new(CLAIM_RETRY);
        loop {
            let slots = tokio::select! {
                biased;
                () = ends() => return,
                slots = self.wait_for_work() => slots,
            };
            let Some(slots) = slots else { return };
            match self.claim_into(slots).await {
                Ok(true) => retries.reset(),
                Ok(false) => return,
                Err(error) if error.constraint() == Some(WORKER_FOREIGN_KEY) => {
                    tracing::warn!(worker = lease.worker(), "the worker's row is gone");
                    return;
                }
                Err(error) => {
                    let queue = self.parts.queue;
                    tracing::warn!(error = &error as &dyn std::error::Error, queue, "claim failed");
                    tokio::select! {
                        () = ends() => return,
                        () = tokio::time::sleep(retries.next_delay(rand::random())) => {}
                    }
                }
            }
        }
    }

    /// Waits until something is likely due and takes free slots for it. Nothing is lost where this
    /// is dropped.
    async fn wait_for_work(&mut self) -> Option<FreeSlots> {
        let parts = &self.parts;
        if !parts.more.load(Ordering::Acquire) && !self.is_woken {
            if parts.wakeups.due(parts.queue, || parts.lag()).await {
                self.seeks_next = true;
            }
            self.is_woken = true;
            self.plan().wake();
        }
        if let Some(next) = self.pace.next(self.parts.latency.outcome_batch(Instant::now())) {
            tokio::time::sleep_until(next.into()).await;
        }
        self.take_slots().await
    }

    /// Free slots up to [`MAX_BATCH`]; waits for the first. `None` never comes: nobody closes it.
    async fn take_slots(&self) -> Option<FreeSlots> {
        let all = &self.parts.slots;
        let mut slots = all.clone().acquire_owned().await.ok()?;
        let free = (1 + all.available_permits()).min(MAX_BATCH);
        // While nothing waits, as much is left for what other statements lease to this worker
        // meanwhile: without a slot they would leave it to the next claim, and so on.
        let leaves_half = match self.parts.hold_limit {
            // Such a claim takes no more than half of them.
            HoldLimit::LeaveAsMuchFree => true,
            HoldLimit::None => self.leases_directly() && !self.parts.more.load(Ordering::Acquire),
        };
        let taken = if leaves_half { free.div_ceil(2) } else { free };
        let more = taken - 1;
        if let Ok(rest) = all.clone().try_acquire_many_owned(more as u32) {
            slots.merge(rest);
        }
        let counted = match self.parts.hold_limit {
            HoldLimit::LeaveAsMuchFree if slots.num_permits() == taken => free,
            _ => slots.num_permits(),
        };
        Some(FreeSlots { slots, counted })
    }

    /// Whether other statements than claims lease jobs of this queue.
    fn leases_directly(&self) -> bool {
        let kinds = [JobKind::CreateAtThirdParty, JobKind::NotifyClient];
        kinds.iter().any(|kind| kind.as_str() == self.parts.queue)
    }

    /// Claims jobs for these slots and hands them over. `false` where the worker takes nothing
    /// more.
    async fn claim_into(&mut self, slots: FreeSlots) -> Result<bool, StoreError> {
        let FreeSlots { mut slots, counted } = slots;
        let taker = self.parts.taker.clone();
        // Closing waits until what is claimed is handed over.
        let Some(_statement) = taker.begin_statement() else { return Ok(false) };
        self.is_woken = false;
        let scans = self.plan_scans(counted);
        let (began, lag) = (Instant::now(), self.parts.lag());
        // Until all that was claimed is held.
        let pending = self.parts.holds.begin_claim();
        let claim = match self.claim(&scans, lag).await {
            Ok(claim) => claim,
            Err(error) => {
                self.parts.more.store(true, Ordering::Release);
                // Also where the server has answered: the claim itself is committed before what it
                // leased is read.
                pending.unanswered();
                if error.took_too_long() {
                    // It may have walked too many old entries: the watcher finds what is left.
                    self.plan().forget_floors();
                }
                return Err(error);
            }
        };
        let holds: Vec<_> = claim
            .jobs
            .iter()
            .map(|claimed| (self.parts.holds.hold(claimed), self.client_hold(claimed)))
            .collect();
        drop(pending);
        self.record(&scans, counted, lag, &claim);
        let has_more = self.parts.more.load(Ordering::Acquire);
        self.pace.claimed(began, claim.jobs.len(), has_more);
        let jobs = claim.jobs.into_iter().zip(holds);
        let handed = jobs.filter_map(|(claimed, (hold, client_hold))| {
            // There are as many permits as claimed rows at least.
            Some(HandedJob { claimed, slot: slots.split(1)?, hold, client_hold })
        });
        taker.hand_over(handed.collect());
        Ok(true)
    }

    fn client_hold(&self, claimed: &ClaimedJob) -> ClientHold {
        let parts = &self.parts;
        ClientHold::new(parts.queue, &parts.plan, &parts.wakeups, claimed.client_id)
    }

    /// The scans of the next claim, given what was reported since the last one.
    fn plan_scans(&self, free: usize) -> ClaimScans {
        let reports = self.parts.wakeups.take_reports(self.parts.queue);
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
    fn record(&self, scans: &ClaimScans, free: usize, lag: Duration, claim: &Claim) {
        let ClaimerParts { queue, wakeups, .. } = &self.parts;
        if let Some(delay) = claim.next_due {
            let claimable = Instant::now() + delay;
            wakeups.seen(queue, claimable.checked_sub(lag).unwrap_or(claimable));
        }
        if let (Ok(kind), Some(_)) = (queue.parse(), claim.until) {
            let least_late = claim.jobs.iter().map(|job| job.late).min().unwrap_or_default();
            let beyond_lag = least_late.saturating_sub(lag);
            self.parts.latency.claimed(kind, beyond_lag, Instant::now());
        }
        let mut plan = self.plan();
        let more = match claim.until {
            Some(until) => {
                let scanned =
                    claim.jobs.iter().filter(|job| !scans.has_straggler(&job.lease.job_id));
                let scanned: Vec<_> = scanned.map(|job| (job.client_id, job.run_at)).collect();
                plan.claimed(scans, free, until, &scanned)
            }
            // Paused: nothing was looked at. A resumed queue is announced.
            None => false,
        };
        let has_stragglers = plan.has_stragglers();
        let from = plan.covered_from().filter(|_| more || plan.has_apart());
        drop(plan);
        self.parts.more.store(more || (has_stragglers && claim.until.is_some()), Ordering::Release);
        wakeups.set_backlog(queue, Backlog { from, has_stragglers });
    }

    /// Claims what is due, after giving back what an unanswered statement may have leased.
    async fn claim(&mut self, scans: &ClaimScans, lag: Duration) -> Result<Claim, StoreError> {
        let known: Option<Known> = self.parts.holds.unsure();
        let wanted = Wanted {
            queue: self.parts.queue,
            worker: self.parts.lease.worker().to_owned(),
            scans: scans.clone(),
            lag,
            // Jobs that are due but within the lag have used up their wake-up: without this, nothing
            // would wake the worker for them.
            seeks_next: self.seeks_next || !lag.is_zero(),
            holds: known.clone(),
        };
        let claim = self.parts.claims.submit(wanted).await?;
        if let Some(known) = known {
            self.parts.holds.compared(&known);
        }
        self.seeks_next = false;
        Ok(claim)
    }

    fn plan(&self) -> MutexGuard<'_, ClaimPlan> {
        self.parts.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
