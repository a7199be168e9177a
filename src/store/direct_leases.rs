//! Leases that other statements than a claim give to this process's own workers.
//!
//! A job that is due when it is written, or made due, waits for nothing but a claim. So the
//! statement that writes it leases it at once, where a worker of this process has a slot for it:
//! the accept does that with `create_at_third_party`, and what settles a transaction with
//! `notify_client`. That saves a version of the row and a statement.
//!
//! The slot is reserved first (`DirectLeases::reserve`), and the job is handed to the worker
//! after the commit ([`HandOver`]). From then on it is a claimed job like any other, fenced by
//! the same lease: the worker gets what it claims in the same way ([`LeaseTaker::hand_over`]).
//!
//! The job waits for a claim instead, as if this did not exist, where no slot is free, where the
//! last claim has left some or others of its client wait, where the queue is paused or the circuit
//! open, and where the worker stops, was taken for dead or is not there.
//!
//! **What a crash leaves.** A lease of a worker that is gone, which is rescued like any other. It
//! may have been handed over, so that a create counts as one that may have been sent.
//!
//! **What a commit leaves whose answer is lost.** Perhaps a lease that the worker does not know,
//! because the job is handed over after an answer only. While the statement may still be answered,
//! its leases are expected and nobody gives them back; afterwards they are unknown, and given back
//! without an attempt ([`super::holds`]).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use uuid::Uuid;

use super::{
    StoreError,
    holds::{Expected, Hold, Holds},
    jobs::ClaimedJob,
    postgres::batch::AfterCommit,
    wakeups::Wakeups,
};
use crate::domain::{JobKind, claim_plan::ClaimPlan};

/// A job's place in the count of what its client holds, until this is dropped.
#[derive(Debug)]
pub struct ClientHold {
    queue: &'static str,
    plan: Arc<Mutex<ClaimPlan>>,
    wakeups: Wakeups,
    client: Uuid,
}

impl ClientHold {
    /// Counts a job of `queue`.
    pub fn new(
        queue: &'static str,
        plan: &Arc<Mutex<ClaimPlan>>,
        wakeups: &Wakeups,
        client: Uuid,
    ) -> Self {
        lock(plan).hold(client);
        Self { queue, plan: plan.clone(), wakeups: wakeups.clone(), client }
    }
}

impl Drop for ClientHold {
    fn drop(&mut self) {
        if lock(&self.plan).release(self.client) {
            self.wakeups.retry(self.queue);
        }
    }
}

/// A job that was leased to a worker and has not begun: by a claim, or by another statement.
#[derive(Debug)]
pub struct HandedJob {
    pub claimed: ClaimedJob,
    pub slot: OwnedSemaphorePermit,
    pub hold: Hold,
    pub client_hold: ClientHold,
}

/// The workers of this process, by kind. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DirectLeases {
    takers: Arc<[Mutex<Option<Arc<LeaseTaker>>>; JobKind::ALL.len()]>,
}

impl DirectLeases {
    /// From now on jobs of `queue` are leased to this worker.
    pub fn open(&self, queue: &str, taker: Arc<LeaseTaker>) {
        if let Some(kind) = JobKind::ALL.iter().find(|kind| kind.as_str() == queue) {
            *lock(&self.takers[kind.index()]) = Some(taker);
        }
    }

    /// Reserves slots for jobs of this kind: of these transactions and clients, as many as there
    /// are slots for. `None` where there are none.
    pub(super) fn reserve(
        &self,
        kind: JobKind,
        jobs: impl Iterator<Item = (Uuid, Uuid)>,
    ) -> Option<Reservation> {
        let taker = lock(&self.takers[kind.index()]).clone()?;
        taker.reserve(jobs)
    }
}

/// One worker, as it takes the jobs that are leased to it.
pub struct LeaseTaker {
    worker: String,
    queue: &'static str,
    slots: Arc<Semaphore>,
    slot_count: usize,
    plan: Arc<Mutex<ClaimPlan>>,
    holds: Holds,
    wakeups: Wakeups,
    /// Whether a job that is due now may run at once.
    may_run: Box<dyn Fn() -> bool + Send + Sync>,
    /// The statements that may lease something to it. Closed when it takes nothing more.
    statements: TaskTracker,
    handed: Mutex<Vec<HandedJob>>,
    changed: Notify,
}

/// What a [`LeaseTaker`] takes jobs with: that of its worker's claims.
#[derive(Debug)]
pub struct TakerParts {
    pub worker: String,
    pub queue: &'static str,
    pub slots: Arc<Semaphore>,
    /// How many there are, free or not.
    pub slot_count: usize,
    pub plan: Arc<Mutex<ClaimPlan>>,
    pub holds: Holds,
    pub wakeups: Wakeups,
}

