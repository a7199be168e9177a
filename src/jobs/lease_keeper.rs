//! Keeps this process's leases alive, and takes over those of processes that are gone.
//!
//! One statement every `WORKER__HEARTBEAT` renews all workers of the process, independent of what
//! they are busy with. A worker that finds its row gone was rescued: its lease is marked lost, its
//! handlers are dropped, and the supervisor starts it again under a new name.
//!
//! After an outage of the database everybody is stale, and after a suspension of the machine too: a
//! keeper whose heartbeat failed, or came later than `WORKER__DEAD_AFTER`, judges nobody until
//! `WORKER__DEAD_AFTER` has passed since it renewed again, so that everybody can renew before. At
//! the start it waits for one heartbeat.
//!
//! A call that must not be made by two asks [`WorkerLease::fence`] when it is sent: that goes by this
//! process's monotonic clock, which runs on while the process is frozen.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    clients::Fence,
    config,
    store::{self, Database, StoreError, leases},
};

/// The shortest time that a beat is waited for, however short the heartbeat.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(2);

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
    pub fn fence(&self) -> Fence {
        let lease = self.clone();
        Arc::new(move || !lease.is_lost() && lease.keeper.is_fresh())
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
    pool: Database,
    queues: Vec<String>,
    heartbeat: Duration,
    dead_after: Duration,
    create_backoff: Duration,
    state: Mutex<KeeperState>,
}

#[derive(Debug)]
struct KeeperState {
    workers: HashMap<Arc<str>, CancellationToken>,
    /// When the last renewal that succeeded began.
    renewed_at: Instant,
}

impl LeaseKeeper {
    /// A keeper for the workers of `queues`.
    pub fn new(
        pool: Database,
        queues: Vec<String>,
        worker: &config::Worker,
        create_backoff: Duration,
    ) -> Self {
        Self {
            pool,
            queues,
            heartbeat: worker.heartbeat,
            dead_after: worker.dead_after,
            create_backoff,
            state: Mutex::new(KeeperState { workers: HashMap::new(), renewed_at: Instant::now() }),
        }
    }

    /// Registers a worker of `queue` and keeps its lease from now on.
    pub async fn register(
        self: &Arc<Self>,
        worker: &str,
        queue: &str,
    ) -> Result<WorkerLease, StoreError> {
        let began = Instant::now();
        leases::register(&self.pool, worker, queue).await?;
        let (worker, lost) = (Arc::<str>::from(worker), CancellationToken::new());
        let mut state = self.state();
        if state.workers.is_empty() {
            state.renewed_at = began;
        }
        state.workers.insert(worker.clone(), lost.clone());
        drop(state);
        Ok(WorkerLease { worker, lost, keeper: self.clone() })
    }

    /// Stops renewing a worker's lease: whatever it does not give back is rescued in time.
    pub fn forget(&self, lease: &WorkerLease) {
        self.state().workers.remove(&lease.worker);
    }

    /// Renews and rescues until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut judges_from = None;
        let mut grace = self.heartbeat;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if self.state().renewed_at.elapsed() > self.dead_after {
                (judges_from, grace) = (None, self.dead_after);
            }
            let beat = async {
                self.renew().await?;
                if Instant::now() >= *judges_from.get_or_insert_with(|| Instant::now() + grace) {
                    leases::rescue(&self.pool, &self.queues, self.dead_after, self.create_backoff)
                        .await?;
                }
                Ok::<_, StoreError>(())
            };
            // One that gets no answer must not hold the next one up.
            let patience = self.heartbeat.max(SHORTEST_PATIENCE);
            if let Err(error) = store::in_time_of(patience, beat).await {
                (judges_from, grace) = (None, self.dead_after);
                tracing::warn!(error = &error as &dyn std::error::Error, "heartbeat failed");
            }
        }
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        let names: Vec<String> = self.state().workers.keys().map(|name| name.to_string()).collect();
        let alive = leases::renew(&self.pool, &names).await?;
        let mut state = self.state();
        state.renewed_at = began;
        for name in names {
            if !alive.contains(&name)
                && let Some(lost) = state.workers.remove(name.as_str())
            {
                tracing::warn!(worker = name, "lease lost: the worker was taken for dead");
                lost.cancel();
            }
        }
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        self.state().renewed_at.elapsed() < self.dead_after
    }

    fn state(&self) -> MutexGuard<'_, KeeperState> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
