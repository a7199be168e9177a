//! The database's time on this machine's clock, as closely as it is known.
//!
//! Each lease says what the database's clock said at some moment between question and answer, so
//! the difference between the two clocks is known to lie in an interval as long as the round trip.
//! Intervals of the last seconds are put together, so that one slow statement does not matter. One
//! that contradicts those before it wins alone: the clock was set, or another server answers.

use std::{collections::VecDeque, time::Duration};

use crate::domain::BootInstant;

/// How long an interval is used: clocks drift apart by less than a millisecond in that time.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How many are kept.
const KEPT: usize = 8;

/// What is known of the difference. Times of this machine are microseconds since `base`.
#[derive(Debug)]
pub(super) struct DatabaseTime {
    base: BootInstant,
    seen: VecDeque<Seen>,
}

/// The database's time minus ours was between these.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: BootInstant,
    least: i64,
    most: i64,
}

impl DatabaseTime {
    pub fn new(base: BootInstant) -> Self {
        Self { base, seen: VecDeque::new() }
    }

    /// The database's clock said `database` between `asked` and `answered`.
    pub fn see(&mut self, asked: BootInstant, answered: BootInstant, database: i64) {
        let (least, most) = (database - self.ours(answered), database - self.ours(asked));
        self.seen.push_front(Seen { at: answered, least, most });
        self.seen.truncate(KEPT);
        self.seen.retain(|seen| answered - seen.at <= KEPT_FOR);
    }

    /// The earliest and the latest moment at which the database's clock may say `database`.
    pub fn when(&self, database: i64) -> (BootInstant, BootInstant) {
        let mut seen = self.seen.iter();
        let Some(newest) = seen.next() else { return (self.base, self.base) };
        let (mut least, mut most) = (newest.least, newest.most);
        for older in seen {
            if older.least > most || older.most < least {
                break;
            }
            (least, most) = (least.max(older.least), most.min(older.most));
        }
        (self.at(database - most), self.at(database - least))
    }

    fn ours(&self, at: BootInstant) -> i64 {
        i64::try_from((at - self.base).as_micros()).unwrap_or(i64::MAX / 4)
    }

    fn at(&self, micros: i64) -> BootInstant {
        self.base + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Asks a database whose clock is at 5,000 s when ours is at `base`.
    fn see(time: &mut DatabaseTime, asked: u32, read: i64, answered: u32) {
        let base = time.base;
        time.see(base + MS * asked, base + MS * answered, 5_000_000_000 + read * 1_000);
    }

    #[test]
    fn a_slow_statement_takes_nothing_from_what_is_known() {
        let base = BootInstant::now();
        let mut time = DatabaseTime::new(base);
        see(&mut time, 10, 11, 12);
        let at = |time: &DatabaseTime| time.when(5_000_020_000);
        assert_eq!(at(&time), (base + MS * 19, base + MS * 21));
        see(&mut time, 100, 900, 1_000);
        assert_eq!(at(&time), (base + MS * 19, base + MS * 21));
        // Alone it would say little.
        let mut slow = DatabaseTime::new(base);
        see(&mut slow, 100, 900, 1_000);
        assert_eq!(slow.when(5_001_000_000), (base + MS * 200, base + MS * 1_100));
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let base = BootInstant::now();
        let mut time = DatabaseTime::new(base);
        see(&mut time, 10, 11, 12);
        see(&mut time, 20, 70_021, 22);
        assert_eq!(time.when(5_070_030_000), (base + MS * 29, base + MS * 31));
    }
}
