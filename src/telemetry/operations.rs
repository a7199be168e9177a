//! HTTP requests by operation and status.

use std::{sync::OnceLock, time::Duration};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

/// The statuses that Quartet answers with, so that each is resolved once.
const STATUSES: [u16; 16] =
    [200, 202, 204, 303, 304, 400, 401, 403, 404, 405, 409, 413, 415, 422, 500, 503];

/// Counts the requests of one operation. A series appears with the first request of its kind.
#[derive(Debug)]
pub struct OperationMetrics {
    operation: String,
    requests: IntCounterVec,
    durations: HistogramVec,
    by_status: [OnceLock<IntCounter>; STATUSES.len()],
    duration: OnceLock<Histogram>,
}

impl OperationMetrics {
    pub(super) fn new(operation: &str, requests: &IntCounterVec, durations: &HistogramVec) -> Self {
        Self {
            operation: operation.to_owned(),
            requests: requests.clone(),
            durations: durations.clone(),
            by_status: Default::default(),
            duration: OnceLock::new(),
        }
    }

    /// Counts a request that was answered with `status` after `took`.
    pub fn answered(&self, status: u16, took: Duration) {
        let child = || self.requests.with_label_values(&[&self.operation, &status.to_string()]);
        match STATUSES.iter().position(|known| *known == status) {
            Some(index) => self.by_status[index].get_or_init(child).inc(),
            None => child().inc(),
        }
        let duration = || self.durations.with_label_values(&[&self.operation]);
        self.duration.get_or_init(duration).observe(took.as_secs_f64());
    }
}
