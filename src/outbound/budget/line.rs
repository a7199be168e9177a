//! The calls of this process that wait, and the times at which calls may be sent. Pure: the caller
//! says what time it is.

use std::{collections::VecDeque, time::Duration};

use uuid::Uuid;

use crate::domain::{BootInstant, CallRate, FairQueue};

/// When one call may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallTime {
    /// Not before.
    pub from: BootInstant,
    /// Not after.
    pub until: BootInstant,
}

impl CallTime {
    /// Whether it is too late for it.
    pub fn is_over(&self, now: BootInstant) -> bool {
        self.until < now
    }
}

/// Whose call it is: a client's, whose transaction it is about, or nobody's in particular, as those
/// of operators and of reconciliation.
pub(super) type Owner = Option<Uuid>;

/// Which calls go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The next call of a job that has made one: a create after its lookup, or the same call again.
    Next,
    /// Clients take turns; the calls of one are in the order in which they are asked for.
    First,
}

/// What happens next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<W> {
    /// It is this one's turn.
    Grant(W, CallTime),
    /// Then somebody's turn comes.
    At(BootInstant),
    /// Somebody waits, and there is no time to give.
    Empty,
    Nobody,
}

/// What a lease should bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// Times for calls of [`Order::Next`] alone.
    pub next: u32,
    /// Times for all that wait, and no more than one lease may take.
    pub all: u32,
}

/// Those who wait, and the times.
#[derive(Debug)]
pub(super) struct Line<W> {
    times: VecDeque<CallTime>,
    next: VecDeque<W>,
    first: FairQueue<Owner, W>,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { times: VecDeque::new(), next: VecDeque::new(), first: FairQueue::default() }
    }
}

impl<W> Line<W> {
    /// Waits behind those of the same order and owner.
    pub fn join(&mut self, order: Order, owner: Owner, waiter: W) {
        match order {
            Order::Next => self.next.push_back(waiter),
            Order::First => self.first.push(owner, waiter),
        }
    }

    /// Forgets those that wait no more, and the times that have passed.
    pub fn tidy(&mut self, now: BootInstant, waits: impl Fn(&W) -> bool) {
        self.next.retain(&waits);
        self.first.retain(&waits);
        self.times.retain(|time| !time.is_over(now));
    }

    /// Adds times, which are later than those that are there.
    pub fn add(&mut self, times: impl IntoIterator<Item = CallTime>) {
        self.times.extend(times);
    }

    /// A time that was not used after all.
    pub fn give_back(&mut self, time: CallTime) {
        self.times.push_front(time);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.next.len() + self.first.len()
    }

    /// How many next calls wait, which go before all others.
    pub fn next_calls(&self) -> usize {
        self.next.len()
    }

    /// How many first calls of each owner wait.
    pub fn first_calls(&self) -> impl Iterator<Item = (Owner, usize)> {
        self.first.counts()
    }

    /// How many times are there.
    pub fn times(&self) -> usize {
        self.times.len()
    }

    /// What happens next.
    pub fn step(&mut self, now: BootInstant) -> Step<W> {
        if self.waiting() == 0 {
            return Step::Nobody;
        }
        while self.times.front().is_some_and(|time| time.is_over(now)) {
            self.times.pop_front();
        }
        let Some(time) = self.times.front().copied() else { return Step::Empty };
        if time.from > now {
            return Step::At(time.from);
        }
        match self.next.pop_front().or_else(|| self.first.pop()) {
            Some(waiter) => {
                self.times.pop_front();
                Step::Grant(waiter, time)
            }
            None => Step::Nobody,
        }
    }

    /// What to lease now. Nothing while there are times for a whole block: they would only be kept
    /// from other processes.
    pub fn wanted(&self, rate: &CallRate) -> Wanted {
        let (block, times) = (rate.block() as usize, self.times.len());
        if times >= block {
            return Wanted::default();
        }
        let without = |waiting: usize| {
            u32::try_from(waiting.saturating_sub(times).min(block)).unwrap_or(u32::MAX)
        };
        Wanted { next: without(self.next.len()), all: without(self.waiting()) }
    }
}

