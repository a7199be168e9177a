//! Standard Webhooks signatures: signing and verifying, pure.
//!
//! The signed content is `{webhook-id}.{webhook-timestamp}.{raw body}`, the algorithm HMAC-SHA256,
//! the header a space-separated list of `v1,<base64>`. Quartet verifies what the third party sends
//! and signs what it sends to clients with the same code; the sandbox uses it from the other side.
//!
//! Source:
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
//!
//! Guarantees: comparison is constant-time; a timestamp outside the tolerance is refused in both
//! directions; any one of several active secrets may match, so that secrets can be rotated; entries
//! of unknown versions are skipped. The body is hashed once for each secret, whatever the header
//! holds, and not at all where no entry could match.

use std::{fmt, str::FromStr, time::Duration};

use base64::{
    Engine,
    alphabet::{self, Alphabet},
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
    },
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// Unique id of the message; a repeat carries the same one.
pub const ID_HEADER: &str = "webhook-id";
/// Unix seconds at which the message was sent.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Space-separated signatures, `v1,<base64>` each.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

const SECRET_PREFIX: &str = "whsec_";
const VERSION_PREFIX: &str = "v1,";
/// Most `v1` signatures in one message: a sender has one for each of its active secrets.
pub const MAX_SIGNATURES: usize = 16;
/// Bytes of an HMAC-SHA256.
const DIGEST_BYTES: usize = 32;
/// Characters of its base64.
const DIGEST_CHARS: usize = 44;

/// Base64 of either alphabet, padded or not.
const fn lenient(alphabet: &Alphabet) -> GeneralPurpose {
    let padding = DecodePaddingMode::Indifferent;
    GeneralPurpose::new(alphabet, GeneralPurposeConfig::new().with_decode_padding_mode(padding))
}
const LENIENT: GeneralPurpose = lenient(&alphabet::STANDARD);
const LENIENT_URL_SAFE: GeneralPurpose = lenient(&alphabet::URL_SAFE);

/// The bytes of a secret, which some senders write without padding or in the URL-safe alphabet. The
/// two alphabets differ in two characters only, so no text is ambiguous.
pub(crate) fn decode_secret(base64: &str) -> Option<Vec<u8>> {
    let engine = if base64.contains(['-', '_']) { LENIENT_URL_SAFE } else { LENIENT };
    engine.decode(base64).ok()
}

/// A symmetric signing secret, written `whsec_<base64>`. `Debug` and `Display` never show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A new secret of 32 random bytes.
    pub fn generate() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec())
    }

    /// The written form, `whsec_<base64>`: for storing and for showing once to its owner.
    pub fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// How long the key is, in bytes.
    pub fn key_bytes(&self) -> usize {
        self.0.len()
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        // HMAC takes a key of any length: `new_from_slice` cannot fail for it.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key length");
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a text is no secret. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretError {
    #[error("a signing secret starts with `whsec_`")]
    Prefix,
    #[error("what follows `whsec_` must be non-empty base64")]
    Encoding,
}

impl FromStr for Secret {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(ParseSecretError::Prefix)?;
        let bytes = decode_secret(encoded).filter(|bytes| !bytes.is_empty());
        bytes.map(Self).ok_or(ParseSecretError::Encoding)
    }
}

/// Why a message is not trusted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the header `{0}` is missing")]
    MissingHeader(&'static str),
    #[error("`webhook-timestamp` must be whole Unix seconds")]
    Timestamp,
    #[error("`webhook-timestamp` is older than the tolerance allows")]
    TooOld,
    #[error("`webhook-timestamp` is further in the future than the tolerance allows")]
    TooNew,
    #[error("`webhook-signature` has more than {MAX_SIGNATURES} `v1` signatures")]
    TooManySignatures,
    #[error("no `v1` signature in `webhook-signature` matches")]
    NoMatch,
}

/// The three headers of a message as they arrived; `None` where one is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct SignedHeaders<'a> {
    pub id: Option<&'a str>,
    pub timestamp: Option<&'a str>,
    pub signature: Option<&'a str>,
}

