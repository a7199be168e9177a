//! When a webhook was sent, and whether that is near enough to now.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::Rejection;

/// How far a timestamp may be off where the profile does not say.
pub const DEFAULT_TOLERANCE: Duration = Duration::from_secs(300);

/// How a timestamp is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum TimeUnit {
    /// Unix seconds.
    #[default]
    #[serde(rename = "s")]
    Seconds,
    /// Unix milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "rfc3339")]
    Rfc3339,
}

impl TimeUnit {
    fn expected(self) -> &'static str {
        match self {
            Self::Seconds => "whole Unix seconds",
            Self::Milliseconds => "whole Unix milliseconds",
            Self::Rfc3339 => "a time such as `2026-01-01T00:00:00Z`",
        }
    }
}

/// Checks that `text`, found in `at`, is not further than `tolerance` from `now`, in both
/// directions.
pub fn check(
    text: &str,
    at: &str,
    unit: TimeUnit,
    tolerance: Duration,
    now: DateTime<Utc>,
) -> Result<(), Rejection> {
    let sent_at = match unit {
        TimeUnit::Rfc3339 => {
            DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
        }
        // `parse` alone would take a sign.
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let Some(sent_at): Option<i64> = sent_at else {
        return Err(Rejection::BadTimestamp { at: at.to_owned(), expected: unit.expected() });
    };
    let (now, tolerance) = match unit {
        TimeUnit::Seconds => (now.timestamp(), u128::from(tolerance.as_secs())),
        _ => (now.timestamp_millis(), tolerance.as_millis()),
    };
    let tolerance = i64::try_from(tolerance).unwrap_or(i64::MAX);
    if now.saturating_sub(sent_at) > tolerance {
        return Err(Rejection::TooOld(at.to_owned()));
    }
    if sent_at.saturating_sub(now) > tolerance {
        return Err(Rejection::TooNew(at.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerance_holds_both_ways_in_each_unit() {
        let now = DateTime::from_timestamp_millis(1_767_225_600_900).unwrap();
        let old = Err(Rejection::TooOld("t".to_owned()));
        let new = Err(Rejection::TooNew("t".to_owned()));
        for (unit, text, expected) in [
            (TimeUnit::Seconds, "1767225300", Ok(())),
            (TimeUnit::Seconds, "1767225299", old.clone()),
            (TimeUnit::Seconds, "1767225900", Ok(())),
            (TimeUnit::Seconds, "1767225901", new.clone()),
            (TimeUnit::Milliseconds, "1767225300900", Ok(())),
            (TimeUnit::Milliseconds, "1767225300899", old.clone()),
            (TimeUnit::Milliseconds, "1767225900901", new.clone()),
            // Seconds where milliseconds are expected, and the other way round.
            (TimeUnit::Milliseconds, "1767225600", old.clone()),
            (TimeUnit::Seconds, "1767225600000", new),
            (TimeUnit::Rfc3339, "2026-01-01T02:00:00.9+02:00", Ok(())),
            (TimeUnit::Rfc3339, "2025-12-31T23:55:00Z", old),
        ] {
            assert_eq!(check(text, "t", unit, DEFAULT_TOLERANCE, now), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for (unit, texts) in [
            (TimeUnit::Seconds, ["+1767225600", " 1767225600", "1e9", "99999999999999999999"]),
            (TimeUnit::Milliseconds, ["-1", "1767225600000.0", "", "soon"]),
            (TimeUnit::Rfc3339, ["1767225600", "2026-01-01", "2026-01-01T00:00:00", ""]),
        ] {
            for text in texts {
                let result = check(text, "t", unit, Duration::MAX, DateTime::UNIX_EPOCH);
                assert!(matches!(result, Err(Rejection::BadTimestamp { .. })), "{text}");
            }
        }
    }
}
