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
pub(in crate::store) struct Congestion {
    epoch: Instant,
    /// The one that waits longest came then or later; µs since `epoch`.
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
    pub(in crate::store) fn new(longest_wait: Duration, now: Instant) -> Self {
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

    /// A request came, and none waited.
    pub(in crate::store) fn came_first(&self, now: Instant) {
        self.oldest.store(self.micros(now), Ordering::Relaxed);
    }

    /// A writer took `count` of those that wait, of which the last one came at `newest`, and left
    /// `left`.
    pub(in crate::store) fn taken(&self, count: usize, left: usize, newest: Instant, now: Instant) {
        // Those that are left came later.
        self.oldest.store(self.micros(newest), Ordering::Relaxed);
        let wait = now.saturating_duration_since(newest);
        self.waits().taken(count, left, wait, now);
    }

    /// Whether no other request is taken, where this many wait.
    pub(in crate::store) fn is_full(&self, waiting: usize, now: Instant) -> bool {
        waiting > 0 && (self.age(now) > STALLED || self.waits().is_full(waiting, now))
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const LONGEST_WAIT: Duration = Duration::from_millis(150);
    const MAX_BATCH: usize = 128;
    /// What a batch takes, and each of its requests.
    const BATCH: Duration = Duration::from_millis(2);
    const EACH: Duration = Duration::from_micros(250);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn took(requests: usize) -> Duration {
        BATCH + EACH * requests as u32
    }

    /// Requests in a second, at most.
    fn capacity() -> f64 {
        MAX_BATCH as f64 / took(MAX_BATCH).as_secs_f64()
    }

    /// The same with batches of at most this many.
    fn capacity_of(batch: usize) -> f64 {
        let batch = batch.min(MAX_BATCH);
        batch as f64 / took(batch).as_secs_f64()
    }

    /// One writer and the queue before it, in simulated time.
    struct Simulation {
        congestion: Congestion,
        start: Instant,
        now: Instant,
        queue: VecDeque<Instant>,
        /// When the writer is done with those that it has.
        busy_until: Instant,
        in_hand: usize,
        seen: Seen,
    }

    /// What became of requests.
    #[derive(Debug, Default)]
    struct Seen {
        done: usize,
        refused: usize,
        longest_wait: Duration,
    }

    impl Simulation {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                congestion: Congestion::new(LONGEST_WAIT, now),
                start: now,
                now,
                queue: VecDeque::new(),
                busy_until: now,
                in_hand: 0,
                seen: Seen::default(),
            }
        }

        fn elapsed(&self) -> Duration {
            self.now - self.start
        }

        /// Whether the request was let in.
        fn request(&mut self) -> bool {
            if self.congestion.is_full(self.queue.len(), self.now) {
                self.seen.refused += 1;
                return false;
            }
            if self.queue.is_empty() {
                self.congestion.came_first(self.now);
            }
            self.queue.push_back(self.now);
            true
        }

        /// Goes on by a tenth of a millisecond; returns how many requests were answered.
        fn tick(&mut self) -> usize {
            self.now += Duration::from_micros(100);
            if self.now < self.busy_until {
                return 0;
            }
            let answered = std::mem::take(&mut self.in_hand);
            self.seen.done += answered;
            let batch: Vec<Instant> = self.queue.drain(..self.queue.len().min(MAX_BATCH)).collect();
            if let (Some(oldest), Some(newest)) = (batch.first(), batch.last()) {
                self.seen.longest_wait = self.seen.longest_wait.max(self.now - *oldest);
                self.congestion.taken(batch.len(), self.queue.len(), *newest, self.now);
                self.in_hand = batch.len();
                self.busy_until = self.now + took(batch.len());
            }
            answered
        }

        /// The writer does nothing for this long, once it has done what it has.
        fn stall(&mut self, lasts: Duration) {
            self.busy_until = self.busy_until.max(self.now) + lasts;
        }

        /// Requests come at this rate, whatever becomes of them; returns what became of those
        /// of this time.
        fn open_loop(&mut self, rate: f64, lasts: Duration) -> Seen {
            self.seen = Seen::default();
            let (begin, mut sent) = (self.now, 0);
            while self.now - begin < lasts {
                self.tick();
                while (sent as f64) < rate * (self.now - begin).as_secs_f64() {
                    self.request();
                    sent += 1;
                }
            }
            std::mem::take(&mut self.seen)
        }

        /// This many callers send the next request when the last one was answered, or `pause` after
        /// it was refused.
        fn closed_loop(&mut self, callers: usize, pause: Duration, lasts: Duration) -> Seen {
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

    #[test]
    fn callers_that_wait_for_their_answers_are_never_refused() {
        for callers in [1, 32, 128, 512] {
            let seen = Simulation::new().closed_loop(callers, ms(50), seconds(5));
            assert_eq!(seen.refused, 0, "{callers}: {seen:?}");
            assert!(seen.longest_wait < LONGEST_WAIT, "{callers}: {seen:?}");
        }
    }

    #[test]
    fn more_callers_than_can_be_written_in_the_longest_wait_are_refused_and_all_else_is_done() {
        let seen = Simulation::new().closed_loop(2_048, seconds(1), seconds(10));
        assert!(seen.refused > 0, "{seen:?}");
        assert!(seen.done as f64 > 0.95 * 10.0 * capacity(), "{seen:?}");
    }

    #[test]
    fn what_can_be_written_is_never_refused() {
        for load in [0.3, 0.7, 0.95] {
            let seen = Simulation::new().open_loop(load * capacity(), seconds(20));
            assert_eq!(seen.refused, 0, "{load}: {seen:?}");
        }
    }

    #[test]
    fn after_a_stall_it_is_as_fast_as_before_within_ten_seconds() {
        for (load, stall) in
            [(0.3, 300), (0.3, 900), (0.3, 5_000), (0.7, 300), (0.7, 5_000), (0.95, 300)]
        {
            let mut simulation = Simulation::new();
            let before = simulation.open_loop(load * capacity(), seconds(5));
            simulation.stall(ms(stall));
            simulation.open_loop(load * capacity(), ms(stall) + seconds(10));
            let after = simulation.open_loop(load * capacity(), seconds(5));
            let case = format!("{load}, {stall} ms: {before:?} {after:?}");
            assert_eq!(after.refused, 0, "{case}");
            assert!(after.longest_wait <= before.longest_wait * 2, "{case}");
        }
    }

    #[test]
    fn a_short_stall_refuses_nobody() {
        for load in [0.3, 0.7] {
            let mut simulation = Simulation::new();
            simulation.open_loop(load * capacity(), seconds(2));
            simulation.stall(ms(300));
            let seen = simulation.open_loop(load * capacity(), seconds(5));
            assert_eq!(seen.refused, 0, "{load}: {seen:?}");
        }
    }

    #[test]
    fn twice_the_capacity_is_written_at_capacity_with_bounded_waits() {
        let mut simulation = Simulation::new();
        simulation.open_loop(2.0 * capacity(), seconds(5));
        let seen = simulation.open_loop(2.0 * capacity(), seconds(20));
        assert!(seen.done as f64 > 0.95 * 20.0 * capacity(), "{seen:?}");
        assert!(seen.longest_wait < LONGEST_WAIT * 5 / 4, "{seen:?}");
        // Back to a load that can be written.
        simulation.open_loop(0.5 * capacity(), seconds(2));
        let seen = simulation.open_loop(0.5 * capacity(), seconds(5));
        assert_eq!(seen.refused, 0, "{seen:?}");
        assert!(seen.longest_wait < ms(50), "{seen:?}");
    }

    #[test]
    fn after_too_much_callers_that_wait_for_their_answers_are_not_refused_any_more() {
        for callers in [32, 128, 256] {
            let mut simulation = Simulation::new();
            simulation.open_loop(2.0 * capacity(), seconds(10));
            simulation.closed_loop(callers, ms(50), seconds(3));
            let seen = simulation.closed_loop(callers, ms(50), seconds(5));
            assert_eq!(seen.refused, 0, "{callers}: {seen:?}");
            assert!(seen.done as f64 > 0.8 * 5.0 * capacity_of(callers), "{callers}: {seen:?}");
        }
    }

    #[test]
    fn callers_that_are_refused_and_come_back_keep_nothing_full_that_could_be_written() {
        // After a stall, at 70 %, all that are refused come back after 1 s.
        let mut simulation = Simulation::new();
        simulation.open_loop(0.7 * capacity(), seconds(2));
        simulation.stall(seconds(5));
        simulation.closed_loop(2_048, seconds(1), seconds(5));
        simulation.closed_loop(300, seconds(1), seconds(10));
        let seen = simulation.closed_loop(300, seconds(1), seconds(5));
        assert_eq!(seen.refused, 0, "{seen:?}");
    }

    #[test]
    fn nobody_is_let_in_behind_one_that_nobody_takes() {
        let mut simulation = Simulation::new();
        simulation.stall(seconds(9));
        simulation.tick();
        assert!(simulation.request());
        while simulation.elapsed() < STALLED {
            assert!(simulation.request());
            simulation.tick();
        }
        (0..10).for_each(|_| assert_eq!(simulation.tick(), 0));
        assert!(!simulation.request(), "{:?}", simulation.elapsed());
        while simulation.elapsed() < seconds(15) {
            simulation.tick();
        }
        assert!(simulation.request());
    }
}
