//! The leases that a worker knows about, for comparison with those in the database.
//!
//! A claim whose answer is lost may be committed all the same, even after its caller has given up:
//! its jobs then run under a living worker that does not know them. The [`super::lease_keeper`]
//! finds such leases. While the answer of a claim may still arrive, a lease that this claim may
//! have made does not count as unknown.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{
    domain::BootInstant,
    store::jobs::{ClaimedJob, Lease},
};

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
    /// When the last claim began that was not answered.
    unanswered_at: Option<BootInstant>,
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

    /// Holds the lease of a job that is in this process, for as long as the returned value lives.
    pub fn hold(&self, claimed: &ClaimedJob) -> Hold {
        let key = key(&claimed.lease);
        self.state().held.insert(key.clone());
        Hold { holds: self.clone(), key, is_written: false }
    }

    /// All that is held.
    pub fn list(&self) -> Vec<LeaseKey> {
        self.state().held.iter().cloned().collect()
    }

    /// Whether the worker holds this lease.
    pub fn holds(&self, key: &LeaseKey) -> bool {
        self.state().held.contains(key)
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

    /// When the last claim began that was not answered.
    pub fn unanswered_at(&self) -> Option<BootInstant> {
        self.state().unanswered_at
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
        self.holds.state().unanswered_at = Some(self.began);
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
        assert_eq!(holds.unanswered_at(), None);
        claim.unanswered();
        assert!(holds.have_ended(claims));
        assert!(holds.unanswered_at().is_some());

        let _next = holds.begin_claim();
        assert!(holds.have_ended(claims), "the answer under way is another claim's");
        assert!(!holds.have_ended(holds.claims()));
    }

    #[test]
    fn what_is_written_is_forgotten_and_what_was_cut_off_is_remembered() {
        let holds = Holds::default();
        let (written, cut_off) = (claimed("written"), claimed("cut off"));
        let (written_key, cut_off_key) = (key(&written.lease), key(&cut_off.lease));
        let (written, cut_off) = (holds.hold(&written), holds.hold(&cut_off));
        assert!(holds.holds(&written_key) && holds.holds(&cut_off_key));
        written.end();
        drop(cut_off);
        assert!(holds.list().is_empty());
        assert!(!holds.was_cut_off(&written_key));
        assert!(holds.was_cut_off(&cut_off_key));
    }
}
