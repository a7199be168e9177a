//! The fields of a console request: the pairs of its query, or those of a form.

use std::{borrow::Cow, str::FromStr};

use uuid::Uuid;

use super::page_error::PageError;
use crate::{
    domain::{StringEnum, UnknownWord},
    http::{
        operator::MAX_NOTE,
        page::{self, PageCursor},
    },
};

/// Most pairs that are read: a form of a whole page of dead letters has far fewer.
const MAX_PAIRS: usize = 1_000;

/// Names and values, in their order; a name may come more than once.
#[derive(Debug, Clone, Default)]
pub struct FormFields(Vec<(String, String)>);

impl FormFields {
    /// Reads `application/x-www-form-urlencoded` text, as queries and forms are.
    pub fn parse(text: &[u8]) -> Self {
        let pairs = url::form_urlencoded::parse(text).take(MAX_PAIRS);
        // Browsers send line breaks as two characters, and count them as one.
        let plain = |value: Cow<'_, str>| value.replace("\r\n", "\n");
        Self(pairs.map(|(name, value)| (name.into_owned(), plain(value))).collect())
    }

    /// The first value that is not blank, without the space around it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(given, _)| given == name);
        values.find_map(|(_, value)| Some(value.trim()).filter(|value| !value.is_empty()))
    }

    /// The first value, or nothing as empty text: what a form is filled with again.
    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// One of the domain's words; `None` where the field is blank.
    pub fn word<T: StringEnum>(&self, name: &str) -> Result<Option<T>, PageError> {
        let parse = |text: &str| {
            text.parse().map_err(|wrong: UnknownWord| PageError::invalid(format!("{name} {wrong}")))
        };
        self.get(name).map(parse).transpose()
    }

    /// A uuid; `None` where the field is blank.
    pub fn uuid(&self, name: &str) -> Result<Option<Uuid>, PageError> {
        self.parsed(name, "must be a uuid")
    }

    /// All uuids of a name, each once.
    pub fn uuids(&self, name: &str) -> Result<Vec<Uuid>, PageError> {
        let mut ids = Vec::new();
        for text in self.all(name) {
            let wrong = |_| PageError::invalid(format!("{name} must be a uuid"));
            let id = Uuid::parse_str(text.trim()).map_err(wrong)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// A value of another type; `None` where the field is blank.
    pub fn parsed<T: FromStr>(&self, name: &str, rule: &str) -> Result<Option<T>, PageError> {
        let parse =
            |text: &str| text.parse().map_err(|_| PageError::invalid(format!("{name} {rule}")));
        self.get(name).map(parse).transpose()
    }

    /// Where a page of a list begins.
    pub fn cursor<C: PageCursor>(&self) -> Result<Option<C>, PageError> {
        Ok(page::after(self.get("cursor"))?)
    }

    /// An operator's note; `None` where it is blank.
    pub fn note(&self) -> Result<Option<&str>, PageError> {
        let note = self.get("note");
        let length = note.map_or(0, |note| note.chars().count());
        if length > MAX_NOTE {
            return Err(PageError::invalid(format!("a note has at most {MAX_NOTE} characters")));
        }
        if note.is_some_and(|note| note.contains('\0')) {
            return Err(PageError::invalid("a note has no NUL characters"));
        }
        Ok(note)
    }

    /// The same as a query, with `name` set to `value`.
    pub fn with(&self, name: &str, value: &str) -> String {
        let kept = self.0.iter().filter(|(given, value)| given != name && !value.is_empty());
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(kept).append_pair(name, value).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_fields_are_none() {
        let fields = FormFields::parse(b"id=+&kind=&note=+why+");
        assert_eq!((fields.get("id"), fields.get("kind")), (None, None));
        assert_eq!(fields.get("note"), Some("why"));
    }

    #[test]
    fn a_line_break_is_one_character() {
        let note = format!("{}%0D%0A{}", "a".repeat(500), "b".repeat(499));
        let fields = FormFields::parse(format!("note={note}").as_bytes());
        assert_eq!(fields.note().unwrap().unwrap().chars().count(), 1_000);
    }

    #[test]
    fn a_cursor_replaces_the_one_before() {
        let fields = FormFields::parse(b"status=pending&client=&cursor=abc");
        assert_eq!(fields.with("cursor", "d&f"), "status=pending&cursor=d%26f");
    }

    #[test]
    fn repeated_ids_count_once() {
        let id = Uuid::now_v7();
        let fields = FormFields::parse(format!("id={id}&id={id}").as_bytes());
        assert_eq!(fields.uuids("id").unwrap(), [id]);
    }
}
