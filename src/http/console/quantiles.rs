//! Quantiles of times that were counted in buckets, pure.

use std::collections::BTreeMap;

/// Counts by the upper bound of a bucket, as `minute_figures` keeps them.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// By the bound in milliseconds.
    buckets: BTreeMap<u64, i64>,
    /// Above the last bound.
    above: i64,
}

impl Histogram {
    /// Adds `count` under a label `{settled_by}/{upper bound in ms, or inf}`; another text counts
    /// as above all bounds.
    pub fn add(&mut self, label: &str, count: i64) {
        let bound = label.rsplit('/').next().and_then(|bound| bound.parse().ok());
        match bound {
            Some(bound) => add(self.buckets.entry(bound).or_default(), count),
            None => add(&mut self.above, count),
        }
    }

    pub fn count(&self) -> i64 {
        self.buckets.values().fold(self.above, |sum, count| sum.saturating_add(*count))
    }

    /// Seconds that `share` of them (0 to 1) stayed within: straight through the bucket where that
    /// falls, and the last bound for what lies above it. `None` where nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = share * self.count() as f64;
        let (mut below, mut counted) = (0, 0);
        for (bound, count) in &self.buckets {
            let reached = i64::saturating_add(counted, *count);
            if *count > 0 && reached as f64 >= wanted {
                let part = ((wanted - counted as f64) / *count as f64).clamp(0.0, 1.0);
                return Some((below as f64 + part * (bound - below) as f64) / 1_000.0);
            }
            (below, counted) = (*bound, reached);
        }
        (self.above > 0).then_some(below as f64 / 1_000.0)
    }
}

/// Somebody may have written any number into the table.
fn add(sum: &mut i64, count: i64) {
    *sum = sum.saturating_add(count);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_go_through_their_bucket() {
        let mut times = Histogram::default();
        for (label, count) in [("poll/1000", 50), ("webhook/2000", 40), ("webhook/inf", 10)] {
            times.add(label, count);
        }
        assert_eq!(times.count(), 100);
        assert_eq!(times.quantile(0.25), Some(0.5));
        assert_eq!(times.quantile(0.7), Some(1.5));
        assert_eq!(times.quantile(0.95), Some(2.0), "what is above is at least the last bound");
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn quantiles_grow_with_the_share(
            counts in proptest::collection::vec((1u64..100_000, 0i64..100), 1..12),
            share in 0.0f64..1.0,
            more in 0.0f64..1.0,
        ) {
            let mut times = Histogram::default();
            for (bound, count) in counts {
                times.add(&format!("poll/{bound}"), count);
            }
            let (low, high) = (share.min(more), share.max(more));
            if times.count() > 0 {
                prop_assert!(times.quantile(low).unwrap() <= times.quantile(high).unwrap());
            }
        }
    }
}
