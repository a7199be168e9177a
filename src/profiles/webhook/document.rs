//! The body as fields: JSON, a form, or the query of a GET.
//!
//! Only what is asked for is read: whatever else stands in the body changes nothing, as in
//! [`crate::domain::peer_answer`], whose scanner this uses. Nothing recurses, so depth is harmless.

use std::borrow::Cow;

use url::form_urlencoded;

use crate::{
    domain::peer_answer::{Scanner, Unreadable},
    profiles::pointer::{Pointer, position},
};

/// Why a value cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldFault {
    #[error("stands more than once")]
    Repeated,
    #[error("is an object or a list")]
    Compound,
    #[error("cannot be read")]
    Unreadable,
}

/// A body, or one event in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document<'a> {
    Json(Json<'a>),
    /// The fields of a form or a query.
    Form(Vec<(Cow<'a, str>, Cow<'a, str>)>),
}

/// JSON as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<'a> {
    text: &'a str,
    /// The keys, with their quotes, and the values of an object: several places are read of it, and
    /// it is scanned once. `None` where it is no object.
    members: Option<Result<Vec<(&'a str, &'a str)>, FieldFault>>,
}

impl<'a> Document<'a> {
    /// JSON that is an object or a list from its beginning to its end.
    pub fn json(text: &'a str) -> Result<Self, Unreadable> {
        let mut scanner = Scanner::new(text);
        let members = match scanner.next_token() {
            None => return Err(Unreadable::Empty),
            Some(b'{') => Some(Ok(members(&mut scanner)?)),
            Some(b'[') => {
                scanner.elements(|_| {})?;
                None
            }
            Some(_) => return Err(Unreadable::NoObject),
        };
        scanner.end()?;
        Ok(Self::Json(Json { text, members }))
    }

    /// A JSON value in a body.
    pub fn item(text: &'a str) -> Self {
        let mut scanner = Scanner::new(text);
        let is_object = scanner.next_token() == Some(b'{');
        let members = is_object.then(|| members(&mut scanner).map_err(|_| FieldFault::Unreadable));
        Self::Json(Json { text, members })
    }

    pub fn form(text: &'a [u8]) -> Self {
        Self::Form(form_urlencoded::parse(text).collect())
    }

    /// The string, number or boolean at this place as text; `None` where nothing or `null` stands.
    pub fn scalar(&self, pointer: &Pointer) -> Result<Option<String>, FieldFault> {
        match self {
            Self::Json(json) => {
                let Some(raw) = json.value(pointer)? else { return Ok(None) };
                match raw.as_bytes().first() {
                    Some(b'{' | b'[') => Err(FieldFault::Compound),
                    Some(b'"') => match serde_json::from_str(raw) {
                        Ok(text) => Ok(Some(text)),
                        Err(_) => Err(FieldFault::Unreadable),
                    },
                    _ => Ok(Some(raw.to_owned()).filter(|raw| raw != "null")),
                }
            }
            Self::Form(fields) => {
                let [name] = pointer.tokens() else { return Ok(None) };
                let mut values = fields.iter().filter(|(key, _)| key == name);
                let value = values.next();
                if values.next().is_some() {
                    return Err(FieldFault::Repeated);
                }
                Ok(value.map(|(_, value)| value.clone().into_owned()))
            }
        }
    }

    /// The JSON value at this place as it was written.
    pub fn raw(&self, pointer: &Pointer) -> Option<&'a str> {
        let Self::Json(json) = self else { return None };
        json.value(pointer).ok().flatten()
    }

    /// The elements of the list at this place, at most `most` and one; `None` where there is none.
    pub fn list(&self, pointer: &Pointer, most: usize) -> Option<Vec<&'a str>> {
        let raw = self.raw(pointer)?;
        let mut scanner = Scanner::new(raw);
        if scanner.next_token() != Some(b'[') {
            return None;
        }
        let mut found = Vec::new();
        let read = scanner.elements(|(raw, _)| {
            if found.len() <= most {
                found.push(raw);
            }
        });
        read.ok()?;
        Some(found)
    }
}

impl<'a> Json<'a> {
    /// The value at this place as it was written.
    fn value(&self, pointer: &Pointer) -> Result<Option<&'a str>, FieldFault> {
        match (&self.members, pointer.tokens().split_first()) {
            (Some(members), Some((name, rest))) => {
                match member(members.as_ref().map_err(|fault| *fault)?, name)? {
                    Some(value) => value_at(value, rest),
                    None => Ok(None),
                }
            }
            _ => value_at(self.text, pointer.tokens()),
        }
    }
}

/// The value that these steps lead to, as it was written.
fn value_at<'a>(text: &'a str, steps: &[String]) -> Result<Option<&'a str>, FieldFault> {
    let mut raw = text.trim_start_matches('\u{feff}').trim();
    for step in steps {
        let mut scanner = Scanner::new(raw);
        let found = match scanner.next_token() {
            Some(b'{') => {
                let members = members(&mut scanner).map_err(|_| FieldFault::Unreadable)?;
                member(&members, step)?
            }
            Some(b'[') => {
                let Some(wanted) = position(step) else { return Ok(None) };
                let (mut found, mut next) = (None, 0);
                let read = scanner.elements(|(value, _)| {
                    if next == wanted {
                        found = Some(value);
                    }
                    next += 1;
                });
                read.map_err(|_| FieldFault::Unreadable)?;
                found
            }
            _ => None,
        };
        match found {
            Some(value) => raw = value,
            None => return Ok(None),
        }
    }
    Ok(Some(raw))
}

