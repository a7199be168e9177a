//! Renews this process's leases, gives back leases that no worker knows about, and takes over the
//! leases of processes that are gone.
//!
//! One statement every `WORKER__HEARTBEAT` renews all workers of the process, on a connection of
//! its own, independent of what they are busy with. A worker that finds itself dead was rescued:
//! its lease is marked lost, its handlers are dropped, and the supervisor starts it again under a
//! new name. When others may be judged is in [`super::freshness`].
//!
//! After each heartbeat that succeeded, a task beside it does the rest, however long that takes:
//! - What is leased to the workers of this process in the database is compared with what they hold
//!   ([`crate::store::holds`]). What is unknown for two heartbeats, and cannot be claimed by a late
//!   answer any more, is given back without using an attempt.
//! - Workers that were silent for `WORKER__DEAD_AFTER` are marked dead, and their jobs are taken in
//!   batches ([`crate::store::jobs::rescue`]).
//!
//! A call that must not be made by two asks [`WorkerLease::fence`] when it is sent. That goes by a
//! clock that runs on while the process is frozen or the machine suspended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Utc;
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{JobContext, freshness::Freshness};
use crate::{
    domain::{BootInstant, clock::ClockReading},
    outbound::LeaseGuard,
    store::{
        self, Database, StoreError,
        holds::{self, Holds, LeaseKey, UNSURE},
        jobs::{
            Lease,
            leases::{self, HeldLease},
            rescue::{self, TakenJob},
        },
        wakeups::announce::Announcer,
    },
};

/// The shortest time that a beat is waited for, however short the heartbeat.
const MIN_PATIENCE: Duration = Duration::from_secs(2);
/// Leases older than this, or than a few heartbeats, are compared now and then only.
const COMPARED: Duration = Duration::from_secs(30);
const COMPARED_BEATS: u32 = 6;
/// Beyond any lease.
const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Most leases that one statement gives back.
const GIVEN_BACK: usize = 500;

/// A worker's lease on its jobs.
#[derive(Debug, Clone)]
pub struct WorkerLease {
    worker: Arc<str>,
    lost: CancellationToken,
    keeper: Arc<LeaseKeeper>,
}

impl WorkerLease {
    /// The worker's name, new at each start.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Says, whenever it is asked, whether nobody else can have taken over this worker's jobs yet.
    pub fn fence(&self) -> LeaseGuard {
        let lease = self.clone();
        Arc::new(move || lease.keeper.state().is_held(&lease.worker, BootInstant::now()))
    }

    /// Whether the worker was taken for dead.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Returns when the lease was lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Renews the leases of this process.
#[derive(Debug)]
pub struct LeaseKeeper {
    /// For the renewals alone.
    lease_pool: Database,
    pool: Database,
    announcer: Announcer,
    queues: Vec<String>,
    heartbeat: Duration,
    dead_after: Duration,
    create_backoff: Duration,
    state: Mutex<KeeperState>,
    /// A heartbeat has succeeded.
    renewed: Notify,
}

#[derive(Debug)]
struct KeeperState {
    workers: HashMap<Arc<str>, Registered>,
    freshness: Freshness,
}

#[derive(Debug)]
struct Registered {
    lost: CancellationToken,
    holds: Holds,
}

impl KeeperState {
    /// Of the workers `names`, a statement that began at `began` renewed those that are `alive`.
    /// Ends the leases of the others and returns their names.
    fn renewed<'a>(
        &mut self,
        names: &'a [String],
        alive: &[String],
        began: BootInstant,
        now: BootInstant,
    ) -> Vec<&'a str> {
        self.freshness.renewed(began, now);
        let dead = names
            .iter()
            .map(String::as_str)
            .filter(|name| !alive.iter().any(|alive| alive == name));
        dead.filter(|name| {
            let removed = self.workers.remove(*name);
            removed.is_some_and(|worker| {
                worker.lost.cancel();
                true
            })
        })
        .collect()
    }

    /// Whether nobody else can have taken over this worker's jobs yet. One look at both facts: the
    /// renewal that finds a worker dead makes the process's other leases fresh.
    fn is_held(&self, worker: &str, now: BootInstant) -> bool {
        self.workers.contains_key(worker) && self.freshness.is_fresh(now)
    }
}

/// Leases that were found unknown, by worker and key, with how many claims had begun then.
#[derive(Debug, Default)]
struct Suspects {
    unknown: HashMap<(String, LeaseKey), u64>,
    /// When everything was last compared.
    all_compared_at: Option<BootInstant>,
}

