//! Another rule, which the simulation compares with Quartet's.
//!
//! It bounds the number of requests under way by what is written in the time that a request may
//! take, at the present pace, once the longest wait of each batch is long. But a batch is the wait
//! of whatever arrives just after it was taken: while many callers wait for their answers, batches
//! are large, and so all waits look long. And the bound follows the present pace, not the most that
//! is possible: it makes batches small, which makes them dear, which lowers the pace.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::simulation::Rule;

/// How long a request might take while the queue stood, by default.
const TARGET: Duration = Duration::from_millis(5);
/// Waits are long when the longest of a batch is more than this many times what the quickest batch
/// takes, and more than this many seconds, on average.
const LONG: (f64, f64) = (2.0, 0.002);
/// A request may take at least this many times what the quickest batch takes.
const SERVED: f64 = 4.0;
/// How long waits are long before the bound is drawn in.
const BURST: Duration = Duration::from_millis(100);
/// Averages are over about this many batches.
const SMOOTHING: f64 = 8.0;
/// No time counts for more than this many long waits.
const STALL: f64 = SMOOTHING / 2.0;
/// What the quickest batch counts as before one was done, in seconds.
const FIRST: f64 = 0.01;
/// Each batch that is not quicker makes the quickest count as slower by one part of this.
const FORGETTING: f64 = 1_024.0;
/// In which the bound doubles while waits are short,
const DOUBLED: Duration = Duration::from_secs(2);
/// until it is this many times as wide: then there is none. It also begins that wide.
const WIDE: f64 = 8.0;
/// At least this many requests are under way before one is refused.
const LEAST: usize = 8;
/// Longest wait while no writer takes anything.
const STALLED: Duration = Duration::from_millis(500);

/// How a queue stands; times in seconds.
pub(super) struct PaceBound {
    oldest: Instant,
    under_way: usize,
    /// How long the longest of each batch waited, on average.
    longest_wait: f64,
    long_since: Option<Instant>,
    taken: Instant,
    done: Instant,
    quickest: f64,
    took: f64,
    size: f64,
    /// How far the bound is let out, from 1 on.
    slack: Option<f64>,
}

impl PaceBound {
    /// What a wait that is long is longer than.
    fn long(&self) -> f64 {
        (LONG.0 * self.quickest).max(LONG.1)
    }

    fn bound(&self) -> Option<usize> {
        let target = TARGET.as_secs_f64().max(SERVED * self.quickest);
        self.slack.map(|slack| (slack * target * self.size / self.took) as usize)
    }
}

impl Rule for PaceBound {
    fn new(now: Instant) -> Self {
        Self {
            oldest: now,
            under_way: 0,
            longest_wait: 0.0,
            long_since: None,
            taken: now,
            done: now,
            quickest: FIRST,
            took: 0.0,
            size: 0.0,
            slack: None,
        }
    }

    fn is_full(&self, waiting: &VecDeque<Instant>, now: Instant) -> bool {
        if !waiting.is_empty() && now.saturating_duration_since(self.oldest) > STALLED {
            return true;
        }
        self.under_way >= LEAST && self.bound().is_some_and(|most| self.under_way >= most)
    }

    fn queued(&mut self, waiting: usize, now: Instant) {
        if waiting == 0 {
            self.oldest = now;
        }
        self.under_way += 1;
    }

    fn taken(&mut self, batch: &[Instant], _: usize, now: Instant) {
        let (Some(oldest), Some(newest)) = (batch.first(), batch.last()) else { return };
        self.oldest = *newest;
        if oldest.saturating_duration_since(self.done) > BURST {
            // After a pause it is another burst.
            (self.longest_wait, self.slack) = (0.0, None);
        }
        let long = self.long();
        let wait = now.saturating_duration_since(*oldest).as_secs_f64().min(STALL * long);
        self.longest_wait += (wait - self.longest_wait) / SMOOTHING;
        let apart = now.saturating_duration_since(self.taken);
        self.taken = now;
        self.slack = if self.longest_wait > long {
            let since = *self.long_since.get_or_insert(now);
            let stands = now.saturating_duration_since(since) >= BURST;
            Some(if stands { 1.0 } else { self.slack.unwrap_or(WIDE) })
        } else {
            self.long_since = self.long_since.filter(|_| self.slack.is_some());
            let let_out = apart.div_duration_f64(DOUBLED).exp2();
            self.slack.map(|slack| slack * let_out).filter(|slack| *slack < WIDE)
        };
    }

    fn done(&mut self, requests: usize, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        self.under_way -= requests;
        self.done = now;
        self.quickest = took.min(self.quickest * (1.0 + 1.0 / FORGETTING));
        self.took += (took.min(STALL * self.long()) - self.took) / SMOOTHING;
        self.size += (requests as f64 - self.size) / SMOOTHING;
    }
}
