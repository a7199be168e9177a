//! Quantiles of measured values.

/// Sorted values.
pub struct Quantiles(Vec<f64>);

impl Quantiles {
    /// Of any values.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Of nanoseconds, in milliseconds.
    pub fn of_nanos(nanos: &[u64]) -> Self {
        Self::new(nanos.iter().map(|nanos| *nanos as f64 / 1e6).collect())
    }

    /// The value below which a share of the values is, the nearest rank; 0 where there are none.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).or(self.0.last()).copied().unwrap_or_default()
    }

    /// How many values there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