impl LeaseKeeper {
    /// A keeper for the workers of `queues`.
    pub fn new(context: &JobContext, queues: Vec<String>) -> Self {
        let worker = &context.config.worker;
        let freshness = Freshness::new(worker.heartbeat, worker.dead_after, BootInstant::now());
        Self {
            lease_pool: context.lease_pool.clone(),
            pool: context.pool.clone(),
            announcer: context.announcer.clone(),
            queues,
            heartbeat: worker.heartbeat,
            dead_after: worker.dead_after,
            create_backoff: super::longest_create_backoff(&context.config),
            state: Mutex::new(KeeperState { workers: HashMap::new(), freshness }),
            renewed: Notify::new(),
        }
    }

    /// Registers a worker of `queue` that keeps `holds`, and keeps its lease from now on.
    pub async fn register(
        self: &Arc<Self>,
        worker: &str,
        queue: &str,
        holds: Holds,
    ) -> Result<WorkerLease, StoreError> {
        let began = BootInstant::now();
        leases::register(&self.lease_pool, worker, queue).await?;
        let (worker, lost) = (Arc::<str>::from(worker), CancellationToken::new());
        let mut state = self.state();
        if state.workers.is_empty() {
            state.freshness.registered(began);
        }
        state.workers.insert(worker.clone(), Registered { lost: lost.clone(), holds });
        drop(state);
        Ok(WorkerLease { worker, lost, keeper: self.clone() })
    }

    /// Stops renewing a worker's lease: whatever it does not give back is rescued in time.
    pub fn forget(&self, lease: &WorkerLease) {
        self.state().workers.remove(&lease.worker);
    }

