//! When a caller that is refused should come back.
//!
//! Callers that come back while there is still no room are refused again, and each refusal costs time
//! in which something could have been written. If many come back after a fixed time, that alone can
//! keep a process overloaded. So each is given twice the time in which all that are away can be taken
//! at the present pace: about half as many come back as are taken, which leaves room for those that
//! arrive for the first time.

use std::{collections::VecDeque, time::Instant};

/// The mean wait of a caller while few are away, in seconds.
const SHORTEST: f64 = 2.0;
/// The longest mean wait of a caller, in seconds.
const LONGEST: f64 = 60.0;
/// The wait, as a multiple of the time in which all that are away can be taken.
const TURN: f64 = 2.0;
/// At least as many can be taken in a second. While no queue stands the pace is what was asked for,
/// and not what is possible.
const LEAST_PACE: f64 = 200.0;

/// The callers that were refused and have not come back yet, if all do as they are asked.
#[derive(Debug)]
pub(super) struct Away {
    epoch: Instant,
    /// The present second since `epoch`, and how many come back in it and in each one after it.
    second: u64,
    back_in: VecDeque<usize>,
    count: usize,
}

impl Away {
    pub(super) fn new(now: Instant) -> Self {
        Self { epoch: now, second: 0, back_in: VecDeque::new(), count: 0 }
    }

    /// Sends a caller away while `pace` are taken a second; returns after how many seconds it should
    /// come back. `random`, from 0 to 1, spreads callers: half of the mean and half of it more.
    pub(super) fn send(&mut self, pace: f64, random: f64, now: Instant) -> u16 {
        self.forget_those_back(now);
        let turn = TURN * self.count as f64 / pace.max(LEAST_PACE);
        let mean = turn.clamp(SHORTEST, LONGEST);
        let seconds = (mean * (0.5 + random)).round();
        // At most 90.
        let index = seconds as usize;
        if self.back_in.len() <= index {
            self.back_in.resize(index + 1, 0);
        }
        self.back_in[index] += 1;
        self.count += 1;
        seconds as u16
    }

    fn forget_those_back(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.epoch).as_secs();
        while self.second < second {
            let Some(back) = self.back_in.pop_front() else {
                self.second = second;
                return;
            };
            self.count -= back;
            self.second += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Seven tenths of what can be taken arrive, after a stall that has left fifteen seconds' worth of
    /// callers without an answer, and seven refusals take as long as one request that is taken.
    /// Returns how many are refused in the last second.
    fn refused_at_the_end(seconds: u64, wait: impl Fn(&mut Away, f64, Instant) -> u16) -> usize {
        const CAPACITY: usize = 1_000;
        let start = Instant::now();
        let mut away = Away::new(start);
        let mut back = VecDeque::from([0; 200]);
        back[0] = 15 * CAPACITY;
        let mut refused = 0;
        for second in 0..seconds {
            let arrived = CAPACITY * 7 / 10 + back.pop_front().unwrap_or_default();
            back.push_back(0);
            let taken = match arrived.checked_sub(CAPACITY) {
                None | Some(0) => arrived,
                // Of `taken + refused / 7 = capacity`.
                Some(_) => (7 * CAPACITY).saturating_sub(arrived) / 6,
            };
            refused = arrived - taken;
            let now = start + Duration::from_secs(second);
            for nth in 0..refused {
                let random = (nth as f64 + 0.5) / refused as f64;
                let seconds = wait(&mut away, random, now);
                back[usize::from(seconds) - 1] += 1;
            }
        }
        refused
    }

    #[test]
    fn those_that_come_back_do_not_keep_others_from_being_taken() {
        let turns = refused_at_the_end(100, |away, random, now| away.send(1_000.0, random, now));
        assert_eq!(turns, 0, "all were taken");
        let fixed = refused_at_the_end(100, |_, random, _| (2.0 * (0.5 + random)).round() as u16);
        assert!(fixed > 5_000, "{fixed} are refused each second, and none is taken");
    }

    #[test]
    fn a_few_are_back_within_three_seconds() {
        let now = Instant::now();
        let mut away = Away::new(now);
        // After half a minute in which nothing was taken, of two a second.
        for nth in 0..60 {
            let wait = away.send(2.0, 0.5, now + Duration::from_millis(500) * nth);
            assert!((1..=3).contains(&wait), "{wait}");
        }
        let mut away = Away::new(now);
        let waits: Vec<u16> =
            (0..100).map(|nth| away.send(200.0, nth as f64 / 100.0, now)).collect();
        assert!(waits.iter().all(|wait| (1..=3).contains(wait)), "{waits:?}");
        assert!(waits.contains(&1) && waits.contains(&3));
    }

    proptest! {
        #[test]
        fn waits_are_bounded_and_everybody_is_forgotten(
            refusals in prop::collection::vec((0..5_000_u64, 0.0..1.0), 1..500),
            pace in 0.0..10_000.0,
        ) {
            let start = Instant::now();
            let mut away = Away::new(start);
            let mut now = start;
            for (gap, random) in refusals {
                now += Duration::from_millis(gap);
                let wait = away.send(pace, random, now);
                prop_assert!((1..=90).contains(&wait), "{wait}");
                prop_assert_eq!(away.back_in.iter().sum::<usize>(), away.count);
            }
            away.forget_those_back(now + Duration::from_secs(91));
            prop_assert_eq!(away.count, 0);
        }
    }
}
