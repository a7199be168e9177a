//! How long finished work is kept.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{positive_duration, seconds},
};

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
