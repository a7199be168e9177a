//! What is counted of the calls of one third party.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec};

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
}

impl ThirdPartyMetrics {
    pub(super) fn new(name: Option<&str>, calls: &IntCounterVec, durations: &HistogramVec) -> Self {
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
        }
    }

    /// A create was answered, or not, after `took`.
    pub fn create(&self, result: CreateResult, took: Duration) {
        self.creates.get(result).inc();
        self.create_duration.observe(took.as_secs_f64());
    }

    /// A lookup was answered, or not, after `took`.
    pub fn lookup(&self, result: LookupResult, took: Duration) {
        self.lookups.get(result).inc();
        self.lookup_duration.observe(took.as_secs_f64());
    }
}
