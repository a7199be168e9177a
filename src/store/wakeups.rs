//! In-process knowledge of when each queue's next job is due.
//!
//! Two sources feed it: hints, given by whoever in this process has just committed something that
//! makes a job due (exact, at once), and readings, taken every `WORKER__POLL_INTERVAL` by the
//! watcher of `jobs` for all queues in one statement (they bring what other processes wrote).
//! Neither has to be right: a worker that is woken asks the database, and a lost hint costs one
//! poll interval.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Hints further ahead than this are left to the readings, which will bring them in time.
const HORIZON: Duration = Duration::from_secs(2);

/// The wake-ups of all queues of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wakeups {
    queues: Arc<HashMap<&'static str, QueueSignal>>,
}

#[derive(Debug, Default)]
struct QueueSignal {
    state: Mutex<SignalState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct SignalState {
    /// Exact times at which jobs fall due, from this process.
    hints: BTreeSet<Instant>,
    /// When the earliest job is due, as last read. Taken by the worker that acts on it, so that
    /// one reading causes one claim.
    reading: Option<Instant>,
}

impl Wakeups {
    /// Wake-ups for `queues`; hints for other queues are dropped.
    pub fn new(queues: impl IntoIterator<Item = &'static str>) -> Self {
        let queues = queues.into_iter().map(|queue| (queue, QueueSignal::default())).collect();
        Self { queues: Arc::new(queues) }
    }

    /// A job of `queue` is due after `delay`; call this after the commit.
    pub fn hint(&self, queue: &str, delay: Duration) {
        if delay > HORIZON {
            return;
        }
        if let Some(signal) = self.queues.get(queue) {
            signal.update(|state| {
                state.hints.insert(Instant::now() + delay);
            });
        }
    }

    /// The earliest job of `queue` is due after `delay`, or none waits.
    pub fn read(&self, queue: &str, delay: Option<Duration>) {
        if let Some(signal) = self.queues.get(queue) {
            signal.update(|state| state.reading = delay.map(|delay| Instant::now() + delay));
        }
    }

    /// Returns when a job of `queue` is likely due.
    pub async fn due(&self, queue: &str) {
        let Some(signal) = self.queues.get(queue) else { return std::future::pending().await };
        loop {
            let changed = signal.changed.notified();
            match signal.take_due() {
                Next::Due => return,
                Next::At(instant) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(instant.into()) => {}
                        () = changed => {}
                    }
                }
                Next::Unknown => changed.await,
            }
        }
    }
}

enum Next {
    Due,
    At(Instant),
    Unknown,
}

impl QueueSignal {
    fn update(&self, change: impl FnOnce(&mut SignalState)) {
        // Nothing that is done under the lock can panic half-way through a change.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn take_due(&self) -> Next {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let later = state.hints.split_off(&(now + Duration::from_nanos(1)));
        let hinted = !state.hints.is_empty();
        state.hints = later;
        let read = state.reading.is_some_and(|reading| reading <= now);
        if read {
            state.reading = None;
        }
        if hinted || read {
            return Next::Due;
        }
        let earliest = [state.hints.first().copied(), state.reading].into_iter().flatten().min();
        earliest.map_or(Next::Unknown, Next::At)
    }
}

#[cfg(test)]
mod tests {
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
    async fn waits_until_the_earliest_of_hints_and_readings() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.read(QUEUE, Some(Duration::from_secs(60)));
        wakeups.hint(QUEUE, Duration::from_millis(20));
        let start = Instant::now();
        wakeups.due(QUEUE).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_later_reading_replaces_an_earlier_one() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.read(QUEUE, Some(Duration::ZERO));
        wakeups.read(QUEUE, None);
        assert!(wakeups.due(QUEUE).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_waiting_worker_is_woken_by_an_earlier_job() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.read(QUEUE, Some(Duration::from_secs(60)));
        let waiting = tokio::spawn({
            let wakeups = wakeups.clone();
            async move { wakeups.due(QUEUE).await }
        });
        tokio::task::yield_now().await;
        wakeups.hint(QUEUE, Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
}
