//! What is wrong with a profile: the file, the key, its line, and what is allowed.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keywords::{alternatives, not_allowed};

/// A profile that cannot be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError {
    /// The file's name.
    pub file: String,
    /// At least one.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Such as `create.answers[2].at`, counted from 1; empty: the file as a whole.
    pub key: String,
    /// Counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl std::error::Error for ProfileError {}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, fault) in self.faults.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {fault}", self.file)?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), self.line) {
            ("", None) => {}
            ("", Some(line)) => write!(f, "line {line}: ")?,
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(line)) => write!(f, "{key} (line {line}): ")?,
        }
        f.write_str(&self.problem)
    }
}

/// Where something stands in a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    /// Counted from 0.
    Nth(usize),
}

impl Key {
    /// The key of these names, separated by dots.
    pub fn of(names: &str) -> Self {
        Self(names.split('.').map(|name| Step::Name(name.to_owned())).collect())
    }

    /// A key below this one.
    pub fn then(&self, name: &str) -> Self {
        let mut key = self.clone();
        key.0.push(Step::Name(name.to_owned()));
        key
    }

    /// An element of this list, counted from 0.
    pub fn nth(&self, nth: usize) -> Self {
        let mut key = self.clone();
        key.0.push(Step::Nth(nth));
        key
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, step) in self.0.iter().enumerate() {
            match step {
                Step::Nth(index) => write!(f, "[{}]", index + 1)?,
                Step::Name(name) => {
                    if nth > 0 {
                        f.write_str(".")?;
                    }
                    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                    if !name.is_empty() && name.chars().all(is_bare) {
                        f.write_str(name)?;
                    } else {
                        write!(f, "{name:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Collects what is wrong with one file.
pub(super) struct Faults<'a> {
    file: &'a str,
    text: &'a str,
    faults: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, faults: Vec::new() }
    }

    pub(super) fn add(&mut self, key: &Key, problem: impl Into<String>) {
        let line = line_of(self.text, key);
        self.faults.push(Fault { key: key.to_string(), line, problem: problem.into() });
    }

    /// What the TOML reader found.
    pub(super) fn add_toml(&mut self, error: &toml::de::Error) {
        let at = error.span().map(|span| span.start);
        let key = error.span().map(|span| key_at(self.text, span)).unwrap_or_default();
        self.faults.push(Fault {
            key: key.to_string(),
            line: at.map(|at| line_at(self.text, at)),
            problem: in_own_words(error.message()),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn into_error(self) -> ProfileError {
        ProfileError { file: self.file.to_owned(), faults: self.faults }
    }

    pub(super) fn finish(self) -> Result<(), ProfileError> {
        if self.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }
}

/// The reader's words for a key that is unknown or missing, as a profile's author needs them.
fn in_own_words(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted[..] {
        [unknown, ref allowed @ ..] if message.starts_with("unknown field") => {
            not_allowed(unknown, allowed)
        }
        [missing, ..] if message.starts_with("missing field") => format!("'{missing}' is missing"),
        [found, ref allowed @ ..] if message.starts_with("unknown variant") => {
            format!("'{found}' is not allowed: {}", alternatives(allowed))
        }
        _ => message.to_owned(),
    }
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The line of a key, or of the nearest one above it that is there.
fn line_of(text: &str, key: &Key) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut at = None;
    let mut value = &DeValue::Table(document.into_inner());
    for step in &key.0 {
        let next = match (step, value) {
            (Step::Name(name), DeValue::Table(table)) => {
                let entry = table.iter().find(|(key, _)| key.as_ref() == name.as_str());
                entry.map(|(key, value)| (key.span().start, value))
            }
            (Step::Nth(nth), DeValue::Array(array)) => {
                array.get(*nth).map(|value| (value.span().start, value))
            }
            _ => None,
        };
        let Some((start, below)) = next else { break };
        at = Some(start);
        value = below.as_ref();
    }
    at.map(|at| line_at(text, at))
}

/// The key of what stands at `span`: the innermost one that encloses it.
fn key_at(text: &str, span: std::ops::Range<usize>) -> Key {
    let Ok(document) = DeTable::parse(text) else { return Key::default() };
    let mut best = (usize::MAX, Key::default());
    search(document.get_ref(), &Key::default(), &span, &mut best);
    best.1
}

fn search(
    table: &DeTable<'_>,
    above: &Key,
    span: &std::ops::Range<usize>,
    best: &mut (usize, Key),
) {
    for (name, value) in table {
        let key = above.then(name.as_ref());
        // At a key that is not allowed the fault is the table's above it.
        if name.span() == *span {
            *best = (0, above.clone());
        }
        search_value(value, &key, span, best);
    }
}

fn search_value(
    value: &Spanned<DeValue<'_>>,
    key: &Key,
    span: &std::ops::Range<usize>,
    best: &mut (usize, Key),
) {
    let own = value.span();
    if own.start <= span.start && span.end <= own.end && own.len() < best.0 {
        *best = (own.len(), key.clone());
    }
    match value.as_ref() {
        DeValue::Table(table) => search(table, key, span, best),
        DeValue::Array(array) => {
            for (nth, element) in array.iter().enumerate() {
                search_value(element, &key.nth(nth), span, best);
            }
        }
        _ => {}
    }
}
