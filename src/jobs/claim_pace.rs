//! How soon a claim follows those that found little.
//!
//! What is due at a known time has often ended or been leased by then: a poll whose transaction is
//! settled, a notification that the settlement has leased. Then a claim finds nothing, or the one job
//! that is left, and under load there is another one to make at once. After a few of these in a row
//! the next one waits a little, as long as the outcomes of other jobs take to be written meanwhile,
//! and looks for all that has fallen due by then. A job that comes alone is never delayed, and nor
//! is what a claim has left because it found too few slots free.

use std::time::{Duration, Instant};

use crate::store::postgres::batch::{LONGEST_GATHERING, SEVERAL, SPACING};

/// This many in a row follow each other at once.
const AT_ONCE: u32 = 3;

/// The last claims of a worker.
#[derive(Debug, Default)]
pub(super) struct ClaimPace {
    small_in_a_row: u32,
    last_began: Option<Instant>,
}

impl ClaimPace {
    /// A claim that began at `began` found this many jobs, and maybe left others.
    pub(super) fn claimed(&mut self, began: Instant, found: usize, has_more: bool) {
        let in_a_row = self.last_began.is_some_and(|last| began - last < 2 * LONGEST_GATHERING);
        self.small_in_a_row = match found < SEVERAL && !has_more {
            true if in_a_row => self.small_in_a_row.saturating_add(1),
            true => 1,
            false => 0,
        };
        self.last_began = Some(began);
    }

    /// When the next claim may begin, while a batch of outcomes takes this long; `None` where it
    /// need not wait.
    pub(super) fn next(&self, outcome_batch: Duration) -> Option<Instant> {
        let last_began = self.last_began.filter(|_| self.small_in_a_row >= AT_ONCE)?;
        Some(last_began + outcome_batch.clamp(SPACING, LONGEST_GATHERING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims at these milliseconds, each with how many jobs it found; when the next one may begin.
    fn next(claims: &[(u64, usize)]) -> Option<u64> {
        let start = Instant::now();
        let mut pace = ClaimPace::default();
        for (at, found) in claims {
            pace.claimed(start + Duration::from_millis(*at), *found, false);
        }
        pace.next(Duration::ZERO).map(|at| (at - start).as_millis() as u64)
    }

    #[test]
    fn many_claims_in_a_row_that_find_little_are_spaced() {
        assert_eq!(next(&[]), None);
        assert_eq!(next(&[(0, 0), (1, 2)]), None);
        assert_eq!(next(&[(0, 0), (1, 2), (2, 1)]), Some(7));
        assert_eq!(next(&[(0, 0), (1, 2), (2, 1), (7, 0)]), Some(12));
    }

    #[test]
    fn they_are_spaced_by_what_outcomes_take() {
        let (mut pace, now) = (ClaimPace::default(), Instant::now());
        (0..3).for_each(|_| pace.claimed(now, 0, false));
        let spacing =
            |ms| pace.next(Duration::from_millis(ms)).map(|next| (next - now).as_millis());
        assert_eq!([0, 12, 500].map(spacing), [Some(5), Some(12), Some(20)]);
    }

    #[test]
    fn what_finds_several_or_comes_alone_is_followed_at_once() {
        assert_eq!(next(&[(0, 0), (1, 0), (2, 0), (7, 3)]), None);
        assert_eq!(next(&[(0, 0), (1, 0), (2, 0), (7, 3), (8, 0)]), None);
        assert_eq!(next(&[(0, 0), (100, 0), (200, 0), (300, 0)]), None);
    }

    #[test]
    fn what_a_claim_has_left_is_claimed_at_once() {
        let mut pace = ClaimPace::default();
        (0..9).for_each(|_| pace.claimed(Instant::now(), 1, true));
        assert_eq!(pace.next(Duration::ZERO), None);
    }
}