impl LeaseTaker {
    /// Takes jobs while `may_run` says so.
    pub fn new(parts: TakerParts, may_run: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let TakerParts { worker, queue, slots, slot_count, plan, holds, wakeups } = parts;
        Self {
            worker,
            queue,
            slots,
            slot_count,
            plan,
            holds,
            wakeups,
            may_run: Box::new(may_run),
            statements: TaskTracker::new(),
            handed: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The jobs that were handed over since this was last called; waits for the first. Nothing is
    /// lost where this is dropped.
    pub async fn handed(&self) -> Vec<HandedJob> {
        loop {
            let changed = self.changed.notified();
            let handed = self.take_handed();
            if !handed.is_empty() {
                return handed;
            }
            changed.await;
        }
    }

    /// The jobs that were handed over since they were last taken.
    pub fn take_handed(&self) -> Vec<HandedJob> {
        std::mem::take(&mut *lock(&self.handed))
    }

    /// These jobs are leased to it.
    pub fn hand_over(&self, jobs: Vec<HandedJob>) {
        if !jobs.is_empty() {
            lock(&self.handed).extend(jobs);
            self.changed.notify_one();
        }
    }

    /// Takes nothing any more; returns when no statement can lease anything to it. What was handed
    /// over and not taken is to be given back.
    pub async fn close(&self) {
        self.statements.close();
        self.statements.wait().await;
    }

    /// A statement is about to lease something to it, or may. `None` once it is closed; otherwise
    /// closing waits for the end of the returned value.
    pub fn begin_statement(&self) -> Option<TaskTrackerToken> {
        // First the token, then the look: whichever of this and closing comes second sees the
        // other.
        let statement = self.statements.token();
        (!self.statements.is_closed()).then_some(statement)
    }

    fn reserve(self: Arc<Self>, jobs: impl Iterator<Item = (Uuid, Uuid)>) -> Option<Reservation> {
        let statement = self.begin_statement()?;
        if !(self.may_run)() {
            return None;
        }
        let mut places: HashMap<Uuid, Place> = HashMap::new();
        for (transaction, client) in jobs {
            let may_take = lock(&self.plan).takes_at_once(client, self.slot_count);
            if !may_take || places.contains_key(&transaction) {
                continue;
            }
            let Ok(slot) = self.slots.clone().try_acquire_owned() else { break };
            let client_hold = ClientHold::new(self.queue, &self.plan, &self.wakeups, client);
            places.insert(transaction, Place { slot, client_hold });
        }
        if places.is_empty() {
            return None;
        }
        let expected = self.holds.expect(places.keys().copied().collect())?;
        let awaited =
            Awaited { expected: Some(expected), queue: self.queue, wakeups: self.wakeups.clone() };
        let leased = Vec::new();
        Some(Reservation { taker: self, places, awaited, leased, _statement: statement })
    }
}

impl fmt::Debug for LeaseTaker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LeaseTaker").field("worker", &self.worker).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Place {
    slot: OwnedSemaphorePermit,
    client_hold: ClientHold,
}

/// The answer of a statement that leases. Dropped without an end, it has the next claim give back
/// what was leased nevertheless.
#[derive(Debug)]
struct Awaited {
    expected: Option<Expected>,
    queue: &'static str,
    wakeups: Wakeups,
}

impl Awaited {
    /// It arrived: what was leased is held, or nothing was.
    fn end(mut self) {
        if let Some(expected) = self.expected.take() {
            expected.end();
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(expected) = self.expected.take() {
            // First: from now on the worker is unsure.
            drop(expected);
            self.wakeups.retry(self.queue);
        }
    }
}

/// Slots for jobs that a statement is about to lease.
#[derive(Debug)]
pub(super) struct Reservation {
    taker: Arc<LeaseTaker>,
    /// By transaction. Free again before a claim is woken.
    places: HashMap<Uuid, Place>,
    awaited: Awaited,
    leased: Vec<ClaimedJob>,
    _statement: TaskTrackerToken,
}

impl Reservation {
    /// The worker that the jobs are leased to.
    pub fn worker(&self) -> &str {
        &self.taker.worker
    }

    /// Whether there is a slot for the job of this transaction.
    pub fn has(&self, transaction: Uuid) -> bool {
        self.places.contains_key(&transaction)
    }

    /// The statement has leased this job.
    pub fn leased(&mut self, claimed: ClaimedJob) {
        self.leased.push(claimed);
    }

    fn hand_over(self) {
        let Self { taker, mut places, awaited, leased, _statement } = self;
        let handed: Vec<HandedJob> = leased
            .into_iter()
            .filter_map(|claimed| {
                let Place { slot, client_hold } = places.remove(&claimed.transaction_id()?)?;
                let hold = taker.holds.hold(&claimed);
                Some(HandedJob { claimed, slot, hold, client_hold })
            })
            .collect();
        // Held by now.
        awaited.end();
        taker.hand_over(handed);
    }
}

/// Hands over what a batch has leased, once it is committed.
#[derive(Debug, Default)]
pub struct HandOver {
    reservation: Option<Reservation>,
}

impl HandOver {
    /// Keeps slots until the batch has ended.
    pub(super) fn reserve(&mut self, reservation: Option<Reservation>) {
        self.reservation = reservation;
    }

