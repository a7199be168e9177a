//! The interpreter of profiles: what proves that the third party sent a request, and its events.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, Utc};
use subtle::{Choice, ConstantTimeEq};

use super::{
    Event, Rejection, Verifier,
    extract::Extraction,
    incoming::Incoming,
    keys::{Algorithm, Key, Keys},
    signature_header::{Encoding, HeaderForm, HeaderLines, Prefix},
    template::{Filling, Template},
    timestamp::{self, TimeUnit},
};

/// Verifies what the `scheme`s of a profile describe.
#[derive(Debug)]
pub struct Interpreter {
    pub proof: Proof,
    pub extraction: Extraction,
}

/// What proves who sent a request.
#[derive(Debug)]
pub enum Proof {
    Nothing,
    Token { header: String, prefix: Prefix },
    Basic { header: String },
    Signature(Box<SignatureRule>),
}

/// How a request is signed.
#[derive(Debug)]
pub struct SignatureRule {
    /// The header with the signatures; lower case, as all header names here.
    pub header: String,
    pub form: HeaderForm,
    pub encoding: Encoding,
    /// `None`: HMAC, with the hash that its key has.
    pub algorithm: Option<Algorithm>,
    pub signed: Template,
    pub timestamp: Option<TimestampRule>,
    /// The header that names the key.
    pub key_id_header: Option<String>,
    /// A header whose value must be this one.
    pub fixed_header: Option<(&'static str, &'static str)>,
}

/// Where the time of sending stands, and how far it may be off.
#[derive(Debug)]
pub struct TimestampRule {
    /// The header; `None` where it is a pair of the header with the signatures.
    pub header: Option<String>,
    /// As the profile writes it.
    pub from: String,
    pub unit: TimeUnit,
    pub tolerance: Duration,
}

impl Verifier for Interpreter {
    fn verify(
        &self,
        incoming: &Incoming<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Vec<Event>, Rejection> {
        let covered = match &self.proof {
            Proof::Nothing => Vec::new(),
            Proof::Token { header, prefix } => {
                let value = incoming.headers.required(header)?;
                shared(header, prefix.strip(value).map(|token| token.as_bytes().into()), keys)?
            }
            Proof::Basic { header } => {
                let value = incoming.headers.required(header)?;
                shared(header, basic_credentials(value).map(Cow::Owned), keys)?
            }
            Proof::Signature(rule) => rule.verify(incoming, keys, now)?,
        };
        self.extraction.events(incoming, &covered)
    }
}

/// Checks shared credentials. They cover no header.
fn shared(
    header: &str,
    credentials: Option<Cow<'_, [u8]>>,
    keys: &Keys,
) -> Result<Vec<String>, Rejection> {
    let matches = credentials.is_some_and(|credentials| {
        // Each key is compared, so that the time says nothing about which one matches.
        keys.candidates(None).iter().fold(false, |found, key| found | key.is(&credentials))
    });
    if matches { Ok(Vec::new()) } else { Err(Rejection::WrongCredentials(header.to_owned())) }
}

/// What stands after `Basic` (RFC 7617), decoded.
fn basic_credentials(value: &str) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.split_once(' ')?;
    let is_basic = scheme.eq_ignore_ascii_case("basic");
    Encoding::Base64.decode(encoded.trim()).filter(|_| is_basic)
}

impl SignatureRule {
    /// Checks that one of the keys signed the request, near enough to now. Returns the headers that
    /// are signed too.
    ///
    /// What is missing is found first and the body is hashed last, once for each HMAC key.
    fn verify(
        &self,
        incoming: &Incoming<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>, Rejection> {
        for header in self.signed.headers() {
            incoming.headers.required(header)?;
        }
        let from_header = self.timestamp.as_ref().and_then(|rule| rule.header.as_deref());
        let from_header =
            from_header.map(|header| incoming.headers.required(header)).transpose()?;
        let lines = HeaderLines::find(incoming, &self.header, &self.form)?;
        if let Some((name, value)) = self.fixed_header
            && !incoming.headers.required(name)?.eq_ignore_ascii_case(value)
        {
            let expected = format!("`{value}`");
            return Err(Rejection::NoSignature { header: name.to_owned(), expected });
        }

        let (from_pair, names) = lines.beside()?;
        let timestamp = from_header.or(from_pair);
        if let (Some(rule), Some(text)) = (&self.timestamp, timestamp) {
            timestamp::check(text, &rule.from, rule.unit, rule.tolerance, now)?;
        }
        let signatures = lines.signatures(self.encoding)?;
        let no_match = || Rejection::NoMatch(self.header.clone());
        if signatures.is_empty() {
            return Err(no_match());
        }

        let key_id = match &self.key_id_header {
            Some(header) => incoming.headers.only(header)?,
            None => None,
        };
        let candidates = keys.candidates(key_id);
        if let Some(id) = key_id
            && candidates.is_empty()
        {
            return Err(Rejection::UnknownKey(id.to_owned()));
        }
        let pieces = self.signed.fill(&Filling { incoming, timestamp, names })?;
        if self.is_signed(&pieces, &signatures, &candidates) {
            Ok(self.signed.covered(names))
        } else {
            Err(no_match())
        }
    }

    fn is_signed(&self, pieces: &[Cow<'_, [u8]>], given: &[Vec<u8>], keys: &[&Key]) -> bool {
        let Some(algorithm) = self.algorithm else {
            // Each key is compared with each signature, so the time says nothing about a match.
            let matches = keys.iter().fold(Choice::from(0), |found, key| {
                let Some(tag) = key.mac(pieces) else { return found };
                given.iter().fold(found, |found, given| found | given.ct_eq(tag.as_ref()))
            });
            return matches.into();
        };
        let message = match pieces {
            [Cow::Borrowed(whole)] => Cow::Borrowed(*whole),
            pieces => Cow::Owned(pieces.concat()),
        };
        // Nothing here is secret, so the first match ends it.
        keys.iter().any(|key| given.iter().any(|given| key.signed(algorithm, &message, given)))
    }
}
