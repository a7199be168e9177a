//! `adapter = "rfc9421"`: HTTP message signatures that cover the digest of the body.
//!
//! Sources: RFC 9421, RFC 9530 (`Content-Digest`), RFC 9651 (structured fields, read by `sfv`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use ring::digest;
use sfv::{BareItem, Dictionary, FieldType, InnerList, List, ListEntry, Parser};
use subtle::ConstantTimeEq;

use super::{
    Event, Rejection, Verifier,
    extract::Extraction,
    incoming::{Incoming, UrlParts},
    keys::{Algorithm, FIXED_P256, FIXED_P384, Keys},
    profile::MessageAlgorithm,
    timestamp::{self, TimeUnit},
};
use crate::signature::MAX_SIGNATURES;

pub const SIGNATURE_INPUT: &str = "signature-input";
pub const SIGNATURE: &str = "signature";
pub const CONTENT_DIGEST: &str = "content-digest";

/// The components that are no header.
pub const DERIVED: [&str; 7] =
    ["@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query"];

/// Verifies HTTP message signatures.
#[derive(Debug)]
pub struct Rfc9421 {
    /// The components that must be signed; lower case.
    pub cover: Vec<String>,
    pub algorithms: Vec<MessageAlgorithm>,
    pub tolerance: Duration,
    pub extraction: Extraction,
}

impl MessageAlgorithm {
    pub const ASYMMETRIC: [Self; 5] = [
        Self::Ed25519,
        Self::RsaV15Sha256,
        Self::RsaPssSha512,
        Self::EcdsaP256Sha256,
        Self::EcdsaP384Sha384,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
            Self::RsaV15Sha256 => "rsa-v1_5-sha256",
            Self::RsaPssSha512 => "rsa-pss-sha512",
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
        }
    }

    /// `None`: HMAC.
    pub fn public(self) -> Option<Algorithm> {
        Some(match self {
            Self::HmacSha256 => return None,
            Self::Ed25519 => webpki::ring::ED25519,
            Self::RsaV15Sha256 => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
            Self::RsaPssSha512 => webpki::ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
            Self::EcdsaP256Sha256 => &FIXED_P256,
            Self::EcdsaP384Sha384 => &FIXED_P384,
        })
    }
}

impl Verifier for Rfc9421 {
    fn verify(
        &self,
        incoming: &Incoming<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Vec<Event>, Rejection> {
        let inputs = dictionary(incoming, SIGNATURE_INPUT)?;
        let signatures = dictionary(incoming, SIGNATURE)?;
        if inputs.len() > MAX_SIGNATURES {
            return Err(Rejection::TooManySignatures(SIGNATURE_INPUT.to_owned()));
        }
        let mut first_rejection = None;
        for (label, input) in &inputs {
            let ListEntry::InnerList(input) = input else { continue };
            let Some(ListEntry::Item(signature)) = signatures.get(label) else { continue };
            let Some(signature) = signature.bare_item.as_byte_sequence() else { continue };
            match self.verify_one(incoming, input, signature, keys, now) {
                Ok(covered) => return self.extraction.events(incoming, &covered),
                Err(rejection) => _ = first_rejection.get_or_insert(rejection),
            }
        }
        let header = SIGNATURE.to_owned();
        let expected = "`label=:…:` with the same label in `signature-input`".to_owned();
        Err(first_rejection.unwrap_or(Rejection::NoSignature { header, expected }))
    }
}

impl Rfc9421 {
    /// Checks one signature; returns the components that it covers.
    fn verify_one(
        &self,
        incoming: &Incoming<'_>,
        input: &InnerList,
        signature: &[u8],
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>, Rejection> {
        let covered = components(input)?;
        if let Some(missing) = self.cover.iter().find(|name| !covered.contains(name)) {
            return Err(Rejection::NotSigned(missing.clone()));
        }
        self.check_times(input, now)?;
        check_digest(incoming)?;

        let algorithm = text_parameter(input, "alg");
        let key_id = text_parameter(input, "keyid");
        let candidates = keys.candidates(key_id);
        if let Some(id) = key_id
            && candidates.is_empty()
        {
            return Err(Rejection::UnknownKey(id.to_owned()));
        }
        let allowed: Vec<_> = self
            .algorithms
            .iter()
            .filter(|allowed| algorithm.is_none_or(|algorithm| allowed.name() == algorithm))
            .collect();
        if allowed.is_empty() {
            let said = "`alg` is not one that is accepted".to_owned();
            return Err(Rejection::BadSignatureHeader(SIGNATURE_INPUT, said));
        }
        let base = [signature_base(incoming, input, &covered)?];
        let is_signed = candidates.iter().any(|key| {
            allowed.iter().any(|allowed| match allowed.public() {
                Some(algorithm) => key.signed(algorithm, base[0].as_bytes(), signature),
                None => key.mac(&base).is_some_and(|tag| tag.as_ref().ct_eq(signature).into()),
            })
        });
        if is_signed { Ok(covered) } else { Err(Rejection::NoMatch(SIGNATURE.to_owned())) }
    }

    fn check_times(&self, input: &InnerList, now: DateTime<Utc>) -> Result<(), Rejection> {
        let time = |name| {
            let value = input.params.get(name)?;
            Some(value.as_integer().map_or("none".to_owned(), |time| i64::from(time).to_string()))
        };
        let at = "signature-input;created";
        let created = time("created").unwrap_or_default();
        if created.is_empty() {
            let pair = "created".to_owned();
            return Err(Rejection::MissingPair { header: SIGNATURE_INPUT.to_owned(), key: pair });
        }
        timestamp::check(&created, at, TimeUnit::Seconds, self.tolerance, now)?;
        if let Some(expires) = time("expires")
            && !expires.parse::<i64>().is_ok_and(|expires| expires >= now.timestamp())
        {
            return Err(Rejection::TooOld("signature-input;expires".to_owned()));
        }
        Ok(())
    }
}

/// A header that is a dictionary.
fn dictionary(incoming: &Incoming<'_>, name: &'static str) -> Result<Dictionary, Rejection> {
    let text = combined(incoming, name).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Rejection::MissingHeader(name.to_owned()))?;
    let read = Parser::new(&text).parse();
    read.map_err(|error| Rejection::BadSignatureHeader(name, error.to_string()))
}

/// The value of a header as RFC 9421 signs it: its lines, trimmed, joined by a comma.
fn combined(incoming: &Incoming<'_>, name: &str) -> Option<String> {
    let lines: Vec<_> = incoming.headers.lines(name).map(str::trim).collect();
    if lines.is_empty() { None } else { Some(lines.join(", ")) }
}

fn text_parameter<'a>(input: &'a InnerList, name: &str) -> Option<&'a str> {
    input.params.get(name).and_then(BareItem::as_string).map(|text| text.as_str())
}

