//! A third party's budget of calls in this process; all processes together keep to it.
//!
//! Each request that is sent takes a time of its own, at which it may be sent. The times are evenly
//! spaced ([`CallRate::gap`]) and come from one row in the database: a process leases a block of
//! future ones in one statement ([`LeaseCalls`]), as many as its calls that wait and no more than
//! fall into a quarter of a second. So an idle process takes none, and a busy one needs a few
//! statements a second.
//!
//! - Clients that wait take turns, so that one with a backlog is behind itself alone; the calls of
//!   one client are made in the order in which they were asked for. The next call of a job that has
//!   made one goes before all of them: a create after its lookup, and a request that is sent again.
//! - A time is used when it has come, or at most [`SEND_WINDOW`] later; then it is lost. It is
//!   looked at again when the request is about to be sent, so that a process that was stopped for a
//!   while sends nothing late.
//! - A job that would wait for longer than [`ADMITTED_WAIT`] does not begin ([`CallTurn`]).
//!
//! Whatever goes wrong costs calls and never adds any: the times of a process that dies, of a lease
//! whose answer is lost or late, are lost. There is one exception: a standby that takes over and
//! has not seen the last leases gives their times once more. They lie two seconds ahead at most, or
//! as far as one job's next call waits, so that this is over when a failover is.

mod database_time;
mod line;
mod turn;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};

pub use self::turn::CallTurn;
use self::{
    database_time::DatabaseTime,
    line::{Line, Order, Owner, Step, Wanted, times},
};
pub(super) use self::{line::CallTime, turn::OverBudget};
use crate::domain::{Backoff, BootInstant, CallRate, Retries, call_rate::SEND_WINDOW};

/// A job whose first call would wait for longer does not begin.
const ADMITTED_WAIT: Duration = Duration::from_millis(1_500);
/// Nor does one of a client that has calls waiting, where all that wait would take longer: each other
/// client that joins doubles, trebles, … the wait of those that are there.
const ADMITTED_LINE: Duration = Duration::from_millis(2_500);
/// How far ahead times are leased for first calls. Those that other processes have leased lie
/// before them.
const NEAR: Duration = Duration::from_secs(1);
/// How long after a lease another one is taken at the earliest.
const LEASE_PAUSE: Duration = Duration::from_millis(100);
/// How long the answer to a lease is awaited. Its times are over then.
const LEASE_LIMIT: Duration = Duration::from_secs(2);
/// Waits after a lease that failed.
const LEASE_RETRY: Backoff =
    Backoff { base: Duration::from_millis(200), max_delay: Duration::from_secs(2) };
/// The shortest and the longest wait of a job that does not begin.
const POSTPONED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));
/// How much sooner than there is likely room for them jobs come back, so that no time is lost while
/// they are waited for.
const EARLY: f64 = 0.7;
/// Share of the newest wait in how often this process has a call.
const NEWEST: f64 = 0.2;

/// What a lease should bring.
#[derive(Debug, Clone, Copy)]
pub struct CallsWanted {
    pub rate: CallRate,
    /// How many, where they lie no further ahead than `near`.
    pub all: u32,
    pub near: Duration,
    /// How many where they lie further ahead, but no further than `far`.
    pub next: u32,
    pub far: Duration,
}

/// What a lease brought. Times of the database are microseconds since 1970 on its own clock.
#[derive(Debug, Clone, Copy)]
pub struct CallsLeased {
    pub asked: BootInstant,
    pub answered: BootInstant,
    /// What the database's clock said between the two.
    pub database_now: i64,
    /// The first time; where there is none, the next one that nobody has.
    pub start: i64,
    pub count: u32,
}

/// Leases times of one third party. The error says why there are none.
pub type LeaseCalls =
    Arc<dyn Fn(CallsWanted) -> BoxFuture<'static, Result<CallsLeased, String>> + Send + Sync>;

/// The budget of one third party. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct CallBudget(Arc<Shared>);

struct Shared {
    rate: CallRate,
    lease: LeaseCalls,
    state: Mutex<State>,
    joined: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("rate", &self.rate).finish_non_exhaustive()
    }
}

type Waiter = oneshot::Sender<CallTime>;

struct State {
    line: Line<Waiter>,
    time: DatabaseTime,
    /// Runs that have begun and do not wait in the line yet, of each owner.
    admitted: HashMap<Owner, usize>,
    /// Where the times end that any process has leased, as far as is known here.
    end: BootInstant,
    /// How often this process has a call, while calls wait.
    pace: Duration,
    /// When the last one was given, if others waited.
    given_at: Option<BootInstant>,
    /// When the next job of an owner that is postponed comes back, where that is not past.
    back: HashMap<Owner, BootInstant>,
    lease_from: BootInstant,
    /// Whether a task serves the line.
    is_served: bool,
}

