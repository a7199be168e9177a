//! Durations as a profile writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A duration of at least a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub(super) Duration);

/// Longest period.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let allowed =
            "must be a duration with its unit, from 1ms to 3650d, such as 200ms, 15m or 7d";
        let wrong = || de::Error::custom(allowed);
        let text = String::deserialize(from).map_err(|_| wrong())?;
        let period = humantime::parse_duration(&text).map_err(|_| wrong())?;
        let fits = (Duration::from_millis(1)..=LONGEST).contains(&period);
        if fits { Ok(Self(period)) } else { Err(wrong()) }
    }
}
