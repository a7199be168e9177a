//! For how long leases hold after their renewal, and when others may be judged; by a clock that
//! counts the time in which the machine was suspended.
//!
//! After an outage of the database every worker is stale, and after a suspension of the machine
//! too: a process whose heartbeat failed, or succeeded later than `dead_after`, judges nobody until
//! `dead_after` has passed since it renewed again, so that everybody can renew before. The same
//! holds where the database's clock, by which workers are judged, was set. At the start it waits for
//! one heartbeat.

use std::time::Duration;

use crate::domain::{BootInstant, clock::ClockReading};

/// The state of the leases of one process. Pure: the time is the caller's.
#[derive(Debug)]
pub struct Freshness {
    dead_after: Duration,
    /// The database's clock was set if, since the last renewal, it has run by this much more or less
    /// than ours: half of what a living worker has left when it is renewed.
    step: Duration,
    clock: Option<ClockReading>,
    /// When the last renewal that succeeded began.
    renewed_at: BootInstant,
    judges_from: Option<BootInstant>,
    /// How long after the next renewal nobody is judged.
    grace: Duration,
}

impl Freshness {
    /// At the start, when no worker is registered yet.
    pub fn new(heartbeat: Duration, dead_after: Duration, now: BootInstant) -> Self {
        let step = dead_after.saturating_sub(heartbeat) / 2;
        let (clock, judges_from) = (None, None);
        Self { dead_after, step, clock, renewed_at: now, judges_from, grace: heartbeat }
    }

    /// The database's clock was read. Returns whether it was set since the last time.
    pub fn read_clock(&mut self, reading: ClockReading) -> bool {
        let before = self.clock.replace(reading);
        let is_set = before.is_some_and(|before| reading.is_set_since(&before, self.step));
        if is_set {
            self.suspend_judgement();
        }
        is_set
    }

    /// The first worker was registered, by a statement that began at `began`.
    pub fn registered(&mut self, began: BootInstant) {
        self.renewed_at = began;
    }

    /// All leases were renewed by a statement that began at `began`.
    pub fn renewed(&mut self, began: BootInstant, now: BootInstant) {
        if began - self.renewed_at > self.dead_after {
            self.suspend_judgement();
        }
        self.renewed_at = began;
        self.judges_from.get_or_insert(now + self.grace);
    }

    /// A heartbeat failed.
    pub fn failed(&mut self) {
        self.suspend_judgement();
    }

    /// Whether nobody can have taken the leases over yet.
    pub fn is_fresh(&self, now: BootInstant) -> bool {
        now - self.renewed_at < self.dead_after
    }

    /// Whether workers that are silent may be taken for dead.
    pub fn may_judge(&self, now: BootInstant) -> bool {
        self.is_fresh(now) && self.judges_from.is_some_and(|from| now >= from)
    }

    fn suspend_judgement(&mut self) {
        (self.judges_from, self.grace) = (None, self.dead_after);
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HEARTBEAT: Duration = Duration::from_secs(5);
    const DEAD_AFTER: Duration = Duration::from_secs(15);

    /// Freshness after a first renewal, and the time of that.
    fn fresh() -> (Freshness, BootInstant) {
        let start = BootInstant::now();
        let mut freshness = Freshness::new(HEARTBEAT, DEAD_AFTER, start);
        freshness.registered(start);
        freshness.renewed(start, start + SECOND);
        (freshness, start)
    }

    #[test]
    fn a_lease_ends_with_the_time_that_passes_on_the_clock() {
        let (freshness, start) = fresh();
        assert!(freshness.is_fresh(start + (DEAD_AFTER - SECOND)));
        assert!(!freshness.is_fresh(start + DEAD_AFTER), "counted from when the renewal began");
        // A machine that was suspended for an hour in between.
        assert!(!freshness.is_fresh(start + 3600 * SECOND));
    }

    #[test]
    fn others_are_judged_from_one_heartbeat_after_the_first_renewal() {
        let (mut freshness, start) = fresh();
        assert!(!freshness.may_judge(start + HEARTBEAT));
        assert!(freshness.may_judge(start + HEARTBEAT + SECOND));
        freshness.renewed(start + HEARTBEAT, start + HEARTBEAT);
        assert!(freshness.may_judge(start + HEARTBEAT + SECOND), "as before");
    }

    #[test]
    fn when_the_databases_clock_is_set_everybody_may_renew_first() {
        let clock = DateTime::UNIX_EPOCH;
        let minutes = TimeDelta::minutes(20);
        for (set, waits) in [
            (minutes, true),
            (-minutes, true),
            (TimeDelta::seconds(7), true),
            (TimeDelta::seconds(4), false),
            (TimeDelta::zero(), false),
        ] {
            let (mut freshness, start) = fresh();
            let read = |at, database| ClockReading::of(at, clock, SECOND, database);
            assert!(!freshness.read_clock(read(start, clock)));
            let at = start + 2 * HEARTBEAT;
            let said = clock + TimeDelta::seconds(10) + set;
            assert_eq!(freshness.read_clock(read(at, said)), waits, "{set}");
            freshness.renewed(at, at + SECOND);
            assert_eq!(!freshness.may_judge(at + 2 * SECOND), waits, "{set}");
            assert!(freshness.is_fresh(at + SECOND), "its own leases go by another clock");
            freshness.renewed(at + DEAD_AFTER, at + DEAD_AFTER);
            assert!(freshness.may_judge(at + DEAD_AFTER + SECOND));
        }
    }

    #[test]
    fn after_a_failure_or_a_suspension_everybody_may_renew_first() {
        let (mut failed, start) = fresh();
        failed.failed();
        let back = start + HEARTBEAT;
        assert!(!failed.may_judge(back + SECOND));
        failed.renewed(back, back);
        let (mut suspended, _) = fresh();
        // Not renewed: even what was allowed before is not any more.
        assert!(!suspended.may_judge(back + DEAD_AFTER + SECOND));
        let back_late = back + DEAD_AFTER + SECOND;
        suspended.renewed(back_late, back_late);

        for (mut freshness, back) in [(failed, back), (suspended, back_late)] {
            assert!(freshness.is_fresh(back));
            freshness.renewed(back + (DEAD_AFTER - SECOND), back + (DEAD_AFTER - SECOND));
            assert!(!freshness.may_judge(back + (DEAD_AFTER - SECOND)));
            assert!(freshness.may_judge(back + DEAD_AFTER));
        }
    }
}