/// What a call would wait for.
struct Ahead {
    wait: Duration,
    /// Until all that wait now have had their turn.
    line: Duration,
    /// No other call of its owner waits.
    is_first: bool,
}

/// The right to wait in the line.
#[derive(Debug)]
struct Admission {
    shared: Arc<Shared>,
    owner: Owner,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        match state.admitted.get_mut(&self.owner) {
            Some(admitted) if *admitted > 1 => *admitted -= 1,
            _ => {
                state.admitted.remove(&self.owner);
            }
        }
    }
}

impl CallBudget {
    pub fn new(rate: CallRate, lease: LeaseCalls) -> Self {
        let now = BootInstant::now();
        let state = State {
            line: Line::default(),
            time: DatabaseTime::new(now),
            admitted: HashMap::new(),
            end: now,
            pace: rate.gap(),
            given_at: None,
            back: HashMap::new(),
            lease_from: now,
            is_served: false,
        };
        Self(Arc::new(Shared { rate, lease, state: Mutex::new(state), joined: Notify::new() }))
    }

    pub fn rate(&self) -> CallRate {
        self.0.rate
    }

    /// Leave to wait for a call; or how long a job of this owner is to be postponed, because it
    /// would wait for too long.
    fn admit(&self, owner: Owner) -> Result<Admission, Duration> {
        let now = BootInstant::now();
        let mut state = self.0.state();
        let Ahead { wait: ahead, line, is_first } = state.ahead(owner, now);
        if ahead <= ADMITTED_WAIT && (is_first || line <= ADMITTED_LINE) {
            *state.admitted.entry(owner).or_default() += 1;
            return Ok(Admission { shared: self.0.clone(), owner });
        }
        Err(state.postpone(owner, now, ahead))
    }

    /// Waits for a time, at most for `patience`.
    async fn wait(
        &self,
        order: Order,
        owner: Owner,
        patience: Duration,
    ) -> Result<CallTime, OverBudget> {
        let (granted, time) = oneshot::channel();
        {
            let mut state = self.0.state();
            state.line.join(order, owner, granted);
            if !std::mem::replace(&mut state.is_served, true) {
                tokio::spawn(serve(Serving { shared: self.0.clone(), is_over: false }));
            }
        }
        self.0.joined.notify_one();
        match tokio::time::timeout(patience, time).await {
            Ok(Ok(time)) => Ok(time),
            Ok(Err(_)) | Err(_) => Err(OverBudget),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many calls each owner waits for, or has leave to.
    fn waiting(&self) -> HashMap<Owner, usize> {
        let mut waiting = self.admitted.clone();
        for (owner, count) in self.line.first_calls() {
            *waiting.entry(owner).or_default() += count;
        }
        waiting
    }

    /// What one of this owner that asks now would wait for.
    fn ahead(&self, owner: Owner, now: BootInstant) -> Ahead {
        let waiting = self.waiting();
        let own = waiting.get(&owner).copied().unwrap_or_default();
        let others = waiting.iter().filter(|(other, _)| **other != owner);
        // Each of the others has its turn between two of this owner.
        let of_others: usize = others.map(|(_, count)| (*count).min(own + 1)).sum();
        let after = |calls: usize| {
            let Some(without) = calls.checked_sub(self.line.times()) else { return Duration::ZERO };
            let turns = u32::try_from(without).unwrap_or(u32::MAX);
            (self.end - now).saturating_add(self.pace.saturating_mul(turns))
        };
        let next = self.line.next_calls();
        Ahead {
            wait: after(next + own + of_others),
            line: after(next + waiting.values().sum::<usize>()),
            is_first: own == 0,
        }
    }

    /// When a job of this owner comes back that would wait for `ahead`.
    fn postpone(&mut self, owner: Owner, now: BootInstant, ahead: Duration) -> Duration {
        self.back.retain(|_, back| *back > now);
        let back = self.back.get(&owner).copied().unwrap_or(now);
        let in_turn = self.back.len() + usize::from(!self.back.contains_key(&owner));
        let in_turn = u32::try_from(in_turn).unwrap_or(u32::MAX);
        let next = back + self.pace.saturating_mul(in_turn).mul_f64(EARLY);
        let wait = (next - now).max(ahead.saturating_sub(ADMITTED_WAIT));
        if wait < POSTPONED.1 {
            self.back.insert(owner, next);
        }
        // Spread, so that those beyond the longest wait do not all come back at once.
        wait.clamp(POSTPONED.0, POSTPONED.1).mul_f64(1.0 + rand::random::<f64>() / 2.0)
    }

    /// Gives their times to those whose turn it is. Returns when the next time comes, where there is
    /// one and somebody waits for it.
    fn grant(&mut self, now: BootInstant, gap: Duration) -> Option<BootInstant> {
        self.line.tidy(now, |waiter| !waiter.is_closed());
        loop {
            match self.line.step(now) {
                Step::Grant(waiter, time) => match waiter.send(time) {
                    Ok(()) => self.given(now, gap),
                    Err(time) => self.line.give_back(time),
                },
                Step::At(at) => return Some(at),
                Step::Empty | Step::Nobody => return None,
            }
        }
    }

    fn given(&mut self, now: BootInstant, gap: Duration) {
        if let Some(before) = self.given_at {
            let newest = (now - before).min(POSTPONED.1);
            self.pace = self.pace.mul_f64(1.0 - NEWEST) + newest.mul_f64(NEWEST);
            self.pace = self.pace.max(gap);
        }
        self.given_at = (self.line.waiting() > 0).then_some(now);
    }

    fn leased(&mut self, leased: &CallsLeased, rate: &CallRate) {
        let CallsLeased { asked, answered, database_now, start, count } = *leased;
        self.time.see(asked, answered, database_now);
        let start = self.time.when(start);
        let gap = rate.gap();
        self.line.add(times(start, gap, count, SEND_WINDOW));
        self.end = start.1 + gap.saturating_mul(count);
        let now = BootInstant::now();
        self.lease_from = now + LEASE_PAUSE;
        if count == 0 {
            // Not before there is one near enough; and not all processes at once.
            let far = (self.end - now).saturating_sub(NEAR);
            self.lease_from = self.lease_from + far + LEASE_PAUSE.mul_f64(rand::random());
        }
    }
}

/// The task that serves the line. Another one may begin once this is gone.
struct Serving {
    shared: Arc<Shared>,
    is_over: bool,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.state().is_served = false;
        }
    }
}

