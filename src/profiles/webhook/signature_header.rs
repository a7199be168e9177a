//! The header that holds the signatures, in each form that senders give it.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use serde::Deserialize;

use super::{Rejection, incoming::Incoming};
use crate::signature::MAX_SIGNATURES;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Of either case.
    Hex,
    Base64,
    Base64url,
}

impl Encoding {
    pub fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex => hex::decode(text).ok(),
            Self::Base64 => STANDARD.decode(text).ok(),
            Self::Base64url if text.ends_with('=') => URL_SAFE.decode(text).ok(),
            Self::Base64url => URL_SAFE_NO_PAD.decode(text).ok(),
        }
    }
}

/// The form of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderForm {
    /// One signature.
    Plain(Prefix),
    /// Signatures separated by commas or spaces, or in several lines.
    List(Prefix),
    /// `t=…,v1=…,v1=…`.
    Pairs {
        separator: String,
        signature_key: String,
        names_key: Option<String>,
        timestamp_key: Option<String>,
    },
    /// `v1,… v1,…`, or in several lines.
    VersionedList { version: String },
}

/// What stands before a signature.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefix {
    pub text: String,
    pub is_optional: bool,
}

impl Prefix {
    pub(super) fn strip<'a>(&self, value: &'a str) -> Option<&'a str> {
        let stripped = value.strip_prefix(&self.text);
        stripped.or_else(|| self.is_optional.then_some(value))
    }
}

/// Reads the header. Entries of other kinds are skipped; one that cannot be decoded counts, and
/// matches nothing.
pub struct HeaderLines<'a> {
    name: &'a str,
    form: &'a HeaderForm,
    lines: Vec<&'a str>,
}

impl<'a> HeaderLines<'a> {
    /// Finds the header. Only the forms that are lists may stand in several lines.
    pub fn find(
        incoming: &Incoming<'a>,
        name: &'a str,
        form: &'a HeaderForm,
    ) -> Result<Self, Rejection> {
        let lines: Vec<_> = match form {
            HeaderForm::List(_) | HeaderForm::VersionedList { .. } => {
                incoming.headers.lines(name).filter(|line| !line.is_empty()).collect()
            }
            _ => incoming.headers.only(name)?.into_iter().collect(),
        };
        if lines.is_empty() {
            return Err(Rejection::MissingHeader(name.to_owned()));
        }
        Ok(Self { name, form, lines })
    }

