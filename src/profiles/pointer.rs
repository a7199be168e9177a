//! JSON pointers (RFC 6901): where something stands in an answer.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// Deepest pointer.
const MAX_TOKENS: usize = 16;

/// Where something stands in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// Reads a pointer. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "'{text}' is not a JSON pointer: {why}; write \"\" for the whole answer, or \
                 /name/0/name, with `~1` for a slash and `~0` for a tilde in a name (RFC 6901)"
            )
        };
        let tokens = match text.strip_prefix('/') {
            Some(tokens) => tokens.split('/').collect(),
            None if text.is_empty() => Vec::new(),
            None => return Err(wrong("it must begin with a slash")),
        };
        if tokens.len() > MAX_TOKENS {
            return Err(wrong(&format!("it has more than {MAX_TOKENS} parts")));
        }
        let tokens = tokens.into_iter().map(unescape).collect::<Option<_>>();
        let tokens = tokens.ok_or_else(|| wrong("a tilde must be followed by 0 or 1"))?;
        Ok(Self { tokens })
    }

    /// The pointer of these names and positions.
    pub(super) fn of(tokens: &[impl AsRef<str>]) -> Self {
        Self { tokens: tokens.iter().map(|token| token.as_ref().to_owned()).collect() }
    }

    pub(super) fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Whether it goes into an array that is the whole answer.
    pub(super) fn begins_in_array(&self) -> bool {
        self.tokens.first().is_none_or(|token| token.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

/// A position in an array: digits without leading zeros (RFC 6901 section 4).
pub(super) fn position(token: &str) -> Option<usize> {
    token.parse::<usize>().ok().filter(|position| position.to_string() == token)
}

fn unescape(token: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = token.chars();
    while let Some(character) = rest.next() {
        plain.push(match character {
            '~' => match rest.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tokens.is_empty() {
            return f.write_str("\"\"");
        }
        let escaped = |token: &String| token.replace('~', "~0").replace('/', "~1");
        self.tokens.iter().try_for_each(|token| write!(f, "/{}", escaped(token)))
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// A field that is read from an answer. Written with a `?` at its end, it may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPointer {
    pub(super) pointer: Pointer,
    pub(super) may_be_missing: bool,
}

impl<'de> Deserialize<'de> for FieldPointer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (text, may_be_missing) = match text.strip_suffix('?') {
            Some(text) => (text, true),
            None => (text.as_str(), false),
        };
        let pointer = Pointer::parse(text).map_err(de::Error::custom)?;
        if pointer.tokens.is_empty() {
            return Err(de::Error::custom("must point at a field, such as /id"));
        }
        Ok(Self { pointer, may_be_missing })
    }
}
