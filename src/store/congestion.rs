//! Whether those that wait for a writer wait too long for another one to be let in.
//!
//! A queue that only a burst fills soon empties again, and costs little. One that stands, because
//! more comes than is written, only makes everybody wait, for ever: then whoever comes now is better
//! told at once. So waits are bounded strictly while the queue stands, and hardly at all before: the
//! idea of CoDel (RFC 8289) in the form that servers use ("Fail at Scale", ACM Queue 13(8), 2015).
//! Writers take all that waits, so that an empty queue says nothing here: what tells is how long the
//! longest of each batch has waited.
//!
//! Nobody who was let in is thrown out again: what is refused here was never queued, and so never
//! written.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A queue in which the longest wait of a batch is more than this, on average, stands.
const STANDING: Duration = Duration::from_millis(5);
/// The average is over about so many batches.
const SMOOTHING: u32 = 8;
/// What a longer wait counts as: a single one, as when the disk is slow for a moment, makes no queue
/// stand.
const LONG: Duration = STANDING.saturating_mul(SMOOTHING);
/// Longest wait while no writer takes anything, as when the database is away for a moment.
const STALLED: Duration = Duration::from_millis(500);
/// A queue that is empty stood until now if something was taken from it so short a time ago.
const RECENT: Duration = Duration::from_millis(10);

/// How a queue stands. What several threads do at once may be noted in either order: the estimate is
/// off by one request then.
#[derive(Debug)]
pub(super) struct Congestion {
    epoch: Instant,
    /// The one that waits longest came then or later; µs since `epoch`.
    oldest: AtomicU64,
    /// How long the longest of each batch waited, on average; µs.
    longest_wait: AtomicU64,
}

impl Congestion {
    pub(super) fn new(now: Instant) -> Self {
        Self { epoch: now, oldest: AtomicU64::new(0), longest_wait: AtomicU64::new(0) }
    }

    /// A request came; `first` where none waited.
    pub(super) fn came(&self, first: bool, now: Instant) {
        if first {
            self.oldest.store(self.micros(now), Ordering::Relaxed);
        }
    }

    /// A writer took all that waited, up to a number, which came from `oldest` to `newest`.
    pub(super) fn taken(&self, oldest: Instant, newest: Instant, now: Instant) {
        // Those that are left came later.
        self.oldest.store(self.micros(newest), Ordering::Relaxed);
        let wait = now.saturating_duration_since(oldest).min(LONG).as_micros() as u64;
        let (average, part) = (self.longest_wait.load(Ordering::Relaxed), u64::from(SMOOTHING));
        let average = average - average / part + wait / part;
        self.longest_wait.store(average, Ordering::Relaxed);
    }

    /// Whether another request would wait too long behind those that wait, while a queue that stands
    /// may make it wait for `target`.
    pub(super) fn is_too_long(&self, target: Duration, now: Instant) -> bool {
        let age = self.age(now);
        age > STALLED || (self.waits_are_long() && age > target)
    }

    /// Whether those that come wait long, batch after batch.
    pub(super) fn is_standing(&self, is_waited_for: bool, now: Instant) -> bool {
        // Waits are known by what is taken: where nothing comes any more, or the database is away,
        // they say nothing.
        self.waits_are_long() && self.age(now) < if is_waited_for { STALLED } else { RECENT }
    }

    fn waits_are_long(&self) -> bool {
        self.longest_wait.load(Ordering::Relaxed) > STANDING.as_micros() as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Has writers take batches of which the longest waits so long; returns when
    /// the last one was taken.
    fn work(queue: &Congestion, start: Instant, batches: u32, wait: Duration) -> Instant {
        let mut now = start;
        for _ in 0..batches {
            now += wait;
            queue.taken(now - wait, now, now);
        }
        now
    }

    #[test]
    fn a_burst_is_taken_up_and_a_standing_queue_is_not() {
        let start = Instant::now();
        let queue = Congestion::new(start);
        let now = work(&queue, start, 2, ms(15));
        assert!(
            !queue.is_standing(true, now) && !queue.is_too_long(TARGET, now + ms(30)),
            "a burst"
        );
        let now = work(&queue, now, 10, ms(15));
        assert!(queue.is_standing(true, now));
        assert!(!queue.is_too_long(TARGET, now + ms(20)), "they have come just now");
        assert!(queue.is_too_long(TARGET, now + ms(21)));
        // Waits are short again: the next burst is taken up.
        let now = work(&queue, now, 20, ms(2));
        assert!(!queue.is_standing(true, now) && !queue.is_too_long(TARGET, now + ms(30)));
    }

    #[test]
    fn short_waits_in_between_do_not_hide_that_it_stands() {
        let start = Instant::now();
        let queue = Congestion::new(start);
        let mut now = start;
        for _ in 0..10 {
            now = work(&queue, now, 3, ms(15));
            now = work(&queue, now, 1, ms(1));
        }
        assert!(queue.is_standing(true, now));
        assert!(queue.is_standing(true, now + ms(499)) && !queue.is_standing(true, now + ms(501)));
        // Nobody asks any more.
        assert!(queue.is_standing(false, now + ms(9)) && !queue.is_standing(false, now + ms(11)));
    }

    #[test]
    fn one_long_stall_is_no_standing_queue() {
        let start = Instant::now();
        let queue = Congestion::new(start);
        let now = work(&queue, start, 1, ms(5_000));
        assert!(!queue.is_standing(true, now) && !queue.is_too_long(TARGET, now + ms(30)));
    }

    #[test]
    fn nobody_is_let_in_behind_one_that_nobody_takes() {
        let start = Instant::now();
        let queue = Congestion::new(start);
        queue.came(true, start + ms(1_000));
        assert!(!queue.is_too_long(TARGET, start + ms(1_500)));
        assert!(queue.is_too_long(TARGET, start + ms(1_501)));
        // Others that came behind it change nothing.
        queue.came(false, start + ms(1_502));
        assert!(queue.is_too_long(TARGET, start + ms(1_503)));
        queue.taken(start + ms(1_502), start + ms(1_502), start + ms(1_504));
        queue.came(true, start + ms(9_000));
        assert!(!queue.is_too_long(TARGET, start + ms(9_001)));
    }
}
