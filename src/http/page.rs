//! Keyset pages: `limit`, `cursor` and `next_cursor`, alike for all lists.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::problem::{FieldProblem, Problem};
use crate::store::{jobs::job_list::JobCursor, postgres::columns::Time, transactions::Cursor};

/// Entries of a page where no limit is given.
pub fn default_limit() -> u32 {
    50
}

/// How many rows are read for a page: with one more it is known whether another page follows.
pub fn rows(limit: u32) -> i64 {
    i64::from(limit) + 1
}

/// Entries of a page of `limit` rows whose sizes come to `most` bytes or less; one at least.
pub fn limit_within<T>(rows: &[T], limit: u32, most: usize, bytes: impl Fn(&T) -> usize) -> u32 {
    let mut sum = 0_usize;
    let fits = |row: &&T| {
        sum = sum.saturating_add(bytes(row));
        sum <= most
    };
    let count = rows.iter().take(limit as usize).take_while(fits).count();
    u32::try_from(count).unwrap_or(limit).max(1)
}

/// Where a page ends: the next one starts after it.
pub trait PageCursor: Sized {
    /// Opaque to callers, stable between releases.
    fn to_text(&self) -> String;

    /// `None`: it is none of ours.
    fn from_text(text: &str) -> Option<Self>;
}

impl PageCursor for Cursor {
    fn to_text(&self) -> String {
        encode_parts(self.at, self.id)
    }

    fn from_text(text: &str) -> Option<Self> {
        let (at, id) = parse_parts(text)?;
        Some(Self { at, id: Uuid::parse_str(&id).ok()? })
    }
}

impl PageCursor for JobCursor {
    fn to_text(&self) -> String {
        encode_parts(self.at, &self.id)
    }

    fn from_text(text: &str) -> Option<Self> {
        let (at, id) = parse_parts(text)?;
        // NUL is no text for Postgres.
        (!id.contains('\0')).then_some(Self { at, id })
    }
}

/// The number of a row.
impl PageCursor for i64 {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Reads the `cursor` parameter. 422: the cursor is none of ours.
pub fn after<C: PageCursor>(cursor: Option<&str>) -> Result<Option<C>, Problem> {
    let read = |text| C::from_text(text).ok_or_else(wrong_cursor);
    cursor.map(read).transpose()
}

fn wrong_cursor() -> Problem {
    let detail = "must be the `next_cursor` of an earlier page";
    Problem::invalid(vec![FieldProblem::parameter("cursor", detail)])
}

/// A page of a list.
#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where more follow.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Of as many [`rows`] as there are for a page of `limit`, each with its place in the list.
    pub fn new<C: PageCursor>(mut rows: Vec<T>, limit: u32, cursor: impl FnOnce(&T) -> C) -> Self {
        let limit = limit as usize;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| !is_last);
        let next_cursor = last.map(|row| cursor(row).to_text());
        Self { items: rows, next_cursor }
    }

    pub fn map<U>(self, item: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(item).collect(), next_cursor: self.next_cursor }
    }
}

/// The answer of a list operation: pages of one kind of item.
macro_rules! list_object {
    ($(#[$meta:meta])* $name:ident { $(#[$items_meta:meta])* items: $item:ty }) => {
        #[derive(Debug, poem_openapi::Object)]
        $(#[$meta])*
        pub struct $name {
            $(#[$items_meta])*
            pub items: Vec<$item>,
            /// Pass it as `cursor` for the next page; null on the last one.
            pub next_cursor: Option<String>,
        }

        impl<R: Into<$item>> From<$crate::http::page::Page<R>> for $name {
            fn from(page: $crate::http::page::Page<R>) -> Self {
                let page = page.map(Into::into);
                Self { items: page.items, next_cursor: page.next_cursor }
            }
        }
    };
}
pub(in crate::http) use list_object;

fn encode_parts(at: Time, id: impl fmt::Display) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{id}", at.to_cursor()))
}

fn parse_parts(text: &str) -> Option<(Time, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, id) = text.split_once('.')?;
    let at = Time::from_cursor(at)?;
    Some((at, id.to_owned()))
}

/// A time to compare rows with: no row is older than 1970, and Postgres has no times before 4713
/// BC.
pub fn storable(at: DateTime<Utc>) -> DateTime<Utc> {
    at.max(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_ends_where_its_bytes_do() {
        let page = |sizes: &[usize]| {
            let rows: Vec<_> = (1_i64..).zip(sizes.iter().copied()).collect();
            let limit = limit_within(&rows, 3, 10, |row| row.1);
            let page = Page::new(rows, limit, |row| row.0);
            (page.items.len(), page.next_cursor)
        };
        assert_eq!(page(&[4, 6, 0]), (3, None));
        assert_eq!(page(&[4, 6, 0, 0]), (3, Some("3".to_owned())));
        assert_eq!(page(&[4, 7, 0]), (1, Some("1".to_owned())));
        assert_eq!(page(&[40, 0]), (1, Some("1".to_owned())), "one is always there");
        assert_eq!(page(&[40]), (1, None));
        assert_eq!(page(&[]), (0, None));
    }

    proptest! {
        #[test]
        fn cursors_round_trip(micros in 0i64..4_102_444_800_000_000, id in any::<u128>()) {
            let at = Time::from_cursor(&micros.to_string()).unwrap();
            let cursor = Cursor { at, id: Uuid::from_u128(id) };
            prop_assert_eq!(Cursor::from_text(&cursor.to_text()), Some(cursor));
        }

        #[test]
        fn arbitrary_text_is_refused_without_panic(text in ".*") {
            if let Some(cursor) = Cursor::from_text(&text) {
                prop_assert_eq!(Cursor::from_text(&cursor.to_text()), Some(cursor));
            }
        }
    }
}
