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
                let entries = lines.flat_map(|line| line.split(' '));
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