/// The names of the components that are signed.
fn components(input: &InnerList) -> Result<Vec<String>, Rejection> {
    let unreadable = |what: &str| Rejection::BadSignatureHeader(SIGNATURE_INPUT, what.to_owned());
    let mut names = Vec::new();
    for item in &input.items {
        let name = item.bare_item.as_string().map(|name| name.as_str().to_owned());
        let name = name.ok_or_else(|| unreadable("a component is not a string"))?;
        // Each parameter changes what is signed, and none is needed here.
        if !item.params.is_empty() {
            return Err(unreadable("components with parameters are not supported"));
        }
        if names.contains(&name) {
            return Err(unreadable("a component is there twice"));
        }
        names.push(name);
    }
    Ok(names)
}

/// Checks the digests of the body that are known; one must be.
fn check_digest(incoming: &Incoming<'_>) -> Result<(), Rejection> {
    let mut is_known = false;
    for (name, value) in &dictionary(incoming, CONTENT_DIGEST)? {
        let algorithm = match name.as_str() {
            "sha-256" => &digest::SHA256,
            "sha-512" => &digest::SHA512,
            _ => continue,
        };
        let ListEntry::Item(given) = value else { return Err(Rejection::Digest) };
        let expected = digest::digest(algorithm, incoming.body);
        if given.bare_item.as_byte_sequence() != Some(expected.as_ref()) {
            return Err(Rejection::Digest);
        }
        is_known = true;
    }
    if is_known { Ok(()) } else { Err(Rejection::Digest) }
}

/// What is signed (RFC 9421, section 2.5).
fn signature_base(
    incoming: &Incoming<'_>,
    input: &InnerList,
    components: &[String],
) -> Result<String, Rejection> {
    let url = UrlParts::of(incoming.url);
    let mut base = String::new();
    for name in components {
        let value = match name.as_str() {
            "@method" => incoming.method.to_owned(),
            "@target-uri" => incoming.url.to_owned(),
            "@authority" => authority(&url),
            "@scheme" => url.scheme.to_ascii_lowercase(),
            "@request-target" => match url.query {
                Some(query) => format!("{}?{query}", url.path),
                None => url.path.to_owned(),
            },
            "@path" => url.path.to_owned(),
            "@query" => format!("?{}", url.query.unwrap_or_default()),
            derived if derived.starts_with('@') => {
                let said = format!("the component `{derived}` is not supported");
                return Err(Rejection::BadSignatureHeader(SIGNATURE_INPUT, said));
            }
            header => combined(incoming, header)
                .ok_or_else(|| Rejection::MissingHeader(header.to_owned()))?,
        };
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    let parameters: List = vec![ListEntry::InnerList(input.clone())];
    let parameters = parameters.serialize().unwrap_or_default();
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    Ok(base)
}

/// The host in lower case, without the scheme's own port.
fn authority(url: &UrlParts<'_>) -> String {
    let authority = url.authority.to_ascii_lowercase();
    let default_port = if url.scheme.eq_ignore_ascii_case("http") { ":80" } else { ":443" };
    authority.strip_suffix(default_port).unwrap_or(&authority).to_owned()
}
