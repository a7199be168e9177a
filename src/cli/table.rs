//! The tables that commands print: the one place where a cell's text is made.
//!
//! A table fits the terminal, and [`WIDTH`] columns where there is none. Ids and times are never
//! broken, so that they can be found by `grep` and copied; everything else wraps. What belongs
//! together shares a column, a line each: two ids beside each other would leave no room.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{Cell, ColumnConstraint, ContentArrangement};

use crate::domain::visible;

/// Columns of a table that is not printed on a terminal.
const WIDTH: u16 = 120;
/// A terminal that says it is narrower is not believed: some programs report no width at all.
const MIN_WIDTH: u16 = 60;

/// A table of `N` columns.
pub(super) struct Table<const N: usize>(comfy_table::Table);

impl<const N: usize> Table<N> {
    pub(super) fn new(header: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.set_content_arrangement(ContentArrangement::Dynamic);
        let terminal = table.width().filter(|width| *width >= MIN_WIDTH);
        table.set_width(terminal.unwrap_or(WIDTH));
        table.set_header(header.map(cell));
        Self(table)
    }

    /// The same, where these columns are as wide as what is in them: for ids and times.
    pub(super) fn unbroken(mut self, columns: &[usize]) -> Self {
        for column in columns {
            if let Some(column) = self.0.column_mut(*column) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        self
    }

    /// The same, at most [`WIDTH`] columns wide on any terminal.
    pub(super) fn narrow(mut self) -> Self {
        if self.0.width().is_none_or(|width| width > WIDTH) {
            self.0.set_width(WIDTH);
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add_row(&mut self, cells: [String; N]) {
        self.0.add_row(cells.iter().map(|text| cell(text)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn cell(text: &str) -> Cell {
    // Escaped before it is measured.
    Cell::new(visible(text))
}

/// The parts of a cell that say something, a line each.
pub(super) fn lines<const M: usize>(parts: [String; M]) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

/// At most `limit` characters, the last of them an ellipsis where there were more.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A time to the second, in UTC.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_width_and_breaks_no_id() {
        let id = "0195a4c2-6e2b-7c11-9d3e-3f2b8c1d4e5f";
        let mut table = Table::new(["id", "reason", "detail"]).unbroken(&[0]);
        table.add_row([lines([id.into(), id.into()]), "word ".repeat(60), "x".repeat(300)]);
        let text = table.to_string();
        assert_eq!(text.matches(id).count(), 2, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{text}");
    }

    #[test]
    fn a_text_is_shortened_at_a_character() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }

    #[test]
    fn a_part_that_says_nothing_takes_no_line() {
        assert_eq!(lines(["one".into(), String::new(), "two".into()]), "one\ntwo");
    }
}
