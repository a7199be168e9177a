//! What is wrong with a `[webhook]` section.

use std::{collections::BTreeMap, fmt};

use super::{extract::Place, source::Source};

/// Values for `{var:name}`.
pub type Vars = BTreeMap<String, String>;

/// A key of a profile that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}")]
pub struct Fault {
    /// From the top of the profile, such as `webhook.signature.header`.
    pub key: String,
    /// What is allowed.
    pub problem: String,
}

/// The faults that were found so far.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds a fault of a key of the section.
    pub fn add(&mut self, key: &str, problem: impl fmt::Display) {
        let fault = Fault { key: format!("webhook.{key}"), problem: problem.to_string() };
        self.0.push(fault);
    }

    /// The value, or a fault.
    pub fn value<T>(&mut self, key: &str, value: Result<T, impl fmt::Display>) -> Option<T> {
        value.map_err(|problem| self.add(key, problem)).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was found.
    pub(super) fn into_found(self) -> Vec<Fault> {
        self.0
    }

    pub(super) fn place(&mut self, key: &str, text: &str) -> Option<Place> {
        let source = self.value(key, Source::parse(text))?;
        Some(Place { text: text.to_owned(), source })
    }

    pub(super) fn places(&mut self, key: &str, texts: &[String]) -> Vec<Place> {
        texts.iter().filter_map(|text| self.place(key, text)).collect()
    }
}
