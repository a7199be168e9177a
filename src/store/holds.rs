//! The leases that a worker knows about, for comparison with those in the database.
//!
//! A statement that leases jobs and whose answer is lost may be committed all the same, even after
//! its caller has given up: its jobs then run under a living worker that does not know them. The
//! next claim gives such leases back ([`Holds::unsure`]), and what it does not see yet is found by
//! the lease keeper in `jobs`.
//!
//! A lease that the worker does not hold is not unknown yet while the answer of the statement that
//! made it may still arrive: a claim, of which a worker has one under way at a time, or one that
//! leases beside the claims ([`super::direct_leases`]), which says before it begins whose jobs
//! these are.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::jobs::{ClaimedJob, Lease};
use crate::domain::BootInstant;

/// A statement without an answer is expected to be committed within this time, if at all. What is
/// committed later is found by the comparison of all leases, which is made this often.
pub const UNSURE: Duration = Duration::from_secs(15 * 60);
/// Of the statements that were not answered, those are remembered that began this long after one
/// another: the first of each minute.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A lease of one worker: the job's id and the time of the claim.
pub type LeaseKey = (String, DateTime<Utc>);

/// The key of a lease.
pub fn key(lease: &Lease) -> LeaseKey {
    (lease.job_id.clone(), lease.locked_at)
}

/// The leases that one worker knows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    held: HashSet<LeaseKey>,
    /// Those whose run ended without a written outcome, by a defect: it may have called somebody.
    cut_off: HashSet<LeaseKey>,
    /// How many claims have begun.
    claims: u64,
    /// Whether the answer of the last one may still come.
    is_claiming: bool,
    /// The transactions whose jobs a statement under way may lease to the worker, and how many
    /// statements do.
    expected: HashMap<Uuid, usize>,
    /// When statements began that were not answered: at least one of each minute.
    unanswered_at: BTreeSet<BootInstant>,
    /// How many were not answered.
    unanswered: u64,
    /// There may be leases that the worker does not know.
    is_unsure: bool,
}

/// All that a worker knows.
#[derive(Debug, Clone)]
pub struct Known {
    /// With those whose run was cut off: the lease keeper gives them back, because their runs may
    /// have called somebody.
    pub leases: Vec<LeaseKey>,
    /// The transactions whose jobs may be leased to it just now.
    pub expected: Vec<Uuid>,
    /// When the first statement began that was not answered; `None` where that is long ago.
    pub unanswered_at: Option<BootInstant>,
    unanswered: u64,
}

impl Holds {
    /// A claim begins; its answer is expected for as long as the returned value lives. A worker has
    /// one claim under way at a time.
    pub fn begin_claim(&self) -> PendingClaim {
        let mut state = self.state();
        state.claims += 1;
        state.is_claiming = true;
        PendingClaim { holds: self.clone(), began: BootInstant::now() }
    }

    /// A statement is about to lease jobs of these transactions to the worker, or may; its answer
    /// is expected for as long as the returned value lives. `None` while the worker is unsure of
    /// its leases: what it does not hold is being given back.
    pub fn expect(&self, transactions: Vec<Uuid>) -> Option<Expected> {
        let mut state = self.state();
        if state.is_unsure {
            return None;
        }
        for transaction in &transactions {
            *state.expected.entry(*transaction).or_default() += 1;
        }
        drop(state);
        let (holds, began) = (self.clone(), BootInstant::now());
        Some(Expected { holds, transactions, began, is_answered: false })
    }

    /// Holds the lease of a job that is in this process, for as long as the returned value lives.
    pub fn hold(&self, claimed: &ClaimedJob) -> Hold {
        let key = key(&claimed.lease);
        self.state().held.insert(key.clone());
        Hold { holds: self.clone(), key, is_written: false }
    }

    /// All that is known, while there may be leases that are not: after a statement that was not
    /// answered. What else is leased to the worker may be given back until [`Self::compared`].
    pub fn unsure(&self) -> Option<Known> {
        let (state, now) = (self.state(), BootInstant::now());
        state.is_unsure.then(|| Known {
            leases: state.held.union(&state.cut_off).cloned().collect(),
            expected: state.expected.keys().copied().collect(),
            unanswered_at: state.unanswered_at(now),
            unanswered: state.unanswered,
        })
    }

