//! The line before the writers of one kind of batch: owners take turns.
//!
//! One that puts in more than is written waits behind itself, and not the others behind it. Where
//! the line is as long as it may be, an owner that has less than its share of it goes on putting in.

use std::{
    collections::VecDeque,
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use crate::domain::FairQueue;

/// What waits, each of an owner.
pub(super) struct Line<K, T> {
    waiting: Mutex<Waiting<K, T>>,
    changed: Notify,
}

struct Waiting<K, T> {
    queue: FairQueue<K, T>,
    /// When those arrived that would wait if the oldest were always taken first.
    arrivals: VecDeque<Instant>,
    is_closed: bool,
}

/// What was taken out of a line.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub items: Vec<T>,
    /// How many are left.
    pub left: usize,
    /// When the newest one arrived that would be among them if the oldest were always taken first:
    /// the wait of an owner that puts in little says nothing about how the line stands.
    pub newest: Instant,
}

impl<K, T> fmt::Debug for Line<K, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Line").finish_non_exhaustive()
    }
}

impl<K, T> Default for Line<K, T> {
    fn default() -> Self {
        let waiting =
            Waiting { queue: FairQueue::default(), arrivals: VecDeque::new(), is_closed: false };
        Self { waiting: Mutex::new(waiting), changed: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash, T> Line<K, T> {
    /// Puts an item in, which arrived at `now`; returns whether the line is open.
    pub(super) fn put(&self, owner: K, item: T, now: Instant) -> bool {
        let mut waiting = self.waiting();
        if waiting.is_closed {
            return false;
        }
        waiting.queue.push(owner, item);
        waiting.arrivals.push_back(now);
        drop(waiting);
        self.changed.notify_one();
        true
    }

    /// Takes up to `most` of those that wait, and waits for the first one; `None` once the line is
    /// closed and empty. Nothing is lost where this is dropped.
    pub(super) async fn take(&self, most: usize) -> Option<Taken<T>> {
        loop {
            // From now on nothing that is put in is missed.
            let changed = self.changed.notified();
            let (taken, is_closed) = {
                let mut waiting = self.waiting();
                (waiting.take(most), waiting.is_closed)
            };
            if taken.as_ref().is_some_and(|taken| taken.left > 0) {
                // For the next one that takes.
                self.changed.notify_one();
            }
            if taken.is_some() || is_closed {
                return taken;
            }
            changed.await;
        }
    }

    /// Nothing is put in any more.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.changed.notify_waiters();
    }

    /// Drops what is left.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting();
        (waiting.queue, waiting.arrivals) = (FairQueue::default(), VecDeque::new());
    }

    /// How many wait, and since when; `None` where none does.
    pub(super) fn standing(&self) -> Option<(usize, Instant)> {
        let waiting = self.waiting();
        Some((waiting.queue.len(), *waiting.arrivals.front()?))
    }

    /// Whether `owner` has its share of this many places.
    pub(super) fn has_its_share(&self, owner: &K, places: f64) -> bool {
        let queue = &self.waiting().queue;
        let own = queue.count_of(owner);
        let owners = queue.owners() + usize::from(own == 0);
        ((own + 1) * owners) as f64 > places
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<K, T>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T> Waiting<K, T> {
    fn take(&mut self, most: usize) -> Option<Taken<T>> {
        let count = self.queue.len().min(most);
        let newest = self.arrivals.drain(..count).next_back()?;
        let items = std::iter::from_fn(|| self.queue.pop()).take(count).collect();
        Some(Taken { items, left: self.queue.len(), newest })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures_util::FutureExt;

    use super::*;
    use crate::store::postgres::congestion::Congestion;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_taken_says_how_the_line_stands() {
        let (line, start) = (Line::default(), Instant::now());
        for at in 0..6 {
            line.put('a', at, start + ms(at));
        }
        line.put('b', 6, start + ms(6));
        assert_eq!(line.standing(), Some((7, start)));
        let taken = line.take(3).now_or_never().flatten().unwrap();
        assert_eq!((taken.items, taken.left), (vec![0, 6, 1], 4));
        assert_eq!(taken.newest, start + ms(2));
        assert_eq!(line.standing(), Some((4, start + ms(3))));
        line.clear();
        assert_eq!(line.standing(), None);
    }

    #[test]
    fn one_that_has_less_than_its_share_goes_on() {
        let (line, now) = (Line::default(), Instant::now());
        assert!(!line.has_its_share(&'a', 32.0));
        let put = |owner, count| (0..count).for_each(|_| assert!(line.put(owner, (), now)));
        put('a', 32);
        assert!(line.has_its_share(&'a', 32.0));
        assert!(!line.has_its_share(&'b', 32.0));
        put('b', 15);
        assert!(!line.has_its_share(&'b', 32.0));
        put('b', 1);
        assert!(line.has_its_share(&'b', 32.0), "half of it");
        // Where there are as many owners as places nobody has a share.
        (0..32_u8).for_each(|owner| put(owner.into(), 1));
        assert!(line.has_its_share(&'z', 32.0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everything_is_taken_once_by_those_that_wait_for_it() {
        let line = Arc::new(Line::default());
        let take_all = |line: Arc<Line<u64, u64>>| async move {
            let mut items = Vec::new();
            while let Some(taken) = line.take(3).await {
                items.extend(taken.items);
                tokio::task::yield_now().await;
                // One that stops waiting takes nothing with it.
                if let Some(Some(taken)) = line.take(1).now_or_never() {
                    items.extend(taken.items);
                }
            }
            items
        };
        let takers = [(); 3].map(|()| tokio::spawn(take_all(line.clone())));
        for item in 0..1_000 {
            assert!(line.put(item % 7, item, Instant::now()));
            if item % 5 == 0 {
                tokio::task::yield_now().await;
            }
        }
        line.close();
        assert!(!line.put(0, 0, Instant::now()));
        let mut items = Vec::new();
        for taker in takers {
            let taken = tokio::time::timeout(Duration::from_secs(10), taker).await;
            items.extend(taken.expect("it ends with the line").unwrap());
        }
        items.sort_unstable();
        assert_eq!(items, (0..1_000).collect::<Vec<_>>());
    }

    /// Twice what is written is put in by one owner, and a hundredth of it by another one.
    #[test]
    fn one_that_puts_in_too_much_is_refused_alone() {
        const BATCH: usize = 128;
        const LONGEST_WAIT: Duration = Duration::from_millis(150);
        let took = ms(34);
        let capacity = BATCH as f64 / took.as_secs_f64();
        let (line, start) = (Line::default(), Instant::now());
        let congestion = Congestion::new(LONGEST_WAIT, start);
        let (mut busy_until, mut put) = (start, [0.0, 0.0]);
        let (mut refused, mut longest_wait) = ([0, 0], [Duration::ZERO; 2]);
        for tenths in 0..200_000 {
            let now = start + Duration::from_micros(100) * tenths;
            for (owner, load) in [2.0, 0.01].into_iter().enumerate() {
                while put[owner] < load * capacity * (now - start).as_secs_f64() {
                    put[owner] += 1.0;
                    let places = line
                        .standing()
                        .and_then(|(waiting, oldest)| congestion.places(waiting, oldest, now));
                    match places {
                        Some(places) if line.has_its_share(&owner, places) => refused[owner] += 1,
                        _ => assert!(line.put(owner, (owner, now), now)),
                    }
                }
            }
            if now >= busy_until
                && let Some(taken) = line.take(BATCH).now_or_never().flatten()
            {
                congestion.taken(taken.items.len(), taken.left, taken.newest, now);
                for (owner, since) in taken.items {
                    longest_wait[owner] = longest_wait[owner].max(now - since);
                }
                busy_until = now + took;
            }
        }
        let case = format!("{refused:?} refused, {longest_wait:?}");
        assert!(refused[0] as f64 > 0.4 * put[0], "{case}");
        assert_eq!(refused[1], 0, "{case}");
        assert!(longest_wait[1] < took * 3 / 2, "{case}");
    }
}
