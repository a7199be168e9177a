//! The third parties that jobs call, each with its own client, settings, circuit breaker and
//! knowledge of refused credentials, so that what happens at one is nothing to the others.
//!
//! A transaction whose third party this process does not know waits, without an attempt and without
//! its deadline: another process may know it, or an operator may add its file. That is logged once
//! a minute for each name, and readiness names it for as long as it was met lately.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{CircuitBreaker, Credentials, call_places::CallPlaces};
use crate::{
    config::{self, Config},
    domain::{ThirdPartyName, third_party::OVER_BUDGET},
    outbound::{ThirdPartyClient, ThirdPartyClients},
    store::{
        Database,
        circuit::Circuits,
        jobs::outcomes::{Next, Outcome, SnoozeCount},
        transactions::Transaction,
    },
};

/// How long a job waits whose third party is not known, at least, and at most: longer, the longer
/// that third party has been missed. Spread, each waits up to twice as long.
const MISSING_WAIT: Duration = Duration::from_secs(15);
const MAX_MISSING_WAIT: Duration = Duration::from_secs(150);
/// How often such a third party is logged.
const MISSING_LOGGED_EVERY: Duration = Duration::from_secs(60);
/// One that no job has met for this long is not named any more: twice the longest wait.
const MISSING_FOR: Duration = Duration::from_secs(10 * 60);

/// How long a job waits at least that found no call free in the budget, and how much longer at
/// most.
const OVER_BUDGET_WAIT: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_millis(1_500));

/// A third party that jobs call.
#[derive(Debug)]
pub struct CalledThirdParty {
    pub name: ThirdPartyName,
    pub settings: config::ThirdParty,
    pub client: ThirdPartyClient,
    /// To be asked before each call.
    pub circuit: CircuitBreaker,
    /// Whose fault a refusal is.
    pub credentials: Credentials,
    /// The right to have a create under way, with its lookup.
    pub creates: CallPlaces,
    /// The right to have a poll under way.
    pub polls: CallPlaces,
}

impl CalledThirdParty {
    /// Why a job waits that finds no call free in the budget.
    pub fn over_budget(&self) -> String {
        let rate = self.settings.max_calls.map(|rate| format!(", {rate}")).unwrap_or_default();
        format!("its third party {} {OVER_BUDGET}{rate}", self.name)
    }

    /// How long a job waits that has waited in vain for a call. Spread, so that those that began
    /// together come back one after the other, and no call is left over meanwhile.
    pub fn over_budget_wait(&self) -> Duration {
        OVER_BUDGET_WAIT.0 + OVER_BUDGET_WAIT.1.mul_f64(rand::random())
    }
}

/// All of them.
#[derive(Debug)]
pub struct ThirdParties {
    called: BTreeMap<ThirdPartyName, Arc<CalledThirdParty>>,
    missing: MissingThirdParties,
}

impl ThirdParties {
    /// Those that have a client. What is missed is noted in `missing`.
    pub fn new(
        config: &Config,
        clients: &ThirdPartyClients,
        pool: &Database,
        missing: MissingThirdParties,
    ) -> Self {
        let all: Vec<_> = config.all_third_parties().collect();
        let limits: Vec<u32> = all.iter().map(|(_, settings)| settings.max_in_flight).collect();
        let places = || CallPlaces::of_all(super::outbound_slots(config), &limits);
        let places = places().into_iter().zip(places());
        let called = all.into_iter().zip(places).filter_map(|((name, settings), places)| {
            let (creates, polls) = places;
            let called = CalledThirdParty {
                name: name.clone(),
                settings: settings.clone(),
                client: clients.get(&name)?.clone(),
                circuit: CircuitBreaker::new(pool.clone(), name.clone(), &config.circuit),
                credentials: Credentials::default(),
                creates,
                polls,
            };
            Some((name, Arc::new(called)))
        });
        Self { called: called.collect(), missing }
    }

    /// The third party of a transaction. An error says how long its job waits because this process
    /// does not know it, and why.
    pub fn of(&self, transaction: &Transaction) -> Result<Arc<CalledThirdParty>, NotConfigured> {
        let name = &transaction.third_party;
        self.called.get(name).cloned().ok_or_else(|| {
            let wait = missing_wait(self.missing.note(name));
            NotConfigured {
                // Spread, so that those that wait do not all come back at once.
                wait: wait.mul_f64(1.0 + rand::random::<f64>()),
                name: name.clone(),
            }
        })
    }

