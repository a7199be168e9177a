//! A queue that serves its owners in turn: one that puts in much waits behind itself, not the others
//! behind it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    iter,
};

/// Items, each of an owner. Those of one owner come out in the order in which they went in.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    by_owner: HashMap<K, VecDeque<T>>,
    /// The owners that have items, in the order of their turns.
    turns: VecDeque<K>,
    count: usize,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self { by_owner: HashMap::new(), turns: VecDeque::new(), count: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// Adds an item behind those of the same owner.
    pub fn push(&mut self, owner: K, item: T) {
        let items = self.by_owner.entry(owner.clone()).or_default();
        if items.is_empty() {
            self.turns.push_back(owner);
        }
        items.push_back(item);
        self.count += 1;
    }

    /// Takes the oldest item of the owner whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_wanted(|_| true)
    }

    /// The same, dropping items that are not wanted any more: these use up no turn of their owner.
    pub fn pop_wanted(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        while let Some(owner) = self.turns.pop_front() {
            let Some(items) = self.by_owner.get_mut(&owner) else { continue };
            let before = items.len();
            let item = iter::from_fn(|| items.pop_front()).find(&is_wanted);
            self.count -= before - items.len();
            if items.is_empty() {
                self.by_owner.remove(&owner);
            } else {
                self.turns.push_back(owner);
            }
            if item.is_some() {
                return item;
            }
        }
        None
    }

    /// Drops the items that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.by_owner.values_mut().for_each(|items| items.retain(&keep));
        self.by_owner.retain(|_, items| !items.is_empty());
        let by_owner = &self.by_owner;
        self.turns.retain(|owner| by_owner.contains_key(owner));
        self.count = self.by_owner.values().map(VecDeque::len).sum();
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many owners have items.
    pub fn owners(&self) -> usize {
        self.by_owner.len()
    }

    /// How many items this owner has.
    pub fn count_of(&self, owner: &K) -> usize {
        self.by_owner.get(owner).map_or(0, VecDeque::len)
    }

    /// How many items each owner has.
    pub fn counts(&self) -> impl Iterator<Item = (K, usize)> {
        self.by_owner.iter().map(|(owner, items)| (owner.clone(), items.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn owners_take_turns() {
        let mut queue = FairQueue::default();
        (0..4).for_each(|nth| queue.push('a', format!("a{nth}")));
        assert_eq!(queue.pop().as_deref(), Some("a0"));
        queue.push('b', "b0".to_owned());
        queue.push('c', "c0".to_owned());
        queue.push('b', "b1".to_owned());
        let rest: Vec<String> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, ["a1", "b0", "c0", "a2", "b1", "a3"]);
    }

    #[test]
    fn what_is_not_wanted_any_more_uses_up_no_turn() {
        let mut queue = FairQueue::default();
        (0..5).for_each(|nth| queue.push('a', ('a', nth)));
        (0..2).for_each(|nth| queue.push('b', ('b', nth)));
        let is_wanted = |item: &(char, i32)| *item != ('b', 0) && (item.0 == 'b' || item.1 > 2);
        assert_eq!(queue.pop_wanted(is_wanted), Some(('a', 3)));
        assert_eq!((queue.pop_wanted(is_wanted), queue.len()), (Some(('b', 1)), 1));
        assert_eq!(queue.pop_wanted(|_| false), None);
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    proptest! {
        /// Everything comes out once; of two owners that both wait, neither is served twice before
        /// the other.
        #[test]
        fn nobody_is_served_twice_while_another_waits(
            steps in prop::collection::vec((0..4_u8, any::<bool>(), 0..10_u8), 1..200),
        ) {
            let mut queue = FairQueue::default();
            let mut waiting: Vec<(u8, usize)> = Vec::new();
            // Of each pair: who was served since the other one began to wait.
            let mut served_since: BTreeSet<(u8, u8)> = BTreeSet::new();
            for (nth, (owner, pops, drops)) in steps.into_iter().enumerate() {
                queue.push(owner, (owner, nth));
                waiting.push((owner, nth));
                if drops == 0 {
                    queue.retain(|(_, nth)| nth % 3 != 0);
                    waiting.retain(|(_, nth)| nth % 3 != 0);
                }
                served_since.retain(|(_, other)| waiting.iter().any(|(owner, _)| owner == other));
                if pops {
                    let popped = queue.pop();
                    prop_assert_eq!(popped.is_some(), !waiting.is_empty());
                    let Some(item) = popped else { continue };
                    let oldest = waiting.iter().find(|(owner, _)| *owner == item.0);
                    prop_assert_eq!(oldest, Some(&item));
                    waiting.retain(|other| *other != item);
                    served_since.retain(|(_, other)| *other != item.0);
                    let others: BTreeSet<u8> = waiting.iter().map(|(owner, _)| *owner).collect();
                    for other in others.into_iter().filter(|other| *other != item.0) {
                        prop_assert!(
                            served_since.insert((item.0, other)),
                            "{} was served twice while {other} waited", item.0,
                        );
                    }
                }
                prop_assert_eq!(queue.len(), waiting.len());
                let counted: usize = queue.counts().map(|(_, count)| count).sum();
                prop_assert_eq!(counted, waiting.len());
            }
        }
    }
}
