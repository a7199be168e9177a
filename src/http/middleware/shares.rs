//! Limits how many waiting reads (`wait_seconds`) one client may hold.
//!
//! Such a read holds its place for up to 30 s, so one client could occupy all places permanently.
//! A client may hold at most as many places as then remain free: half of them if it is alone, a
//! third if another client does the same. One is always left for a client that holds none. Clients
//! are distinguished by the hash of their API key, which costs no lookup: a key that nobody has
//! gets its 401 soon, and gives its place back.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// An API key's hash; zeros for a request without a key.
pub type KeyHash = [u8; 32];

/// The places of reads that wait.
#[derive(Debug)]
pub struct WaitingShares {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_key: HashMap<KeyHash, usize>,
}

/// Why a read gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// Its client holds its share.
    Share,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
pub struct WaitingPlace<'a> {
    shares: &'a WaitingShares,
    key: KeyHash,
}

impl WaitingShares {
    /// This many places.
    pub fn new(most: usize) -> Self {
        Self { most, held: Mutex::default() }
    }

    /// A place for a read with this key.
    pub fn take(&self, key: KeyHash) -> Result<WaitingPlace<'_>, NoPlace> {
        let mut held = self.held();
        let free = self.most.saturating_sub(held.all);
        if free == 0 {
            return Err(NoPlace::Full);
        }
        let own = held.by_key.get(&key).copied().unwrap_or_default();
        if own >= free {
            return Err(NoPlace::Share);
        }
        held.all += 1;
        held.by_key.insert(key, own + 1);
        Ok(WaitingPlace { shares: self, key })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        held.all = held.all.saturating_sub(1);
        match held.by_key.get_mut(&self.key) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                held.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyHash = [1; 32];
    const B: KeyHash = [2; 32];
    const C: KeyHash = [3; 32];

    fn take_all(shares: &WaitingShares, key: KeyHash) -> Vec<WaitingPlace<'_>> {
        std::iter::from_fn(|| shares.take(key).ok()).collect()
    }

    #[test]
    fn a_client_holds_at_most_as_many_as_are_free() {
        let shares = WaitingShares::new(1024);
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
        assert!(shares.held().by_key.is_empty(), "nothing is kept of clients that hold nothing");
    }

    #[test]
    fn a_single_place_is_for_the_first_that_asks() {
        let shares = WaitingShares::new(1);
        let place = shares.take(A).unwrap();
        assert_eq!(shares.take(A).unwrap_err(), NoPlace::Full);
        assert_eq!(shares.take(B).unwrap_err(), NoPlace::Full);
        drop(place);
        shares.take(B).unwrap();
    }
}
