//! What a receiver accepts: HMAC secrets, public keys, or shared credentials.

use std::fmt;

use ring::{digest, hmac};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, alg_id, pem::PemObject,
};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use webpki::{EndEntityCert, RawPublicKeyEntity};

use crate::signature::decode_secret;

/// A public-key signature algorithm.
pub type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// DER of a public key before the 32 bytes of an Ed25519 key (RFC 8410).
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// The DER of an RSA key of 2048 bits has 294 bytes, of one of 1024 bits 162.
const MIN_RSA_DER: usize = 280;

/// How a secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretEncoding {
    /// The text itself is the key.
    #[default]
    Text,
    Base64,
    Hex,
}

/// What kind of key a profile needs.
#[derive(Debug, Clone)]
pub enum KeyKind {
    Nothing,
    /// A token, or `user:password`.
    Shared {
        is_basic: bool,
    },
    Hmac {
        algorithm: hmac::Algorithm,
        encoding: SecretEncoding,
        prefix: String,
    },
    /// Of one of these algorithms. What is no PEM is hex or base64.
    Public {
        algorithms: Vec<Algorithm>,
        is_hex: bool,
        prefix: String,
    },
}

/// Why a text is no key. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is empty")]
    Empty,
    #[error("must not begin or end with white space")]
    Space,
    #[error("must begin with `{0}`")]
    Prefix(String),
    #[error("must be base64{0}")]
    Base64(&'static str),
    #[error("must be hex digits")]
    Hex,
    #[error("must be `user:password`")]
    Basic,
    #[error("must be a public key in PEM, or its DER in base64 or hex, as the profile says")]
    PublicKey,
    #[error("must be a public key for {0}")]
    OtherAlgorithm(String),
    #[error("must be an RSA key of at least 2048 bits")]
    TooShort,
    #[error("is not needed: webhooks of this profile prove nothing")]
    NotNeeded,
}

/// One key, ready for use. `Debug` does not show it.
#[derive(Clone)]
pub struct Key(Form);

#[derive(Clone)]
enum Form {
    /// SHA-256, so that a comparison does not depend on the length.
    Shared([u8; 32]),
    Hmac(hmac::Key),
    /// DER.
    Public(Vec<u8>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl KeyKind {
    /// Reads a key as the profile says that it is written.
    pub fn read(&self, text: &str) -> Result<Key, KeyError> {
        if text.trim().is_empty() {
            return Err(KeyError::Empty);
        }
        let is_pem = text.contains("-----BEGIN ");
        if text.trim() != text && !is_pem {
            return Err(KeyError::Space);
        }
        let form = match self {
            Self::Nothing => return Err(KeyError::NotNeeded),
            Self::Shared { is_basic: true } if !text.contains(':') => return Err(KeyError::Basic),
            Self::Shared { .. } => Form::Shared(hashed(text.as_bytes())),
            Self::Hmac { algorithm, encoding, prefix } => {
                let text = after_prefix(text, prefix)?;
                let bytes = match encoding {
                    SecretEncoding::Text => text.as_bytes().to_vec(),
                    SecretEncoding::Base64 => decode_secret(text).ok_or(KeyError::Base64(""))?,
                    SecretEncoding::Hex => hex::decode(text).map_err(|_| KeyError::Hex)?,
                };
                if bytes.is_empty() {
                    return Err(KeyError::Empty);
                }
                Form::Hmac(hmac::Key::new(*algorithm, &bytes))
            }
            Self::Public { algorithms, is_hex, prefix } => {
                let der = if is_pem { pem(text) } else { bare_key(text, *is_hex, prefix) }?;
                if !algorithms.iter().any(|algorithm| fits(&der, *algorithm)) {
                    return Err(KeyError::OtherAlgorithm(names(algorithms)));
                }
                let is_rsa = algorithms.iter().any(|algorithm| {
                    algorithm.public_key_alg_id() == alg_id::RSA_ENCRYPTION
                        && fits(&der, *algorithm)
                });
                if is_rsa && der.len() < MIN_RSA_DER {
                    return Err(KeyError::TooShort);
                }
                Form::Public(der)
            }
        };
        Ok(Key(form))
    }
}

fn after_prefix<'a>(text: &'a str, prefix: &str) -> Result<&'a str, KeyError> {
    text.strip_prefix(prefix).ok_or_else(|| KeyError::Prefix(prefix.to_owned()))
}

