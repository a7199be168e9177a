//! Durations as a profile writes them, and how far a time is moved.

use std::{fmt, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, de};

use crate::domain::parse_duration;

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
        let period = parse_duration(&text).map_err(|_| wrong())?;
        let fits = (Duration::from_millis(1)..=LONGEST).contains(&period);
        if fits { Ok(Self(period)) } else { Err(wrong()) }
    }
}

/// How far a time is moved, such as `-1h` or `+15m`. Whole seconds, as times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shift {
    is_back: bool,
    by: Duration,
}

impl Shift {
    pub(super) const fn back(by: Duration) -> Self {
        Self { is_back: true, by }
    }

    pub(super) const fn ahead(by: Duration) -> Self {
        Self { is_back: false, by }
    }

    /// Reads a shift. The error says what is allowed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is not allowed: a sign and a duration of whole seconds with its unit, \
                 at most 3650d, such as -1h or +15m"
            )
        };
        let (is_back, by) = match (text.strip_prefix('-'), text.strip_prefix('+')) {
            (Some(by), _) => (true, by),
            (None, Some(by)) => (false, by),
            (None, None) => return Err(wrong()),
        };
        let by = parse_duration(by).map_err(|_| wrong())?;
        if by > LONGEST || by.subsec_nanos() != 0 {
            return Err(wrong());
        }
        Ok(Self { is_back, by })
    }

    /// The time that is as far from `at`.
    pub(super) fn apply(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let moved = TimeDelta::from_std(self.by).ok().and_then(|by| match self.is_back {
            true => at.checked_sub_signed(by),
            false => at.checked_add_signed(by),
        });
        // `None`: there is no such time.
        moved.unwrap_or(at)
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_back { '-' } else { '+' };
        write!(f, "{sign}{}", humantime::format_duration(self.by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_is_read_and_applied() {
        let at: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        for (text, moved) in [
            ("-1h", "2025-12-31T23:00:00Z"),
            ("+15m", "2026-01-01T00:15:00Z"),
            ("-2d 1s", "2025-12-29T23:59:59Z"),
            ("-0s", "2026-01-01T00:00:00Z"),
        ] {
            let shift = Shift::parse(text).unwrap();
            assert_eq!(shift.apply(at), moved.parse::<DateTime<Utc>>().unwrap(), "{text}");
            assert_eq!(Shift::parse(&shift.to_string()), Ok(shift), "{text}");
        }
        for text in ["", "1h", "-", "+1", "-1h+1h", "+500ms", "-3651d", "--1h", "+1x"] {
            let error = Shift::parse(text).unwrap_err();
            assert!(error.contains("such as -1h"), "{text}: {error}");
        }
        let latest = DateTime::<Utc>::MAX_UTC;
        assert_eq!(Shift::ahead(LONGEST).apply(latest), latest);
        assert_eq!(Shift::back(Duration::from_secs(60)).to_string(), "-1m");
    }
}