/// The times of a lease: the first one may be at any moment of `start`, the others follow it.
pub(super) fn times(
    start: (BootInstant, BootInstant),
    gap: Duration,
    count: u32,
    window: Duration,
) -> impl Iterator<Item = CallTime> {
    let (earliest, latest) = start;
    let times = (0..count).map(move |nth| {
        let since = Duration::from_secs_f64(gap.as_secs_f64() * f64::from(nth));
        // Not before its time, whatever the database's clock says now, and not too late either.
        CallTime { from: latest + since, until: earliest + window + since }
    });
    times.filter(|time| time.from <= time.until)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const WINDOW: Duration = Duration::from_millis(150);

    fn leased(start: BootInstant, count: u32) -> impl Iterator<Item = CallTime> {
        times((start, start), MS * 25, count, WINDOW)
    }

    #[test]
    fn the_next_call_of_a_job_goes_before_first_calls() {
        let now = BootInstant::now();
        let mut line = Line::default();
        for waiter in ["lookup 1", "lookup 2"] {
            line.join(Order::First, None, waiter);
        }
        line.join(Order::Next, None, "create");
        assert_eq!(line.step(now), Step::Empty);
        line.add(leased(now + MS, 3));
        assert_eq!(line.step(now), Step::At(now + MS));
        let mut granted = Vec::new();
        while let Step::Grant(waiter, _) = line.step(now + MS * 60) {
            granted.push(waiter);
        }
        assert_eq!(granted, ["create", "lookup 1", "lookup 2"]);
        assert_eq!(line.step(now + MS * 60), Step::Nobody);
    }

    #[test]
    fn a_time_that_has_passed_is_lost() {
        let now = BootInstant::now();
        let mut line = Line::default();
        line.join(Order::First, None, ());
        line.add(leased(now, 2));
        // The first one's window ends at 150 ms, the second one's at 175 ms.
        assert!(matches!(line.step(now + MS * 160), Step::Grant((), time) if time.from > now));
        line.join(Order::First, None, ());
        line.add(leased(now, 1));
        assert_eq!(line.step(now + MS * 151), Step::Empty);
    }

    #[test]
    fn a_lease_is_as_long_as_what_waits_and_a_quarter_of_a_second_at_most() {
        let (now, rate) = (BootInstant::now(), CallRate::per_second(50));
        let mut line = Line::default();
        let wanted = |next, all| Wanted { next, all };
        assert_eq!(line.wanted(&rate), wanted(0, 0));
        for _ in 0..3 {
            line.join(Order::First, None, ());
        }
        line.join(Order::Next, None, ());
        assert_eq!(line.wanted(&rate), wanted(1, 4));
        line.add(leased(now, 2));
        assert_eq!(line.wanted(&rate), wanted(0, 2));
        for _ in 0..100 {
            line.join(Order::First, None, ());
        }
        assert_eq!(line.wanted(&rate), wanted(0, 8));
        line.add(leased(now, 10));
        assert_eq!(line.wanted(&rate), wanted(0, 0));
        line.tidy(now, |()| false);
        assert_eq!((line.waiting(), line.times()), (0, 12));
    }

    #[test]
    fn times_that_are_not_known_closely_enough_are_not_used() {
        let now = BootInstant::now();
        let of = |round_trip| times((now, now + MS * round_trip), MS * 25, 3, WINDOW).count();
        assert_eq!([of(0), of(150), of(151)], [3, 3, 0]);
    }

    proptest! {
        /// In whatever order calls join: each time is given to one call, within its window.
        #[test]
        fn each_time_is_used_once_and_within_its_window(
            steps in prop::collection::vec((any::<bool>(), 0..60_u32, 0..4_u32), 1..200),
        ) {
            let start = BootInstant::now();
            let (mut now, mut end) = (start, start);
            let mut line = Line::default();
            let mut used = Vec::new();
            for (nth, (is_next, passes, leases)) in steps.into_iter().enumerate() {
                line.join(if is_next { Order::Next } else { Order::First }, None, nth);
                end = end.max(now);
                line.add(leased(end, leases));
                end = end + MS * 25 * leases;
                now = now + MS * passes;
                while let Step::Grant(_, time) = line.step(now) {
                    prop_assert!(time.from <= now && !time.is_over(now));
                    used.push(time.from);
                }
            }
            let count = used.len();
            used.dedup();
            prop_assert_eq!(count, used.len());
            prop_assert!(used.is_sorted());
        }
    }
}
