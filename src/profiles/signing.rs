//! Signing requests by an HMAC over a text that the profile writes, or by a plain hash of it
//! (`[sign]`). Pure: the time and the nonce are given.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::{digest, hmac};
use serde::{Deserialize, Deserializer, de};

use super::{
    Signer,
    body::Pairs,
    error::{Faults, Key},
    keywords::keywords,
    request::{Header, Request, SET_BY_THE_PROGRAM, is_header_name, is_reserved},
    template::{Template, split},
    values::{RenderError, Values},
};

/// What may stand between braces.
const ALLOWED: &str = "{method}, {method:lower}, {path}, {target}, {body}, {header:NAME}, \
                       {timestamp}, {timestamp:ms}, {now}, {now:ms}, {date}, {nonce}, {repeat}, \
                       {var:NAME}, {secret:NAME} or, in a header, {signature}; a brace itself is \
                       written twice";

keywords! {
    /// The hash, of an HMAC or alone.
    Hash {
        Sha1 = "sha1",
        Sha256 = "sha256",
        Sha512 = "sha512",
    }
}

keywords! {
    /// How a signature is written.
    Encoding {
        Hex = "hex",
        HexUpper = "hex-upper",
        Base64 = "base64",
        /// Base64, percent-encoded.
        Base64Url = "base64-percent",
    }
}

impl Hash {
    fn hmac(self, key: &[u8], signed: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), signed).as_ref().to_vec()
    }

    fn digest(self, signed: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, signed).as_ref().to_vec()
    }
}

/// `[sign]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignSection {
    hash: Hash,
    encoding: Encoding,
    /// Whether it is an HMAC; otherwise the hash of a text that has a secret in it.
    #[serde(default = "always")]
    keyed: bool,
    key: Option<Text>,
    /// What is signed.
    signed: Text,
    headers: BTreeMap<String, Text>,
}

fn always() -> bool {
    true
}

fn default_key() -> Text {
    Text { parts: vec![Part::Secret("signing_key".to_owned())] }
}

/// A text of a request that is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Text {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Method,
    MethodLower,
    /// Without the query.
    Path,
    /// With the query.
    Target,
    Body,
    /// A header of the request, as it is sent.
    Header(String),
    /// Unix seconds.
    Timestamp,
    /// Unix milliseconds.
    TimestampMs,
    /// RFC 3339, to the second.
    Now,
    /// RFC 3339, to the millisecond.
    NowMs,
    /// As in the header `Date` (RFC 9110 section 5.6.7).
    Date,
    Nonce,
    /// `true` or `false`.
    Repeat,
    Var(String),
    Secret(String),
    Signature,
}

impl Text {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { parts: split(text, ALLOWED, Part::Literal, Part::parse)? })
    }

    fn has(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }

    fn has_secret(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Secret(_)))
    }
}

