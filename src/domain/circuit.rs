//! The circuit breaker's rules: what it counts, when it trips, how long it stays open. Pure: time
//! comes from the caller.
//!
//! A peer that fails most of its calls is left alone for a while, because further calls would use
//! up the jobs' attempts and keep it down. Then one call at a time probes whether it answers again.

use std::time::Duration;

super::string_enum! {
    /// Where a circuit stands.
    CircuitState {
        /// Calls are made.
        Closed = "closed",
        /// No call is made.
        Open = "open",
        /// One call at a time is made, to probe.
        HalfOpen = "half_open",
    }
}

super::string_enum! {
    /// Why a circuit is open.
    CircuitCause {
        /// Calls fail.
        Outage = "outage",
        /// Our credentials are refused for lookups: 401 or 403.
        LookupRefused = "lookup_refused",
        /// Our credentials are refused for creates alone: 401 or 403.
        CreateRefused = "create_refused",
    }
}

/// When a circuit opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TripRule {
    /// Share of failed calls from which it opens, above 0 and at most 1.
    pub failure_ratio: f64,
    /// With fewer calls in the window it stays closed.
    pub min_calls: u32,
    /// Length of the first opening.
    pub open_for: Duration,
    /// Longest opening.
    pub max_open_for: Duration,
}

impl TripRule {
    /// Whether these calls open the circuit.
    pub fn trips(&self, calls: Calls) -> bool {
        // Without a failure there is nothing to open for, whatever the ratio.
        calls.failed > 0
            && calls.total() >= self.min_calls
            && f64::from(calls.failed) >= self.failure_ratio * f64::from(calls.total())
    }

    /// The opening that follows one of `open_for` whose probe failed.
    pub fn next_open_for(&self, open_for: Duration) -> Duration {
        open_for.saturating_mul(2).min(self.max_open_for)
    }
}

/// Calls by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Answered, whatever the answer said.
    pub answered: u32,
    /// Without an answer, or with one that only says that the peer is down.
    pub failed: u32,
}

impl Calls {
    /// All of them.
    pub fn total(self) -> u32 {
        self.answered.saturating_add(self.failed)
    }

    fn add(&mut self, answered: bool) {
        let count = if answered { &mut self.answered } else { &mut self.failed };
        *count = count.saturating_add(1);
    }
}

/// A window is counted in this many slots: a call leaves it up to one slot early.
const SLOTS: usize = 20;

/// The calls within the window, in slots of equal length. Time is counted from any fixed
/// moment.
#[derive(Debug, Clone)]
pub struct Window {
    slot_nanos: u128,
    /// Ring: the slot with the number `n` is at `n % SLOTS`.
    slots: [Calls; SLOTS],
    /// Number of the newest slot.
    newest: u128,
}

impl Window {
    /// An empty window of this length.
    pub fn new(length: Duration) -> Self {
        let slot_nanos = (length.as_nanos() / SLOTS as u128).max(1);
        Self { slot_nanos, slots: [Calls::default(); SLOTS], newest: 0 }
    }

    /// Counts a call that ended at `at`.
    pub fn record(&mut self, at: Duration, answered: bool) {
        self.advance(at);
        self.slots[(self.newest % SLOTS as u128) as usize].add(answered);
    }

    /// The calls in the window that ends at `at`.
    pub fn calls(&mut self, at: Duration) -> Calls {
        self.advance(at);
        self.slots.iter().fold(Calls::default(), |sum, slot| Calls {
            answered: sum.answered.saturating_add(slot.answered),
            failed: sum.failed.saturating_add(slot.failed),
        })
    }

    /// Forgets all calls.
    pub fn clear(&mut self) {
        self.slots = [Calls::default(); SLOTS];
    }

