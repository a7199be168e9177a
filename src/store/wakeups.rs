//! In-process knowledge of when each queue's next job is due.
//!
//! Whoever learns that a job falls due says so: what has just committed something (at once), each
//! claim (which tells when the next job of its queue falls due), and the watcher of `jobs` (which
//! hears of other processes and looks from time to time). Nothing of it has to be right: a worker
//! that is woken asks the database, and a hint that was lost costs a look of the watcher.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// The wake-ups of all queues of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wakeups {
    queues: Arc<HashMap<&'static str, QueueSignal>>,
}

#[derive(Debug, Default)]
struct QueueSignal {
    /// When the earliest job is due that is known of.
    next: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Wakeups {
    /// Wake-ups for `queues`; hints for other queues are dropped.
    pub fn new(queues: impl IntoIterator<Item = &'static str>) -> Self {
        let queues = queues.into_iter().map(|queue| (queue, QueueSignal::default())).collect();
        Self { queues: Arc::new(queues) }
    }

    /// A job of `queue` is due after `delay`; call this after the commit.
    pub fn hint(&self, queue: &str, delay: Duration) {
        let Some(signal) = self.queues.get(queue) else { return };
        let due = Instant::now() + delay;
        let mut next = signal.next();
        if next.is_none_or(|next| due < next) {
            *next = Some(due);
            drop(next);
            signal.changed.notify_one();
        }
    }

    /// Returns when a job of `queue` is likely due. What was known is forgotten then: the claim that
    /// follows tells more.
    pub async fn due(&self, queue: &str) {
        let Some(signal) = self.queues.get(queue) else { return std::future::pending().await };
        loop {
            let changed = signal.changed.notified();
            let next = {
                let mut next = signal.next();
                if next.is_some_and(|next| next <= Instant::now()) {
                    *next = None;
                    return;
                }
                *next
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
}

impl QueueSignal {
    fn next(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn waits_until_the_earliest() {
        let wakeups = Wakeups::new([QUEUE]);
        wakeups.hint(QUEUE, Duration::from_secs(60));
        wakeups.hint(QUEUE, Duration::from_millis(20));
        let start = Instant::now();
        wakeups.due(QUEUE).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(start.elapsed() < Duration::from_secs(30));
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
}