/// Signs `body` as message `id` at `timestamp` (Unix seconds); returns the header's value,
/// `v1,<base64>`.
pub fn sign(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
    let digest = secret.mac(id, &timestamp.to_string(), body).finalize().into_bytes();
    format!("{VERSION_PREFIX}{}", STANDARD.encode(digest))
}

/// Signs with each of `secrets`, so that a receiver with any of them can verify; returns the
/// header's value, separated by spaces.
pub fn sign_with_each(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> =
        secrets.iter().map(|secret| sign(secret, id, timestamp, body)).collect();
    signatures.join(" ")
}

/// Checks that one of `secrets` signed `body` under these headers, not further than `tolerance`
/// from `now` (Unix seconds). Returns the message id.
pub fn verify<'a>(
    secrets: &[Secret],
    headers: SignedHeaders<'a>,
    body: &[u8],
    now: i64,
    tolerance: Duration,
) -> Result<&'a str, VerifyError> {
    let id = present(headers.id, ID_HEADER)?;
    let timestamp = present(headers.timestamp, TIMESTAMP_HEADER)?;
    let signatures = present(headers.signature, SIGNATURE_HEADER)?;

    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(VerifyError::Timestamp);
    }
    let sent_at: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
    if now.saturating_sub(sent_at) > tolerance {
        return Err(VerifyError::TooOld);
    }
    if sent_at.saturating_sub(now) > tolerance {
        return Err(VerifyError::TooNew);
    }

    let given = Signatures::read(signatures)?;
    if given.0.is_empty() {
        return Err(VerifyError::NoMatch);
    }
    // Each secret is compared with each signature, so that the time says nothing about a match.
    let matches = secrets.iter().fold(Choice::from(0), |found, secret| {
        found | given.contain(&secret.mac(id, timestamp, body).finalize().into_bytes().into())
    });
    if bool::from(matches) { Ok(id) } else { Err(VerifyError::NoMatch) }
}

/// The `v1` signatures of a header that can be an HMAC-SHA256.
struct Signatures(Vec<[u8; DIGEST_BYTES]>);

impl Signatures {
    /// Reads at most [`MAX_SIGNATURES`]. An entry that is empty or of another version is skipped;
    /// one that is no HMAC-SHA256 in base64 counts, and matches nothing.
    fn read(header: &str) -> Result<Self, VerifyError> {
        // A proxy may have joined header lines with a comma (RFC 9110 section 5.3).
        let entries = header
            .split(' ')
            .filter_map(|entry| entry.trim_end_matches(',').strip_prefix(VERSION_PREFIX))
            .filter(|encoded| !encoded.is_empty());
        let mut read = Vec::new();
        for (index, encoded) in entries.enumerate() {
            if index == MAX_SIGNATURES {
                return Err(VerifyError::TooManySignatures);
            }
            if encoded.len() == DIGEST_CHARS
                && let Ok(bytes) = STANDARD.decode(encoded)
                && let Ok(digest) = bytes.try_into()
            {
                read.push(digest);
            }
        }
        Ok(Self(read))
    }

    /// Whether one of them is `expected`, in constant time.
    fn contain(&self, expected: &[u8; DIGEST_BYTES]) -> Choice {
        self.0.iter().fold(Choice::from(0), |found, given| found | given.ct_eq(expected))
    }
}

