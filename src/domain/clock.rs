//! The two clocks that Quartet goes by: one that runs on while the machine is suspended, for the
//! life of leases, and the database's, for deadlines, ages, schedules and signatures.
//!
//! The wall clock of a process may be wrong, and differs between processes. The database's clock is
//! the same for all of them, and the times in its rows come from it.

use std::{
    ops::{Add, Sub},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use nix::time::{ClockId, clock_gettime};

/// The clock that counts the time in which the machine was suspended; [`std::time::Instant`] does
/// not.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SUSPENSION_COUNTS: ClockId = ClockId::CLOCK_BOOTTIME;
/// On macOS this one does; where none does, as on the BSDs, it is as good as `Instant`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SUSPENSION_COUNTS: ClockId = ClockId::CLOCK_MONOTONIC;

/// A skew from which on the wall clock of this process is said to be wrong.
pub const NOTABLE_SKEW: Duration = Duration::from_secs(5);
/// A reading that took longer says too little, where there is an earlier one.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);

/// A moment on a clock that never goes back and runs on while the machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The present moment.
    pub fn now() -> Self {
        // Fails only for a clock that the system does not have; those it has are chosen above.
        let now = clock_gettime(SUSPENSION_COUNTS).expect("the system has a monotonic clock");
        Self(now.into())
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

impl Sub for BootInstant {
    type Output = Duration;

    /// Zero where `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the database's clock said, asked once.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    /// The database's time halfway between question and answer.
    database: DateTime<Utc>,
    at: BootInstant,
    /// How far the wall clock of this process was ahead then.
    skew: TimeDelta,
    round_trip: Duration,
}

impl ClockReading {
    /// The database's answer to a question that was asked at `asked`, when the wall clock here said
    /// `wall`; answered now.
    pub fn answered(asked: BootInstant, wall: DateTime<Utc>, database: DateTime<Utc>) -> Self {
        Self::of(asked, wall, BootInstant::now() - asked, database)
    }

    /// The same, answered after `round_trip`.
    pub(crate) fn of(
        asked: BootInstant,
        wall: DateTime<Utc>,
        round_trip: Duration,
        database: DateTime<Utc>,
    ) -> Self {
        let half = round_trip / 2;
        let skew = wall + TimeDelta::from_std(half).unwrap_or_default() - database;
        Self { database, at: asked + half, skew, round_trip }
    }

    /// How far the wall clock of this process was ahead of the database's; negative where it was
    /// behind. Right to half the round trip.
    pub fn skew(&self) -> TimeDelta {
        self.skew
    }

    /// The time from question to answer.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Whether the database's clock was set since `before`: it has run by more than `step` more or
    /// less than ours, as far as the round trips let one say.
    pub fn is_set_since(&self, before: &Self, step: Duration) -> bool {
        let delta = |time: Duration| TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
        let unsure = (self.round_trip + before.round_trip) / 2;
        let off = self.database - before.database - delta(self.at - before.at);
        off.abs() > delta(step.saturating_add(unsure))
    }
}

/// Whether the wall clock of a process is wrong by so much that somebody should know.
pub fn is_notable(skew: TimeDelta) -> bool {
    skew.abs().to_std().is_ok_and(|skew| skew > NOTABLE_SKEW)
}

/// The database's clock: its last reading and the time that has passed here since. Cheap to clone.
///
/// Until the database was asked for the first time it is this process's wall clock.
#[derive(Debug, Clone, Default)]
pub struct DatabaseClock {
    reading: Arc<Mutex<Option<ClockReading>>>,
}

impl DatabaseClock {
    /// The database's time.
    pub fn now(&self) -> DateTime<Utc> {
        match *self.reading() {
            Some(reading) => {
                let since = TimeDelta::from_std(reading.at.elapsed()).unwrap_or_default();
                reading.database + since
            }
            None => Utc::now(),
        }
    }

    /// How long ago `at` was; zero where it is in the future.
    pub fn since(&self, at: DateTime<Utc>) -> Duration {
        (self.now() - at).to_std().unwrap_or_default()
    }

    /// How far the wall clock of this process was ahead at the last reading; `None` before the
    /// first one.
    pub fn skew(&self) -> Option<TimeDelta> {
        self.reading().map(|reading| reading.skew)
    }

    /// Goes by a new reading, unless its round trip was too long; returns whether it does.
    pub fn set(&self, new: ClockReading) -> bool {
        let mut reading = self.reading();
        let is_better = reading.is_none() || new.round_trip <= MAX_ROUND_TRIP;
        if is_better {
            *reading = Some(new);
        }
        is_better
    }

    fn reading(&self) -> MutexGuard<'_, Option<ClockReading>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ROUND_TRIP: Duration = Duration::from_millis(10);

    fn wall() -> DateTime<Utc> {
        "2026-11-29T12:20:00Z".parse().unwrap()
    }

    /// The wall clock is this much ahead; answered after `round_trip`, and `ago` before now.
    fn reading(ahead: TimeDelta, round_trip: Duration, ago: Duration) -> ClockReading {
        let asked = BootInstant(BootInstant::now().0 - ago - round_trip);
        let database = wall() + TimeDelta::from_std(round_trip / 2).unwrap() - ahead;
        ClockReading::of(asked, wall(), round_trip, database)
    }

    #[test]
    fn the_skew_is_that_of_halfway_between_question_and_answer() {
        let ahead = TimeDelta::minutes(20);
        for round_trip in [ROUND_TRIP, SECOND * 4] {
            assert_eq!(reading(ahead, round_trip, SECOND).skew(), ahead);
            assert_eq!(reading(-ahead, round_trip, SECOND).skew(), -ahead);
        }
        assert!(is_notable(ahead) && is_notable(-ahead));
        assert!(!is_notable(TimeDelta::seconds(5)) && !is_notable(TimeDelta::zero()));
    }

    #[test]
    fn the_databases_time_goes_on_from_its_last_reading() {
        let clock = DatabaseClock::default();
        assert!((clock.now() - Utc::now()).abs() < TimeDelta::seconds(5), "nothing else is known");
        assert_eq!(clock.skew(), None);

        let ahead = TimeDelta::minutes(20);
        clock.set(reading(ahead, ROUND_TRIP, SECOND * 60));
        let expected = wall() - ahead + TimeDelta::seconds(60);
        let off = clock.now() - expected;
        assert!(off >= TimeDelta::zero() && off < TimeDelta::seconds(5), "{off}");
        assert_eq!(clock.skew(), Some(ahead));
        assert_eq!(clock.since(clock.now() + TimeDelta::hours(1)), Duration::ZERO);
    }

    #[test]
    fn a_slow_answer_replaces_no_better_one() {
        let clock = DatabaseClock::default();
        assert!(clock.set(reading(TimeDelta::zero(), SECOND * 3, SECOND)), "better than nothing");
        assert!(clock.set(reading(TimeDelta::seconds(1), ROUND_TRIP, SECOND)));
        assert!(!clock.set(reading(TimeDelta::seconds(2), SECOND * 3, SECOND)));
        assert_eq!(clock.skew(), Some(TimeDelta::seconds(1)));
    }

    #[test]
    fn the_clock_of_leases_goes_forward() {
        let start = BootInstant::now();
        assert!(start.elapsed() < SECOND * 60);
        assert!(start + SECOND > start);
        assert_eq!(start - (start + SECOND), Duration::ZERO);
        assert_eq!((start + SECOND) - start, SECOND);
    }
}