    /// The slots that are reserved.
    pub(super) fn reservation(&mut self) -> Option<&mut Reservation> {
        self.reservation.as_mut()
    }
}

impl AfterCommit for HandOver {
    fn end(self, done: Result<(), &StoreError>) {
        let Some(reservation) = self.reservation else { return };
        match done {
            Ok(_) => reservation.hand_over(),
            // Nothing was written.
            Err(error) if error.is_answer() => reservation.awaited.end(),
            // It may be committed nevertheless.
            Err(_) => drop(reservation),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        domain::{LastAnswers, claim_plan::HoldLimit},
        store::{holds, jobs::Lease},
    };

    const QUEUE: &str = "create_at_third_party";

    struct Worker {
        leases: DirectLeases,
        taker: Arc<LeaseTaker>,
        slots: Arc<Semaphore>,
        holds: Holds,
        wakeups: Wakeups,
    }

    fn worker(slot_count: usize) -> Worker {
        let slots = Arc::new(Semaphore::new(slot_count));
        let (holds, wakeups) = (Holds::default(), Wakeups::new([QUEUE]));
        let parts = TakerParts {
            worker: "worker".to_owned(),
            queue: QUEUE,
            slots: slots.clone(),
            slot_count,
            plan: Arc::new(Mutex::new(ClaimPlan::new(HoldLimit::None, 100))),
            holds: holds.clone(),
            wakeups: wakeups.clone(),
        };
        let (leases, taker) = (DirectLeases::default(), Arc::new(LeaseTaker::new(parts, || true)));
        leases.open(QUEUE, taker.clone());
        Worker { leases, taker, slots, holds, wakeups }
    }

    /// A batch that has reserved a slot.
    fn reserved(worker: &Worker) -> HandOver {
        let mut after = HandOver::default();
        let job = (Uuid::from_u128(1), Uuid::from_u128(2));
        after.reserve(worker.leases.reserve(JobKind::CreateAtThirdParty, [job].into_iter()));
        assert!(after.reservation().is_some());
        assert_eq!(worker.slots.available_permits(), 0);
        after
    }

    fn claimed(transaction: Uuid) -> ClaimedJob {
        let locked_at = chrono::Utc::now();
        ClaimedJob {
            lease: Lease { job_id: "job".into(), worker: "worker".into(), locked_at },
            payload: Vec::new(),
            attempts: 0,
            max_attempts: 1,
            idempotency_key: Some(transaction.to_string()),
            client_id: Uuid::from_u128(2),
            run_at: None,
            polls: 0,
            waits: 0,
            probes: 0,
            answers: LastAnswers::default(),
            poll_since: None,
            traceparent: None,
            late: Duration::ZERO,
            transaction: None,
            callback: None,
        }
    }

    #[tokio::test]
    async fn after_a_batch_without_an_answer_a_claim_compares_the_leases() {
        let silence = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        let ends: [fn(HandOver, StoreError); 2] = [
            |after, error| after.end(Err(&error)),
            // A time limit or a panic.
            |after, _| drop(after),
        ];
        for end in ends {
            let worker = worker(1);
            end(reserved(&worker), silence().into());
            assert!(
                worker.wakeups.due(QUEUE, || Duration::ZERO).now_or_never().is_some(),
                "a claim is woken"
            );
            assert!(worker.holds.unsure().is_some(), "and compares");
            assert_eq!(worker.slots.available_permits(), 1);
        }
    }

    #[tokio::test]
    async fn closing_waits_for_the_statement_under_way_and_keeps_what_it_leased() {
        let worker = worker(1);
        let mut after = reserved(&worker);
        let reservation = after.reservation().unwrap();
        reservation.leased(claimed(Uuid::from_u128(1)));
        let mut close = Box::pin(worker.taker.close());
        assert!((&mut close).now_or_never().is_none(), "it may be committed yet");
        let job = (Uuid::from_u128(3), Uuid::from_u128(2));
        let refused = worker.leases.reserve(JobKind::CreateAtThirdParty, [job].into_iter());
        assert!(refused.is_none(), "nothing more is leased");

        after.end(Ok(()));
        close.await;
        let handed = worker.taker.take_handed();
        assert_eq!(handed.len(), 1, "to be given back");
        assert!(worker.holds.holds(&holds::key(&handed[0].claimed.lease), None));
    }

    #[tokio::test]
    async fn after_a_batch_that_leased_nothing_no_claim_is_needed() {
        let worker = worker(1);
        reserved(&worker).end(Ok(()));
        assert!(worker.wakeups.due(QUEUE, || Duration::ZERO).now_or_never().is_none());
        assert!(worker.holds.unsure().is_none());
        assert_eq!(worker.slots.available_permits(), 1);
    }
}
