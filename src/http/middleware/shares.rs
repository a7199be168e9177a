//! Limits how many requests one client, or one address, may have under way.
//!
//! A request whose body comes slowly holds its place for as long as bodies may take, and a read
//! that waits for a final status (`wait_seconds`) for up to 30 s: one client could occupy all
//! places permanently. Once no more than a reserve of them is free, a client that holds as many as
//! are free gets no more. Where the reserve is all of them, that is half if it is alone, and a
//! third if another client does the same. One is always left for a client that holds none.
//!
//! Who calls without a key that is known counts by address: webhooks, sign-ins, and keys that have
//! not been looked up yet, of which anybody can make up as many as there are places.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    Client(Uuid),
    /// `None` where it is not known, as through a socket of Unix.
    Address(Option<IpAddr>),
}

/// The places of one kind of requests.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    reserve: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_caller: HashMap<Caller, usize>,
}

/// Why a request gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// Its client holds its share.
    Share,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
pub struct Place<'a> {
    shares: &'a Shares,
    caller: Caller,
}

impl Shares {
    /// This many places, of which `reserve` are shared out.
    pub fn new(most: usize, reserve: usize) -> Self {
        Self { most, reserve, held: Mutex::default() }
    }

    /// A place for a request of this caller.
    pub fn take(&self, caller: Caller) -> Result<Place<'_>, NoPlace> {
        let mut held = self.held();
        let free = self.most.saturating_sub(held.all);
        if free == 0 {
            return Err(NoPlace::Full);
        }
        let own = held.by_caller.get(&caller).copied().unwrap_or_default();
        if free <= self.reserve && own >= free {
            return Err(NoPlace::Share);
        }
        held.all += 1;
        held.by_caller.insert(caller, own + 1);
        Ok(Place { shares: self, caller })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        held.all = held.all.saturating_sub(1);
        match held.by_caller.get_mut(&self.caller) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                held.by_caller.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Caller = Caller::Client(Uuid::from_u128(1));
    const B: Caller = Caller::Client(Uuid::from_u128(2));
    const C: Caller = Caller::Address(None);

    fn take_all(shares: &Shares, caller: Caller) -> Vec<Place<'_>> {
        std::iter::from_fn(|| shares.take(caller).ok()).collect()
    }

    #[test]
    fn a_client_holds_at_most_as_many_as_are_free() {
        let shares = Shares::new(1024, 1024);
        let a = take_all(&shares, A);
        assert_eq!(a.len(), 512);
        assert_eq!(shares.take(A).unwrap_err(), NoPlace::Share);
        let b = take_all(&shares, B);
        assert_eq!(b.len(), 256);
        assert_eq!(take_all(&shares, C).len(), 128);
        drop(a);
        assert_eq!(take_all(&shares, A).len(), 384);
        drop(b);
        assert_eq!(shares.held().all, 0);
        assert!(shares.held().by_caller.is_empty(), "nothing is kept of clients that hold nothing");
    }

    #[test]
    fn only_the_reserve_is_shared_out() {
        let shares = Shares::new(1024, 256);
        let a = take_all(&shares, A);
        assert_eq!(a.len(), 768);
        assert_eq!(take_all(&shares, B).len(), 128);
        drop(a);
        let b = take_all(&shares, B);
        assert_eq!((b.len(), take_all(&shares, A).len()), (768, 128));
        drop(b);
        let none = Shares::new(8, 0);
        assert_eq!(take_all(&none, A).len(), 8);
        assert_eq!(none.take(A).map(drop), Ok(()), "they are free again");
    }

    #[test]
    fn a_single_place_is_for_the_first_that_asks() {
        for reserve in [0, 1] {
            let shares = Shares::new(1, reserve);
            let place = shares.take(A).unwrap();
            assert_eq!(shares.take(A).unwrap_err(), NoPlace::Full);
            assert_eq!(shares.take(B).unwrap_err(), NoPlace::Full);
            drop(place);
            shares.take(B).unwrap();
        }
    }
}
