//! When the third party is polled.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{duration, factor, positive_duration},
};

/// `QUARTET_POLL__…`: when the third party is polled for a final status.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// Delay from acceptance to the first poll.
    pub first: Duration,
    /// Delay after the first poll.
    pub second: Duration,
    /// Factor by which each further delay grows.
    pub factor: f64,
    /// Longest delay.
    pub max_delay: Duration,
    /// Time from acceptance after which polling stops.
    pub deadline: Duration,
}

impl Poll {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            first: settings.read(
                "QUARTET_POLL__FIRST",
                "200ms",
                duration,
                "Delay from acceptance to the first poll. Written into the job when the transaction \
                 is accepted: set it alike on all processes",
            ),
            second: settings.read(
                "QUARTET_POLL__SECOND",
                "10ms",
                positive_duration,
                "Delay between the first and the second poll",
            ),
            factor: settings.read(
                "QUARTET_POLL__FACTOR",
                "2",
                factor,
                "Factor by which each further delay grows, 1 to 100",
            ),
            max_delay: settings.read(
                "QUARTET_POLL__MAX_DELAY",
                "60s",
                positive_duration,
                "Longest delay between two polls; at least `QUARTET_POLL__SECOND`",
            ),
            deadline: settings.read(
                "QUARTET_POLL__DEADLINE",
                "15m",
                positive_duration,
                "Time from acceptance after which polling stops and a dead letter is opened; \
                 longer than `QUARTET_POLL__FIRST`",
            ),
        }
    }
}
