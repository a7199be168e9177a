//! How metrics are made, registered and read back.

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry,
};

use crate::domain::StringEnum;

/// Counters of one metric, one for each word of a label.
#[derive(Debug)]
pub(super) struct ByWord<L> {
    pub(super) children: Vec<(L, IntCounter)>,
}

impl<L: StringEnum + PartialEq> ByWord<L> {
    pub(super) fn new(words: &[L], child: impl Fn(&'static str) -> IntCounter) -> Self {
        Self { children: words.iter().map(|word| (*word, child(word.as_str()))).collect() }
    }

    pub(super) fn inc(&self, word: L) {
        self.inc_by(word, 1);
    }

    pub(super) fn inc_by(&self, word: L, count: u64) {
        if let Some((_, counter)) = self.children.iter().find(|(known, _)| *known == word) {
            counter.inc_by(count);
        }
    }
}

/// Each bucket of a histogram by its upper bound in ms, without what the ones below it hold.
pub(super) fn buckets(histogram: &Histogram) -> Vec<(String, u64)> {
    use prometheus::core::Metric as _;

    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let mut below = 0;
    let mut counts = Vec::new();
    for bucket in histogram.get_bucket() {
        let bound = bucket.upper_bound();
        if bound.is_finite() {
            let count = bucket.cumulative_count().saturating_sub(below);
            counts.push((format!("{:.0}", bound * 1_000.0), count));
            below = bucket.cumulative_count();
        }
    }
    counts.push(("inf".to_owned(), histogram.get_sample_count().saturating_sub(below)));
    counts
}

/// Makes metrics and registers them.
pub(super) struct Maker<'a> {
    pub(super) registry: &'a Registry,
}

impl Maker<'_> {
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(opts, labels)?;
        self.registry.register(Box::new(histograms.clone()))?;
        Ok(histograms)
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    pub(super) fn gauge(&self, opts: Opts) -> Result<Gauge, prometheus::Error> {
        let gauge = Gauge::with_opts(opts)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }
}
