//! What is counted of the calls of one third party.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{
    labels::{CreateResult, LookupResult},
    registering::ByWord,
};

/// The label that names a third party, where there are several.
pub(super) const THIRD_PARTY: &str = "third_party";

/// The counters of one third party.
#[derive(Debug)]
pub struct ThirdPartyMetrics {
    creates: ByWord<CreateResult>,
    lookups: ByWord<LookupResult>,
    create_duration: Histogram,
    lookup_duration: Histogram,
    budget_wait: Histogram,
    budget_postponed: IntCounter,
}

/// The families of all third parties.
#[derive(Debug)]
pub(super) struct ThirdPartyFamilies {
    pub calls: IntCounterVec,
    pub durations: HistogramVec,
    pub budget_waits: HistogramVec,
    pub budget_postponed: IntCounterVec,
}

impl ThirdPartyMetrics {
    pub(super) fn new(name: Option<&str>, families: &ThirdPartyFamilies) -> Self {
        let ThirdPartyFamilies { calls, durations, budget_waits, budget_postponed } = families;
        let named = |labels: &[&'static str]| {
            labels.iter().copied().map(str::to_owned).chain(name.map(str::to_owned)).collect()
        };
        let counter = |labels: &[&'static str]| {
            let labels: Vec<String> = named(labels);
            calls.with_label_values(&labels)
        };
        let histogram = |labels: &[&'static str]| {
            let labels: Vec<String> = named(labels);
            durations.with_label_values(&labels)
        };
        Self {
            creates: ByWord::new(|word: CreateResult| counter(&["create", word.as_str()])),
            lookups: ByWord::new(|word: LookupResult| counter(&["lookup", word.as_str()])),
            create_duration: histogram(&["create"]),
            lookup_duration: histogram(&["lookup"]),
            budget_wait: budget_waits.with_label_values(&named(&[])),
            budget_postponed: budget_postponed.with_label_values(&named(&[])),
        }
    }

    /// A create was answered, or not, after `took`.
    pub fn create(&self, result: CreateResult, took: Duration) {
        self.creates.get(result).inc();
        self.create_duration.observe(took.as_secs_f64());
    }

    /// A call has waited this long for the third party's budget.
    pub fn waited_for_budget(&self, waited: Duration) {
        self.budget_wait.observe(waited.as_secs_f64());
    }

    /// A run of a job made no call, because too many wait for the third party's budget.
    pub fn postponed_by_budget(&self) {
        self.budget_postponed.inc();
    }

    /// A lookup was answered, or not, after `took`.
    pub fn lookup(&self, result: LookupResult, took: Duration) {
        self.lookups.get(result).inc();
        self.lookup_duration.observe(took.as_secs_f64());
    }
}
