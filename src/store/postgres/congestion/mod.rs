//! When a queue of a writer takes no more requests.
//!
//! A queue that a burst fills soon empties again: waiting in it loses nothing. One that stands,
//! because more comes than is written, only makes everybody wait. The difference is found as in
//! CoDel (RFC 8289): by the *shortest* wait in each interval. While writers take all that waits,
//! somebody has just come and waits for nothing, however long the batches are. Where even the
//! shortest wait of an interval is longer than a request may wait, the queue stands.
//!
//! While it stands, it is brought down to the length that is written in most of that time, at the
//! present pace (Little's law), and held there; what comes beyond it is refused, unless its owner has
//! less than its share of the queue (see [`super::line`]). That is done
//! gently: a queue that shrinks by itself, as after a stall, refuses nobody. So callers who wait
//! for their answer before they send the next request are slowed down, and refused only where they
//! are more than that. It no longer stands after a second in which it was never that long, nor
//! the shortest wait.
//!
//! Nothing that is in the queue is thrown out again: what is refused was never queued, and so never
//! written.

mod away;
#[cfg(test)]
mod pace_bound;
#[cfg(test)]
mod plot;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::away::Away;

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
/// Most that wait, however fast they are taken: a caller may give up and leave its request there.
const MOST_WAITING: usize = 4_096;
/// Longest wait while no writer takes anything, as when the database is away for a moment.
const STALLED: Duration = Duration::from_secs(1);

/// How a queue stands.
#[derive(Debug)]
pub(super) struct Congestion(Mutex<Waits>);

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
    away: Away,
}

/// A queue that stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    since: Instant,
    /// How many waited then.
    length: usize,
    /// When waits were last long, or as many waited as may.
    last_long: Instant,
}

impl Congestion {
    /// A queue in which a request may wait for `longest_wait`.
    pub(super) fn new(longest_wait: Duration, now: Instant) -> Self {
        Self(Mutex::new(Waits {
            longest_wait,
            began: now,
            shortest: None,
            taken: 0,
            pace: None,
            stands: None,
            away: Away::new(now),
        }))
    }

    /// A writer took as many as `count`, and left `left`. If the oldest are always taken first, the
    /// last of them arrived at `newest`.
    pub(super) fn taken(&self, count: usize, left: usize, newest: Instant, now: Instant) {
        let wait = now.saturating_duration_since(newest);
        self.waits().taken(count, left, wait, now);
    }

    /// How many may wait, where as many wait already, or more, since `oldest`; `None` where others
    /// may.
    pub(super) fn places(&self, waiting: usize, oldest: Instant, now: Instant) -> Option<f64> {
        let is_stalled = now.saturating_duration_since(oldest) > STALLED;
        if is_stalled || waiting >= MOST_WAITING {
            return Some(0.0);
        }
        self.waits().places(waiting, now)
    }

    /// Refuses a request; returns after how many seconds its caller should come back.
    pub(super) fn refuse(&self, now: Instant) -> u16 {
        let mut waits = self.waits();
        let pace = waits.pace.unwrap_or_default();
        waits.away.send(pace, rand::random(), now)
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn places(&mut self, waiting: usize, now: Instant) -> Option<f64> {
        let (standing, pace) = (self.stands?, self.pace?);
        let held = pace * self.longest_wait.as_secs_f64() * HELD;
        let halvings = now.saturating_duration_since(standing.since).div_duration_f64(HALVED);
        let above = (standing.length as f64 - held).max(0.0) * (-halvings).exp2();
        let places = (held + above).max(LEAST_WAITING);
        if (waiting as f64) < places {
            return None;
        }
        // However short waits are that are held short by this.
        self.stands = Some(Standing { last_long: now, ..standing });
        Some(places)
    }
}
