//! Reading a third party's answer at JSON pointers.
//!
//! As lenient as [`peer_answer`](crate::domain::peer_answer): only what a pointer goes through must
//! be readable, and its keys must stand once. What does not matter may be nested to any depth,
//! since nothing here recurses; the client bounds an answer's length when it receives it.

use serde_json::{Value, from_str};

use super::{
    pointer::{Pointer, position},
    scalar::Scalar,
};
use crate::domain::peer_answer::{Scanner, Unreadable};

/// Whether a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    /// What it tests cannot be read.
    Unknown(Unusable),
}

/// Why something in an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// The answer as a whole.
    #[error("{0}")]
    Answer(String),
    #[error("the answer {0}")]
    Malformed(#[from] Unreadable),
    #[error("the answer names `{0}` more than once")]
    Repeated(String),
    #[error("the answer has a text at {0} that cannot be read")]
    NoText(String),
}

/// A value as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node<'a> {
    raw: &'a str,
    is_string: bool,
}

/// The object that an answer is, or the array where `may_be_array`.
pub(super) fn root<'a>(
    body: Result<&'a str, &str>,
    may_be_array: bool,
) -> Result<Node<'a>, Unusable> {
    let text = body.map_err(|why| Unusable::Answer(why.to_owned()))?;
    let mut scanner = Scanner::new(text);
    match scanner.next_token() {
        None => return Err(Unreadable::Empty.into()),
        Some(b'{') => scanner.members(|_, _| {})?,
        Some(b'[') if may_be_array => scanner.elements(|_| {})?,
        Some(_) => return Err(Unreadable::NoObject.into()),
    }
    scanner.end()?;
    Ok(Node { raw: text.trim_start_matches('\u{feff}'), is_string: false })
}

impl<'a> Node<'a> {
    fn new((raw, is_string): (&'a str, bool)) -> Self {
        Self { raw, is_string }
    }

    /// What stands at the pointer.
    pub(super) fn at(self, pointer: &Pointer) -> Result<Option<Node<'a>>, Unusable> {
        let mut node = self;
        for token in pointer.tokens() {
            match node.child(token)? {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// As it is written.
    pub(super) fn raw(self) -> &'a str {
        self.raw
    }

    pub(super) fn is_null(self) -> bool {
        self.raw == "null"
    }

    fn child(self, token: &str) -> Result<Option<Node<'a>>, Unusable> {
        let mut scanner = Scanner::new(self.raw);
        let mut found = None;
        match scanner.next_token() {
            Some(b'{') => {
                let mut is_repeated = false;
                scanner.members(|key, value| {
                    // A key that is no text is none that is used.
                    if from_str::<String>(key).is_ok_and(|key| key == token) {
                        is_repeated |= found.replace(Node::new(value)).is_some();
                    }
                })?;
                if is_repeated {
                    return Err(Unusable::Repeated(token.to_owned()));
                }
            }
            Some(b'[') => {
                let nth = position(token);
                let mut count = 0;
                scanner.elements(|element| {
                    if Some(count) == nth {
                        found = Some(Node::new(element));
                    }
                    count += 1;
                })?;
            }
            _ => {}
        }
        Ok(found)
    }

    /// The elements, where it is an array.
    pub(super) fn items(self) -> Result<Option<Vec<Node<'a>>>, Unusable> {
        let mut scanner = Scanner::new(self.raw);
        if scanner.next_token() != Some(b'[') {
            return Ok(None);
        }
        let mut items = Vec::new();
        scanner.elements(|element| items.push(Node::new(element)))?;
        Ok(Some(items))
    }

    /// The text, where it is a string. `at` is for the error.
    pub(super) fn text(self, at: &Pointer) -> Result<Option<String>, Unusable> {
        if !self.is_string {
            return Ok(None);
        }
        from_str(self.raw).map(Some).map_err(|_| Unusable::NoText(at.to_string()))
    }

    /// The text of a string, or a number, `true` or `false` as it is written; `None` where it is
    /// anything else, or no JSON.
    pub(super) fn word(self, at: &Pointer) -> Result<Option<String>, Unusable> {
        if self.is_string {
            return self.text(at);
        }
        let is_word = matches!(from_str(self.raw), Ok(Value::Number(_) | Value::Bool(_)));
        Ok(is_word.then(|| self.raw.to_owned()))
    }

    /// The text of a string, or of anything else as it is written.
    pub(super) fn written(self, at: &Pointer) -> Result<String, Unusable> {
        Ok(self.text(at)?.unwrap_or_else(|| self.raw.to_owned()))
    }

