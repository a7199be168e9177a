//! Pages about one thing: names and their values, then tables.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::table::{Table, lines, time};

/// Columns of a line; longer ones are wrapped.
const WIDTH: usize = 110;

/// A page that is being written.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
    /// Columns before a value.
    name_width: usize,
}

impl Page {
    pub(super) fn new(name_width: usize) -> Self {
        Self { text: String::new(), name_width }
    }

    pub(super) fn line(&mut self, text: &str) {
        self.text.push_str(&wrapped("", text));
    }

    /// A name and its value, which is left out where it is empty.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        let width = self.name_width;
        let mut start = format!("{:width$}", format!("{name}:"));
        for line in value.lines() {
            self.text.push_str(&wrapped(&start, line));
            start = " ".repeat(width);
        }
    }

    /// A table under its title, where it has rows.
    pub(super) fn table<const N: usize>(&mut self, title: &str, table: &Table<N>) {
        if !table.is_empty() {
            self.text.push_str(&format!("\n{title}\n{table}\n"));
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

/// The attempts of a job, as its errors: `[{attempt, at, error}]`.
pub(super) fn attempts_table(attempts: &Value) -> Table<3> {
    let mut table = Table::new(["attempt", "at", "error"]).unbroken(&[0, 1]);
    for attempt in attempts.as_array().into_iter().flatten() {
        let at = attempt["at"].as_str().unwrap_or_default();
        let at = at.parse::<DateTime<Utc>>().map_or_else(|_| at.to_owned(), time);
        table.add_row([plain(&attempt["attempt"]), at, plain(&attempt["error"])]);
    }
    table
}

/// An entry of the evidence about a transaction.
pub(super) struct Entry<'a> {
    pub at: DateTime<Utc>,
    pub kind: String,
    pub source: &'a str,
    pub detail: &'a Value,
}

pub(super) fn evidence_table<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Table<3> {
    let mut table = Table::new(["at", "what, by", "detail"]).unbroken(&[0]);
    for Entry { at, kind, source, detail } in entries {
        table.add_row([time(at), lines([kind, source.to_owned()]), details(detail)]);
    }
    table
}

/// What an object of JSON says, a line for each of its fields that has a value.
pub(super) fn details(detail: &Value) -> String {
    let Value::Object(fields) = detail else { return plain(detail) };
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    let lines: Vec<String> =
        fields.map(|(name, value)| format!("{name}: {}", plain(value))).collect();
    lines.join("\n")
}

/// A text without its quotes, and nothing for `null`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// `text` after `start`, broken at spaces; further lines are indented as far as `start` goes.
pub(super) fn wrapped(start: &str, text: &str) -> String {
    let indent = start.chars().count();
    let (mut lines, mut line, mut width) = (String::new(), start.to_owned(), indent);
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > indent && width + 1 + length > WIDTH {
            lines.push_str(line.trim_end());
            lines.push('\n');
            (line, width) = (" ".repeat(indent), indent);
        }
        if width > indent {
            line.push(' ');
            width += 1;
        }
        line.push_str(word);
        width += length;
    }
    lines.push_str(line.trim_end());
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_wraps_within_its_values_and_leaves_out_what_says_nothing() {
        let mut page = Page::new(14);
        page.field("Reason", &"word ".repeat(40));
        page.field("Note", "");
        page.field("Detail", &details(&json!({ "status": "completed", "by": null, "code": 200 })));
        page.table("Attempts", &attempts_table(&json!([])));
        let text = page.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("Reason:       word word"), "{text}");
        assert!(lines[1].starts_with("              word"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        let said: Vec<&str> = lines[lines.len() - 2..].iter().map(|line| line.trim()).collect();
        assert_eq!(said, ["Detail:       code: 200", "status: completed"], "{text}");
    }
}
