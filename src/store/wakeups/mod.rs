//! In-process knowledge of when each queue's jobs are due.
//!
//! Each part of the process that learns of a due job reports it here: what has just committed one
//! ([`Wakeups::committed`]), a claim or a look that has seen the next one ([`Wakeups::seen`]), and
//! what has changed jobs without knowing when they are due ([`Wakeups::hint`]). A worker that is
//! woken asks the database, and a report that was lost costs a look of the watcher in `jobs`.
//!
//! What is due later wakes its worker at the next of the process's common ticks, so that one claim
//! takes all that has fallen due since the last one, of all queues.
//!
//! A report of a committed job also carries its `run_at`: claims start at a floor in the order of
//! `run_at`, which must not be above it ([`crate::domain::claim_plan`]).

pub mod announce;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::domain::claim_plan::Straggler;

/// Times that are kept for a queue. Of more, the latest are forgotten, and looked up in the
/// database when the last one that was kept has come.
const MAX_TIMES: usize = 10_000;

/// The time between two ticks. A job that is due after a delay waits so much longer at most.
const TICK: Duration = Duration::from_millis(20);

/// The wake-ups of all queues of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wakeups {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Ticks are counted from here.
    origin: Instant,
    queues: HashMap<&'static str, QueueSignal>,
    look: Notify,
}

#[derive(Debug, Default)]
struct QueueSignal {
    state: Mutex<SignalState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct SignalState {
    /// When jobs are due that are known of.
    times: BTreeSet<Instant>,
    /// From then on more may be due than is known.
    unknown_from: Option<Instant>,
    reports: Reports,
    backlog: Backlog,
}

/// What was reported since it was last taken.
#[derive(Debug, Default)]
pub struct Reports {
    /// The earliest `run_at` of the committed jobs.
    pub lowest: Option<DateTime<Utc>>,
    /// What the watcher found among the jobs that claims do not look at any more.
    pub stragglers: Option<Vec<Straggler>>,
}

/// What is left for the next claims of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// They find what was due from then on; `None` where nothing is known to be left.
    pub from: Option<DateTime<Utc>>,
    pub has_stragglers: bool,
}