    /// The third party of this name.
    pub fn get(&self, name: &ThirdPartyName) -> Option<&Arc<CalledThirdParty>> {
        self.called.get(name)
    }

    /// Whether none of them is called now.
    pub fn are_left_alone(&self) -> bool {
        self.called.values().all(|called| called.circuit.wait().is_some())
    }

    /// How often the circuits' state is to be read.
    pub fn refresh_interval(&self) -> Duration {
        let intervals = self.called.values().map(|called| called.circuit.refresh_interval());
        intervals.min().unwrap_or(Duration::MAX)
    }

    /// Whether it is due to be read.
    pub fn is_stale(&self) -> bool {
        self.called.values().any(|called| called.circuit.is_stale())
    }

    /// Takes the circuits' state as it was when it was asked for.
    pub fn see(&self, asked: Instant, circuits: &Circuits) {
        for (name, called) in &self.called {
            called.circuit.see(asked, &circuits.of(name));
        }
    }
}

/// The third party is not known here.
#[derive(Debug)]
pub struct NotConfigured {
    pub wait: Duration,
    pub name: ThirdPartyName,
}

impl NotConfigured {
    /// What the job was answered, for an operator.
    pub fn answer(&self) -> String {
        format!(
            "its third party {} is not configured in the process that was to call it",
            self.name
        )
    }

    /// The same outcome, which says that this is why the job waits.
    pub fn mark(self, mut outcome: Outcome) -> Outcome {
        if let Next::Snooze { count, .. } = &mut outcome.next {
            let third_party = self.name;
            *count =
                Some(SnoozeCount::NotConfigured { third_party, count: count.take().map(Box::new) });
        }
        outcome
    }
}

/// How long a job waits for a third party that has been missed for this long.
fn missing_wait(missed_for: Duration) -> Duration {
    (missed_for / 2).clamp(MISSING_WAIT, MAX_MISSING_WAIT)
}

/// Third parties that jobs of this process have missed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MissingThirdParties(Arc<Mutex<BTreeMap<ThirdPartyName, Missing>>>);

#[derive(Debug, Clone, Copy)]
struct Missing {
    since: Instant,
    met_at: Instant,
    logged_at: Instant,
}

impl MissingThirdParties {
    /// Returns for how long it has been missed.
    fn note(&self, name: &ThirdPartyName) -> Duration {
        let now = Instant::now();
        let mut missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = missing.get(name).copied();
        let before = before.filter(|before| now - before.met_at < MISSING_FOR);
        let is_news = before.is_none_or(|before| now - before.logged_at >= MISSING_LOGGED_EVERY);
        let logged_at = before.filter(|_| !is_news).map_or(now, |before| before.logged_at);
        let since = before.map_or(now, |before| before.since);
        missing.insert(name.clone(), Missing { since, met_at: now, logged_at });
        drop(missing);
        if is_news {
            tracing::error!(
                third_party = name.as_str(),
                "transactions wait because their third party is not configured in this process: \
                 set {}",
                name.setting()
            );
        }
        now - since
    }

    /// Those that were missed lately.
    pub fn lately(&self) -> Vec<ThirdPartyName> {
        let missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = missing.iter().filter(|(_, missing)| missing.met_at.elapsed() < MISSING_FOR);
        lately.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_one_that_is_missing_grows_to_minutes() {
        let waits = [0, 60, 120, 3600].map(|secs| missing_wait(Duration::from_secs(secs)));
        assert_eq!(waits.map(|wait| wait.as_secs()), [15, 30, 60, 150]);
        // It is still named when the job that waits longest comes back.
        assert!(MAX_MISSING_WAIT * 2 < MISSING_FOR);
        let missing = MissingThirdParties::default();
        missing.note(&ThirdPartyName::default());
        let again = missing.note(&ThirdPartyName::default());
        assert!(again < MISSING_FOR && missing.lately() == [ThirdPartyName::default()]);
    }
}