/// The value of this name, which stands once.
fn member<'a>(members: &[(&'a str, &'a str)], name: &str) -> Result<Option<&'a str>, FieldFault> {
    let mut values = members.iter().filter(|(key, _)| is_key(key, name));
    let value = values.next().map(|(_, value)| *value);
    if values.next().is_some() { Err(FieldFault::Repeated) } else { Ok(value) }
}

/// Whether this key, with its quotes, is this name. A key that is no text is no name.
fn is_key(key: &str, name: &str) -> bool {
    if key.contains('\\') {
        return serde_json::from_str::<String>(key).is_ok_and(|key| key == name);
    }
    key.strip_prefix('"').and_then(|key| key.strip_suffix('"')) == Some(name)
}

/// The keys of an object, with their quotes, and its values as they were written.
fn members<'a>(scanner: &mut Scanner<'a>) -> Result<Vec<(&'a str, &'a str)>, Unreadable> {
    let mut found = Vec::new();
    scanner.members(|key, (value, _)| found.push((key, value)))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn scalar(text: &str, pointer: &str) -> Result<Option<String>, FieldFault> {
        Document::json(text).unwrap().scalar(&Pointer::parse(pointer).unwrap())
    }

    #[test]
    fn only_what_is_asked_for_matters() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        for other in [
            r#""x":NaN"#,
            r#""\ud83d":1"#,
            r#""x":"\ud83d""#,
            r#""x":1,"x":2"#,
            &format!(r#""x":{deep}"#),
        ] {
            let text = format!("\u{feff} {{{other},\"a\":[0,{{\"b/c\":\"\\u0064\",{other}}}]}} ");
            assert_eq!(scalar(&text, "/a/1/b~1c"), Ok(Some("d".to_owned())), "{text:.100}");
        }
    }

    #[test]
    fn a_value_is_a_scalar_that_stands_once() {
        let text = r#"{"n":1.50,"t":true,"z":null,"o":{},"l":[1],"r":1,"r":1,"s":"\ud83d","":"e"}"#;
        for (pointer, expected) in [
            ("/n", Ok(Some("1.50".to_owned()))),
            ("/t", Ok(Some("true".to_owned()))),
            ("/z", Ok(None)),
            ("/o", Err(FieldFault::Compound)),
            ("", Err(FieldFault::Compound)),
            ("/l", Err(FieldFault::Compound)),
            ("/l/0", Ok(Some("1".to_owned()))),
            ("/l/00", Ok(None)),
            ("/l/1", Ok(None)),
            ("/l/-", Ok(None)),
            ("/n/0", Ok(None)),
            ("/o/n", Ok(None)),
            ("/r", Err(FieldFault::Repeated)),
            ("/s", Err(FieldFault::Unreadable)),
            ("/", Ok(Some("e".to_owned()))),
        ] {
            assert_eq!(scalar(text, pointer), expected, "{pointer}");
        }
        let form = Document::form(b"id=tr_1&a+b=c%20d&r=1&r=2");
        let field = |name: &str| form.scalar(&Pointer::of(&[name]));
        assert_eq!(field("id"), Ok(Some("tr_1".to_owned())));
        assert_eq!(field("a b"), Ok(Some("c d".to_owned())));
        assert_eq!(field("r"), Err(FieldFault::Repeated));
        assert_eq!(field("x"), Ok(None));
    }

    #[test]
    fn what_is_no_json_is_no_document() {
        for text in ["", " ", "<html>", "1", "\"a\"", "{", "[", "{}{}", "[1 2]", "{\"a\"}", "[}"] {
            assert!(Document::json(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// Whatever serde_json takes is read alike.
        #[test]
        fn agrees_with_serde_json(
            keys in prop::collection::vec("[a-z\"\\\\/~é]{0,3}", 1..4),
            word in ".{0,12}",
            at in any::<prop::sample::Index>(),
        ) {
            let mut value = json!([0, word]);
            for key in &keys {
                value = json!({ key: value, "other": [1, { "x": word }] });
            }
            let mut pointer: Vec<_> = keys.iter().rev().cloned().collect();
            pointer.push("1".to_owned());
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let found = Document::json(&text).unwrap().scalar(&Pointer::of(&pointer));
                prop_assert_eq!(found, Ok(Some(word.clone())));
                let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
                prop_assert!(Document::json(&text[..places[at.index(places.len())]]).is_err());
            }
            let list = value.pointer("/other").and_then(Value::as_array).map(Vec::len);
            let text = value.to_string();
            let found = Document::json(&text).unwrap().list(&Pointer::of(&["other"]), 9);
            prop_assert_eq!(found.map(|found| found.len()), list);
        }
    }
}