    /// What was not `known` is given back. The worker is sure again, unless another statement was
    /// not answered since.
    pub fn compared(&self, known: &Known) {
        let mut state = self.state();
        state.is_unsure &= state.unanswered != known.unanswered;
    }

    /// Whether the worker holds this lease, or is about to: of a job of this transaction.
    pub fn holds(&self, key: &LeaseKey, transaction: Option<Uuid>) -> bool {
        let state = self.state();
        state.held.contains(key)
            || transaction.is_some_and(|transaction| state.expected.contains_key(&transaction))
    }

    /// How many claims have begun so far: those that may have made a lease which is there now.
    pub fn claims(&self) -> u64 {
        self.state().claims
    }

    /// Whether none of the first `claims` claims can be answered any more.
    pub fn have_ended(&self, claims: u64) -> bool {
        let state = self.state();
        state.claims > claims || !state.is_claiming
    }

    /// When the first statement began that was not answered, of those since [`UNSURE`] ago.
    pub fn unanswered_at(&self, now: BootInstant) -> Option<BootInstant> {
        self.state().unanswered_at(now)
    }

    /// Whether a run under this lease was cut off.
    pub fn was_cut_off(&self, key: &LeaseKey) -> bool {
        self.state().cut_off.contains(key)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim whose answer may still come.
#[derive(Debug)]
pub struct PendingClaim {
    holds: Holds,
    began: BootInstant,
}

impl PendingClaim {
    /// It was given up without an answer: it may be committed later.
    pub fn unanswered(self) {
        self.holds.state().unanswered(self.began);
    }
}

impl State {
    fn unanswered_at(&self, now: BootInstant) -> Option<BootInstant> {
        self.unanswered_at.iter().copied().find(|at| is_recent(*at, now))
    }

    fn unanswered(&mut self, began: BootInstant) {
        let before = self.unanswered_at.range(..=began).next_back();
        if before.is_none_or(|before| began - *before >= REMEMBERED) {
            self.unanswered_at.insert(began);
        }
        let now = BootInstant::now();
        self.unanswered_at.retain(|at| is_recent(*at, now));
        self.unanswered += 1;
        self.is_unsure = true;
    }
}

/// Whether a statement that began at `at` without an answer still matters. One that stands for
/// those of a minute does for that much longer.
fn is_recent(at: BootInstant, now: BootInstant) -> bool {
    now - at < UNSURE + REMEMBERED
}

/// Leases of a statement whose answer may still come. Dropped without an end, it was given up: it
/// may be committed later.
#[derive(Debug)]
pub struct Expected {
    holds: Holds,
    transactions: Vec<Uuid>,
    began: BootInstant,
    is_answered: bool,
}

impl Expected {
    /// The statement is answered: what it leased is held, or it leased nothing.
    pub fn end(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        for transaction in &self.transactions {
            if let Some(count) = state.expected.get_mut(transaction) {
                *count -= 1;
                if *count == 0 {
                    state.expected.remove(transaction);
                }
            }
        }
        if !self.is_answered {
            state.unanswered(self.began);
        }
    }
}

impl Drop for PendingClaim {
    fn drop(&mut self) {
        self.holds.state().is_claiming = false;
    }
}

/// A held lease.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    key: LeaseKey,
    is_written: bool,
}

impl Hold {
    /// The run's outcome is written, or the lease is somebody else's.
    pub fn end(mut self) {
        self.is_written = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        state.held.remove(&self.key);
        if !self.is_written {
            state.cut_off.insert(self.key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(job_id: &str) -> ClaimedJob {
        let lease = Lease { job_id: job_id.into(), worker: "worker".into(), locked_at: Utc::now() };
        ClaimedJob {
            lease,
            payload: Vec::new(),
            attempts: 0,
            max_attempts: 1,
            idempotency_key: None,
            client_id: uuid::Uuid::nil(),
            run_at: None,
            polls: 0,
            waits: 0,
            probes: 0,
            answers: crate::domain::LastAnswers::default(),
            poll_since: None,
            traceparent: None,
            late: std::time::Duration::ZERO,
            transaction: None,
            callback: None,
        }
    }

    #[test]
    fn a_claim_may_be_answered_until_it_is_given_up_or_the_next_one_begins() {
        let holds = Holds::default();
        assert!(holds.have_ended(holds.claims()), "none has begun");
        let claim = holds.begin_claim();
        let claims = holds.claims();
        assert!(!holds.have_ended(claims));
        assert_eq!(holds.unanswered_at(BootInstant::now()), None);
        claim.unanswered();
        assert!(holds.have_ended(claims));
        assert!(holds.unanswered_at(BootInstant::now()).is_some());

        let _next = holds.begin_claim();
        assert!(holds.have_ended(claims), "the answer under way is another claim's");
        assert!(!holds.have_ended(holds.claims()));
    }

    #[test]
    fn of_the_statements_without_an_answer_the_first_one_counts() {
        let began = BootInstant::now();
        let holds = Holds::default();
        holds.state().unanswered(began);
        for late in [1, 30, 61] {
            holds.state().unanswered(began + Duration::from_secs(late));
        }
        // One that began earlier and was given up later.
        holds.state().unanswered(began + Duration::from_secs(10));
        assert_eq!(holds.state().unanswered_at.len(), 2, "one of each minute is remembered");
        assert_eq!(holds.unanswered_at(began), Some(began));
        assert_eq!(holds.unanswered_at(began + UNSURE), Some(began));
        let later = began + UNSURE + REMEMBERED;
        assert_eq!(holds.unanswered_at(later), Some(began + Duration::from_secs(61)));
        assert_eq!(holds.unanswered_at(later + 2 * REMEMBERED), None);
    }

    #[test]
    fn what_is_written_is_forgotten_and_what_was_cut_off_is_remembered() {
        let holds = Holds::default();
        let (written, cut_off) = (claimed("written"), claimed("cut off"));
        let (written_key, cut_off_key) = (key(&written.lease), key(&cut_off.lease));
        let (written, cut_off) = (holds.hold(&written), holds.hold(&cut_off));
        assert!(holds.holds(&written_key, None) && holds.holds(&cut_off_key, None));
        written.end();
        drop(cut_off);
        assert!(!holds.holds(&written_key, None) && !holds.holds(&cut_off_key, None));
        assert!(!holds.was_cut_off(&written_key));
        assert!(holds.was_cut_off(&cut_off_key));

        holds.begin_claim().unanswered();
        let known = holds.unsure().unwrap();
        assert_eq!(known.leases, [cut_off_key], "not given back as if it had never begun");
    }

    #[test]
    fn what_a_statement_may_lease_is_known_until_it_is_answered_or_given_up() {
        let holds = Holds::default();
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let lease = key(&claimed("job").lease);
        let expected = holds.expect(vec![first, second]).unwrap();
        let again = holds.expect(vec![second]).unwrap();
        assert!(holds.holds(&lease, Some(first)) && !holds.holds(&lease, None));
        expected.end();
        assert!(!holds.holds(&lease, Some(first)));
        assert!(holds.holds(&lease, Some(second)), "another statement is under way");
        assert!(holds.unsure().is_none() && holds.unanswered_at(BootInstant::now()).is_none());

        let running = holds.hold(&claimed("running"));
        drop(again);
        assert!(!holds.holds(&lease, Some(second)));
        assert!(holds.unanswered_at(BootInstant::now()).is_some());
        let known = holds.unsure().expect("it may be committed");
        assert_eq!(known.unanswered_at, holds.unanswered_at(BootInstant::now()));
        assert!(known.unanswered_at.is_some());
        assert_eq!((known.leases.len(), known.expected.len()), (1, 0));
        assert!(holds.expect(vec![first]).is_none(), "it might be given back");
        holds.compared(&known);
        assert!(holds.unsure().is_none());
        holds.expect(vec![first]).unwrap().end();
        running.end();
    }

    #[test]
    fn a_statement_that_is_not_answered_during_the_comparison_needs_another_one() {
        let holds = Holds::default();
        let under_way = holds.expect(vec![Uuid::from_u128(1)]).unwrap();
        holds.begin_claim().unanswered();
        let known = holds.unsure().unwrap();
        assert_eq!(known.expected.len(), 1, "it is not given back");
        drop(under_way);
        holds.compared(&known);
        let known = holds.unsure().expect("it is unknown now");
        assert!(known.expected.is_empty());
        holds.compared(&known);
        assert!(holds.unsure().is_none());
    }
}
