//! How many polls hints make due: evenly spaced, so that nobody can have a third party flooded with
//! lookups by sending webhooks that prove nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Most polls in a second that hints make due, in one process.
const MAX_POLLS: u32 = 50;
/// A hint whose poll would have to wait longer leaves it to its schedule.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The next free time for such a poll.
#[derive(Debug, Default)]
pub(super) struct HintPace(Mutex<Option<Instant>>);

impl HintPace {
    /// How long from now the next poll waits; `None` where it would be too long.
    pub fn take(&self, now: Instant) -> Option<Duration> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        let wait = at.saturating_duration_since(now);
        if wait > MAX_WAIT {
            return None;
        }
        *next = Some(at + Duration::from_secs(1) / MAX_POLLS);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_spaced_and_those_that_wait_too_long_are_left_alone() {
        let (pace, start) = (HintPace::default(), Instant::now());
        let second = Duration::from_secs(1);
        let waits: Vec<_> = (0..10_000).map_while(|_| pace.take(start)).collect();
        assert_eq!(waits[0], Duration::ZERO);
        for from in (0..waits.len()).step_by(500) {
            let until = waits[from] + second;
            let within = waits.iter().filter(|wait| (waits[from]..until).contains(*wait)).count();
            assert!(within <= MAX_POLLS as usize, "{within} from {from}");
        }
        assert_eq!(waits.len(), 60 * MAX_POLLS as usize + 1);
        assert_eq!(pace.take(start), None, "and it takes no place");
        assert!(pace.take(start + second).is_some());
        assert_eq!(pace.take(start + 2 * MAX_WAIT), Some(Duration::ZERO));
    }
}
