//! Types for columns whose values may be stranger than what Quartet writes: `infinity`, a year that
//! chrono has not, JSON with numbers that no float holds, a word of a later release.
//!
//! A statement that reads many rows fails as a whole when one value of one row does not decode. So
//! nothing here ever fails: it decodes to the nearest value there is, or keeps why there is none,
//! for the reader of that row to judge. Every column of type `timestamptz` or `jsonb` that a query
//! of ours returns is read as one of these; a test reads the query cache for that.

use std::{collections::BTreeMap, ops::Deref};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde_json::{Value, json, value::RawValue};
use sqlx::{
    Decode, Encode, Postgres, Type, ValueRef,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat, PgValueRef},
};

/// From the Unix epoch to that of Postgres, 2000-01-01, in microseconds.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// The first and last time of Postgres that are finite, 4713 BC and 294276 AD, in its microseconds.
const POSTGRES_TIMES: (i64, i64) = (-211_813_488_000_000_000, 9_223_371_331_199_999_999);
/// What stands for infinite times in a cursor.
const INFINITIES: (&str, &str) = ("-infinity", "infinity");
/// Most characters of a JSON text that is kept because it cannot be read.
const MAX_TEXT: usize = 1_000;
/// Most characters of a metadata key in a reason.
const MAX_KEY: usize = 100;

/// A value of a row that Quartet does not write and cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub column: &'static str,
    /// What is wrong with it, to follow the column's name.
    pub why: String,
}

/// A `timestamptz`, exactly as Postgres has it, `infinity` and `-infinity` included. A page's
/// cursor holds one, so that the next page starts where this one ended whatever the times are.
/// Everything else sees the nearest time that RFC 3339 can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Since 2000-01-01; the extremes are the infinities.
    micros: i64,
    nearest: DateTime<Utc>,
}

impl Time {
    fn from_micros(micros: i64) -> Self {
        let (first, last) = rfc3339_times();
        let at = DateTime::from_timestamp_micros(micros.saturating_add(POSTGRES_EPOCH));
        // Of times that chrono does not have, the early ones are negative.
        let at = at.unwrap_or(if micros < 0 { first } else { last });
        Self { micros, nearest: at.clamp(first, last) }
    }

    /// Later than every other.
    pub fn infinity() -> Self {
        Self::from_micros(i64::MAX)
    }

    /// The time, or the nearest one that RFC 3339 can write.
    pub fn at(self) -> DateTime<Utc> {
        self.nearest
    }

    /// Whether it is finite, and in a year that RFC 3339 can write.
    pub fn is_in_range(self) -> bool {
        Self::from(self.nearest) == self
    }

    /// For a cursor's text: microseconds since the Unix epoch, or the word for an infinite one.
    pub fn to_cursor(self) -> String {
        match self.micros {
            i64::MAX => INFINITIES.1.to_owned(),
            i64::MIN => INFINITIES.0.to_owned(),
            // The last times of Postgres are beyond the microseconds of 64 bits.
            micros => (i128::from(micros) + i128::from(POSTGRES_EPOCH)).to_string(),
        }
    }

    /// The inverse of [`Self::to_cursor`]; `None` where Postgres has no such time.
    pub fn from_cursor(text: &str) -> Option<Self> {
        if text == INFINITIES.1 {
            return Some(Self::infinity());
        }
        if text == INFINITIES.0 {
            return Some(Self::from_micros(i64::MIN));
        }
        let micros = text.parse::<i128>().ok()?.checked_sub(POSTGRES_EPOCH.into())?;
        let (micros, (first, last)) = (i64::try_from(micros).ok()?, POSTGRES_TIMES);
        (first..=last).contains(&micros).then(|| Self::from_micros(micros))
    }
}

impl Deref for Time {
    type Target = DateTime<Utc>;

    fn deref(&self) -> &DateTime<Utc> {
        &self.nearest
    }
}

