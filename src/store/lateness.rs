//! How late jobs are because the database has too much to do, and how much of its time posts get then.
//!
//! Posts and jobs share the database. Where posts come faster than whole transactions are carried to
//! their end, a writer that takes all it can leaves the jobs less and less. So the worker of the
//! queue that calls nobody, whose jobs nothing but the database can delay, reports how late even its
//! newest claimed jobs are, and the writer of posts pauses after each batch: at twice the lateness
//! that is allowed, half of the time. Lateness grows while posts get more than their part and falls
//! while they get less, so that it comes to rest where as many are written as are carried to their
//! end. A pause makes the next batch larger, and so cheaper.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Even the latest jobs leave posts this part of the time.
const LEAST: f64 = 0.05;
/// A report that is older says nothing: no claim takes that long, so the worker has ended.
const FRESH: Duration = Duration::from_secs(15);

/// How late jobs are; shared by those who report it and those who go by it.
#[derive(Debug, Clone)]
pub struct Lateness {
    /// What jobs may be late without a pause; above zero.
    allowed: Duration,
    /// How late they are, and when that was reported.
    last: Arc<Mutex<Option<(Duration, Instant)>>>,
}

impl Lateness {
    /// Jobs may be this late before posts wait for them.
    pub fn new(allowed: Duration) -> Self {
        Self { allowed, last: Arc::default() }
    }

    /// Jobs are claimed this late, because of the database alone.
    pub fn report(&self, late: Duration, now: Instant) {
        *self.last() = Some((late, now));
    }

    /// How long the database is left to the jobs, after a batch that took this long.
    pub fn pause_after(&self, took: Duration, now: Instant) -> Duration {
        let last = self.last().filter(|(_, at)| now.saturating_duration_since(*at) < FRESH);
        let late = last.map_or(Duration::ZERO, |(late, _)| late);
        if late <= self.allowed {
            return Duration::ZERO;
        }
        let part = self.allowed.div_duration_f64(late).max(LEAST);
        took.mul_f64(1.0 / part - 1.0)
    }

    fn last(&self) -> MutexGuard<'_, Option<(Duration, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_jobs_are_the_longer_is_the_pause() {
        let ms = Duration::from_millis;
        let (lateness, now) = (Lateness::new(ms(150)), Instant::now());
        let pause = |late| {
            lateness.report(late, now);
            lateness.pause_after(ms(10), now)
        };
        assert_eq!(pause(Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(ms(150)), Duration::ZERO);
        assert_eq!(pause(ms(300)), ms(10));
        assert_eq!(pause(ms(600)), ms(30));
        assert_eq!(pause(Duration::from_secs(3_600)), ms(190));
        assert_eq!(pause(ms(100)), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_has_ended_delays_nobody() {
        let (lateness, now) = (Lateness::new(Duration::from_millis(150)), Instant::now());
        let took = Duration::from_millis(10);
        lateness.report(Duration::from_secs(9), now);
        assert!(lateness.pause_after(took, now + FRESH / 2) > Duration::ZERO);
        assert_eq!(lateness.pause_after(took, now + FRESH), Duration::ZERO);
    }
}
