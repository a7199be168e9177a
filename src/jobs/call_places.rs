//! How many calls of one kind a third party may have under way in this process.
//!
//! With one third party the worker's slots say that, which are no more than its `MAX_IN_FLIGHT`.
//! With several each has its own limit, and shares the slots with the others: it takes a further
//! one only while as many are free as it has. So one that hangs has half of them at most, two have
//! three quarters, and there is always a slot for another.
//!
//! A job that finds no place gives its slot back and waits, without an attempt: about as long as
//! the calls before it take, by how long calls took lately and those under way already do, so that
//! it comes back once or twice and not again and again. The jobs of one client wait for each other
//! and not for those of another: a client whose job comes back soon finds a place, which clients
//! that hold more leave it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

/// The shortest and the longest wait for a place.
const MIN_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A place is kept for a job that comes back within this time.
const SOON: Duration = Duration::from_millis(500);
/// How late it may be: it has to be claimed first.
const LATE: Duration = Duration::from_millis(250);
/// Jobs come back at multiples of this time, so that one claim finds several of them.
const TOGETHER: Duration = Duration::from_millis(50);
/// How long a call is taken to last before one has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// Share of the newest call in how long calls take.
const NEWEST: f64 = 0.2;

/// The slots that several third parties share.
#[derive(Debug)]
struct Shared {
    slots: usize,
    /// What times are counted from.
    epoch: Instant,
    usages: Mutex<Vec<Usage>>,
}

/// What one third party has of them.
#[derive(Debug)]
struct Usage {
    held: usize,
    /// How long a call took lately.
    typical: Duration,
    /// When the calls under way began, added up, since the epoch.
    began: Duration,
    clients: HashMap<Uuid, ClientUse>,
}

/// What one client has of a third party's places.
#[derive(Debug, Default)]
struct ClientUse {
    held: usize,
    /// When the next job that waits may expect a place.
    next: Option<Instant>,
    /// How many of its jobs come back when.
    back: BTreeMap<Instant, usize>,
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
        let usage = |_: &u32| Usage {
            held: 0,
            typical: FIRST_GUESS,
            began: Duration::ZERO,
            clients: HashMap::new(),
        };
        let usages = Mutex::new(limits.iter().map(usage).collect());
        let shared = Arc::new(Shared { slots: slots as usize, epoch: Instant::now(), usages });
        let is_shared = limits.len() > 1;
        let places = limits.iter().enumerate().map(|(index, most)| Self {
            most: *most as usize,
            shared: is_shared.then(|| (shared.clone(), index)),
        });
        places.collect()
    }

    /// A place for a call of a client's job; or how long to wait before one is asked for again.
    pub fn take(&self, client: Uuid) -> Result<Place, Duration> {
        self.take_at(client, Instant::now())
    }

    fn take_at(&self, client: Uuid, now: Instant) -> Result<Place, Duration> {
        let Some((shared, index)) = &self.shared else { return Ok(Place(None)) };
        let mut usages = shared.lock();
        let free = shared.slots.saturating_sub(usages.iter().map(|usage| usage.held).sum());
        let own = &mut usages[*index];
        // Each that is taken makes one fewer free.
        let by_share = free.saturating_sub(own.held).div_ceil(2);
        let left = by_share.min(self.most.saturating_sub(own.held));
        own.tidy(now);
        let since_epoch = now.saturating_duration_since(shared.epoch);
        if left > own.kept_from(client, now) {
            own.take(client, now);
            own.began += since_epoch;
            let shared = shared.clone();
            return Ok(Place(Some(TakenPlace { shared, index: *index, client, at: now })));
        }
        Err(own.wait(client, now, since_epoch))
    }
}

impl Usage {
    /// Forgets jobs that are not coming back, and clients of which nothing is known.
    fn tidy(&mut self, now: Instant) {
        self.clients.retain(|_, client| {
            while let Some(first) = client.back.first_entry().filter(|at| *at.key() + LATE <= now) {
                first.remove();
            }
            client.next = client.next.filter(|next| now < *next);
            client.held > 0 || !client.back.is_empty() || client.next.is_some()
        });
    }

    /// How many places are kept for jobs of clients that hold fewer than this one does.
    fn kept_from(&self, client: Uuid, now: Instant) -> usize {
        let held = self.clients.get(&client).map_or(0, |client| client.held);
        let poorer = self.clients.values().filter(|other| other.held < held);
        let kept = |other: &ClientUse| -> usize {
            let soon = other.back.range(..now + SOON).map(|(_, jobs)| jobs);
            soon.sum::<usize>().min(held - other.held)
        };
        poorer.map(kept).sum()
    }

    fn take(&mut self, client: Uuid, now: Instant) {
        self.held += 1;
        let client = self.clients.entry(client).or_default();
        client.held += 1;
        // The one that was to be back first.
        if let Some(mut first) = client.back.first_entry().filter(|at| *at.key() <= now + LATE) {
            *first.get_mut() -= 1;
            if *first.get() == 0 {
                first.remove();
            }
        }
    }

    /// How long a call takes: as it took lately, or longer, where those under way already do.
    fn takes(&self, since_epoch: Duration) -> Duration {
        let began = self.began / u32::try_from(self.held.max(1)).unwrap_or(u32::MAX);
        let age = if self.held > 0 { since_epoch.saturating_sub(began) } else { Duration::ZERO };
        // On average half of a call is over.
        self.typical.max(2 * age)
    }

