//! Reading what a peer sends: a third party's answers and webhooks. Pure.
//!
//! Peers send byte-order marks, other charsets, lone surrogates, `NaN`, repeated keys and deep
//! nesting. None of it matters where it is not used: only the fields that are used must be readable
//! and stand once, at the top level. [`fields`] therefore scans an object without parsing what it
//! does not need, in one pass and without recursion. What it cannot tell apart for certain
//! (brackets that do not match, text that breaks off, something after the object) is an error.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use uuid::Uuid;

use super::ReportedStatus;

/// Most characters of a peer's answer that are kept.
pub const MAX_EXCERPT_CHARS: usize = 200;
/// Most characters of a status word that are kept.
const MAX_WORD_CHARS: usize = 60;

/// Why an object cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("is empty")]
    Empty,
    #[error("is no JSON object")]
    NoObject,
    #[error("breaks off")]
    BreaksOff,
    #[error("is malformed JSON at byte {0}")]
    Malformed(usize),
    #[error("is about another id")]
    OtherId,
    #[error("has an `id` that cannot be read")]
    Id,
    #[error("has a `status` that cannot be read")]
    Status,
    #[error("names `{0}` more than once")]
    Repeated(&'static str),
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Missing,
    /// A string.
    Text(String),
    /// A string that has no text, such as one with a lone surrogate.
    Unreadable,
    /// Anything else, as it was written.
    Other(String),
    /// The key stands more than once.
    Repeated,
}

/// What a third party says about a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `None`: there is no status, or its word is not known, which means `pending`.
    pub status: Option<ReportedStatus>,
    /// The word that is not known, cut.
    pub unknown: Option<String>,
}

/// The body as text: a byte-order mark says in which encoding, then `charset`, else it is UTF-8.
/// Bytes that are no text become U+FFFD.
pub fn text<'a>(body: &'a [u8], charset: Option<&str>) -> Cow<'a, str> {
    let labelled = charset.and_then(|label| Encoding::for_label(label.trim().as_bytes()));
    if let Some(encoding) = labelled.filter(|encoding| *encoding != UTF_8) {
        let (text, ..) = encoding.decode(body);
        // A wrong label is more likely than an object that does not begin with its brace.
        if text.trim_start().starts_with('{') {
            return text;
        }
    }
    let unmarked = match body {
        [0, b, ..] if *b != 0 => UTF_16BE,
        [b, 0, ..] if *b != 0 => UTF_16LE,
        _ => UTF_8,
    };
    unmarked.decode(body).0
}

/// The `charset` of a `Content-Type`.
pub fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    })
}