/// A public key, or the one of a certificate. The caller decides whether to trust the certificate.
fn pem(text: &str) -> Result<Vec<u8>, KeyError> {
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()) {
        return Ok(key.to_vec());
    }
    let certificate = CertificateDer::from_pem_slice(text.as_bytes());
    let certificate = certificate.map_err(|_| KeyError::PublicKey)?;
    let certificate = EndEntityCert::try_from(&certificate).map_err(|_| KeyError::PublicKey)?;
    Ok(certificate.subject_public_key_info().to_vec())
}

/// A public key without PEM: its DER, or the 32 bytes of an Ed25519 key.
fn bare_key(text: &str, is_hex: bool, prefix: &str) -> Result<Vec<u8>, KeyError> {
    let text = after_prefix(text, prefix)?;
    let der = match is_hex {
        true => hex::decode(text).map_err(|_| KeyError::Hex)?,
        false => decode_secret(text).ok_or(KeyError::Base64(" or PEM"))?,
    };
    if der.len() == 32 {
        return Ok([ED25519_HEAD.as_slice(), &der].concat());
    }
    Ok(der)
}

/// Whether a key is of this algorithm: then no signature is refused for another reason than that it
/// does not match.
fn fits(der: &[u8], algorithm: Algorithm) -> bool {
    let key = SubjectPublicKeyInfoDer::from(der);
    let checked =
        RawPublicKeyEntity::try_from(&key).map(|key| key.verify_signature(algorithm, b"", b""));
    matches!(checked, Ok(Ok(()) | Err(webpki::Error::InvalidSignatureForPublicKey)))
}

fn names(algorithms: &[Algorithm]) -> String {
    let mut names: Vec<_> = algorithms
        .iter()
        .map(|algorithm| match algorithm.public_key_alg_id() {
            id if id == alg_id::RSA_ENCRYPTION => "RSA",
            id if id == alg_id::ECDSA_P256 => "ECDSA on P-256",
            id if id == alg_id::ECDSA_P384 => "ECDSA on P-384",
            _ => "Ed25519",
        })
        .collect();
    names.dedup();
    names.join(" or ")
}

fn hashed(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

impl Key {
    /// Whether these credentials are this key, in constant time.
    pub(super) fn is(&self, credentials: &[u8]) -> bool {
        match &self.0 {
            Form::Shared(expected) => hashed(credentials).ct_eq(expected).into(),
            _ => false,
        }
    }

    /// The HMAC over these pieces.
    pub(super) fn mac(&self, pieces: &[impl AsRef<[u8]>]) -> Option<hmac::Tag> {
        let Form::Hmac(key) = &self.0 else { return None };
        let mut context = hmac::Context::with_key(key);
        for piece in pieces {
            context.update(piece.as_ref());
        }
        Some(context.sign())
    }

    /// Whether the owner of this public key signed the message with this algorithm.
    pub(super) fn signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let Form::Public(der) = &self.0 else { return false };
        let key = SubjectPublicKeyInfoDer::from(der.as_slice());
        RawPublicKeyEntity::try_from(&key)
            .is_ok_and(|key| key.verify_signature(algorithm, message, signature).is_ok())
    }
}

/// The keys that are active at once, so that they can be rotated.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<(Option<String>, Key)>);

impl Keys {
    /// Adds a key. A webhook that names the id of its key is checked with the keys of this id, and
    /// with those that have none.
    pub fn add(&mut self, id: Option<String>, key: Key) {
        self.0.push((id, key));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a webhook may be signed with; empty if there is none of this id.
    pub(super) fn candidates(&self, id: Option<&str>) -> Vec<&Key> {
        let fits = |own: &Option<String>| id.is_none() || own.is_none() || own.as_deref() == id;
        self.0.iter().filter(|(own, _)| fits(own)).map(|(_, key)| key).collect()
    }
}

/// ECDSA whose signature is `r` and `s` side by side, as RFC 9421 has it.
#[derive(Debug)]
pub struct FixedEcdsa {
    verification: &'static ring::signature::EcdsaVerificationAlgorithm,
    public_key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
}

pub static FIXED_P256: FixedEcdsa = FixedEcdsa {
    verification: &ring::signature::ECDSA_P256_SHA256_FIXED,
    public_key: alg_id::ECDSA_P256,
    signature: alg_id::ECDSA_SHA256,
};
pub static FIXED_P384: FixedEcdsa = FixedEcdsa {
    verification: &ring::signature::ECDSA_P384_SHA384_FIXED,
    public_key: alg_id::ECDSA_P384,
    signature: alg_id::ECDSA_SHA384,
};

impl SignatureVerificationAlgorithm for FixedEcdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = ring::signature::UnparsedPublicKey::new(self.verification, public_key);
        key.verify(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.public_key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}