    /// Renews until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // One that gets no answer must not hold the next one up.
            let patience = self.heartbeat.max(MIN_PATIENCE);
            match store::in_time_of(patience, self.renew()).await {
                Ok(()) => self.renewed.notify_one(),
                Err(error) => {
                    self.state().freshness.failed();
                    tracing::warn!(error = &error as &dyn std::error::Error, "heartbeat failed");
                }
            }
        }
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let (began, wall) = (BootInstant::now(), Utc::now());
        let names = self.workers();
        let renewed = leases::renew(&self.lease_pool, &names).await?;
        let now = BootInstant::now();
        let reading = renewed.at.map(|at| ClockReading::answered(began, wall, at));
        let mut state = self.state();
        if reading.is_some_and(|reading| state.freshness.read_clock(reading)) {
            tracing::warn!("the database's clock was set: no worker is taken for dead for a while");
        }
        let lost = state.renewed(&names, &renewed.alive, began, now);
        drop(state);
        for worker in lost {
            tracing::warn!(worker, "lease lost: the worker was taken for dead");
        }
        Ok(())
    }

    /// After each renewal until `stop`: gives back what nobody knows, and rescues.
    pub async fn clean_up(&self, stop: CancellationToken) {
        let mut suspects = Suspects::default();
        loop {
            let round = async {
                self.renewed.notified().await;
                // At once: while the renewal of this process's own workers is recent.
                if let Err(error) = self.rescue().await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the jobs of dead workers could not be taken");
                }
                if let Err(error) = self.give_back_unknown(&mut suspects).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "leases could not be compared with what is held");
                }
            };
            tokio::select! {
                () = round => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn give_back_unknown(&self, suspects: &mut Suspects) -> Result<(), StoreError> {
        let now = BootInstant::now();
        let compares_all = suspects.all_compared_at.is_none_or(|at| now - at >= UNSURE);
        let names = self.workers();
        let max_age = if compares_all { EVER } else { self.compared(now) };
        let leased = leases::held(&self.pool, &names, self.heartbeat, max_age).await?;
        if compares_all {
            suspects.all_compared_at = Some(now);
        }
        // Read after the database: what the database listed is held by now, unless its claim is
        // still under way.
        let unknown = self.judge_unknown(leased, &mut suspects.unknown);
        for leases in unknown.chunks(GIVEN_BACK) {
            self.give_back(leases).await?;
        }
        Ok(())
    }

    /// Those of `leased` that were unknown at the last look already, and that no answer under way
    /// can make known. The others that are unknown are `suspects` for the next look.
    fn judge_unknown(
        &self,
        leased: Vec<HeldLease>,
        suspects: &mut HashMap<(String, LeaseKey), u64>,
    ) -> Vec<Lease> {
        let before = std::mem::take(suspects);
        let state = self.state();
        let mut unknown = Vec::new();
        for HeldLease { lease, transaction_id } in leased {
            let Some(Registered { holds, .. }) = state.workers.get(lease.worker.as_str()) else {
                continue;
            };
            let key = holds::key(&lease);
            if holds.holds(&key, transaction_id) {
                continue;
            }
            let suspect = (lease.worker.clone(), key);
            match before.get(&suspect) {
                Some(claims) if holds.have_ended(*claims) => unknown.push(lease),
                Some(claims) => drop(suspects.insert(suspect, *claims)),
                None => drop(suspects.insert(suspect, holds.claims())),
            }
        }
        unknown
    }

    /// The maximum age of the leases that are compared at each heartbeat. An older one can only
    /// turn up after a statement whose answer was lost: all since the first one are compared.
    fn compared(&self, now: BootInstant) -> Duration {
        let state = self.state();
        let workers = state.workers.values();
        let unsure = workers.filter_map(|worker| worker.holds.unanswered_at(now));
        let unsure = unsure.map(|at| now - at).max();
        COMPARED.max(self.heartbeat * COMPARED_BEATS).max(unsure.unwrap_or_default() + COMPARED)
    }

    async fn give_back(&self, unknown: &[Lease]) -> Result<(), StoreError> {
        let started: Vec<String> = {
            let state = self.state();
            let is_started = |lease: &&Lease| {
                let worker = state.workers.get(lease.worker.as_str());
                worker.is_some_and(|worker| worker.holds.was_cut_off(&holds::key(lease)))
            };
            unknown.iter().filter(is_started).map(|lease| lease.job_id.clone()).collect()
        };
        let given = leases::give_back(&self.pool, unknown, &started, self.create_backoff).await?;
        tracing::warn!(jobs = given.len(), "jobs given back that were leased without being known");
        self.announcer.announce_change();
        Ok(())
    }

    async fn rescue(&self) -> Result<(), StoreError> {
        if !self.state().freshness.may_judge(BootInstant::now()) {
            return Ok(());
        }
        let own = self.workers();
        // Others were renewed at most a heartbeat before these.
        let recent = self.dead_after.saturating_sub(self.heartbeat);
        let marked = rescue::mark_dead(&self.pool, &self.queues, self.dead_after, &own, recent);
        let dead = marked.await?;
        if dead.is_empty() {
            return Ok(());
        }
        loop {
            let taken = rescue::take(&self.pool, &dead, self.create_backoff).await?;
            if taken.is_empty() {
                break;
            }
            taken.iter().for_each(log_taken);
            self.announcer.announce_change();
        }
        rescue::remove(&self.pool, &dead).await
    }

    fn workers(&self) -> Vec<String> {
        self.state().workers.keys().map(|name| name.to_string()).collect()
    }

    fn state(&self) -> MutexGuard<'_, KeeperState> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_taken(job: &TakenJob) {
    let transaction_id = job.transaction_id.map(tracing::field::display);
    let (queue, job_id, attempt) = (&job.queue, &job.id, job.attempts);
    tracing::warn!(queue, job_id, transaction_id, attempt, "{}", job.error);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(200);
    const DEAD_AFTER: Duration = Duration::from_millis(600);

    /// The state of a process with these workers, renewed at `now`.
    fn state(workers: &[String], now: BootInstant) -> KeeperState {
        let mut freshness = Freshness::new(HEARTBEAT, DEAD_AFTER, now);
        freshness.registered(now);
        let workers = workers.iter().map(|worker| {
            let registered = Registered { lost: CancellationToken::new(), holds: Holds::default() };
            (Arc::from(worker.as_str()), registered)
        });
        KeeperState { workers: workers.collect(), freshness }
    }

    #[test]
    fn the_renewal_after_a_freeze_holds_nothing_for_the_worker_that_was_taken_for_dead() {
        let start = BootInstant::now();
        let names = ["creates".to_owned(), "lookups".to_owned()];
        let mut state = state(&names, start);
        let lost = state.workers["creates"].lost.clone();
        let thawed = start + 2 * DEAD_AFTER;
        assert!(!state.is_held("creates", thawed) && !state.is_held("lookups", thawed));

        // Renewed in time by another statement: only one was taken for dead.
        let dead = state.renewed(&names, &names[1..], thawed, thawed);
        assert_eq!(dead, ["creates"]);
        assert!(lost.is_cancelled());
        assert!(!state.is_held("creates", thawed), "the process is fresh, its lease is not");
        assert!(state.is_held("lookups", thawed));
    }

    #[test]
    fn what_is_not_renewed_any_more_is_not_held() {
        let start = BootInstant::now();
        let names = ["creates".to_owned()];
        let mut state = state(&names, start);
        assert!(state.is_held("creates", start));
        state.workers.remove("creates");
        assert!(!state.is_held("creates", start));
    }
}
