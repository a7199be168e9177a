//! How many requests a queue of a writer takes before it refuses more.
//!
//! A queue that only a burst fills soon empties again, and costs little. One that stands, because
//! more comes than is written, only makes everybody wait, for ever: then whoever comes now is better
//! told at once. So nothing is refused until those that come wait long, batch after batch. Then the
//! number of requests under way is bounded: widely at first, and after a while, as in CoDel (RFC
//! 8289), by what is written in the time that a request may take (Little's law). While waits are short
//! the bound is let out, until it is off: slowly, because one that is soon off lets in burst after
//! burst. What is under way and not only what waits is counted, because writers take all that waits.
//!
//! A bound on requests leaves room for everything else: where posts come twice as fast as whole
//! transactions can be carried to their end, about as many posts are taken as transactions end, and
//! jobs need not be slowed down for them.
//!
//! How long is long depends on the database: whoever comes just after a batch was taken waits for all
//! of it, and where each commit crosses a network that is no sign of anything. So it is measured by
//! the quickest of the batches.
//!
//! Nobody who was let in is thrown out again: what is refused here was never queued, and so never
//! written.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Waits are long when the longest of a batch is more than so many times what the quickest batch
/// takes, and more than this, on average.
const LONG: (f64, f64) = (2.0, 0.002);
/// So many times what the quickest batch takes each request may take at least: it waits for one batch
/// and is written by the next. With less, smaller batches would be slower, and so even smaller.
const SERVED: f64 = 4.0;
/// So long they must be before the bound is drawn in: a burst is over by then.
const WHILE: Duration = Duration::from_millis(100);
/// Averages are over about so many batches.
const SMOOTHING: f64 = 8.0;
/// No time counts for more than so many long waits: a single one, as when the disk is slow for a moment,
/// makes no queue stand.
const STALL: f64 = SMOOTHING / 2.0;
/// What the quickest batch counts as before one was done; s.
const FIRST: f64 = 0.01;
/// Each batch that is not quicker makes the quickest count as slower by one part of this: it is
/// forgotten after a few thousand.
const FORGETTING: f64 = 1_024.0;
/// While waits are short the bound doubles in so long,
const DOUBLED: Duration = Duration::from_secs(2);
/// until so many times as many are let in: then there is none. So wide it also begins.
const WIDE: f64 = 8.0;
/// So many requests at least are under way before one is refused.
const FEW: usize = 8;
/// Longest wait while no writer takes anything, as when the database is away for a moment.
const STALLED: Duration = Duration::from_millis(500);

/// How a queue stands.
#[derive(Debug)]
pub(super) struct Congestion {
    epoch: Instant,
    /// The one that waits longest came then or later; µs since `epoch`.
    oldest: AtomicU64,
    under_way: AtomicUsize,
    batches: Mutex<Batches>,
}

