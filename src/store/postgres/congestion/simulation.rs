//! One writer and the queue before it, in simulated time, under either rule.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Congestion;

pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(150);
const MAX_BATCH: usize = 128;
/// What a batch takes, and each of its requests.
const BATCH: Duration = Duration::from_millis(2);
const EACH: Duration = Duration::from_micros(250);
const TICK: Duration = Duration::from_micros(100);

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn took(requests: usize) -> Duration {
    BATCH + EACH * requests as u32
}

/// Requests in a second, at most.
pub(super) fn capacity() -> f64 {
    capacity_of(MAX_BATCH)
}

/// The same with batches of at most this many.
pub(super) fn capacity_of(batch: usize) -> f64 {
    let batch = batch.min(MAX_BATCH);
    batch as f64 / took(batch).as_secs_f64()
}

/// What decides whether a request is taken.
pub(super) trait Rule {
    fn new(now: Instant) -> Self;

    /// Whether no other request is taken, where those wait that arrived at these times.
    fn is_full(&self, waiting: &VecDeque<Instant>, now: Instant) -> bool;

    /// A request is taken, and this many waited before it.
    fn queued(&mut self, waiting: usize, now: Instant);

    /// The writer takes those that were queued at these times, and leaves `left`.
    fn taken(&mut self, batch: &[Instant], left: usize, now: Instant);

    /// A batch of this many is done.
    fn done(&mut self, requests: usize, took: Duration, now: Instant);
}

/// The rule of this module.
pub(super) struct PresentRule(Congestion);

impl Rule for PresentRule {
    fn new(now: Instant) -> Self {
        Self(Congestion::new(LONGEST_WAIT, now))
    }

    fn is_full(&self, waiting: &VecDeque<Instant>, now: Instant) -> bool {
        let oldest = waiting.front();
        oldest.is_some_and(|oldest| self.0.places(waiting.len(), *oldest, now).is_some())
    }

    fn queued(&mut self, _: usize, _: Instant) {}

    fn taken(&mut self, batch: &[Instant], left: usize, now: Instant) {
        if let Some(newest) = batch.last() {
            self.0.taken(batch.len(), left, *newest, now);
        }
    }

    fn done(&mut self, _: usize, _: Duration, _: Instant) {}
}

pub(super) struct Simulation<R> {
    rule: R,
    start: Instant,
    now: Instant,
    queue: VecDeque<Instant>,
    /// When the writer took those that it has, and when it is done with them.
    busy_since: Instant,
    busy_until: Instant,
    in_hand: usize,
    /// Callers that were refused, by when they come back.
    refused: VecDeque<Instant>,
    seen: Seen,
}

/// What became of requests.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub done: usize,
    pub refused: usize,
    pub longest_wait: Duration,
}

impl<R: Rule> Simulation<R> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rule: R::new(now),
            start: now,
            now,
            queue: VecDeque::new(),
            busy_since: now,
            busy_until: now,
            in_hand: 0,
            refused: VecDeque::new(),
            seen: Seen::default(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Whether the request was taken.
    pub(super) fn request(&mut self) -> bool {
        if self.rule.is_full(&self.queue, self.now) {
            self.seen.refused += 1;
            return false;
        }
        self.rule.queued(self.queue.len(), self.now);
        self.queue.push_back(self.now);
        true
    }

    /// Goes on by a tenth of a millisecond; returns how many requests were answered.
    pub(super) fn tick(&mut self) -> usize {
        self.now += TICK;
        if self.now < self.busy_until {
            return 0;
        }
        let answered = std::mem::take(&mut self.in_hand);
        if answered > 0 {
            self.rule.done(answered, self.now - self.busy_since, self.now);
            self.seen.done += answered;
        }
        let batch: Vec<Instant> = self.queue.drain(..self.queue.len().min(MAX_BATCH)).collect();
        if let Some(oldest) = batch.first() {
            self.seen.longest_wait = self.seen.longest_wait.max(self.now - *oldest);
            self.rule.taken(&batch, self.queue.len(), self.now);
            self.in_hand = batch.len();
            (self.busy_since, self.busy_until) = (self.now, self.now + took(batch.len()));
        }
        answered
    }

    /// The writer does nothing for this long, once it has done what it has.
    pub(super) fn stall(&mut self, lasts: Duration) {
        self.busy_until = self.busy_until.max(self.now) + lasts;
    }

    /// Requests come at this rate, whatever becomes of them; returns what became of those
    /// of this time.
    pub(super) fn open_loop(&mut self, rate: f64, lasts: Duration) -> Seen {
        self.open(rate, None, lasts)
    }

    /// The same; a caller that is refused comes back after `pause`, each time.
    pub(super) fn open_loop_that_comes_back(
        &mut self,
        rate: f64,
        pause: Duration,
        lasts: Duration,
    ) -> Seen {
        self.open(rate, Some(pause), lasts)
    }

    fn open(&mut self, rate: f64, pause: Option<Duration>, lasts: Duration) -> Seen {
        self.seen = Seen::default();
        let (begin, mut sent) = (self.now, 0);
        while self.now - begin < lasts {
            self.tick();
            let mut ready = 0;
            while self.refused.front().is_some_and(|at| *at <= self.now) {
                self.refused.pop_front();
                ready += 1;
            }
            while (sent as f64) < rate * (self.now - begin).as_secs_f64() {
                ready += 1;
                sent += 1;
            }
            for _ in 0..ready {
                if !self.request()
                    && let Some(pause) = pause
                {
                    self.refused.push_back(self.now + pause);
                }
            }
        }
        std::mem::take(&mut self.seen)
    }

    /// This many callers send the next request when the last one was answered, or `pause` after
    /// it was refused.
    pub(super) fn closed_loop(&mut self, callers: usize, pause: Duration, lasts: Duration) -> Seen {
        self.seen = Seen::default();
        let begin = self.now;
        // Those of before, whose answers nobody waits for.
        let mut others = self.queue.len() + self.in_hand;
        let (mut ready, mut refused) = (callers, VecDeque::new());
        while self.now - begin < lasts {
            let answered = self.tick();
            let theirs = answered.min(others);
            others -= theirs;
            ready += answered - theirs;
            while refused.front().is_some_and(|at| *at <= self.now) {
                refused.pop_front();
                ready += 1;
            }
            for _ in 0..std::mem::take(&mut ready) {
                if !self.request() {
                    refused.push_back(self.now + pause);
                }
            }
        }
        std::mem::take(&mut self.seen)
    }
}
