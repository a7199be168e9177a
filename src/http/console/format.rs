//! Formats times, durations, amounts and states for a page.

use std::{borrow::Borrow, fmt, time::Duration};

use askama::filters::HtmlSafe;
use chrono::{DateTime, SecondsFormat, Utc};
use iso_currency::Currency;
use serde_json::Value;

use crate::http;

/// A time as its age, `3 min ago` or `in 20 s`, with the exact time for those who want it.
#[derive(Debug, Clone, Copy)]
pub struct Moment(DateTime<Utc>);

/// A time as its age.
pub fn ago(at: &DateTime<Utc>) -> Moment {
    Moment(*at)
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, now) = (self.0, http::now());
        let words = match (now - at).to_std() {
            Ok(age) if age < Duration::from_secs(1) => "now".to_owned(),
            Ok(age) => format!("{} ago", about(age)),
            Err(_) => format!("in {}", about((at - now).to_std().unwrap_or_default())),
        };
        let iso = at.to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(f, r#"<time datetime="{iso}" title="{}">{words}</time>"#, exact(at))
    }
}

// Digits and fixed words only.
impl HtmlSafe for Moment {}

/// A time of day to the millisecond, as in a log.
#[derive(Debug, Clone, Copy)]
pub struct Clock(pub DateTime<Utc>);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iso = self.0.to_rfc3339_opts(SecondsFormat::Millis, true);
        let time = self.0.format("%H:%M:%S%.3f");
        write!(f, r#"<time datetime="{iso}" title="{}">{time}</time>"#, exact(self.0))
    }
}

// Digits and fixed words only.
impl HtmlSafe for Clock {}

/// A time in full, to the second.
pub fn exact(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The day of a time.
pub fn day(at: DateTime<Utc>) -> String {
    at.format("%A, %-d %B %Y").to_string()
}

/// A word of a fixed vocabulary, with a colour that goes with it; the word says it all without.
#[derive(Debug, Clone, Copy)]
pub struct Chip {
    word: &'static str,
    tone: &'static str,
}

impl Chip {
    /// A chip in the tone of its word.
    pub fn new(word: &'static str) -> Self {
        let tone = match word {
            "completed" | "resolved" | "replayed" | "closed" | "succeeded" => "good",
            "failed" | "open" | "poison" => "bad",
            "pending" | "due" | "running" | "half_open" | "paused" => "busy",
            _ => "calm",
        };
        Self { word, tone }
    }

    /// A chip in another tone: `good`, `busy`, `bad` or `calm`.
    pub fn toned(word: &'static str, tone: &'static str) -> Self {
        Self { word, tone }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, tone } = self;
        write!(f, r#"<span class="chip {tone}">{}</span>"#, word.replace('_', " "))
    }
}

// Words of the code's own.
impl HtmlSafe for Chip {}

/// A duration in at most two units, as people say it.
pub fn format_duration(duration: Duration) -> String {
    let (millis, seconds) = (duration.as_millis(), duration.as_secs());
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{millis} ms"),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A duration in one unit, for what is read at a glance.
fn about(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A number with its thousands apart.
pub fn number(value: impl Borrow<i64>) -> String {
    let value = *value.borrow();
    let digits = value.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0 { format!("-{grouped}") } else { grouped }
}

/// An amount in the currency's major unit, as `12.50 EUR`.
pub fn amount(minor: &i64, currency: &str) -> String {
    let exponent = Currency::from_code(currency).and_then(Currency::exponent).unwrap_or(0);
    let scale = 10_i64.pow(u32::from(exponent));
    let major = number(minor / scale);
    match exponent {
        0 => format!("{major} {currency}"),
        digits => {
            let rest = (minor % scale).unsigned_abs();
            format!("{major}.{rest:0width$} {currency}", width = usize::from(digits))
        }
    }
}

/// JSON over several lines.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// A JSON value in one line: text without its quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

/// A JSON object's pairs in one line.
pub fn pairs(object: &Value) -> String {
    let pairs = object.as_object().into_iter().flatten();
    let pair =
        |(name, value): (&String, &Value)| format!("{} {}", name.replace('_', " "), plain(value));
    pairs.map(pair).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_two_units_at_most() {
        for (millis, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (12_900, "12 s"),
            (60_000, "1 min"),
            (200_000, "3 min 20 s"),
            (7_200_000, "2 h"),
            (93_600_000, "1 d 2 h"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn amounts_are_written_in_their_currency() {
        assert_eq!(amount(&1_250, "EUR"), "12.50 EUR");
        assert_eq!(amount(&5, "EUR"), "0.05 EUR");
        assert_eq!(amount(&1_234_567, "JPY"), "1,234,567 JPY");
        assert_eq!(amount(&1_500, "KWD"), "1.500 KWD");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1_000, -1_234_567].map(number).join(" "), "0 999 1,000 -1,234,567");
    }
}
