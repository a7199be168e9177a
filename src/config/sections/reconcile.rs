//! How open transactions are compared with the third party.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, positive_duration},
};

/// `QUARTET_RECONCILE__…`: how open transactions are compared with the third party.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconcile {
    /// Time between sweeps, and the first gap between two lookups of the same transaction.
    pub interval: Duration,
    /// Maximum number of lookups per second in a sweep.
    pub rate: u32,
}

impl Reconcile {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            interval: settings.read(
                "QUARTET_RECONCILE__INTERVAL",
                "5m",
                positive_duration,
                "Time between two reconciliation sweeps. The same transaction is looked up again \
                 after this time, then after twice as long, and so on up to 24 hours",
            ),
            rate: settings.read(
                "QUARTET_RECONCILE__RATE",
                "10",
                count(1, 10_000),
                "Maximum number of lookups per second in a reconciliation sweep; one process \
                 sweeps at a time",
            ),
        }
    }
}
