//! How many calls of one kind a third party may have under way in this process.
//!
//! With one third party the worker's slots say that, which are no more than its `MAX_IN_FLIGHT`.
//! With several each has its own limit, and shares the slots with the others: it takes a further
//! one only while as many are free as it has. So one that hangs has half of them at most, two have
//! three quarters, and there is always a slot for another.
//!
//! A job that finds no place gives its slot back and waits, without an attempt: about as long as
//! the calls before it take, by how long calls took lately, so that it comes back once or twice and
//! not again and again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The shortest and the longest wait for a place.
const MIN_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a call is taken to last before one has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// Share of the newest call in how long calls take.
const NEWEST: f64 = 0.2;

/// The slots that several third parties share.
#[derive(Debug)]
struct Shared {
    slots: usize,
    usages: Mutex<Vec<Usage>>,
}

/// What one third party has of them.
#[derive(Debug)]
struct Usage {
    held: usize,
    /// How long a call takes.
    typical: Duration,
    /// When the next one that waits may expect a place.
    next: Option<Instant>,
}

/// The places of one third party.
#[derive(Debug)]
pub struct CallPlaces {
    most: usize,
    /// `None` where there is no other third party.
    shared: Option<(Arc<Shared>, usize)>,
}

impl CallPlaces {
    /// The places of third parties with these limits, which share `slots`.
    pub fn of_all(slots: u32, limits: &[u32]) -> Vec<Self> {
        let usage = |_: &u32| Usage { held: 0, typical: FIRST_GUESS, next: None };
        let usages = Mutex::new(limits.iter().map(usage).collect());
        let shared = Arc::new(Shared { slots: slots as usize, usages });
        let is_shared = limits.len() > 1;
        let places = limits.iter().enumerate().map(|(index, most)| Self {
            most: *most as usize,
            shared: is_shared.then(|| (shared.clone(), index)),
        });
        places.collect()
    }

    /// A place for a call; or how long to wait before one is asked for again.
    pub fn take(&self) -> Result<Place, Duration> {
        let Some((shared, index)) = &self.shared else { return Ok(Place(None)) };
        let mut usages = shared.lock();
        let free = shared.slots.saturating_sub(usages.iter().map(|usage| usage.held).sum());
        let own = &mut usages[*index];
        if own.held < self.most && own.held < free {
            own.held += 1;
            let taken = TakenPlace { shared: shared.clone(), index: *index, at: Instant::now() };
            return Ok(Place(Some(taken)));
        }
        Err(own.wait(Instant::now()))
    }
}

impl Usage {
    fn wait(&mut self, now: Instant) -> Duration {
        let step = self.typical / u32::try_from(self.held.max(1)).unwrap_or(u32::MAX);
        let next = self.next.map_or(now, |next| next.max(now)) + step;
        let wait = next - now;
        if wait < MAX_WAIT {
            self.next = Some(next);
        }
        // Spread, so that those beyond the longest wait do not all come back at once.
        wait.clamp(MIN_WAIT, MAX_WAIT).mul_f64(1.0 + rand::random::<f64>() / 2.0)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Usage>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one call; the place is free again when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Place(#[allow(dead_code)] Option<TakenPlace>);

#[derive(Debug)]
struct TakenPlace {
    shared: Arc<Shared>,
    index: usize,
    at: Instant,
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        let took = self.at.elapsed();
        let mut usages = self.shared.lock();
        let own = &mut usages[self.index];
        own.held -= 1;
        own.typical = own.typical.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(places: &CallPlaces) -> Vec<Place> {
        std::iter::from_fn(|| places.take().ok()).take(10_000).collect()
    }

    #[test]
    fn the_only_third_party_has_the_slots_alone() {
        let places = &CallPlaces::of_all(10, &[5])[0];
        assert_eq!(take_all(places).len(), 10_000);
    }

    #[test]
    fn each_leaves_as_much_free_as_it_has() {
        let places = CallPlaces::of_all(100, &[1000, 1000, 1000, 3]);
        let held: Vec<Vec<Place>> = places[..3].iter().map(take_all).collect();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [50, 25, 13]);
        assert_eq!(take_all(&places[3]).len(), 3, "its own limit");
        drop(held);
        assert_eq!(take_all(&places[1]).len(), 50);
        let single = CallPlaces::of_all(1, &[1, 1]);
        assert_eq!(take_all(&single[0]).len(), 1);
    }

    #[test]
    fn those_that_wait_are_spread_by_how_long_calls_take() {
        let places = CallPlaces::of_all(20, &[1000, 1000]);
        let held = take_all(&places[0]);
        assert_eq!(held.len(), 10);
        // Ten at a time, and each takes a second: ten a second.
        let waits: Vec<Duration> = (0..1_000).map(|_| places[0].take().unwrap_err()).collect();
        let within =
            |wait: &Duration, least: f64| (least..=2.5 * least).contains(&wait.as_secs_f64());
        // The one that ended `take_all` waits before them.
        assert!(within(&waits[0], 0.15), "{:?}", waits[0]);
        assert!(within(&waits[99], 9.0), "{:?}", waits[99]);
        assert!(within(&waits[999], 60.0), "{:?}", waits[999]);
        assert!(places[1].take().is_ok());
    }
}