fn rfc3339_times() -> (DateTime<Utc>, DateTime<Utc>) {
    let midnight = |year, month, day| {
        let date = NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default();
        date.and_time(NaiveTime::MIN).and_utc()
    };
    (midnight(1, 1, 1), midnight(9999, 12, 31))
}

impl From<DateTime<Utc>> for Time {
    fn from(at: DateTime<Utc>) -> Self {
        Self::from_micros(at.timestamp_micros().saturating_sub(POSTGRES_EPOCH))
    }
}

impl From<Time> for DateTime<Utc> {
    fn from(time: Time) -> Self {
        time.at()
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        // Only what was not prepared comes as text: no query of ours.
        match value.format() {
            PgValueFormat::Binary => {
                <i64 as Decode<Postgres>>::decode(value).map(Self::from_micros)
            }
            PgValueFormat::Text => {
                <DateTime<Utc> as Decode<Postgres>>::decode(value).map(Into::into)
            }
        }
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<Postgres>>::encode(self.micros, buffer)
    }
}

/// Declares the type of a column that may be null, for a field that is an `Option`.
macro_rules! nullable {
    ($(#[$doc:meta])* $name:ident($of:ident) -> $field:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(Option<$of>);

        impl<'r> Decode<'r, Postgres> for $name {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                Option::<$of>::decode(value).map(Self)
            }
        }

        impl From<$name> for Option<$field> {
            fn from(value: $name) -> Self {
                value.0.map(Into::into)
            }
        }

        impl From<$name> for Option<$of> {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

nullable! {
    /// A [`Time`] or null.
    MaybeTime(Time) -> DateTime<Utc>
}

/// JSON, whatever it is. What serde cannot hold (a number beyond all floats, nesting without end)
/// is an object that says so and has the beginning of the text.
#[derive(Debug, Clone)]
pub struct AnyJson(Value);

impl From<AnyJson> for Value {
    fn from(json: AnyJson) -> Self {
        json.0
    }
}

impl<'r> Decode<'r, Postgres> for AnyJson {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = json_text(&value)?;
        Ok(Self(serde_json::from_slice(text).unwrap_or_else(|error| {
            let text: String = String::from_utf8_lossy(text).chars().take(MAX_TEXT).collect();
            json!({ "unreadable": error.to_string(), "text": text })
        })))
    }
}

nullable! {
    /// [`AnyJson`] or null.
    MaybeJson(AnyJson) -> Value
}

/// The JSON text of a `jsonb` value.
fn json_text<'r>(value: &PgValueRef<'r>) -> Result<&'r [u8], BoxDynError> {
    let bytes = value.as_bytes()?;
    Ok(match value.format() {
        // The first byte is the version of the format.
        PgValueFormat::Binary => bytes.get(1..).unwrap_or_default(),
        PgValueFormat::Text => bytes,
    })
}

/// A value, or why the column holds none.
#[derive(Debug, Clone)]
pub struct Column<T>(pub Result<T, String>);

impl<'r, T: Decode<'r, Postgres>> Decode<'r, Postgres> for Column<T> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(T::decode(value).map_err(|error| error.to_string())))
    }
}

/// For a list, where what cannot be read is left out.
impl<T> From<Column<Option<T>>> for Option<T> {
    fn from(column: Column<Option<T>>) -> Self {
        column.0.ok().flatten()
    }
}

/// The rows of a list that can be read. One that holds a word of a later release is left out, and
/// logged.
pub(in crate::store) fn readable<R, T>(
    rows: impl IntoIterator<Item = R>,
    read: impl Fn(R) -> Result<T, String>,
) -> Vec<T> {
    let known = |row| {
        read(row).inspect_err(|why| tracing::warn!("a row was left out of a list: {why}")).ok()
    };
    rows.into_iter().filter_map(known).collect()
}

/// The pairs of strings that a transaction's `metadata` holds.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// What is no string stands as its JSON text; `None` where it is null or no object.
    pub pairs: Option<BTreeMap<String, String>>,
    /// Why that is not what is stored.
    pub fault: Option<String>,
}

