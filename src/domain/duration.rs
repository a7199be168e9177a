//! Durations as people write them: `200ms`, `15m`, `7d`.

use std::time::Duration;

/// The units that humantime takes for months and years. Their length differs, and `M` may have been
/// meant as minutes.
const MONTHS_AND_YEARS: [&str; 8] = ["M", "month", "months", "y", "yr", "yrs", "year", "years"];
/// What is allowed.
const WITH_UNIT: &str = "must be a duration with its unit, such as 200ms, 15m or 7d";

/// Reads a duration, zero included. The error says what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    // humantime reads a bare `0`; one rule for all numbers is easier to remember.
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("has no unit; it {WITH_UNIT}"));
    }
    let mut units = text.split(|c: char| !c.is_alphabetic());
    if let Some(unit) = units.find(|unit| MONTHS_AND_YEARS.contains(unit)) {
        return Err(format!(
            "has the unit {unit}: months and years are not allowed, and minutes are `m`; it \
             {WITH_UNIT}"
        ));
    }
    humantime::parse_duration(text).map_err(|_| WITH_UNIT.to_owned())
}