    /// The value of a pair that may stand once.
    fn pair(&self, separator: &'a str, key: &str) -> Result<&'a str, Rejection> {
        let mut values = pairs(self.lines[0], separator)
            .filter_map(|(given, value)| (given == key).then_some(value));
        let (header, pair) = (self.name.to_owned(), key.to_owned());
        let Some(value) = values.next() else {
            return Err(Rejection::MissingPair { header, key: pair });
        };
        if values.next().is_some() {
            return Err(Rejection::RepeatedPair { header, key: pair });
        }
        Ok(value)
    }

    /// The timestamp and the names of signed headers that stand beside the signatures.
    pub fn beside(&self) -> Result<(Option<&'a str>, Option<&'a str>), Rejection> {
        let HeaderForm::Pairs { separator, timestamp_key, names_key, .. } = self.form else {
            return Ok((None, None));
        };
        let value =
            |key: &Option<String>| key.as_deref().map(|key| self.pair(separator, key)).transpose();
        Ok((value(timestamp_key)?, value(names_key)?))
    }

    /// The signatures that could be decoded.
    pub fn signatures(&self, encoding: Encoding) -> Result<Vec<Vec<u8>>, Rejection> {
        let lines = self.lines.iter().copied();
        let entries: Vec<&str> = match self.form {
            HeaderForm::Plain(prefix) => lines.filter_map(|line| prefix.strip(line)).collect(),
            HeaderForm::List(prefix) => {
                let entries = lines.flat_map(|line| line.split([',', ' ']));
                let entries = entries.filter(|entry| !entry.is_empty());
                entries.filter_map(|entry| prefix.strip(entry)).collect()
            }
            HeaderForm::Pairs { separator, signature_key, .. } => lines
                .flat_map(|line| pairs(line, separator))
                .filter_map(|(key, value)| (key == signature_key).then_some(value))
                .collect(),
            HeaderForm::VersionedList { version } => {
                // A proxy may have joined header lines with a comma (RFC 9110 section 5.3).
                let entries = lines.flat_map(|line| line.split(' '));
                let entries = entries.map(|entry| entry.trim_end_matches(','));
                entries
                    .filter_map(|entry| entry.strip_prefix(version.as_str())?.strip_prefix(','))
                    .collect()
            }
        };
        let mut decoded = Vec::new();
        let entries = entries.into_iter().filter(|entry| !entry.is_empty()).enumerate();
        let mut count = 0;
        for (index, entry) in entries {
            if index == MAX_SIGNATURES {
                return Err(Rejection::TooManySignatures(self.name.to_owned()));
            }
            count += 1;
            decoded.extend(encoding.decode(entry));
        }
        if count == 0 {
            let (header, expected) = (self.name.to_owned(), self.expected());
            return Err(Rejection::NoSignature { header, expected });
        }
        Ok(decoded)
    }

    fn expected(&self) -> String {
        match self.form {
            HeaderForm::Plain(prefix) | HeaderForm::List(prefix) => format!("`{}…`", prefix.text),
            HeaderForm::Pairs { signature_key, .. } => format!("`{signature_key}=…`"),
            HeaderForm::VersionedList { version } => format!("`{version},…`"),
        }
    }
}

/// The pairs of a line; what is none is skipped.
fn pairs<'a>(line: &'a str, separator: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    line.split(separator).filter_map(|pair| pair.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::{super::incoming::Headers, *};

    fn signatures(form: &HeaderForm, lines: &[&str]) -> Result<Vec<Vec<u8>>, Rejection> {
        let lines: Vec<_> = lines.iter().map(|line| ("X-Sig", line.as_bytes())).collect();
        let incoming = Incoming { method: "POST", url: "", headers: Headers(&lines), body: b"" };
        HeaderLines::find(&incoming, "x-sig", form)?.signatures(Encoding::Hex)
    }

    fn pairs_form(separator: &str) -> HeaderForm {
        HeaderForm::Pairs {
            separator: separator.to_owned(),
            signature_key: "h1".to_owned(),
            names_key: None,
            timestamp_key: Some("ts".to_owned()),
        }
    }

    #[test]
    fn each_form_is_read() {
        let prefix = |is_optional| Prefix { text: "sha256=".to_owned(), is_optional };
        let versions = HeaderForm::VersionedList { version: "v1".to_owned() };
        let (one, two) = (vec![0xaa], vec![0xbb]);
        for (form, lines, expected) in [
            (HeaderForm::Plain(Prefix::default()), &["aA"][..], vec![one.clone()]),
            (HeaderForm::Plain(prefix(false)), &["sha256=aa"], vec![one.clone()]),
            (HeaderForm::Plain(prefix(true)), &["aa"], vec![one.clone()]),
            (HeaderForm::Plain(prefix(true)), &["sha1=aa"], vec![]),
            (
                HeaderForm::List(prefix(true)),
                &["sha256=aa, bb", "", "zz"],
                vec![one.clone(), two.clone()],
            ),
            (pairs_form(";"), &["ts=1;h1=aa; h1=bb;h2=cc;x"], vec![one.clone(), two.clone()]),
            (versions.clone(), &["v1,aa, v1,bb"], vec![one.clone(), two.clone()]),
            (versions, &["v2,cc v1,aa  v1, v1,zz", "v1,bb v1a,cc"], vec![one, two]),
        ] {
            assert_eq!(signatures(&form, lines), Ok(expected), "{form:?}");
        }
        let repeated = Err(Rejection::RepeatedHeader("x-sig".to_owned()));
        assert_eq!(signatures(&HeaderForm::Plain(prefix(true)), &["aa", "aa"]), repeated);
        assert_eq!(signatures(&pairs_form(","), &["h1=aa", "h1=aa"]), repeated);
        for (form, line) in [
            (HeaderForm::Plain(prefix(false)), "aa"),
            (HeaderForm::Plain(prefix(false)), "sha256="),
            (HeaderForm::List(prefix(false)), "aa,bb"),
            (pairs_form(","), "ts=1,h2=aa"),
        ] {
            let refused = signatures(&form, &[line]);
            assert!(matches!(refused, Err(Rejection::NoSignature { .. })), "{line}: {refused:?}");
        }
    }

    #[test]
    fn signatures_are_bounded() {
        let versions = HeaderForm::VersionedList { version: "v1".to_owned() };
        for (form, entry, separator) in [
            (versions, "v1,aa", " "),
            (pairs_form(","), "h1=aa", ","),
            (HeaderForm::List(Prefix::default()), "aa", ","),
            // One that cannot be decoded counts.
            (HeaderForm::List(Prefix::default()), "z", " "),
        ] {
            let many = |count| vec![entry; count].join(separator);
            assert!(signatures(&form, &[&many(MAX_SIGNATURES)]).is_ok());
            let refused = signatures(&form, &[&many(MAX_SIGNATURES + 1)]);
            assert_eq!(refused, Err(Rejection::TooManySignatures("x-sig".to_owned())));
        }
    }

    #[test]
    fn what_stands_beside_the_signatures_stands_once() {
        let beside = |line: &str| {
            let lines: [(&str, &[u8]); 1] = [("x-sig", line.as_bytes())];
            let headers = Headers(&lines);
            let incoming = Incoming { method: "POST", url: "", headers, body: b"" };
            let form = pairs_form(";");
            let lines = HeaderLines::find(&incoming, "x-sig", &form)?;
            lines.beside().map(|(time, _)| time.map(str::to_owned))
        };
        assert_eq!(beside("ts=1;h1=aa"), Ok(Some("1".to_owned())));
        let (header, key) = ("x-sig".to_owned(), "ts".to_owned());
        let missing = Rejection::MissingPair { header: header.clone(), key: key.clone() };
        assert_eq!(beside("h1=aa"), Err(missing));
        assert_eq!(beside("ts=1;ts=1"), Err(Rejection::RepeatedPair { header, key }));
    }

    #[test]
    fn encodings_are_strict() {
        for (encoding, text, is_read) in [
            (Encoding::Hex, "0aF0", true),
            (Encoding::Hex, "0aF", false),
            (Encoding::Base64, "+/8=", true),
            (Encoding::Base64, "+/8", false),
            (Encoding::Base64, "-_8=", false),
            (Encoding::Base64, "+/9=", false),
            (Encoding::Base64url, "-_8=", true),
            (Encoding::Base64url, "-_8", true),
            (Encoding::Base64url, "+/8", false),
        ] {
            assert_eq!(encoding.decode(text).is_some(), is_read, "{text}");
        }
    }
}