impl Wakeups {
    /// Wake-ups for `queues`; reports about other queues are dropped.
    pub fn new(queues: impl IntoIterator<Item = &'static str>) -> Self {
        let queues = queues.into_iter().map(|queue| (queue, QueueSignal::default())).collect();
        let shared = Shared { origin: Instant::now(), queues, look: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Whether jobs of `queue` are run here.
    pub fn has(&self, queue: &str) -> bool {
        self.shared.queues.contains_key(queue)
    }

    /// Jobs of `queue` may be due after `delay`; call this after the commit. As it is not known
    /// which, the watcher looks, too.
    pub fn hint(&self, queue: &str, delay: Duration) {
        self.report(queue, delay, |_, _| {});
        self.shared.look.notify_one();
    }

    /// A claim of `queue` may give more than the last one.
    pub fn retry(&self, queue: &str) {
        self.report(queue, Duration::ZERO, |_, _| {});
    }

    /// A job of `queue` was committed that is due after `delay`.
    pub fn committed(&self, queue: &str, run_at: DateTime<Utc>, delay: Duration) {
        self.report(queue, delay, |state, _| state.reports.lower(run_at));
    }

    /// The next job of `queue` is due after `delay`; what comes after it is not known.
    pub fn seen(&self, queue: &str, delay: Duration) {
        self.report(queue, delay, |state, due| state.is_unknown_from(due));
    }

    /// The watcher found these.
    pub fn found(&self, queue: &str, stragglers: Vec<Straggler>) {
        self.report(queue, Duration::ZERO, |state, _| {
            state.backlog.has_stragglers = !stragglers.is_empty();
            state.reports.stragglers = Some(stragglers);
        });
    }

    fn report(&self, queue: &str, delay: Duration, change: impl FnOnce(&mut SignalState, Instant)) {
        let Some(signal) = self.shared.queues.get(queue) else { return };
        let mut due = Instant::now() + delay;
        if !delay.is_zero() {
            due = next_tick(self.shared.origin, due);
        }
        let mut state = signal.state();
        change(&mut state, due);
        state.add(due);
        let is_next = state.times.first() == Some(&due);
        drop(state);
        if is_next {
            signal.changed.notify_one();
        }
    }

    /// Returns when a job of `queue` is likely due. Tells whether it is unknown when the next one
    /// is: then the claim that follows must look.
    pub async fn due(&self, queue: &str) -> bool {
        let Some(signal) = self.shared.queues.get(queue) else {
            return std::future::pending().await;
        };
        loop {
            let changed = signal.changed.notified();
            let next = {
                let mut state = signal.state();
                let now = Instant::now();
                if state.times.first().is_some_and(|next| *next <= now) {
                    return state.take_due(now);
                }
                state.times.first().copied()
            };
            match next {
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// What was reported about `queue` since this was last called.
    pub fn take_reports(&self, queue: &str) -> Reports {
        let signal = self.shared.queues.get(queue);
        signal.map(|signal| std::mem::take(&mut signal.state().reports)).unwrap_or_default()
    }

    /// Records what the claims of `queue` have left.
    pub fn set_backlog(&self, queue: &str, backlog: Backlog) {
        let Some(signal) = self.shared.queues.get(queue) else { return };
        let before = std::mem::replace(&mut signal.state().backlog, backlog);
        if before.has_stragglers && !backlog.has_stragglers {
            // There may be more of them.
            self.shared.look.notify_one();
        }
    }

    /// What the claims of `queue` have left.
    pub fn backlog(&self, queue: &str) -> Backlog {
        let signal = self.shared.queues.get(queue);
        signal.map(|signal| signal.state().backlog).unwrap_or_default()
    }

    /// Returns when somebody wants the watcher to look.
    pub async fn look_wanted(&self) {
        self.shared.look.notified().await;
    }
}

impl QueueSignal {
    fn state(&self) -> MutexGuard<'_, SignalState> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first tick that is not before `at`.
fn next_tick(origin: Instant, at: Instant) -> Instant {
    let ticks = at.saturating_duration_since(origin).as_nanos().div_ceil(TICK.as_nanos());
    // A time that is too far away stays as it is.
    let ticks = u32::try_from(ticks).ok();
    ticks.and_then(|ticks| origin.checked_add(TICK * ticks)).unwrap_or(at)
}

impl SignalState {
    fn add(&mut self, due: Instant) {
        self.times.insert(due);
        if self.times.len() > MAX_TIMES {
            self.times.pop_last();
            if let Some(last) = self.times.last().copied() {
                self.is_unknown_from(last);
            }
        }
    }

    fn is_unknown_from(&mut self, at: Instant) {
        self.unknown_from = Some(self.unknown_from.map_or(at, |before| before.min(at)));
    }

    fn take_due(&mut self, now: Instant) -> bool {
        // All that are due now: one claim takes them.
        while self.times.first().is_some_and(|next| *next <= now) {
            self.times.pop_first();
        }
        self.unknown_from.take_if(|from| *from <= now).is_some()
    }
}

impl Reports {
    fn lower(&mut self, run_at: DateTime<Utc>) {
        self.lowest = Some(self.lowest.map_or(run_at, |lowest| lowest.min(run_at)));
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use futures_util::FutureExt;

    use super::*;

    const QUEUE: &str = "queue";

    #[tokio::test]
    async fn a_hint_given_before_the_wait_is_not_lost() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.hint(QUEUE, Duration::ZERO);
        wakeups.due(QUEUE).await;
        assert!(wakeups.due(QUEUE).now_or_never().is_none(), "one hint wakes once");
    }

    #[tokio::test]
    async fn waits_until_the_earliest_and_then_for_the_next() {
        let wakeups = Wakeups::new([QUEUE]);
        let now = Utc::now();
        wakeups.committed(QUEUE, now, Duration::from_millis(40));
        wakeups.committed(QUEUE, now, Duration::from_millis(20));
        let start = Instant::now();
        wakeups.due(QUEUE).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        wakeups.due(QUEUE).await;
        assert!(start.elapsed() >= Duration::from_millis(40));
    }

    #[tokio::test]
    async fn a_waiting_worker_is_woken_by_an_earlier_job() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.hint(QUEUE, Duration::from_secs(60));
        let waiting = tokio::spawn({
            let wakeups = wakeups.clone();
            async move { wakeups.due(QUEUE).await }
        });
        tokio::task::yield_now().await;
        wakeups.hint(QUEUE, Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_lowest_of_the_committed_jobs_is_reported_once() {
        let wakeups = Wakeups::new([QUEUE]);
        let now = Utc::now();
        let earlier = now - TimeDelta::milliseconds(5);
        for run_at in [now, earlier, now] {
            wakeups.committed(QUEUE, run_at, Duration::ZERO);
        }
        assert_eq!(wakeups.take_reports(QUEUE).lowest, Some(earlier));
        assert_eq!(wakeups.take_reports(QUEUE).lowest, None);
    }

    #[tokio::test]
    async fn after_what_was_seen_the_next_is_unknown() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.committed(QUEUE, Utc::now(), Duration::ZERO);
        assert!(!wakeups.due(QUEUE).await);
        wakeups.seen(QUEUE, Duration::from_millis(5));
        assert!(wakeups.due(QUEUE).await);
        wakeups.committed(QUEUE, Utc::now(), Duration::ZERO);
        assert!(!wakeups.due(QUEUE).await, "it was looked for");
    }

    #[test]
    fn more_times_than_are_kept_are_unknown() {
        let mut state = SignalState::default();
        let start = Instant::now();
        let at = |index: usize| start + TICK * index as u32;
        (0..=MAX_TIMES).for_each(|index| state.add(at(index)));
        assert_eq!(state.times.len(), MAX_TIMES);
        assert!(!state.take_due(at(MAX_TIMES - 2)));
        assert!(state.take_due(at(MAX_TIMES - 1)), "what comes next was not kept");
        assert!(state.times.is_empty());
    }

    #[test]
    fn ticks_are_common_and_never_early() {
        let origin = Instant::now();
        let tick = |count: u32| origin + TICK * count;
        let (early, late) = (Duration::from_millis(1), TICK - Duration::from_millis(1));
        assert_eq!(next_tick(origin, tick(3) + early), tick(4));
        assert_eq!(next_tick(origin, tick(3) + late), tick(4), "together with the one before");
        assert_eq!(next_tick(origin, tick(3)), tick(3));
        let fraction = tick(3) + Duration::from_nanos(100);
        assert_eq!(next_tick(origin, fraction), tick(4));
        let far = origin + Duration::from_secs(100 * 365 * 24 * 60 * 60);
        assert_eq!(next_tick(origin, far), far);
    }

    #[tokio::test]
    async fn queues_wake_at_the_same_tick_and_at_once_without_a_delay() {
        let wakeups = Wakeups::new([QUEUE, "other"]);
        let now = Utc::now();
        wakeups.committed(QUEUE, now, Duration::from_secs(60));
        wakeups.committed("other", now, Duration::from_secs(60) + TICK / 10);
        let first =
            |queue: &str| wakeups.shared.queues[queue].state().times.first().copied().unwrap();
        let apart = first("other") - first(QUEUE);
        assert_eq!(apart.as_nanos() % TICK.as_nanos(), 0, "{apart:?}");
        wakeups.committed(QUEUE, now, Duration::ZERO);
        assert!(wakeups.due(QUEUE).now_or_never().is_some(), "it does not wait for a tick");
    }
}
