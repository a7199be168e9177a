//! How jobs are run.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, duration, positive_duration},
};

/// `QUARTET_WORKER__…`: how jobs are run.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Maximum number of concurrent jobs of one queue in one process.
    pub concurrency: u32,
    /// Polling interval for other processes' jobs when `NOTIFY` is unavailable.
    pub poll_interval: Duration,
    /// Interval between heartbeats.
    pub heartbeat: Duration,
    /// Time without a heartbeat after which a worker counts as dead.
    pub dead_after: Duration,
    /// Time that running jobs may take to finish at shutdown.
    pub shutdown_grace: Duration,
}

impl Worker {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            concurrency: settings.read(
                "QUARTET_WORKER__CONCURRENCY",
                "1000",
                count(1, 1_000_000),
                "Maximum number of concurrent jobs of each queue in one process",
            ),
            poll_interval: settings.read(
                "QUARTET_WORKER__POLL_INTERVAL",
                "22ms",
                positive_duration,
                "Polling interval for jobs made due by other processes when `NOTIFY` is \
                 unavailable; otherwise workers poll once a second",
            ),
            heartbeat: settings.read(
                "QUARTET_WORKER__HEARTBEAT",
                "5s",
                positive_duration,
                "Interval between two heartbeats of a worker",
            ),
            dead_after: settings.read(
                "QUARTET_WORKER__DEAD_AFTER",
                "15s",
                positive_duration,
                "Time without a heartbeat after which a worker counts as dead and its jobs are \
                 taken over; at least twice `QUARTET_WORKER__HEARTBEAT`",
            ),
            shutdown_grace: settings.read(
                "QUARTET_WORKER__SHUTDOWN_GRACE",
                "30s",
                duration,
                "Time that running jobs may take to finish at shutdown",
            ),
        }
    }
}
