//! Keyset pages: `limit`, `cursor` and `next_cursor`, alike for all lists.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::problem::{FieldProblem, Problem};
use crate::store::{columns::Time, job_list::JobCursor, transactions::Cursor};

/// Entries of a page where no limit is given.
pub fn default_limit() -> u32 {
    50
}

/// A cursor's text: opaque to callers, stable between releases.
pub fn encode(cursor: Cursor) -> String {
    encode_parts(cursor.at, cursor.id)
}

fn encode_parts(at: Time, id: impl fmt::Display) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{id}", at.to_cursor()))
}

/// Reads the `cursor` parameter.
pub fn decode(text: &str) -> Result<Cursor, Problem> {
    parse(text).ok_or_else(wrong_cursor)
}

/// Reads the `cursor` parameter of a list of jobs.
pub fn decode_job(text: &str) -> Result<JobCursor, Problem> {
    let (at, id) = parse_parts(text).ok_or_else(wrong_cursor)?;
    // NUL is no text for Postgres.
    if id.contains('\0') { Err(wrong_cursor()) } else { Ok(JobCursor { at, id }) }
}

/// 422: the cursor is none of ours.
pub fn wrong_cursor() -> Problem {
    let detail = "must be the `next_cursor` of an earlier page";
    Problem::invalid(vec![FieldProblem::parameter("cursor", detail)])
}

fn parse(text: &str) -> Option<Cursor> {
    let (at, id) = parse_parts(text)?;
    Some(Cursor { at, id: Uuid::parse_str(&id).ok()? })
}

fn parse_parts(text: &str) -> Option<(Time, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, id) = text.split_once('.')?;
    let at = Time::from_cursor(at)?;
    Some((at, id.to_owned()))
}

/// A time to compare rows with: no row is older than 1970, and Postgres has no times before 4713 BC.
pub fn storable(at: DateTime<Utc>) -> DateTime<Utc> {
    at.max(DateTime::UNIX_EPOCH)
}

/// Cuts `rows`, read with one more than `limit`, to the page; the cursor where more follow.
pub fn cut<T>(rows: &mut Vec<T>, limit: u32, cursor: impl FnOnce(&T) -> Cursor) -> Option<String> {
    cut_at(rows, limit, |row| encode(cursor(row)))
}

/// [`cut`] for a list of jobs.
pub fn cut_jobs<T>(
    rows: &mut Vec<T>,
    limit: u32,
    cursor: impl FnOnce(&T) -> JobCursor,
) -> Option<String> {
    cut_at(rows, limit, |row| {
        let JobCursor { at, id } = cursor(row);
        encode_parts(at, id)
    })
}

/// [`cut`] with the cursor's text.
pub fn cut_at<T>(
    rows: &mut Vec<T>,
    limit: u32,
    cursor: impl FnOnce(&T) -> String,
) -> Option<String> {
    let limit = limit as usize;
    if rows.len() <= limit {
        return None;
    }
    rows.truncate(limit);
    rows.last().map(cursor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_round_trip(micros in 0i64..4_102_444_800_000_000, id in any::<u128>()) {
            let at = Time::from_cursor(&micros.to_string()).unwrap();
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