impl Part {
    fn parse(inner: &str) -> Result<Self, String> {
        let unknown = || format!("'{{{inner}}}' is not a placeholder here: {ALLOWED}");
        Ok(match inner {
            "method" => Self::Method,
            "method:lower" => Self::MethodLower,
            "path" => Self::Path,
            "target" => Self::Target,
            "body" => Self::Body,
            "timestamp" => Self::Timestamp,
            "timestamp:ms" => Self::TimestampMs,
            "now" => Self::Now,
            "now:ms" => Self::NowMs,
            "date" => Self::Date,
            "nonce" => Self::Nonce,
            "repeat" => Self::Repeat,
            "signature" => Self::Signature,
            _ => match inner.split_once(':') {
                Some(("header", name)) if is_header_name(name) => Self::Header(name.to_owned()),
                Some((kind @ ("var" | "secret"), name)) => {
                    Template::parse(&format!("{{{inner}}}"))?;
                    let name = name.to_owned();
                    if kind == "var" { Self::Var(name) } else { Self::Secret(name) }
                }
                _ => return Err(unknown()),
            },
        })
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Checks `[sign]`.
///
/// `sent` are the other headers of requests, and `auth` the name of that with the credentials.
pub(super) fn check(
    section: &SignSection,
    sent: [&Pairs; 3],
    auth: Option<&str>,
    faults: &mut Faults<'_>,
) {
    let key = Key::of("sign");
    match section.hmac_key() {
        Some(hmac_key) => {
            if !hmac_key.has_secret() {
                let rule = "must be {secret:NAME}: it is never written in a profile";
                faults.add(&key.then("key"), rule);
            }
            if hmac_key.parts.iter().any(|part| !matches!(part, Part::Secret(_))) {
                faults.add(&key.then("key"), "only {secret:NAME} is allowed here");
            }
        }
        None => {
            if section.key.is_some() {
                faults.add(&key.then("key"), "is not used where `keyed` is false");
            }
            if !section.signed.has_secret() {
                let rule = "must have a {secret:NAME} where `keyed` is false: anybody could sign";
                faults.add(&key.then("signed"), rule);
            }
        }
    }
    if section.signed.has(&Part::Signature) {
        faults.add(&key.then("signed"), "{signature} is not allowed in what is signed");
    }
    if section.signs_nothing() {
        faults.add(&key.then("signed"), "is the same for every request: it would prove nothing");
    }
    if !section.headers.values().any(|text| text.has(&Part::Signature)) {
        faults.add(&key.then("headers"), "none has {signature}, so that it would not be sent");
    }
    for name in section.headers.keys() {
        let key = key.then("headers").then(name);
        if !is_header_name(name) {
            faults.add(&key, "is not a header's name");
        }
        if is_reserved(name) {
            faults.add(&key, SET_BY_THE_PROGRAM);
        }
        let sent = sent.into_iter().flat_map(|pairs| &pairs.0).map(|(other, _)| other.as_str());
        if sent.chain(auth).any(|other| other.eq_ignore_ascii_case(name)) {
            faults.add(&key, "is among the other headers too: write it in one place");
        }
    }
}

impl SignSection {
    /// The key of the HMAC, where it is one.
    fn hmac_key(&self) -> Option<Text> {
        self.keyed.then(|| self.key.clone().unwrap_or_else(default_key))
    }

    /// Nothing of the request, nor of its time: anybody who saw one could sign another.
    fn signs_nothing(&self) -> bool {
        let is_fixed = |part: &Part| {
            matches!(part, Part::Literal(_) | Part::Repeat | Part::Var(_) | Part::Secret(_))
        };
        self.signed.parts.iter().all(is_fixed)
    }

    /// Whether a request says if it is a repeat.
    pub(super) fn names_repeats(&self) -> bool {
        self.signed.has(&Part::Repeat) || self.headers.values().any(|text| text.has(&Part::Repeat))
    }

    /// The names of its variables and secrets, as other texts have them.
    pub(super) fn templates(&self) -> Vec<Template> {
        let key = self.hmac_key();
        let texts = key.iter().chain([&self.signed]).chain(self.headers.values());
        let named = texts.flat_map(|text| &text.parts).filter_map(|part| match part {
            Part::Var(name) => Some(format!("{{var:{name}}}")),
            Part::Secret(name) => Some(format!("{{secret:{name}}}")),
            _ => None,
        });
        named.filter_map(|text| Template::parse(&text).ok()).collect()
    }
}

/// What else a signature is made of.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// Where the request goes; its path belongs to what is signed as the request's.
    pub base_url: &'a str,
    pub values: &'a Values,
    pub now: DateTime<Utc>,
    /// The same for all creates of a transaction, because some third parties take it for their
    /// idempotency key, and a new one for each other request. Visible ASCII characters.
    pub nonce: &'a str,
    /// Whether it is a create, and an earlier one of the transaction may have gone through.
    pub is_repeat: bool,
}

impl Signing<'_> {
    /// What the base URL has before each path.
    fn base_path(&self) -> &str {
        let after_scheme = self.base_url.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_scheme.find('/').map_or("", |at| &after_scheme[at..]);
        path.trim_end_matches('/')
    }
}

