//! Whether those that wait for a writer wait too long for another one to be let in.
//!
//! A queue that empties again and again takes a burst up, and costs little. One that stands, because
//! more comes than is written, only makes everybody wait, for ever: then whoever comes now is better
//! told at once. So waits are bounded strictly while the queue stands, and hardly at all before: the
//! rule of CoDel (RFC 8289) in the form that servers use ("Fail at Scale", ACM Queue 13(8), 2015).
//!
//! Nobody who was let in is thrown out again: what is refused here was never queued, and so never
//! written.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A queue that no writer has emptied for so long stands.
const STANDING: Duration = Duration::from_millis(100);
/// Longest wait while no writer takes anything, as when the database is away for a moment.
const STALLED: Duration = Duration::from_millis(500);
/// The queue does not stand.
const NEVER: u64 = u64::MAX;

/// How a queue stands. What several threads do at once may be noted in either order: the estimate is
/// off by one request then.
#[derive(Debug)]
pub(super) struct Congestion {
    epoch: Instant,
    /// The one that waits longest came then or later; µs since `epoch`.
    oldest: AtomicU64,
    /// Since when writers leave something; µs since `epoch`.
    standing_since: AtomicU64,
}

impl Congestion {
    pub(super) fn new(now: Instant) -> Self {
        Self { epoch: now, oldest: AtomicU64::new(0), standing_since: AtomicU64::new(NEVER) }
    }

    /// A request came; `first` where none waited.
    pub(super) fn came(&self, first: bool, now: Instant) {
        if first {
            self.oldest.store(self.micros(now), Ordering::Relaxed);
        }
    }

    /// A writer took requests, the last of which came at `newest`, and left some or none.
    pub(super) fn taken(&self, newest: Instant, leaves_some: bool, now: Instant) {
        // Those that are left came later.
        self.oldest.store(self.micros(newest), Ordering::Relaxed);
        if !leaves_some {
            self.standing_since.store(NEVER, Ordering::Relaxed);
        } else if self.standing_since.load(Ordering::Relaxed) == NEVER {
            self.standing_since.store(self.micros(now), Ordering::Relaxed);
        }
    }

    /// Whether another request would wait too long behind those that wait, while a queue that stands
    /// may make it wait for `target`.
    pub(super) fn is_too_long(&self, target: Duration, now: Instant) -> bool {
        let now = self.micros(now);
        let age = Duration::from_micros(now.saturating_sub(self.oldest.load(Ordering::Relaxed)));
        let standing = self.standing_since.load(Ordering::Relaxed);
        let stands = now.saturating_sub(standing) > STANDING.as_micros() as u64;
        age > STALLED || (stands && age > target)
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

    #[test]
    fn a_burst_is_taken_up_and_a_standing_queue_is_not() {
        let start = Instant::now();
        let queue = Congestion::new(start);
        queue.came(true, start);
        // It stands for 100 ms, and those that wait came 50 ms ago.
        queue.taken(start, true, start);
        queue.taken(start + ms(45), true, start + ms(95));
        assert!(!queue.is_too_long(TARGET, start + ms(99)), "that may be a burst");
        assert!(queue.is_too_long(TARGET, start + ms(101)));
        // Still more comes than is written, but those that wait have come just now.
        queue.taken(start + ms(130), true, start + ms(140));
        assert!(!queue.is_too_long(TARGET, start + ms(150)));
        assert!(queue.is_too_long(TARGET, start + ms(151)));
        // A writer has emptied it: the next burst is taken up again.
        queue.taken(start + ms(150), false, start + ms(160));
        queue.came(true, start + ms(170));
        assert!(!queue.is_too_long(TARGET, start + ms(300)));
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
        queue.taken(start + ms(1_502), false, start + ms(1_504));
        queue.came(true, start + ms(9_000));
        assert!(!queue.is_too_long(TARGET, start + ms(9_001)));
    }
}