/// Gives times to those who wait and leases more, until nobody waits.
async fn serve(mut serving: Serving) {
    let shared = serving.shared.clone();
    let rate = shared.rate;
    let mut lease: Option<BoxFuture<'static, _>> = None;
    let mut retries = Retries::new(LEASE_RETRY);
    loop {
        let now = BootInstant::now();
        let mut wake;
        {
            let mut state = shared.state();
            wake = state.grant(now, rate.gap());
            if lease.is_none() {
                if state.line.waiting() == 0 {
                    state.is_served = false;
                    state.given_at = None;
                    serving.is_over = true;
                    return;
                }
                let wanted = state.line.wanted(&rate);
                if wanted.all > 0 && state.lease_from <= now {
                    lease = Some(begin_lease(&shared, wanted));
                } else if wanted.all > 0 {
                    wake = Some(wake.map_or(state.lease_from, |at| at.min(state.lease_from)));
                }
            }
        }
        let woken = async {
            match wake {
                Some(at) => tokio::time::sleep(at - now).await,
                None => std::future::pending().await,
            }
        };
        let leased = async {
            match &mut lease {
                Some(lease) => lease.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            leased = leased => {
                lease = None;
                match leased {
                    Ok(leased) => {
                        retries.reset();
                        shared.state().leased(&leased, &rate);
                    }
                    Err(reason) => {
                        tracing::warn!(reason, "calls to the third party wait: no lease");
                        let wait = retries.next_delay(rand::random());
                        shared.state().lease_from = BootInstant::now() + wait;
                    }
                }
            }
            () = woken => {}
            () = shared.joined.notified() => {}
        }
    }
}

fn begin_lease(
    shared: &Shared,
    Wanted { next, all }: Wanted,
) -> BoxFuture<'static, Result<CallsLeased, String>> {
    let rate = shared.rate;
    let wanted = CallsWanted { rate, all, near: NEAR, next, far: rate.longest_wait() };
    let leasing = (shared.lease)(wanted);
    Box::pin(async move {
        let late = |_| Err("the database did not answer in time".to_owned());
        tokio::time::timeout(LEASE_LIMIT, leasing).await.unwrap_or_else(late)
    })
}

#[cfg(test)]
mod tests;