impl Metadata {
    fn read(text: &[u8]) -> Self {
        if let Ok(pairs) = serde_json::from_slice(text) {
            return Self { pairs: Some(pairs), fault: None };
        }
        // The values as texts: of these nothing is too large or too deep.
        let Ok(values) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(text) else {
            let found = json_type(&String::from_utf8_lossy(text));
            return Self { pairs: None, fault: Some(format!("is {found}, not an object")) };
        };
        let mut fault = None;
        let pairs = values.into_iter().map(|(key, value)| {
            let string = serde_json::from_str(value.get()).unwrap_or_else(|_| {
                fault.get_or_insert_with(|| {
                    let key: String = key.chars().take(MAX_KEY).collect();
                    format!("holds {} under {key:?}, not a string", json_type(value.get()))
                });
                value.get().to_owned()
            });
            (key, string)
        });
        Self { pairs: Some(pairs.collect()), fault }
    }
}

fn json_type(text: &str) -> &'static str {
    match text.trim_start().bytes().next() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl<'r> Decode<'r, Postgres> for Metadata {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.is_null() {
            return Ok(Self::default());
        }
        Ok(Self::read(json_text(&value)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever Postgres holds, there is a time to show and a cursor that leads back to it.
        #[test]
        fn every_time_is_displayed_and_found_again(micros in any::<i64>()) {
            let time = Time::from_micros(micros);
            prop_assert!(!time.at().to_rfc3339().starts_with('+'));
            if (POSTGRES_TIMES.0..=POSTGRES_TIMES.1).contains(&micros) {
                prop_assert_eq!(Time::from_cursor(&time.to_cursor()), Some(time));
            }
        }

        #[test]
        fn the_last_times_are_found_again(before in 0..=POSTGRES_EPOCH) {
            let time = Time::from_micros(POSTGRES_TIMES.1 - before);
            prop_assert_eq!(Time::from_cursor(&time.to_cursor()), Some(time));
        }

        #[test]
        fn ordinary_times_are_exact(seconds in -60_000_000_000i64..250_000_000_000) {
            let at = DateTime::from_timestamp(seconds, 123_456_000).unwrap();
            let time = Time::from(at);
            prop_assert!(time.is_in_range());
            prop_assert_eq!(time.at(), at);
        }
    }

    #[test]
    fn infinities_are_read_as_the_ends_of_the_calendar() {
        let (first, last) = rfc3339_times();
        for (micros, expected) in [(i64::MAX, last), (i64::MIN, first)] {
            let time = Time::from_micros(micros);
            assert_eq!(time.at(), expected);
            assert!(!time.is_in_range());
            assert_eq!(Time::from_cursor(&time.to_cursor()), Some(time));
        }
    }

    #[test]
    fn metadata_that_is_not_strings_is_read_as_text_and_says_so() {
        let read = |text: &str| Metadata::read(text.as_bytes());
        let strings = read(r#"{"a": "1", "b": ""}"#);
        assert_eq!(strings.fault, None);
        assert_eq!(strings.pairs.unwrap()["a"], "1");

        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let huge = "1".repeat(400);
        for (value, found) in [
            ("1", "a number"),
            (huge.as_str(), "a number"),
            ("null", "null"),
            ("true", "a boolean"),
            (r#"{"x": "y"}"#, "an object"),
            (deep.as_str(), "an array"),
        ] {
            let metadata = read(&format!(r#"{{"a": {value}, "b": "c"}}"#));
            let pairs = metadata.pairs.unwrap();
            assert_eq!((pairs["a"].as_str(), pairs["b"].as_str()), (value, "c"));
            assert_eq!(
                metadata.fault.unwrap(),
                format!(r#"holds {found} under "a", not a string"#)
            );
        }
        let list = read("[1]");
        assert!(list.pairs.is_none());
        assert_eq!(list.fault.unwrap(), "is an array, not an object");
    }
}
