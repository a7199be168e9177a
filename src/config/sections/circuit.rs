//! When calls to the third party stop.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, positive_duration, positive_ratio},
};

/// `QUARTET_CIRCUIT__…`: when calls to the third party stop because too many fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    /// Share of failed calls at which the circuit opens.
    pub failure_ratio: f64,
    /// Time over which calls are counted.
    pub window: Duration,
    /// Minimum number of calls in the window before it may open.
    pub min_calls: u32,
    /// How long it stays open at first, doubled after each failed probe.
    pub open_for: Duration,
    /// Longest time between probes.
    pub max_open_for: Duration,
}

impl Circuit {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            failure_ratio: settings.read(
                "QUARTET_CIRCUIT__FAILURE_RATIO",
                "0.5",
                positive_ratio,
                "Share of failed calls, above 0 and at most 1, at which a process opens the \
                 circuit",
            ),
            window: settings.read(
                "QUARTET_CIRCUIT__WINDOW",
                "60s",
                positive_duration,
                "Time over which each process counts its calls",
            ),
            min_calls: settings.read(
                "QUARTET_CIRCUIT__MIN_CALLS",
                "20",
                count(1, 1_000_000_000),
                "Minimum number of calls in the window before the circuit may open",
            ),
            open_for: settings.read(
                "QUARTET_CIRCUIT__OPEN_FOR",
                "15s",
                positive_duration,
                "How long the circuit stays open at first; doubled after each failed probe",
            ),
            max_open_for: settings.read(
                "QUARTET_CIRCUIT__MAX_OPEN_FOR",
                "2m",
                positive_duration,
                "Longest time between probes; at least `QUARTET_CIRCUIT__OPEN_FOR`",
            ),
        }
    }
}
