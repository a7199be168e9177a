//! Keyset pages: `limit`, `cursor` and `next_cursor`, alike for all lists.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::problem::{FieldProblem, Problem};
use crate::store::transactions::Cursor;

/// Entries of a page where no limit is given.
pub fn default_limit() -> u32 {
    50
}

/// A cursor's text: opaque to callers, stable between releases.
pub fn encode(cursor: Cursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", cursor.at.timestamp_micros(), cursor.id))
}

/// Reads the `cursor` parameter.
pub fn decode(text: &str) -> Result<Cursor, Problem> {
    parse(text).ok_or_else(|| {
        let detail = "must be the `next_cursor` of an earlier page";
        Problem::invalid(vec![FieldProblem::parameter("cursor", detail)])
    })
}

fn parse(text: &str) -> Option<Cursor> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (micros, id) = text.split_once('.')?;
    let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    if storable(at) != at {
        return None;
    }
    Some(Cursor { at, id: Uuid::parse_str(id).ok()? })
}

/// A time to compare rows with: no row is older than 1970, and Postgres has no times before 4713 BC.
pub fn storable(at: DateTime<Utc>) -> DateTime<Utc> {
    at.max(DateTime::UNIX_EPOCH)
}

/// Cuts `rows`, read with one more than `limit`, to the page; the cursor where more follow.
pub fn cut<T>(rows: &mut Vec<T>, limit: u32, cursor: impl FnOnce(&T) -> Cursor) -> Option<String> {
    let limit = limit as usize;
    if rows.len() <= limit {
        return None;
    }
    rows.truncate(limit);
    rows.last().map(|row| encode(cursor(row)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_round_trip(micros in 0i64..4_102_444_800_000_000, id in any::<u128>()) {
            let at = DateTime::from_timestamp_micros(micros).unwrap();
            let cursor = Cursor { at, id: Uuid::from_u128(id) };
            prop_assert_eq!(parse(&encode(cursor)), Some(cursor));
        }

        #[test]
        fn arbitrary_text_is_refused_without_panic(text in ".*") {
            if let Some(cursor) = parse(&text) {
                prop_assert_eq!(parse(&encode(cursor)), Some(cursor));
            }
        }
    }
}
