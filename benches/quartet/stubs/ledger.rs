//! What load generator and stubs saw of each transaction, and what of it must not have happened.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::{Moment, now};

/// Lookups of one transaction whose moments are kept.
const LOOKUPS: usize = 4;
/// The version of a final status: there is one change.
const FINAL_VERSION: i32 = 2;
/// Most violations that are kept as text.
const SHOWN: usize = 20;

/// One lookup, at the third party.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lookup {
    pub arrived: Moment,
    pub answered: Moment,
}

/// One transaction, seen from outside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record {
    /// The third party that the post named.
    pub third_party: Option<&'static str>,
    /// When the accept was to be sent.
    pub intended: Moment,
    /// When it was answered 2xx.
    pub answered: Moment,
    /// The first lookups: that before the create, then polls.
    pub lookups: [Lookup; LOOKUPS],
    lookup_count: usize,
    /// When the create arrived at the third party.
    created: Moment,
    /// Whether a lookup shows it, how often one did, and whether as completed.
    exists: bool,
    shown: u32,
    completed: bool,
    /// The last version that the client heard, when it heard one first, and when the final one.
    pub told_version: i32,
    pub told_first: Moment,
    pub told_final: Moment,
}

#[derive(Default)]
struct State {
    records: HashMap<Uuid, Record>,
    accepted: usize,
    told_final: usize,
    /// Posts that were answered 503.
    refusals: usize,
    creates_in_flight: usize,
    most_creates_in_flight: usize,
    violations: Vec<String>,
    violation_count: usize,
    /// Gets a permit back with each transaction that has ended.
    window: Option<Arc<Semaphore>>,
}

impl State {
    fn violation(&mut self, text: String) {
        self.violation_count += 1;
        if self.violations.len() < SHOWN {
            self.violations.push(text);
        }
    }
}

/// The records of one run. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<State>>);

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a permit back to `window` with each transaction whose end the client hears.
    pub fn set_window(&self, window: Option<Arc<Semaphore>>) {
        self.state().window = window;
    }

    /// An accept was answered 2xx.
    pub fn accepted(
        &self,
        id: Uuid,
        third_party: Option<&'static str>,
        intended: Moment,
        answered: Moment,
    ) {
        let mut state = self.state();
        state.accepted += 1;
        let record = state.records.entry(id).or_default();
        record.third_party = third_party;
        record.intended = intended;
        record.answered = answered;
    }

    /// A post was answered 503.
    pub fn refused(&self) {
        self.state().refusals += 1;
    }

    /// How many posts were answered 503.
    pub fn refusals(&self) -> usize {
        self.state().refusals
    }

    /// Makes room for this many transactions: where much is under way, growing takes long.
    pub fn reserve(&self, transactions: usize) {
        self.state().records.reserve(transactions);
    }

    /// Something was answered or seen that must not be.
    pub fn violated(&self, text: String) {
        self.state().violation(text);
    }

    /// A lookup of `id` arrives. Returns whether the third party has it, and whether completed: by
    /// itself after it was shown `pending_polls` times.
    pub fn looked_up(&self, id: Uuid, pending_polls: Option<u32>) -> Option<bool> {
        let mut state = self.state();
        let record = state.records.entry(id).or_default();
        if let Some(lookup) = record.lookups.get_mut(record.lookup_count) {
            lookup.arrived = now();
        }
        record.lookup_count += 1;
        if !record.exists {
            return None;
        }
        record.completed |= pending_polls.is_some_and(|pending| record.shown >= pending);
        record.shown += 1;
        Some(record.completed)
    }

    /// The last lookup of `id` is answered now.
    pub fn lookup_answered(&self, id: Uuid) {
        let mut state = self.state();
        if let Some(record) = state.records.get_mut(&id)
            && let Some(lookup) = record.lookups.get_mut(record.lookup_count.saturating_sub(1))
        {
            lookup.answered = now();
        }
    }

    /// A create of `id` arrives.
    pub fn create_arrived(&self, id: Uuid) {
        let mut state = self.state();
        let record = state.records.entry(id).or_default();
        let (doubled, shown) = (record.created > 0, record.shown > 0);
        record.created = now();
        state.creates_in_flight += 1;
        state.most_creates_in_flight = state.most_creates_in_flight.max(state.creates_in_flight);
        if shown {
            state.violation(format!("4: {id} was created although a lookup shows it"));
        } else if doubled {
            state.violation(format!("4: {id} was created twice"));
        }
    }

    /// The create of `id` is answered now: lookups show it, as `completed` or not.
    pub fn create_answered(&self, id: Uuid, completed: bool) {
        let mut state = self.state();
        state.creates_in_flight -= 1;
        let record = state.records.entry(id).or_default();
        record.exists = true;
        record.completed |= completed;
    }

    /// The third party has reported the end of `id` by webhook.
    pub fn completed(&self, id: Uuid) {
        self.state().records.entry(id).or_default().completed = true;
    }

    /// The client hears a version.
    pub fn told(&self, id: Uuid, version: i32) {
        let mut state = self.state();
        let record = state.records.entry(id).or_default();
        let before = record.told_version;
        record.told_version = before.max(version);
        if record.told_first == 0 {
            record.told_first = now();
        }
        if version >= FINAL_VERSION && record.told_final == 0 {
            record.told_final = now();
            state.told_final += 1;
            if let Some(window) = &state.window {
                window.add_permits(1);
            }
        }
        if version < before {
            state.violation(format!("3: {id} went down from version {before} to {version}"));
        }
    }

    /// How many accepts were answered 2xx, and of how many transactions the client heard the end.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.accepted, state.told_final)
    }

    /// The most creates that the third party had not yet answered.
    pub fn most_creates_in_flight(&self) -> usize {
        self.state().most_creates_in_flight
    }

    /// The transactions accepted since `moment`, oldest first.
    pub fn records_since(&self, moment: Moment) -> Vec<(Uuid, Record)> {
        let state = self.state();
        let accepted = state
            .records
            .iter()
            .filter(|(_, record)| record.answered > 0 && record.intended >= moment);
        let mut records: Vec<_> = accepted.map(|(id, record)| (*id, *record)).collect();
        records.sort_by_key(|(_, record)| record.intended);
        records
    }

    /// The last version that the client heard of each transaction, also where its post was refused
    /// although it was stored: who posts hears of that by a repetition.
    pub fn told_versions(&self) -> HashMap<Uuid, i32> {
        let state = self.state();
        state.records.iter().map(|(id, record)| (*id, record.told_version)).collect()
    }

    /// What was seen and must not be; with `ended`, also that the client has not heard an end.
    pub fn violations(&self, ended: bool) -> Vec<String> {
        let mut state = self.state();
        if ended {
            let untold = state.records.iter().filter(|(_, record)| {
                record.answered > 0 && (record.told_final == 0 || !record.exists)
            });
            let untold: Vec<Uuid> = untold.map(|(id, _)| *id).collect();
            for id in untold {
                state.violation(format!("3: {id} was accepted, and its end was not told"));
            }
        }
        let mut violations = state.violations.clone();
        if state.violation_count > violations.len() {
            violations.push(format!("{} violations in all", state.violation_count));
        }
        violations
    }
}