    fn wait(&mut self, client: Uuid, now: Instant, since_epoch: Duration) -> Duration {
        let takes = self.takes(since_epoch);
        let waiting = self.clients.values().filter(|client| client.next.is_some()).count();
        let held = u32::try_from(self.held.max(1)).unwrap_or(u32::MAX);
        let client = self.clients.entry(client).or_default();
        let in_turn = waiting + usize::from(client.next.is_none());
        let step = takes.saturating_mul(u32::try_from(in_turn).unwrap_or(u32::MAX)) / held;
        let next = client.next.unwrap_or(now) + step;
        let wait = next - now;
        if wait < MAX_WAIT {
            client.next = Some(next);
        }
        // Spread, so that those beyond the longest wait do not all come back at once.
        let wait = wait.clamp(MIN_WAIT, MAX_WAIT).mul_f64(1.0 + rand::random::<f64>() / 2.0);
        let wait = together(since_epoch + wait) - since_epoch;
        *client.back.entry(now + wait).or_default() += 1;
        wait
    }
}

/// The next multiple of [`TOGETHER`].
fn together(at: Duration) -> Duration {
    let times = at.as_nanos().div_ceil(TOGETHER.as_nanos());
    TOGETHER.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
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
    client: Uuid,
    at: Instant,
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        let took = self.at.elapsed();
        let mut usages = self.shared.lock();
        let own = &mut usages[self.index];
        own.held -= 1;
        own.began -= self.at.saturating_duration_since(self.shared.epoch);
        if let Some(client) = own.clients.get_mut(&self.client) {
            client.held = client.held.saturating_sub(1);
        }
        own.typical = own.typical.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const CLIENT: Uuid = Uuid::nil();
    const OTHER: Uuid = Uuid::max();

    fn take_all(places: &CallPlaces) -> Vec<Place> {
        std::iter::from_fn(|| places.take(CLIENT).ok()).take(10_000).collect()
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
        let waits = (0..1_000).map(|_| places[0].take(CLIENT).unwrap_err());
        let waits: Vec<Duration> = waits.collect();
        let within =
            |wait: &Duration, least: f64| (least..=2.5 * least).contains(&wait.as_secs_f64());
        // The one that ended `take_all` waits before them.
        assert!(within(&waits[0], 0.15), "{:?}", waits[0]);
        assert!(within(&waits[99], 9.0), "{:?}", waits[99]);
        assert!(within(&waits[999], 60.0), "{:?}", waits[999]);
        assert!(places[1].take(CLIENT).is_ok());
    }

    #[test]
    fn while_all_calls_hang_those_that_wait_come_back_rarely() {
        let places = &CallPlaces::of_all(20, &[1000, 1000])[0];
        let (held, now) = (take_all(places), Instant::now());
        let waits = |now| (0..10).map(|_| places.take_at(CLIENT, now).unwrap_err()).max().unwrap();
        assert!(waits(now) < Duration::from_secs(3));
        // None has ended, so none has said how long it takes.
        assert!(waits(now + Duration::from_secs(20)) >= Duration::from_secs(18));
        drop(held);
    }

    #[test]
    fn a_client_with_a_backlog_leaves_others_the_places_that_they_come_back_for() {
        let places = &CallPlaces::of_all(400, &[1000, 1000])[0];
        let (mut held, now) = (take_all(places), Instant::now());
        let take = |client| places.take_at(client, now);
        (0..1_000).for_each(|_| drop(take(CLIENT)));
        let wait = take(OTHER).unwrap_err();
        assert!(wait < SOON, "behind its own jobs alone: {wait:?}");
        held.pop();
        assert!(take(CLIENT).is_err(), "kept for the other one");
        let other = places.take_at(OTHER, now + wait).unwrap();
        assert!(take(CLIENT).is_err(), "taken");
        drop(other);
        held.push(take(CLIENT).expect("nobody else is expected"));
        // One that does not come back keeps nobody waiting for long.
        let wait = take(OTHER).unwrap_err();
        held.pop();
        assert!(take(CLIENT).is_err());
        assert!(places.take_at(CLIENT, now + wait + LATE).is_ok());
    }

    #[test]
    fn places_are_also_kept_where_calls_take_long() {
        let places = &CallPlaces::of_all(8, &[1000, 1000])[0];
        let (held, now) = (take_all(places), Instant::now());
        assert_eq!(held.len(), 4);
        let late = now + Duration::from_secs(20);
        drop(places.take_at(CLIENT, late));
        let wait = places.take_at(OTHER, late).unwrap_err();
        assert!(wait > 2 * SOON, "{wait:?}");
        drop(held);
        // The other places are free for all clients, and the last one when it is back.
        let back = late + wait;
        let all_at = |at| -> Vec<Place> {
            std::iter::from_fn(|| places.take_at(CLIENT, at).ok()).take(10).collect()
        };
        assert_eq!(all_at(back - SOON).len(), 4, "it is not expected yet");
        let held = all_at(back);
        assert_eq!(held.len(), 3, "one is kept");
        assert!(places.take_at(OTHER, back).is_ok());
    }

    #[test]
    fn clients_with_backlogs_have_equal_shares() {
        let places = &CallPlaces::of_all(40, &[1000, 1000])[0];
        let (mut held, start) = (VecDeque::from(take_all(places)), Instant::now());
        assert_eq!(held.len(), 20);
        // A call ends every 10 ms, and the one with the backlog always asks first.
        for round in 0..400 {
            let now = start + Duration::from_millis(10) * round;
            held.pop_front();
            for client in [CLIENT, OTHER, CLIENT, OTHER] {
                held.extend(places.take_at(client, now));
            }
            assert!(held.len() <= 20);
        }
        let usages = places.shared.as_ref().unwrap().0.lock();
        let of = |client| usages[0].clients[&client].held;
        assert!(of(CLIENT).abs_diff(of(OTHER)) <= 4, "{} and {}", of(CLIENT), of(OTHER));
    }
}
