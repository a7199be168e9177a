//! How metrics are made, registered and read back.

use std::marker::PhantomData;

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry,
};

use crate::domain::StringEnum;

/// Seconds of what others do: calls and the runs of jobs around them.
pub(super) const LONG_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 35.0];

/// A counter, or what else is kept, for each word of a label. There is one for every word: the
/// compiler sees to it that none is counted in vain.
#[derive(Debug)]
pub(super) struct ByWord<L, M = IntCounter> {
    children: Vec<M>,
    words: PhantomData<L>,
}

impl<L: StringEnum, M> ByWord<L, M> {
    pub(super) fn new(child: impl FnMut(L) -> M) -> Self {
        Self { children: L::ALL.iter().copied().map(child).collect(), words: PhantomData }
    }

    pub(super) fn get(&self, word: L) -> &M {
        // `new` made one for each word, and an index is less than their number.
        &self.children[word.index()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (L, &M)> {
        L::ALL.iter().copied().zip(&self.children)
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