/// The first characters, for an operator's eyes: control characters and those that change the
/// direction of text are escaped.
pub fn excerpt(text: &str, most: usize) -> String {
    let mut kept = String::new();
    let mut count = 0;
    for character in text.trim().chars() {
        let is_unsafe = character.is_control()
            || matches!(character,
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{61c}');
        let escaped: String = match character {
            '\n' | '\r' | '\t' => " ".to_owned(),
            _ if is_unsafe => character.escape_unicode().to_string(),
            _ => character.to_string(),
        };
        count += escaped.chars().count();
        if count > most {
            break;
        }
        kept.push_str(&escaped);
    }
    kept
}

/// A status word, whatever its case and the spaces around it.
pub fn status_word(word: &str) -> Option<ReportedStatus> {
    word.trim().to_ascii_lowercase().parse().ok()
}

/// Reads what `text` says about the transaction `id`. An object without an `id` is about it too.
pub fn report(id: Uuid, text: &str) -> Result<Report, Unreadable> {
    let [id_field, status] = fields(text, ["id", "status"])?;
    match id_field {
        Field::Missing => {}
        Field::Text(text) => match Uuid::parse_str(text.trim()) {
            Ok(found) if found == id => {}
            Ok(_) => return Err(Unreadable::OtherId),
            Err(_) => return Err(Unreadable::Id),
        },
        Field::Unreadable | Field::Other(_) => return Err(Unreadable::Id),
        Field::Repeated => return Err(Unreadable::Repeated("id")),
    }
    let word = match status {
        Field::Missing => return Ok(Report { status: None, unknown: None }),
        Field::Text(word) => word,
        Field::Other(raw) => {
            return Ok(Report { status: None, unknown: Some(excerpt(&raw, MAX_WORD_CHARS)) });
        }
        Field::Unreadable => return Err(Unreadable::Status),
        Field::Repeated => return Err(Unreadable::Repeated("status")),
    };
    let status = status_word(&word);
    let unknown = status.is_none().then(|| excerpt(&word, MAX_WORD_CHARS));
    Ok(Report { status, unknown })
}

/// Reads these fields of the object that `text` is; all others may be anything.
pub fn fields<const N: usize>(text: &str, names: [&str; N]) -> Result<[Field; N], Unreadable> {
    let mut scanner = Scanner::new(text);
    let mut found = [const { Field::Missing }; N];
    match scanner.next_token() {
        None => return Err(Unreadable::Empty),
        Some(b'{') => {}
        Some(_) => return Err(Unreadable::NoObject),
    }
    scanner.members(|key, (raw, is_string)| {
        // A key that is no text is none that is used.
        let key: Option<String> = serde_json::from_str(key).ok();
        if let Some(nth) = names.iter().position(|name| key.as_deref() == Some(*name)) {
            found[nth] = match found[nth] {
                Field::Missing if !is_string => Field::Other(raw.to_owned()),
                Field::Missing => match serde_json::from_str(raw) {
                    Ok(text) => Field::Text(text),
                    Err(_) => Field::Unreadable,
                },
                _ => Field::Repeated,
            };
        }
    })?;
    scanner.end()?;
    Ok(found)
}

/// Goes through JSON text. Only ASCII bytes steer it, so that every place where it stops is between
/// two characters.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// At the beginning of `text`, after a byte-order mark.
    pub(crate) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at }
    }

    /// Passes this ASCII byte, which must come next.
    fn expect(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.token()? != byte {
            return Err(self.malformed());
        }
        self.at += 1;
        Ok(())
    }

    /// The next byte that is no white space; it is not passed.
    pub(crate) fn next_token(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn token(&mut self) -> Result<u8, Unreadable> {
        self.next_token().ok_or(Unreadable::BreaksOff)
    }

    fn malformed(&self) -> Unreadable {
        Unreadable::Malformed(self.at)
    }

    pub(crate) fn end(&mut self) -> Result<(), Unreadable> {
        if self.next_token().is_some() { Err(self.malformed()) } else { Ok(()) }
    }

    /// Passes an object; gives each key, with its quotes, and its value as [`Self::value`] does.
    pub(crate) fn members(
        &mut self,
        mut each: impl FnMut(&'a str, (&'a str, bool)),
    ) -> Result<(), Unreadable> {
        self.list(b'{', b'}', |scanner| {
            let key = scanner.string()?;
            scanner.expect(b':')?;
            each(key, scanner.value()?);
            Ok(())
        })
    }

    /// Passes an array; gives each element as [`Self::value`] does.
    pub(crate) fn elements(
        &mut self,
        mut each: impl FnMut((&'a str, bool)),
    ) -> Result<(), Unreadable> {
        self.list(b'[', b']', |scanner| {
            each(scanner.value()?);
            Ok(())
        })
    }

    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut entry: impl FnMut(&mut Self) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        self.expect(open)?;
        if self.token()? == close {
            return self.expect(close);
        }
        loop {
            entry(self)?;
            if self.token()? == close {
                return self.expect(close);
            }
            self.expect(b',')?;
        }
    }

    /// Passes a string; returns it with its quotes.
    fn string(&mut self) -> Result<&'a str, Unreadable> {
        if self.token()? != b'"' {
            return Err(self.malformed());
        }
        let (bytes, begin) = (self.text.as_bytes(), self.at);
        self.at += 1;
        loop {
            match bytes.get(self.at) {
                None => return Err(Unreadable::BreaksOff),
                Some(b'"') => break,
                // What is escaped may be a quote. Past the end is noticed above.
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(&self.text[begin..self.at])
    }

    /// Passes a value; returns it as it is written, and whether it is a string.
    fn value(&mut self) -> Result<(&'a str, bool), Unreadable> {
        let first = self.token()?;
        if first == b'"' {
            return Ok((self.string()?, true));
        }
        let begin = self.at;
        if matches!(first, b'{' | b'[') {
            self.nested()?;
        } else {
            self.bare()?;
        }
        Ok((&self.text[begin..self.at], false))
    }

    /// Passes a number, a literal, or whatever a peer takes for one.
    fn bare(&mut self) -> Result<(), Unreadable> {
        let begin = self.at;
        let rest = &self.text.as_bytes()[begin..];
        let is_end = |byte: &u8| b" \t\n\r,:\"{}[]".contains(byte);
        self.at += rest.iter().position(is_end).unwrap_or(rest.len());
        if self.at == begin { Err(self.malformed()) } else { Ok(()) }
    }

    /// Passes an object or an array, of any depth.
    fn nested(&mut self) -> Result<(), Unreadable> {
        let mut open = Vec::new();
        loop {
            match self.token()? {
                b'"' => {
                    self.string()?;
                }
                b'{' => {
                    open.push(b'}');
                    self.at += 1;
                }
                b'[' => {
                    open.push(b']');
                    self.at += 1;
                }
                close @ (b'}' | b']') => {
                    if open.pop() != Some(close) {
                        return Err(self.malformed());
                    }
                    self.at += 1;
                    if open.is_empty() {
                        return Ok(());
                    }
                }
                b',' | b':' => self.at += 1,
                _ => self.bare()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ID: Uuid = Uuid::from_u128(7);

    fn status(body: &str) -> Result<Option<ReportedStatus>, Unreadable> {
        report(ID, body).map(|report| report.status)
    }

    #[test]
    fn only_the_fields_that_are_used_matter() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let strange = [
            r#""note":"\ud83d""#,
            r#""score":NaN"#,
            r#""score":-Infinity"#,
            r#""a":1,"a":2"#,
            r#""a":{"status":"declined","status":"pending","id":"x"}"#,
            r#""\ud83d":1"#,
            r#""a":"\"status\":\"declined\"""#,
            &format!(r#""deep":{deep}"#),
        ];
        for other in strange {
            for body in [
                format!(r#"{{{other},"id":"{ID}","status":"completed"}}"#),
                format!(" {{\"id\":\"{ID}\" , \"\\u0073tatus\" : \" COMPLETED \", {other} }}\n"),
            ] {
                assert_eq!(status(&body), Ok(Some(ReportedStatus::Completed)), "{body:.200}");
            }
        }
    }

    #[test]
    fn what_is_used_must_be_readable_and_stand_once() {
        let about = |rest: &str| format!(r#"{{"id":"{ID}"{rest}}}"#);
        assert_eq!(status("{}"), Ok(None));
        assert_eq!(status(r#"{"status":"declined"}"#), Ok(Some(ReportedStatus::Declined)));
        let unknown = |rest: &str| report(ID, &about(rest)).unwrap().unknown;
        assert_eq!(unknown(r#","status":"processing""#).as_deref(), Some("processing"));
        assert_eq!(unknown(r#","status":null"#).as_deref(), Some("null"));
        assert_eq!(unknown(""), None);
        for (body, why) in [
            (
                about(r#","status":"completed","status":"completed""#),
                Unreadable::Repeated("status"),
            ),
            (about(&format!(r#","id":"{ID}""#)), Unreadable::Repeated("id")),
            (about(r#","status":"\ud83d""#), Unreadable::Status),
            (format!(r#"{{"id":"{}"}}"#, Uuid::from_u128(8)), Unreadable::OtherId),
            (r#"{"id":7}"#.to_owned(), Unreadable::Id),
            ("[]".to_owned(), Unreadable::NoObject),
            ("<html>".to_owned(), Unreadable::NoObject),
            (" ".to_owned(), Unreadable::Empty),
            (r#"{"a":"#.to_owned(), Unreadable::BreaksOff),
            (r#"{"status":"completed"#.to_owned(), Unreadable::BreaksOff),
            (r#"{"status":"completed\"#.to_owned(), Unreadable::BreaksOff),
            (r#"{"a":[},"status":"completed"}"#.to_owned(), Unreadable::Malformed(6)),
            (r#"{"status":"completed"}{}"#.to_owned(), Unreadable::Malformed(22)),
        ] {
            assert_eq!(report(ID, &body), Err(why), "{body}");
        }
    }

    #[test]
    fn marks_and_charsets_are_understood() {
        let body = r#"{"status":"completed","note":"é"}"#;
        let utf16 = |to: fn(u16) -> [u8; 2]| body.encode_utf16().flat_map(to).collect::<Vec<_>>();
        let marked = |mark: &[u8], body: Vec<u8>| [mark, &body].concat();
        let latin = body.chars().map(|character| character as u8).collect::<Vec<_>>();
        for (bytes, charset) in [
            (body.as_bytes().to_vec(), None),
            (marked(b"\xef\xbb\xbf", body.into()), Some("iso-8859-1")),
            (marked(b"\xff\xfe", utf16(u16::to_le_bytes)), None),
            (marked(b"\xfe\xff", utf16(u16::to_be_bytes)), Some("utf-8")),
            (utf16(u16::to_le_bytes), Some("UTF-16LE")),
            (utf16(u16::to_be_bytes), None),
            (latin.clone(), Some("ISO-8859-1")),
            (latin, None),
            (body.as_bytes().to_vec(), Some("utf-16")),
            (body.as_bytes().to_vec(), Some("no such charset")),
        ] {
            let text = text(&bytes, charset);
            let read = status(&text);
            assert_eq!(read, Ok(Some(ReportedStatus::Completed)), "{bytes:?} {charset:?}");
        }
        let of = "application/json; q=1; Charset=\"Latin1\"";
        assert_eq!(charset(of), Some("Latin1"));
        assert_eq!(charset("application/json"), None);
    }

    #[test]
    fn an_excerpt_has_no_control_characters_and_a_bound() {
        assert_eq!(excerpt(" a\u{1b}[31m\u{202e}b\nc\0", 200), r"a\u{1b}[31m\u{202e}b c\u{0}");
        assert_eq!(excerpt(&"é".repeat(1_000), 200).chars().count(), 200);
        assert!(excerpt(&"\u{1b}".repeat(1_000), 200).len() <= 200);
    }

    proptest! {
        /// Whatever serde_json takes for an object is read alike.
        #[test]
        fn agrees_with_serde_json(
            key in "(id|status|[a-z\"\\\\é]{0,4})",
            status in "(completed|[a-zA-Z\"\\\\{}\\[\\],: ]{0,12})",
            number in any::<f64>(),
        ) {
            let mut value = json!({ "status": status, "other": [number, { "status": "x" }] });
            value[&key] = Value::String(status.clone());
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let [found] = fields(&text, ["status"]).unwrap();
                prop_assert_eq!(found, Field::Text(status.clone()));
            }
        }

        /// No text makes it panic, and no end of a body that was cut makes it whole.
        #[test]
        fn never_panics(text in ".*", cut in any::<prop::sample::Index>()) {
            let _ = fields(&text, ["id", "status"]);
            let whole = json!({ "status": text, "other": [text] }).to_string();
            let places: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
            prop_assert!(fields(&whole[..places[cut.index(places.len())]], ["status"]).is_err());
        }
    }
}