/// What the last batches tell; times in seconds.
#[derive(Debug)]
struct Batches {
    /// How long the longest of each waited, on average.
    longest_wait: f64,
    /// Since when it is long; none: it is not.
    long_since: Option<Instant>,
    /// When the last one was taken, and done.
    taken: Instant,
    done: Instant,
    /// How long the quickest took.
    quickest: f64,
    /// How long each took, and how many requests it had, on average.
    took: f64,
    size: f64,
    /// How far the bound is let out, from 1 on; none: there is no bound.
    slack: Option<f64>,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a Congestion);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Congestion {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            oldest: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            batches: Mutex::new(Batches {
                longest_wait: 0.0,
                long_since: None,
                taken: now,
                done: now,
                quickest: FIRST,
                took: 0.0,
                size: 0.0,
                slack: None,
            }),
        }
    }

    /// A request came; `first` where none waited.
    pub(super) fn came(&self, first: bool, now: Instant) -> UnderWay<'_> {
        if first {
            self.oldest.store(self.micros(now), Ordering::Relaxed);
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// A writer took all that waited, up to a number, which came from `oldest` to `newest`.
    pub(super) fn taken(&self, oldest: Instant, newest: Instant, now: Instant) {
        // Those that are left came later.
        self.oldest.store(self.micros(newest), Ordering::Relaxed);
        self.batches().taken(oldest, now);
    }

    /// A batch of so many was done.
    pub(super) fn done(&self, requests: usize, took: Duration, now: Instant) {
        self.batches().done(requests, took.as_secs_f64(), now);
    }

    /// Whether no other request is let in, which may take `target` while the queue stands.
    pub(super) fn is_full(&self, is_waited_for: bool, target: Duration, now: Instant) -> bool {
        if is_waited_for && self.age(now) > STALLED {
            return true;
        }
        let under_way = self.under_way.load(Ordering::Relaxed);
        under_way >= FEW && self.batches().bound(target).is_some_and(|most| under_way >= most)
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago the one that waits longest came, at most.
    fn age(&self, now: Instant) -> Duration {
        let oldest = self.oldest.load(Ordering::Relaxed);
        Duration::from_micros(self.micros(now).saturating_sub(oldest))
    }

    fn micros(&self, at: Instant) -> u64 {
        // 500,000 years of them fit.
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }
}

impl Batches {
    fn taken(&mut self, oldest: Instant, now: Instant) {
        if oldest.saturating_duration_since(self.done) > WHILE {
            // After a pause it is another burst.
            (self.longest_wait, self.slack) = (0.0, None);
        }
        let long = self.long();
        let wait = now.saturating_duration_since(oldest).as_secs_f64().min(STALL * long);
        self.longest_wait += (wait - self.longest_wait) / SMOOTHING;
        let apart = now.saturating_duration_since(self.taken);
        self.taken = now;
        self.slack = if self.longest_wait > long {
            let since = *self.long_since.get_or_insert(now);
            let stands = now.saturating_duration_since(since) >= WHILE;
            Some(if stands { 1.0 } else { self.slack.unwrap_or(WIDE) })
        } else {
            // A moment without is no end of it, while there is a bound.
            self.long_since = self.long_since.filter(|_| self.slack.is_some());
            let let_out = apart.div_duration_f64(DOUBLED).exp2();
            self.slack.map(|slack| slack * let_out).filter(|slack| *slack < WIDE)
        };
    }

    fn done(&mut self, requests: usize, took: f64, now: Instant) {
        self.done = now;
        self.quickest = took.min(self.quickest * (1.0 + 1.0 / FORGETTING));
        self.took += (took.min(STALL * self.long()) - self.took) / SMOOTHING;
        self.size += (requests as f64 - self.size) / SMOOTHING;
    }

    /// What a wait that is long is longer than.
    fn long(&self) -> f64 {
        (LONG.0 * self.quickest).max(LONG.1)
    }

    /// How many may be under way, of which each may take `target`.
    fn bound(&self, target: Duration) -> Option<usize> {
        let target = target.as_secs_f64().max(SERVED * self.quickest);
        // Out of range where nothing was done yet, which is no bound.
        self.slack.map(|slack| (slack * target * self.size / self.took) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A queue of which the quickest batch took 1 ms: waits of more than 2 ms are long.
    fn queue(start: Instant) -> Congestion {
        let queue = Congestion::new(start);
        queue.done(1, ms(1), start);
        queue
    }

    /// Has a writer do batches of ten, of which the longest waits so long, in 4 ms each; returns when
    /// the last one was done.
    fn work(queue: &Congestion, start: Instant, batches: u32, wait: Duration) -> Instant {
        let mut now = start;
        for _ in 0..batches {
            queue.taken(now, now + wait, now + wait);
            now += wait;
            queue.done(10, ms(4), now);
        }
        now
    }

    /// Has a writer do batches of one, each of which waits and takes so long; returns when the last one
    /// was done.
    fn one_by_one(queue: &Congestion, start: Instant, batches: u32, took: Duration) -> Instant {
        let mut now = start;
        for _ in 0..batches {
            queue.taken(now, now + took, now + took);
            now += took;
            queue.done(1, took, now);
        }
        now
    }

    /// How many the queue lets in.
    fn room(queue: &Congestion, now: Instant) -> usize {
        let mut let_in = Vec::new();
        while let_in.len() < 1_000 && !queue.is_full(false, TARGET, now) {
            let_in.push(queue.came(false, now));
        }
        let_in.len()
    }

    #[test]
    fn a_burst_is_taken_up_and_a_standing_queue_is_bounded() {
        let start = Instant::now();
        let queue = queue(start);
        let now = work(&queue, start, 12, ms(8));
        assert!((390..=400).contains(&room(&queue, now)), "a burst");
        let now = work(&queue, now, 50, ms(8));
        // 20 ms at 0.4 ms each.
        assert!((48..=50).contains(&room(&queue, now)));
        // Waits are short again: twice as many in 2 s, and after 6 s the next burst is taken up.
        let now = work(&queue, now, 2_000, ms(1));
        let some = room(&queue, now);
        assert!((90..=100).contains(&some), "{some}: slowly");
        let now = work(&queue, now, 4_100, ms(1));
        assert_eq!(room(&queue, now), 1_000);
    }

    #[test]
    fn after_a_pause_a_burst_is_taken_up() {
        let start = Instant::now();
        let queue = queue(start);
        let now = work(&queue, start, 50, ms(8));
        assert!(room(&queue, now) <= 50);
        let now = work(&queue, now + ms(101), 1, ms(8));
        assert_eq!(room(&queue, now), 1_000);
    }

    #[test]
    fn short_waits_in_between_do_not_hide_that_it_stands() {
        let start = Instant::now();
        let queue = queue(start);
        let mut now = start;
        for _ in 0..20 {
            now = work(&queue, now, 3, ms(8));
            now = work(&queue, now, 1, ms(1));
        }
        assert!(room(&queue, now) < 60);
    }

    #[test]
    fn a_few_are_let_in_however_slow_it_is() {
        let start = Instant::now();
        let queue = queue(start);
        let now = one_by_one(&queue, start, 50, ms(90));
        assert_eq!(room(&queue, now), FEW);
    }

    #[test]
    fn waiting_for_one_distant_commit_is_not_long() {
        let start = Instant::now();
        let queue = Congestion::new(start);
        let now = one_by_one(&queue, start, 10_000, ms(30));
        assert_eq!(room(&queue, now), 1_000);
    }

    #[test]
    fn one_long_stall_is_no_standing_queue() {
        let start = Instant::now();
        let queue = queue(start);
        let now = work(&queue, start, 20, ms(1));
        let now = one_by_one(&queue, now, 1, ms(5_000));
        assert_eq!(room(&queue, work(&queue, now, 10, ms(1))), 1_000);
    }

    #[test]
    fn nobody_is_let_in_behind_one_that_nobody_takes() {
        let start = Instant::now();
        let queue = queue(start);
        let _first = queue.came(true, start + ms(1_000));
        assert!(!queue.is_full(true, TARGET, start + ms(1_500)));
        assert!(queue.is_full(true, TARGET, start + ms(1_501)));
        // Others that came behind it change nothing.
        let _second = queue.came(false, start + ms(1_502));
        assert!(queue.is_full(true, TARGET, start + ms(1_503)));
        queue.taken(start + ms(1_502), start + ms(1_502), start + ms(1_504));
        let _third = queue.came(true, start + ms(9_000));
        assert!(!queue.is_full(true, TARGET, start + ms(9_001)));
    }
}
