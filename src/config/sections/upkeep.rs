//! Settings of the workers, of reconciliation and of retention.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, duration, positive_duration, seconds},
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

/// `QUARTET_RETENTION__…`: how long finished work is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// How long the job rows of finished transactions are kept.
    pub jobs: Duration,
    /// How long the evidence of transactions without job rows is kept.
    pub evidence: Duration,
    /// How long a webhook's id is remembered.
    pub webhooks: Duration,
    /// How long closed dead letters and closed reconciliation findings are kept.
    pub dead_letters: Duration,
    /// Time between runs.
    pub interval: Duration,
}

impl Retention {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            jobs: settings.read(
                "QUARTET_RETENTION__JOBS",
                "7d",
                seconds,
                "Age at which the four job rows of a finished transaction are removed",
            ),
            evidence: settings.read(
                "QUARTET_RETENTION__EVIDENCE",
                "90d",
                seconds,
                "Age at which the evidence of a transaction without job rows is removed; at least \
                 `QUARTET_RETENTION__JOBS`",
            ),
            webhooks: settings.read(
                "QUARTET_RETENTION__WEBHOOKS",
                "30d",
                seconds,
                "How long a webhook's id is remembered; at least twice \
                 `QUARTET_WEBHOOK__TOLERANCE`",
            ),
            dead_letters: settings.read(
                "QUARTET_RETENTION__DEAD_LETTERS",
                "90d",
                seconds,
                "Age at which closed dead letters of transactions without job rows, and closed \
                 reconciliation findings, are removed",
            ),
            interval: settings.read(
                "QUARTET_RETENTION__INTERVAL",
                "10m",
                positive_duration,
                "Time between two retention runs",
            ),
        }
    }
}
