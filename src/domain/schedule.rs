//! When to poll and when to retry: pure functions of a count and a random number.
//!
//! Jitter spreads what would otherwise fall due together; it is a number in `0.0..1.0` that the
//! caller draws, so that the schedules themselves can be checked.

use std::time::Duration;

/// The gaps between polls: `second` after the first poll, then `factor` times the gap before, with
/// jitter from 1 s on, at most `max_delay`. A gap counts from the end of a poll to the start of
/// the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollSchedule {
    /// Gap after the first poll.
    pub second: Duration,
    /// Growth from one gap to the next, at least 1.
    pub factor: f64,
    /// The longest gap.
    pub max_delay: Duration,
}

/// From this gap on polls are jittered.
const JITTER_FROM: Duration = Duration::from_secs(1);
/// Jitter takes up to this share off a delay, so that a delay is never above its cap.
const JITTER_SHARE: f64 = 0.2;

impl PollSchedule {
    /// The gap after `polls` polls (1 or more), with `jitter` in `0.0..1.0`.
    pub fn gap(&self, polls: u32, jitter: f64) -> Duration {
        let gap = grow(self.second, self.factor, polls.saturating_sub(1), self.max_delay);
        if gap < JITTER_FROM { gap } else { shorten(gap, jitter) }
    }
}

/// Exponential backoff: `base`, doubled for each further failure, at most `max_delay`, jittered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Backoff {
    /// The delay after `failures` failures (1 or more), with `jitter` in `0.0..1.0`.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        shorten(grow(self.base, 2.0, failures.saturating_sub(1), self.max_delay), jitter)
    }
}

/// A loop that tries again until it succeeds, and where it stands in its backoff.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retries {
    backoff: Backoff,
    failures: u32,
}

impl Retries {
    /// Nothing has failed yet.
    pub const fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// Something failed: the delay before the next try, with `jitter` in `0.0..1.0`.
    pub fn next_delay(&mut self, jitter: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.delay(self.failures, jitter)
    }

    /// It succeeded: the next failure is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `base × factor^exponent`, at most `cap`, without overflow.
fn grow(base: Duration, factor: f64, exponent: u32, cap: Duration) -> Duration {
    let seconds = base.as_secs_f64() * factor.powf(f64::from(exponent));
    if seconds < cap.as_secs_f64() { Duration::from_secs_f64(seconds) } else { cap }
}

fn shorten(delay: Duration, jitter: f64) -> Duration {
    delay.mul_f64(1.0 - JITTER_SHARE * jitter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLL: PollSchedule = PollSchedule {
        second: Duration::from_millis(10),
        factor: 2.0,
        max_delay: Duration::from_secs(60),
    };

    #[test]
    fn polls_go_10_ms_then_double_up_to_the_cap() {
        let gaps: Vec<_> = (1..=16).map(|polls| POLL.gap(polls, 0.0).as_millis()).collect();
        let doubled = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 20480, 40960];
        assert_eq!(gaps[..13], doubled);
        assert_eq!(gaps[13..], [60_000; 3]);
    }

    #[test]
    fn polls_are_jittered_from_one_second_on() {
        assert_eq!(POLL.gap(7, 0.99), Duration::from_millis(640));
        assert_eq!(POLL.gap(8, 0.5), Duration::from_millis(1152));
    }

    #[test]
    fn backoff_doubles_from_base_to_cap() {
        let backoff =
            Backoff { base: Duration::from_secs(1), max_delay: Duration::from_secs(3600) };
        let delays: Vec<_> = (1..=15).map(|n| backoff.delay(n, 0.0).as_secs()).collect();
        let doubled = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600];
        assert_eq!(delays, doubled);
    }

    #[test]
    fn retries_begin_again_after_a_success() {
        let (base, max_delay) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut retries = Retries::new(Backoff { base, max_delay });
        let delays: Vec<_> = (0..7).map(|_| retries.next_delay(0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000]);
        retries.reset();
        assert_eq!(retries.next_delay(0.0), base);
    }

    proptest! {
        #[test]
        fn gaps_stay_within_bounds(
            polls in 1u32..,
            jitter in 0.0f64..1.0,
            second in 1u64..5_000,
            factor in 1.0f64..10.0,
            cap in 5_000u64..600_000,
        ) {
            let (second, cap) = (Duration::from_millis(second), Duration::from_millis(cap));
            let schedule = PollSchedule { second, factor, max_delay: cap };
            let gap = schedule.gap(polls, jitter);
            prop_assert!(gap <= cap);
            prop_assert!(gap >= second.mul_f64(1.0 - JITTER_SHARE));
            prop_assert!(schedule.gap(polls.saturating_add(1), 0.0) >= schedule.gap(polls, jitter));
        }

        #[test]
        fn backoff_stays_within_bounds(
            failures in 1u32..,
            jitter in 0.0f64..1.0,
            base in 1u64..10_000,
            cap in 10_000u64..10_000_000,
        ) {
            let (base, cap) = (Duration::from_millis(base), Duration::from_millis(cap));
            let delay = Backoff { base, max_delay: cap }.delay(failures, jitter);
            prop_assert!(delay <= cap && delay >= base.mul_f64(1.0 - JITTER_SHARE));
        }
    }
}