    /// Empties the slots that have gone by. Time that goes back counts into the newest slot.
    fn advance(&mut self, at: Duration) {
        let slot = at.as_nanos() / self.slot_nanos;
        let passed = slot.saturating_sub(self.newest).min(SLOTS as u128);
        for step in 1..=passed {
            self.slots[((self.newest + step) % SLOTS as u128) as usize] = Calls::default();
        }
        if passed == SLOTS as u128 {
            self.clear();
        }
        self.newest = self.newest.max(slot);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: TripRule = TripRule {
        failure_ratio: 0.5,
        min_calls: 20,
        open_for: Duration::from_secs(15),
        max_open_for: Duration::from_secs(120),
    };

    fn trips(answered: u32, failed: u32) -> bool {
        RULE.trips(Calls { answered, failed })
    }

    #[test]
    fn trips_from_the_ratio_on_with_enough_calls() {
        assert!(!trips(0, 19), "too few calls");
        assert!(trips(0, 20));
        assert!(trips(10, 10));
        assert!(!trips(11, 10));
        assert!(!trips(20, 0));
        let strict = TripRule { failure_ratio: 1.0, min_calls: 0, ..RULE };
        assert!(!strict.trips(Calls::default()));
        assert!(strict.trips(Calls { answered: 0, failed: 1 }));
        assert!(!strict.trips(Calls { answered: 1, failed: 1000 }));
    }

    #[test]
    fn openings_double_up_to_the_longest() {
        let openings = std::iter::successors(Some(RULE.open_for), |open_for| {
            Some(RULE.next_open_for(*open_for))
        });
        let seconds: Vec<_> = openings.take(6).map(|open_for| open_for.as_secs()).collect();
        assert_eq!(seconds, [15, 30, 60, 120, 120, 120]);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (mut window, s) = (Window::new(Duration::from_secs(60)), Duration::from_secs);
        window.record(s(1), false);
        window.record(s(30), true);
        assert_eq!(window.calls(s(56)), Calls { answered: 1, failed: 1 });
        assert_eq!(window.calls(s(61)), Calls { answered: 1, failed: 0 });
        assert_eq!(window.calls(s(90)), Calls::default());
        window.record(s(10_000_000), false);
        assert_eq!(window.calls(s(10_000_000)).total(), 1);
        window.clear();
        assert_eq!(window.calls(s(10_000_000)), Calls::default());
    }

    proptest! {
        /// Whatever ended within the window less one slot counts, and nothing older than the
        /// window.
        #[test]
        fn the_window_holds_the_calls_of_its_length(
            length in 1u64..100_000,
            gaps in prop::collection::vec((0u64..5_000, any::<bool>()), 1..200),
            later in 0u64..100_000,
        ) {
            let mut window = Window::new(Duration::from_millis(length));
            let (mut now, mut ended) = (0, Vec::new());
            for (gap, answered) in gaps {
                now += gap;
                window.record(Duration::from_millis(now), answered);
                ended.push((now, answered));
            }
            now += later;
            let calls = window.calls(Duration::from_millis(now));
            for (kind, counted) in [(true, calls.answered), (false, calls.failed)] {
                let within = |millis: f64| {
                    let young = |at: u64| ((now - at) as f64) < millis;
                    ended.iter().filter(|(at, answered)| *answered == kind && young(*at)).count()
                };
                let slot = length as f64 / SLOTS as f64;
                prop_assert!(counted as usize >= within(length as f64 - slot));
                prop_assert!(counted as usize <= within(length as f64));
            }
        }

        /// More failures never close, more answers never open.
        #[test]
        fn the_decision_is_monotonic(
            answered in 0u32..1_000,
            failed in 0u32..1_000,
            ratio in 0.01f64..=1.0,
            min_calls in 1u32..100,
        ) {
            let rule = TripRule { failure_ratio: ratio, min_calls, ..RULE };
            let trips = |answered, failed| rule.trips(Calls { answered, failed });
            if trips(answered, failed) {
                prop_assert!(trips(answered, failed + 1));
                prop_assert!(answered + failed >= min_calls);
                prop_assert!(f64::from(failed) / f64::from(answered + failed) >= ratio - 1e-9);
                prop_assert!(answered + failed <= min_calls || answered == 0
                    || trips(answered - 1, failed));
            }
        }

        #[test]
        fn an_opening_never_shrinks_below_the_one_before_nor_passes_the_longest(
            open_for in 1u64..1_000_000,
            longest in 1u64..1_000_000,
        ) {
            let longest = Duration::from_millis(longest.max(open_for));
            let open_for = Duration::from_millis(open_for);
            let next = TripRule { max_open_for: longest, ..RULE }.next_open_for(open_for);
            prop_assert!(next >= open_for && next <= longest && next <= open_for * 2);
        }
    }
}