    /// Whether it is an object, an array or a literal, and so no id.
    pub(super) fn is_scalar(self) -> bool {
        let is_number =
            || self.raw.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || byte == b'-');
        self.is_string || is_number()
    }

    /// Whether it equals one of these, type and all.
    pub(super) fn is_one_of(self, allowed: &[Scalar], at: &Pointer) -> Truth {
        let text = match self.text(at) {
            Ok(text) => text,
            Err(why) => return Truth::Unknown(why),
        };
        let equals = |scalar: &Scalar| match (scalar, &text) {
            (Scalar::Text(wanted), Some(text)) => wanted == text,
            (Scalar::Number(wanted), None) => self.raw == wanted.to_string(),
            (Scalar::Truth(wanted), None) => self.raw == wanted.to_string(),
            _ => false,
        };
        if allowed.iter().any(equals) { Truth::Yes } else { Truth::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, pointer: &str) -> Result<Option<String>, Unusable> {
        let pointer = Pointer::parse(pointer).unwrap();
        match root(Ok(text), true)?.at(&pointer)? {
            Some(node) => node.written(&pointer).map(Some),
            None => Ok(None),
        }
    }

    #[test]
    fn a_pointer_finds_what_it_names_and_nothing_else() {
        let text = r#" {"a":{"b":[10,{"c":"x"},null]},"d/e":{"~":true},"":1,"0":2, "n":null} "#;
        for (pointer, found) in [
            ("/a/b/0", Some("10")),
            ("/a/b/1/c", Some("x")),
            ("/a/b/2", Some("null")),
            ("/a/b/3", None),
            ("/a/b/00", None),
            ("/a/b/-", None),
            ("/d~1e/~0", Some("true")),
            ("/", Some("1")),
            ("/0", Some("2")),
            ("/n", Some("null")),
            ("/a/b/0/c", None),
            ("/missing/x", None),
        ] {
            assert_eq!(at(text, pointer), Ok(found.map(str::to_owned)), "{pointer}");
        }
        assert_eq!(at("\u{feff}[{\"a\":1}]", "/0/a"), Ok(Some("1".to_owned())));
    }

    #[test]
    fn only_what_a_pointer_goes_through_must_be_readable() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let text = format!(
            r#"{{"x":NaN,"x":"\ud83d","deep":{deep},"\ud83d":1,"a":{{"b":"c","y":1,"y":2}}}}"#
        );
        assert_eq!(at(&text, "/a/b"), Ok(Some("c".to_owned())));
        assert_eq!(at(&text, "/x"), Err(Unusable::Repeated("x".to_owned())));
        assert_eq!(at(&text, "/a/y"), Err(Unusable::Repeated("y".to_owned())));
        for (text, why) in [
            ("", Unreadable::Empty),
            ("<html>", Unreadable::NoObject),
            ("\"x\"", Unreadable::NoObject),
            (r#"{"a":"#, Unreadable::BreaksOff),
            (r#"{"a":1}{}"#, Unreadable::Malformed(7)),
        ] {
            assert_eq!(at(text, "/a"), Err(Unusable::Malformed(why)), "{text}");
        }
        assert!(matches!(at(r#"{"a":"\ud83d"}"#, "/a"), Err(Unusable::NoText(_))));
    }

    #[test]
    fn a_word_is_a_text_a_number_or_a_truth_value() {
        let word = |raw: &str| {
            let pointer = Pointer::parse("/a").unwrap();
            let text = format!("{{\"a\":{raw}}}");
            root(Ok(&text), false).unwrap().at(&pointer).unwrap().unwrap().word(&pointer)
        };
        for (raw, found) in [
            ("\"\\u0041\"", "A"),
            ("2", "2"),
            ("-1.50", "-1.50"),
            ("true", "true"),
            ("false", "false"),
        ] {
            assert_eq!(word(raw), Ok(Some(found.to_owned())), "{raw}");
        }
        for raw in ["null", "{}", "[2]", "paid", "True", "NaN", "2x", "02", "+2"] {
            assert_eq!(word(raw), Ok(None), "{raw}");
        }
        assert!(matches!(word("\"\\ud83d\""), Err(Unusable::NoText(_))));
    }

    #[test]
    fn equality_is_by_type_too() {
        let is = |raw: &str, scalar: Scalar| {
            let pointer = Pointer::parse("/a").unwrap();
            let text = format!("{{\"a\":{raw}}}");
            let node = root(Ok(&text), false).unwrap().at(&pointer).unwrap().unwrap();
            node.is_one_of(&[scalar], &pointer)
        };
        assert_eq!(is("1083", Scalar::Number(1083)), Truth::Yes);
        assert_eq!(is("\"1083\"", Scalar::Number(1083)), Truth::No);
        assert_eq!(is("true", Scalar::Truth(true)), Truth::Yes);
        assert_eq!(is("\"true\"", Scalar::Truth(true)), Truth::No);
        assert_eq!(is("\"\\u0041\"", Scalar::Text("A".to_owned())), Truth::Yes);
        assert!(matches!(is("\"\\ud83d\"", Scalar::Text("A".to_owned())), Truth::Unknown(_)));
    }
}
