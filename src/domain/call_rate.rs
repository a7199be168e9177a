//! How many calls in a time a third party allows, and how they are spaced.

use std::{fmt, time::Duration};

/// Calls are spaced as if the time were this much longer. The third party counts calls when they
/// arrive, and each may arrive up to this much later than its time: it is sent at its time or at
/// most [`SEND_WINDOW`] later, and the rest is for the network and for the third party itself. So
/// whatever arrives within one second has its time within 1.4 s, where there are no more times
/// than calls are allowed. Of a budget by the second seven tenths are used.
pub const SPREAD: Duration = Duration::from_millis(400);
/// How long after its time a call may still be sent.
pub const SEND_WINDOW: Duration = Duration::from_millis(100);
/// How much of the budget one lease takes at most.
const BLOCK: Duration = Duration::from_millis(250);
/// How long the next call of a job that has begun waits at most, where the budget is not smaller.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The most calls in any time of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRate {
    /// At least one.
    pub calls: u32,
    pub per: Duration,
}

impl CallRate {
    /// This many in a second.
    pub fn per_second(calls: u32) -> Self {
        Self { calls, per: Duration::from_secs(1) }
    }

    /// The time between two calls.
    pub fn gap(&self) -> Duration {
        (self.per + SPREAD) / self.calls.max(1)
    }

    /// The most calls of one lease.
    pub fn block(&self) -> u32 {
        let per = self.gap().as_nanos().max(1);
        u32::try_from(BLOCK.as_nanos() / per).unwrap_or(u32::MAX).max(1)
    }

    /// The longest wait of a call that goes before others.
    pub fn longest_wait(&self) -> Duration {
        LONGEST_WAIT.max(self.gap() * 3)
    }
}

impl fmt::Display for CallRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, per } = self;
        match per.as_secs() {
            1 => write!(f, "{calls} a second"),
            60 => write!(f, "{calls} a minute"),
            3_600 => write!(f, "{calls} an hour"),
            _ => write!(f, "{calls} in {}", humantime::format_duration(*per)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Evenly spaced calls, each late by what it may be, in any window.
        #[test]
        fn no_window_holds_more_calls_than_are_allowed(
            calls in 1..200_u32,
            minutes in any::<bool>(),
            late in prop::collection::vec(0.0..0.4_f64, 600),
        ) {
            let per = Duration::from_secs(if minutes { 60 } else { 1 });
            let gap = CallRate { calls, per }.gap().as_secs_f64();
            let mut arrivals: Vec<f64> =
                late.iter().enumerate().map(|(nth, late)| nth as f64 * gap + late).collect();
            arrivals.sort_by(f64::total_cmp);
            let most = calls as usize;
            for window in arrivals.windows(most + 1) {
                prop_assert!(window[most] - window[0] >= per.as_secs_f64() - 1e-6);
            }
        }
    }

    #[test]
    fn a_block_is_a_quarter_of_a_second() {
        assert_eq!(CallRate::per_second(50).gap(), Duration::from_millis(28));
        assert_eq!(CallRate::per_second(50).block(), 8);
        assert_eq!(CallRate::per_second(1).block(), 1);
        let slow = CallRate { calls: 1, per: Duration::from_secs(60) };
        assert_eq!((slow.block(), slow.longest_wait()), (1, Duration::from_millis(181_200)));
        assert_eq!(slow.to_string(), "1 a minute");
    }
}