fn present<'a>(value: Option<&'a str>, name: &'static str) -> Result<&'a str, VerifyError> {
    value.filter(|value| !value.is_empty()).ok_or(VerifyError::MissingHeader(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOLERANCE: Duration = Duration::from_secs(300);

    struct Vector {
        secret: &'static str,
        id: &'static str,
        timestamp: i64,
        body: &'static [u8],
        signature: &'static str,
    }

    /// The two published vectors.
    const VECTORS: [Vector; 2] = [
        Vector {
            secret: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            timestamp: 1_649_367_553,
            body: br#"{"email":"test@example.com","username":"test_user"}"#,
            signature: "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        },
        Vector {
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: 1_614_265_330,
            body: br#"{"test": 2432232314}"#,
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
    ];

    fn headers<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> SignedHeaders<'a> {
        SignedHeaders { id: Some(id), timestamp: Some(timestamp), signature: Some(signature) }
    }

    #[test]
    fn signs_and_verifies_the_published_vectors() {
        for vector in VECTORS {
            let secret: Secret = vector.secret.parse().unwrap();
            assert_eq!(sign(&secret, vector.id, vector.timestamp, vector.body), vector.signature);
            let timestamp = vector.timestamp.to_string();
            let headers = headers(vector.id, &timestamp, vector.signature);
            let verified = verify(&[secret], headers, vector.body, vector.timestamp, TOLERANCE);
            assert_eq!(verified, Ok(vector.id));
        }
    }

    #[test]
    fn timestamp_tolerance_holds_both_ways() {
        let secret = Secret::generate();
        let signature = sign(&secret, "m", 1_000_000, b"{}");
        let check = |now| {
            let headers = headers("m", "1000000", &signature);
            verify(std::slice::from_ref(&secret), headers, b"{}", now, TOLERANCE)
        };
        assert_eq!(check(1_000_300), Ok("m"));
        assert_eq!(check(1_000_301), Err(VerifyError::TooOld));
        assert_eq!(check(999_700), Ok("m"));
        assert_eq!(check(999_699), Err(VerifyError::TooNew));
    }

    #[test]
    fn a_timestamp_must_be_plain_digits() {
        let secret = Secret::generate();
        let signature = sign(&secret, "m", 1_000_000, b"{}");
        for text in ["+1000000", " 1000000", "1000000.0", "1e6", "-1", "99999999999999999999"] {
            let headers = headers("m", text, &signature);
            let result =
                verify(std::slice::from_ref(&secret), headers, b"{}", 1_000_000, TOLERANCE);
            assert_eq!(result, Err(VerifyError::Timestamp), "{text}");
        }
    }

    #[test]
    fn each_missing_header_is_named() {
        let all = headers("m", "1", "v1,AA==");
        let none = |headers| verify(&[Secret::generate()], headers, b"", 1, TOLERANCE);
        let cases = [
            (SignedHeaders { id: None, ..all }, ID_HEADER),
            (SignedHeaders { timestamp: None, ..all }, TIMESTAMP_HEADER),
            (SignedHeaders { signature: Some(""), ..all }, SIGNATURE_HEADER),
        ];
        for (headers, name) in cases {
            assert_eq!(none(headers), Err(VerifyError::MissingHeader(name)));
        }
    }

    #[test]
    fn several_secrets_and_signatures_allow_rotation() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let list = format!("v2,zzz v1a,AAAA {} v1,not-base64", sign(&old, "m", 7, b"x"));
        let headers = headers("m", "7", &list);
        assert_eq!(verify(&[new.clone(), old.clone()], headers, b"x", 7, TOLERANCE), Ok("m"));
        // As a proxy joins several lines.
        let good = sign(&old, "m", 7, b"x");
        for joined in [format!("{good}, v1,AAAA"), format!("v1,AAAA, {good}")] {
            let headers = self::headers("m", "7", &joined);
            assert_eq!(verify(std::slice::from_ref(&old), headers, b"x", 7, TOLERANCE), Ok("m"));
        }
        assert_eq!(verify(&[new], headers, b"x", 7, TOLERANCE), Err(VerifyError::NoMatch));
        assert_eq!(verify(&[], headers, b"x", 7, TOLERANCE), Err(VerifyError::NoMatch));
    }

    #[test]
    fn what_is_signed_with_each_is_verified_by_any() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let list = sign_with_each(&[new.clone(), old.clone()], "m", 7, b"x");
        let expected = [sign(&new, "m", 7, b"x"), sign(&old, "m", 7, b"x")].join(" ");
        assert_eq!(list, expected);
        for secret in [old, new] {
            assert_eq!(verify(&[secret], headers("m", "7", &list), b"x", 7, TOLERANCE), Ok("m"));
        }
    }

    #[test]
    fn debug_never_shows_a_secret() {
        let secret: Secret = VECTORS[0].secret.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.reveal(), VECTORS[0].secret);
    }

    /// A header costs as much as its length, and the body is hashed once a secret at most.
    #[test]
    fn the_number_of_signatures_is_bounded() {
        let secret = Secret::generate();
        let good = sign(&secret, "m", 7, b"x");
        let check = |list: &str| {
            let headers = headers("m", "7", list);
            verify(std::slice::from_ref(&secret), headers, b"x", 7, TOLERANCE).map(str::to_owned)
        };
        let wrong = format!("v1,{} ", STANDARD.encode([7; DIGEST_BYTES]));
        // What is empty or of another version counts as nothing.
        for skipped in ["v1, ", " ", "v2,AAAA ", "v1a,AAAA ", "v1 "] {
            let list = format!("{}{good}", skipped.repeat(8_000));
            assert_eq!(check(&list), Ok("m".to_owned()), "{skipped}");
            assert_eq!(check(&skipped.repeat(8_000)), Err(VerifyError::NoMatch), "{skipped}");
        }
        for counted in [wrong.as_str(), "v1,AAAA ", "v1,* "] {
            let up_to = format!("{}{good}", counted.repeat(MAX_SIGNATURES - 1));
            assert_eq!(check(&up_to), Ok("m".to_owned()), "{counted}");
            let beyond = format!("{}{good}", counted.repeat(MAX_SIGNATURES));
            assert_eq!(check(&beyond), Err(VerifyError::TooManySignatures), "{counted}");
        }
    }

    /// The same bytes in every form of base64 that senders print.
    #[test]
    fn a_secret_is_read_with_and_without_padding_and_in_both_alphabets() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        let secret: Secret = "whsec_+//+AQ==".parse().unwrap();
        assert_eq!(secret, Secret(bytes.to_vec()));
        for text in ["whsec_+//+AQ", "whsec_-__-AQ", "whsec_-__-AQ=="] {
            assert_eq!(text.parse(), Ok(secret.clone()), "{text}");
        }
        assert_eq!(secret.reveal(), "whsec_+//+AQ==", "it is written in one way");
        // Both alphabets in one text, spaces, and bits that stand for nothing are mistakes.
        for text in ["whsec_-//+AQ", "whsec_+//+AQ ", "whsec_+//+AR==", "whsec_A", "whsec_AA=A"] {
            assert_eq!(text.parse::<Secret>(), Err(ParseSecretError::Encoding), "{text}");
        }
    }

    #[test]
    fn malformed_secrets_are_refused() {
        assert_eq!("MfKQ".parse::<Secret>(), Err(ParseSecretError::Prefix));
        assert_eq!("whsec_".parse::<Secret>(), Err(ParseSecretError::Encoding));
        assert_eq!("whsec_***".parse::<Secret>(), Err(ParseSecretError::Encoding));
    }

    proptest! {
        /// Flipping any one bit of the body, or changing the id or the time, breaks the signature.
        #[test]
        fn any_tampering_is_caught(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            flip in any::<prop::sample::Index>(),
            bit in 0u8..8,
            id in "[a-z0-9_]{1,40}",
            timestamp in 1_000i64..2_000_000_000,
        ) {
            let secret = Secret::generate();
            let secrets = std::slice::from_ref(&secret);
            let signature = sign(&secret, &id, timestamp, &body);
            let time = timestamp.to_string();
            prop_assert_eq!(
                verify(secrets, headers(&id, &time, &signature), &body, timestamp, TOLERANCE),
                Ok(id.as_str())
            );

            let mut tampered = body.clone();
            tampered[flip.index(body.len())] ^= 1 << bit;
            let other_id = format!("{id}x");
            let other_time = (timestamp + 1).to_string();
            for (id, time, body) in [
                (id.as_str(), time.as_str(), tampered.as_slice()),
                (other_id.as_str(), time.as_str(), body.as_slice()),
                (id.as_str(), other_time.as_str(), body.as_slice()),
            ] {
                prop_assert_eq!(
                    verify(secrets, headers(id, time, &signature), body, timestamp, TOLERANCE),
                    Err(VerifyError::NoMatch)
                );
            }
        }

        /// No header text makes verification panic or pass.
        #[test]
        fn arbitrary_headers_never_pass(id in ".*", time in ".*", signature in ".*") {
            let secret = Secret::generate();
            let headers = headers(&id, &time, &signature);
            let result = verify(&[secret], headers, b"{}", 1_700_000_000, TOLERANCE);
            prop_assert!(result.is_err());
        }
    }
}
