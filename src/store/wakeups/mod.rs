//! In-process knowledge of when each queue's jobs are due.
//!
//! Each part of the process that learns of a due job reports it here: what has just committed one
//! ([`Wakeups::committed`]), a claim or a look that has seen the next one ([`Wakeups::seen`]), and
//! what has changed jobs without knowing when they are due ([`Wakeups::hint`]). A worker that is
//! woken asks the database, and a report that was lost costs a look of the watcher in `jobs`.
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

/// While jobs are claimed with a lag, the lag is read again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The wake-ups of all queues of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wakeups {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
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
    /// A claim is to look now, whatever the lag: for something else than what falls due.
    looks_now: bool,
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
        Self { shared: Arc::new(Shared { queues, look: Notify::new() }) }
    }

    /// Whether jobs of `queue` are run here.
    pub fn has(&self, queue: &str) -> bool {
        self.shared.queues.contains_key(queue)
    }

    /// Jobs of `queue` may be due after `delay`; call this after the commit. As it is not known
    /// which, the watcher looks, too.
    pub fn hint(&self, queue: &str, delay: Duration) {
        self.report(queue, delay, |state| state.looks_now |= delay.is_zero());
        self.shared.look.notify_one();
    }

    /// A claim of `queue` may give more than the last one.
    pub fn retry(&self, queue: &str) {
        self.report(queue, Duration::ZERO, |state| state.looks_now = true);
    }

    /// A job of `queue` was committed that is due after `delay`.
    pub fn committed(&self, queue: &str, run_at: DateTime<Utc>, delay: Duration) {
        self.report(queue, delay, |state| state.reports.lower(run_at));
    }

    /// The next job of `queue` is `due` then; what comes after it is not known.
    pub fn seen(&self, queue: &str, due: Instant) {
        self.report_at(queue, due, |state| state.is_unknown_from(due));
    }

    /// The watcher found these.
    pub fn found(&self, queue: &str, stragglers: Vec<Straggler>) {
        self.report(queue, Duration::ZERO, |state| {
            state.backlog.has_stragglers = !stragglers.is_empty();
            state.reports.stragglers = Some(stragglers);
            state.looks_now = true;
        });
    }

    fn report(&self, queue: &str, delay: Duration, change: impl FnOnce(&mut SignalState)) {
        self.report_at(queue, Instant::now() + delay, change);
    }

    fn report_at(&self, queue: &str, due: Instant, change: impl FnOnce(&mut SignalState)) {
        let Some(signal) = self.shared.queues.get(queue) else { return };
        let mut state = signal.state();
        change(&mut state);
        state.times.insert(due);
        if state.times.len() > MAX_TIMES {
            state.times.pop_last();
            if let Some(last) = state.times.last().copied() {
                state.is_unknown_from(last);
            }
        }
        let is_next = state.looks_now || state.times.first() == Some(&due);
        drop(state);
        if is_next {
            signal.changed.notify_one();
        }
    }

    /// Waits until a job of `queue` has likely been due for the current `lag`, or a claim is to look
    /// for another reason. Returns whether it is unknown when the next one is due: then the claim
    /// that follows must look.
    pub async fn due(&self, queue: &str, lag: impl Fn() -> Duration) -> bool {
        let Some(signal) = self.shared.queues.get(queue) else {
            return std::future::pending().await;
        };
        loop {
            let changed = signal.changed.notified();
            let next = {
                let mut state = signal.state();
                let (now, lag) = (Instant::now(), lag());
                let next = state.times.first().map(|due| *due + lag);
                if std::mem::take(&mut state.looks_now) || next.is_some_and(|next| next <= now) {
                    return state.take_due(now.checked_sub(lag).unwrap_or(now));
                }
                next.map(|next| if lag.is_zero() { next } else { next.min(now + LOOK_AGAIN) })
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

impl SignalState {
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

    fn on_time() -> Duration {
        Duration::ZERO
    }

    #[tokio::test]
    async fn a_hint_given_before_the_wait_is_not_lost() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.hint(QUEUE, Duration::ZERO);
        wakeups.due(QUEUE, on_time).await;
        assert!(wakeups.due(QUEUE, on_time).now_or_never().is_none(), "one hint wakes once");
    }

    #[tokio::test]
    async fn waits_until_the_earliest_and_then_for_the_next() {
        let wakeups = Wakeups::new([QUEUE]);
        let now = Utc::now();
        wakeups.committed(QUEUE, now, Duration::from_millis(40));
        wakeups.committed(QUEUE, now, Duration::from_millis(20));
        let start = Instant::now();
        wakeups.due(QUEUE, on_time).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        wakeups.due(QUEUE, on_time).await;
        assert!(start.elapsed() >= Duration::from_millis(40));
    }

    #[tokio::test]
    async fn waits_for_as_long_as_the_lag_lasts() {
        let wakeups = Wakeups::new([QUEUE]);
        let (start, ends) = (Instant::now(), Duration::from_millis(60));
        wakeups.committed(QUEUE, Utc::now(), Duration::ZERO);
        let lag = || match start.elapsed() < ends {
            true => Duration::from_secs(60),
            false => Duration::ZERO,
        };
        wakeups.due(QUEUE, lag).await;
        assert!(start.elapsed() >= ends);
        // Not yet due by a clock that lags, and so not forgotten.
        wakeups.committed(QUEUE, Utc::now(), Duration::ZERO);
        wakeups.committed(QUEUE, Utc::now(), Duration::from_millis(30));
        let lag = Duration::from_millis(20);
        wakeups.due(QUEUE, || lag).await;
        assert!(start.elapsed() >= ends + lag);
        wakeups.due(QUEUE, || lag).await;
        assert!(start.elapsed() >= ends + lag + Duration::from_millis(10));
    }

    #[tokio::test]
    async fn what_does_not_fall_due_waits_for_no_lag() {
        let (wakeups, lag) = (Wakeups::new([QUEUE]), || Duration::from_secs(60));
        wakeups.committed(QUEUE, Utc::now(), Duration::ZERO);
        assert!(wakeups.due(QUEUE, lag).now_or_never().is_none());
        let waiting = tokio::spawn({
            let wakeups = wakeups.clone();
            async move { wakeups.due(QUEUE, lag).await }
        });
        tokio::task::yield_now().await;
        wakeups.retry(QUEUE);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        wakeups.found(QUEUE, Vec::new());
        assert!(wakeups.due(QUEUE, lag).now_or_never().is_some());
        assert!(wakeups.due(QUEUE, lag).now_or_never().is_none(), "it wakes once");
    }

    #[tokio::test]
    async fn a_waiting_worker_is_woken_by_an_earlier_job() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.hint(QUEUE, Duration::from_secs(60));
        let waiting = tokio::spawn({
            let wakeups = wakeups.clone();
            async move { wakeups.due(QUEUE, on_time).await }
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
        assert!(!wakeups.due(QUEUE, on_time).await);
        wakeups.seen(QUEUE, Instant::now() + Duration::from_millis(5));
        assert!(wakeups.due(QUEUE, on_time).await);
        wakeups.committed(QUEUE, Utc::now(), Duration::ZERO);
        assert!(!wakeups.due(QUEUE, on_time).await, "it was looked for");
    }

    #[tokio::test]
    async fn more_times_than_are_kept_are_unknown() {
        let wakeups = Wakeups::new([QUEUE]);
        let now = Utc::now();
        for index in 0..=MAX_TIMES as u64 {
            let delay = Duration::from_millis(20) + Duration::from_micros(index);
            wakeups.committed(QUEUE, now, delay);
        }
        while !wakeups.due(QUEUE, on_time).await {}
        assert!(wakeups.due(QUEUE, on_time).now_or_never().is_none());
    }
}