impl Signer for SignSection {
    fn sign(&self, request: &mut Request, with: &Signing<'_>) -> Result<(), RenderError> {
        let (last, first): (Vec<_>, Vec<_>) =
            self.headers.iter().partition(|(_, text)| text.has(&Part::Signature));
        for (name, text) in first {
            let value = utf8(render(text, request, with, "")?)?;
            request.headers.push(header(name, value, text.has_secret())?);
        }
        let signed = render(&self.signed, request, with, "")?;
        let bytes = match self.hmac_key() {
            Some(key) => self.hash.hmac(&render(&key, request, with, "")?, &signed),
            None => self.hash.digest(&signed),
        };
        let base64 = || BASE64_STANDARD.encode(&bytes);
        let signature = match self.encoding {
            Encoding::Hex => hex::encode(&bytes),
            Encoding::HexUpper => hex::encode_upper(&bytes),
            Encoding::Base64 => base64(),
            Encoding::Base64Url => utf8_percent_encode(&base64(), NON_ALPHANUMERIC).to_string(),
        };
        for (name, text) in last {
            let value = utf8(render(text, request, with, &signature)?)?;
            request.headers.push(header(name, value, true)?);
        }
        Ok(())
    }
}

fn render(
    text: &Text,
    request: &Request,
    with: &Signing<'_>,
    signature: &str,
) -> Result<Vec<u8>, RenderError> {
    let mut out = Vec::new();
    for part in &text.parts {
        match part {
            Part::Literal(literal) => out.extend(literal.bytes()),
            Part::Method => out.extend(request.method.as_str().bytes()),
            Part::MethodLower => {
                out.extend(request.method.as_str().to_ascii_lowercase().bytes());
            }
            Part::Path => out.extend([with.base_path(), &request.path].concat().bytes()),
            Part::Target => out.extend([with.base_path(), &request.target()].concat().bytes()),
            Part::Body => out.extend(&request.body),
            Part::Header(name) => {
                let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
                let value = match found {
                    Some(header) => Some(header.value.as_str()),
                    None if name.eq_ignore_ascii_case("content-type") => request.content_type(),
                    None => None,
                };
                let missing =
                    || RenderError::Missing(format!("value for the header {name}, to be signed"));
                out.extend(value.ok_or_else(missing)?.bytes());
            }
            Part::Timestamp => out.extend(with.now.timestamp().to_string().bytes()),
            Part::TimestampMs => out.extend(with.now.timestamp_millis().to_string().bytes()),
            Part::Now => {
                out.extend(with.now.to_rfc3339_opts(SecondsFormat::Secs, true).bytes());
            }
            Part::NowMs => {
                out.extend(with.now.to_rfc3339_opts(SecondsFormat::Millis, true).bytes());
            }
            Part::Date => {
                out.extend(with.now.format("%a, %d %b %Y %H:%M:%S GMT").to_string().bytes());
            }
            Part::Nonce => out.extend(with.nonce.bytes()),
            Part::Repeat => out.extend(with.is_repeat.to_string().bytes()),
            Part::Var(name) => {
                let not_set = || RenderError::NotSet(format!("{{var:{name}}}"));
                out.extend(with.values.vars.get(name).ok_or_else(not_set)?.bytes());
            }
            Part::Secret(name) => {
                let not_set = || RenderError::NotSet(format!("{{secret:{name}}}"));
                out.extend(with.values.secrets.get(name).ok_or_else(not_set)?.expose().bytes());
            }
            Part::Signature => out.extend(signature.bytes()),
        }
    }
    Ok(out)
}

fn utf8(value: Vec<u8>) -> Result<String, RenderError> {
    String::from_utf8(value).map_err(|_| RenderError::Unsendable {
        place: "a header of [sign]".to_owned(),
        why: "a header has visible ASCII characters only",
    })
}

fn header(name: &str, value: String, is_secret: bool) -> Result<Header, RenderError> {
    let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if !value.bytes().all(is_plain) {
        let place = format!("the header {name}");
        return Err(RenderError::Unsendable {
            place,
            why: "a header has visible ASCII characters only",
        });
    }
    Ok(Header { name: name.to_owned(), value, is_secret })
}
