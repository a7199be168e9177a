//! How jobs are run, and what is done about what has ended or does not end.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, duration, positive_duration, seconds},
};

/// `QUARTET_WORKER__…`: how jobs are run.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Most jobs of one queue at the same time in one process; 1000.
    pub concurrency: u32,
    /// How often one statement looks for jobs that other processes made due; 25 ms.
    pub poll_interval: Duration,
    /// How often a worker shows that it lives; 5 s.
    pub heartbeat: Duration,
    /// Silence after which a worker's jobs go to others; 15 s, at least two heartbeats.
    pub dead_after: Duration,
    /// How long running jobs may take to end at shutdown; 30 s.
    pub shutdown_grace: Duration,
}

impl Worker {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            concurrency: settings.read(
                "QUARTET_WORKER__CONCURRENCY",
                "1000",
                count(1, 1_000_000),
                "Most jobs of one queue at the same time in one process",
            ),
            poll_interval: settings.read(
                "QUARTET_WORKER__POLL_INTERVAL",
                "22ms",
                positive_duration,
                "How often one statement looks for due jobs that other processes made due, where \
                 their announcements (`NOTIFY`) are not heard; where they are, it looks once a second",
            ),
            heartbeat: settings.read(
                "QUARTET_WORKER__HEARTBEAT",
                "5s",
                positive_duration,
                "How often a worker shows that it lives",
            ),
            dead_after: settings.read(
                "QUARTET_WORKER__DEAD_AFTER",
                "15s",
                positive_duration,
                "Silence after which a worker counts as dead and its jobs go to others; at least \
                 twice `QUARTET_WORKER__HEARTBEAT`",
            ),
            shutdown_grace: settings.read(
                "QUARTET_WORKER__SHUTDOWN_GRACE",
                "30s",
                duration,
                "How long running jobs may take to end at shutdown",
            ),
        }
    }
}

/// `QUARTET_RECONCILE__…`: how what is open is compared with the third party.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconcile {
    /// From one sweep to the next, and the first gap between two looks at the same transaction;
    /// 5 min.
    pub interval: Duration,
    /// Most lookups per second of a sweep; 10.
    pub rate: u32,
}

impl Reconcile {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            interval: settings.read(
                "QUARTET_RECONCILE__INTERVAL",
                "5m",
                positive_duration,
                "From one reconciliation sweep to the next. The same transaction is looked up after \
                 this time, then after twice as long, up to 24 hours",
            ),
            rate: settings.read(
                "QUARTET_RECONCILE__RATE",
                "10",
                count(1, 10_000),
                "Most lookups per second of a reconciliation sweep; one process sweeps at a time",
            ),
        }
    }
}

/// `QUARTET_RETENTION__…`: how long what has ended is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// How long the job rows of ended transactions are kept; 7 days.
    pub jobs: Duration,
    /// How long the evidence about transactions without job rows is kept; 90 days.
    pub evidence: Duration,
    /// How long a webhook's id is remembered; 30 days.
    pub webhooks: Duration,
    /// How long closed dead letters and closed findings of reconciliation are kept; 90 days.
    pub dead_letters: Duration,
    /// From one run to the next; 10 min.
    pub interval: Duration,
}

impl Retention {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            jobs: settings.read(
                "QUARTET_RETENTION__JOBS",
                "7d",
                seconds,
                "Age at which the four job rows of a transaction that has ended are removed",
            ),
            evidence: settings.read(
                "QUARTET_RETENTION__EVIDENCE",
                "90d",
                seconds,
                "Age at which the evidence about a transaction without job rows is removed; at \
                 least `QUARTET_RETENTION__JOBS`",
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
                "Age at which closed dead letters about transactions without job rows are removed, \
                 and closed findings of reconciliation",
            ),
            interval: settings.read(
                "QUARTET_RETENTION__INTERVAL",
                "10m",
                positive_duration,
                "From one removal of what is old to the next",
            ),
        }
    }
}
