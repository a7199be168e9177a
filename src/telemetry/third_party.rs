//! What is counted of the calls of one third party.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{
    labels::{CreateResult, LookupResult},
    registering::{ByWord, LONG_BUCKETS, Maker},
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
    calls: IntCounterVec,
    durations: HistogramVec,
    budget_waits: HistogramVec,
    budget_postponed: IntCounterVec,
}

impl ThirdPartyFamilies {
    pub fn new(make: &Maker<'_>, has_several: bool) -> Result<Self, prometheus::Error> {
        let named = |labels: &[&'static str]| {
            let name = has_several.then_some(THIRD_PARTY);
            labels.iter().copied().chain(name).collect::<Vec<_>>()
        };
        Ok(Self {
            calls: make.counters(
                "quartet_third_party_calls_total",
                "Calls of a third party, by call and result.",
                &named(&["call", "result"]),
            )?,
            durations: make.histograms(
                "quartet_third_party_call_duration_seconds",
                "Time that calls of a third party took, answered or not.",
                &named(&["call"]),
                &LONG_BUCKETS,
            )?,
            budget_waits: make.histograms(
                "quartet_third_party_budget_wait_seconds",
                "Time that calls waited for a third party's budget of calls.",
                &named(&[]),
                &LONG_BUCKETS,
            )?,
            budget_postponed: make.counters(
                "quartet_third_party_budget_postponed_total",
                "Runs of jobs that made no call, because too many wait for a third party's budget.",
                &named(&[]),
            )?,
        })
    }
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
