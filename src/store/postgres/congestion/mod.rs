//! When a queue of a writer takes no more requests.
//!
//! A queue that a burst fills soon empties again: waiting in it loses nothing. One that stands,
//! because more comes than is written, only makes everybody wait. The difference is found as in
//! CoDel (RFC 8289): by the *shortest* wait in each interval. While writers take all that waits,
//! somebody has just come and waits for nothing, however long the batches are. Where even the
//! shortest wait of an interval is longer than a request may wait, the queue stands.
//!
//! While it stands, it is brought down to the length that is written in most of that time, at the
//! present pace (Little's law), and held there; what comes beyond it is refused. That is done
//! gently: a queue that shrinks by itself, as after a stall, refuses nobody. So callers who wait
//! for their answer before they send the next request are slowed down, and refused only where they
//! are more than that. It no longer stands after a second without a refusal or a long shortest
//! wait.
//!
//! Nothing that is in the queue is thrown out again: what is refused was never queued, and so never
//! written.

#[cfg(test)]
mod pace_bound;
#[cfg(test)]
mod plot;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Over which the shortest wait is taken. CoDel's default.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long waits must be short before the queue no longer stands.
const CALM: Duration = Duration::from_secs(1);
/// Waits are short below this part of the longest wait.
const SHORT: f64 = 0.5;
/// A queue that stands is held at what is written in this part of the longest wait: the rest is for
/// what its requests wait while they are written.
const HELD: f64 = 0.6;
/// This many may always wait: with smaller batches each request would cost much more.
const LEAST_WAITING: f64 = 32.0;
/// In which what a queue is longer than it is held at, when it begins to stand, is halved.
const HALVED: Duration = Duration::from_millis(350);
/// Weight of the last interval in the pace.
const SMOOTHING: f64 = 0.25;
/// Longest wait while no writer takes anything, as when the database is away for a moment.
const STALLED: Duration = Duration::from_secs(1);

/// How a queue stands.
#[derive(Debug)]
pub(super) struct Congestion {
    epoch: Instant,
    /// The one that waits longest arrived then or later; µs since `epoch`.
    oldest: AtomicU64,
    waits: Mutex<Waits>,
}

/// What the last intervals say.
#[derive(Debug)]
struct Waits {
    /// How long a request may wait.
    longest_wait: Duration,
    /// When the present interval began, the shortest wait in it, and how many were taken.
    began: Instant,
    shortest: Option<Duration>,
    taken: usize,
    /// Taken in a second, on average; `None` before the first interval is over.
    pace: Option<f64>,
    stands: Option<Standing>,
}

/// A queue that stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    since: Instant,
    /// How many waited then.
    length: usize,
    /// When waits were last long, or a request was refused.
    last_long: Instant,
}

impl Congestion {
    /// A queue in which a request may wait for `longest_wait`.
    pub(super) fn new(longest_wait: Duration, now: Instant) -> Self {
        Self {
            epoch: now,
            oldest: AtomicU64::new(0),
            waits: Mutex::new(Waits {
                longest_wait,
                began: now,
                shortest: None,
                taken: 0,
                pace: None,
                stands: None,
            }),
        }
    }

    /// A request arrived, and none waited.
    pub(super) fn came_first(&self, now: Instant) {
        self.oldest.store(self.micros(now), Ordering::Relaxed);
    }

    /// A writer took `count` of those that wait, of which the last one arrived at `newest`, and
    /// left `left`.
    pub(super) fn taken(&self, count: usize, left: usize, newest: Instant, now: Instant) {
        // Those that are left arrived later.
        self.oldest.store(self.micros(newest), Ordering::Relaxed);
        let wait = now.saturating_duration_since(newest);
        self.waits().taken(count, left, wait, now);
    }

    /// Whether no other request is taken, where this many wait.
    pub(super) fn is_full(&self, waiting: usize, now: Instant) -> bool {
        waiting > 0 && (self.age(now) > STALLED || self.waits().is_full(waiting, now))
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago the one that waits longest arrived, at most.
    fn age(&self, now: Instant) -> Duration {
        let oldest = self.oldest.load(Ordering::Relaxed);
        Duration::from_micros(self.micros(now).saturating_sub(oldest))
    }

    fn micros(&self, at: Instant) -> u64 {
        // 500,000 years of them fit.
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }
}

impl Waits {
    fn taken(&mut self, count: usize, left: usize, wait: Duration, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed >= INTERVAL {
            self.end_interval(elapsed, count + left, now);
        }
        self.taken += count;
        self.shortest = Some(self.shortest.map_or(wait, |shortest| shortest.min(wait)));
    }

    fn end_interval(&mut self, elapsed: Duration, waiting: usize, now: Instant) {
        let pace = self.taken as f64 / elapsed.as_secs_f64();
        let before = self.pace.unwrap_or(pace);
        self.pace = Some(before + (pace - before) * SMOOTHING);
        let shortest = self.shortest.unwrap_or_default();
        self.stands = match self.stands {
            None if shortest > self.longest_wait => {
                Some(Standing { since: now, length: waiting, last_long: now })
            }
            Some(standing) if shortest > self.longest_wait.mul_f64(SHORT) => {
                Some(Standing { last_long: now, ..standing })
            }
            standing => {
                standing.filter(|standing| now.saturating_duration_since(standing.last_long) < CALM)
            }
        };
        (self.began, self.shortest, self.taken) = (now, None, 0);
    }

    fn is_full(&mut self, waiting: usize, now: Instant) -> bool {
        let (Some(standing), Some(pace)) = (self.stands, self.pace) else { return false };
        let held = pace * self.longest_wait.as_secs_f64() * HELD;
        let halvings = now.saturating_duration_since(standing.since).div_duration_f64(HALVED);
        let above = (standing.length as f64 - held).max(0.0) * (-halvings).exp2();
        let is_full = waiting as f64 >= (held + above).max(LEAST_WAITING);
        if is_full {
            // However short waits are that are held short by this.
            self.stands = Some(Standing { last_long: now, ..standing });
        }
        is_full
    }
}
