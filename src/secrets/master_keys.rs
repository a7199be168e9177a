//! The master keys: the first one seals, each of them opens. Where there are none, secrets are
//! stored in plain.
//!
//! A sealed secret is the text `sealed:v1:{key id}:{base64url of nonce and ciphertext}`, where the
//! algorithm is ChaCha20-Poly1305 (RFC 8439) with a random 96-bit nonce, far from the 2^32 messages
//! after which those may repeat. The client's name is authenticated with it: what was sealed for
//! one client opens for no other. The key id, eight bytes of a hash of the key, says which key is
//! needed and nothing about it.

use std::{fmt, str::FromStr};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::signature::{ParseSecretError, Secret};

const KEY_BYTES: usize = 32;
/// Begins every sealed secret of this format.
const PREFIX: &str = "sealed:v1:";
/// Begins what is authenticated together with the ciphertext.
const CONTEXT: &str = "quartet client signing secret v1:";
/// The same of a request to a third party.
const REQUEST_CONTEXT: &str = "quartet create request v1:";
/// Begins a request that is stored while there is no key.
const PLAIN_REQUEST: &str = "plain:v1:";

/// One key, with the id that its sealed secrets carry.
#[derive(Clone)]
struct MasterKey {
    id: String,
    key: LessSafeKey,
}

impl MasterKey {
    fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let hash = Sha256::new_with_prefix("quartet master key id v1:").chain_update(bytes);
        let id = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        // The array has the length that the algorithm takes.
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("the key has 32 bytes");
        Self { id, key: LessSafeKey::new(key) }
    }
}

/// Keys of 32 bytes, or none. `Debug` shows their ids.
#[derive(Clone, Default)]
pub struct MasterKeys(Vec<MasterKey>);

/// Why a text is no list of master keys. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMasterKeysError {
    #[error("at least one key is needed")]
    Empty,
    #[error("entry {0} is not 32 bytes in standard base64")]
    Entry(usize),
}

/// Why a stored secret could not be opened. No text here holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("it is sealed with another master key, {0}")]
    UnknownKey(String),
    #[error("it was changed, or sealed for another client")]
    Forged,
    #[error("it is no sealed secret")]
    Malformed,
    #[error("it is no signing secret")]
    Secret(#[from] ParseSecretError),
}

/// With what a stored secret is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealState {
    /// Not at all: it was stored while there was no key.
    Plain,
    /// With the key that seals now.
    Current,
    /// With a further key of the list.
    Older,
    /// With a key that is not there, or in a form that is not known.
    Unknown,
}

impl MasterKeys {
    /// A new key, as the configuration takes it.
    pub fn generate() -> String {
        STANDARD.encode(rand::random::<[u8; KEY_BYTES]>())
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals the secret of the client of this name with the first key; without a key it stays
    /// plain.
    pub fn seal(&self, client: &str, secret: &Secret) -> String {
        let revealed = secret.reveal();
        self.seal_bytes(aad(client), revealed.clone().into_bytes()).unwrap_or(revealed)
    }

    /// The secret of the client of this name, as it was stored. A plain one is read as
    /// it is.
    pub fn open(&self, client: &str, stored: &str) -> Result<Secret, OpenError> {
        let Some(parts) = parts(stored)? else { return Ok(stored.parse()?) };
        let opened = self.open_bytes(aad(client), parts)?;
        let text = std::str::from_utf8(&opened).map_err(|_| OpenError::Malformed)?;
        Ok(text.parse()?)
    }

    /// Seals a request about the transaction of this id; without a key it is merely encoded.
    pub fn seal_request(&self, transaction_id: Uuid, request: Vec<u8>) -> String {
        let plain = || format!("{PLAIN_REQUEST}{}", URL_SAFE_NO_PAD.encode(&request));
        self.seal_bytes(request_aad(transaction_id), request.clone()).unwrap_or_else(plain)
    }

    /// The request about the transaction of this id, as it was stored.
    pub fn open_request(&self, transaction_id: Uuid, stored: &str) -> Result<Vec<u8>, OpenError> {
        if let Some(encoded) = stored.strip_prefix(PLAIN_REQUEST) {
            return URL_SAFE_NO_PAD.decode(encoded).map_err(|_| OpenError::Malformed);
        }
        let parts = parts(stored)?.ok_or(OpenError::Malformed)?;
        self.open_bytes(request_aad(transaction_id), parts)
    }

    /// `None`: there is no key.
    fn seal_bytes(&self, aad: Aad<Vec<u8>>, mut bytes: Vec<u8>) -> Option<String> {
        let MasterKey { id, key } = self.0.first()?;
        let nonce: [u8; NONCE_LEN] = rand::random();
        bytes.reserve(MAX_TAG_LEN);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes)
            // It fails for more than 256 GiB.
            .expect("what is sealed is short");
        Some(format!("{PREFIX}{id}:{}", URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat())))
    }

    fn open_bytes(
        &self,
        aad: Aad<Vec<u8>>,
        (id, sealed): (&str, &str),
    ) -> Result<Vec<u8>, OpenError> {
        let key = self.0.iter().find(|key| key.id == id);
        let MasterKey { key, .. } = key.ok_or_else(|| OpenError::UnknownKey(id.to_owned()))?;
        let mut sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| OpenError::Malformed)?;
        let Some((nonce, sealed)) = sealed.split_first_chunk_mut::<NONCE_LEN>() else {
            return Err(OpenError::Malformed);
        };
        let opened = key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, sealed)
            .map_err(|_| OpenError::Forged)?;
        Ok(opened.to_vec())
    }

    /// With what a stored secret is sealed, as it says itself.
    pub fn state(&self, stored: &str) -> SealState {
        match parts(stored) {
            Ok(None) => SealState::Plain,
            Ok(Some((id, _))) => match self.0.iter().position(|key| key.id == id) {
                Some(0) => SealState::Current,
                Some(_) => SealState::Older,
                None => SealState::Unknown,
            },
            Err(_) => SealState::Unknown,
        }
    }

    /// The ids of the keys, the one that seals first. They are no secrets.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }
}

/// Key id and ciphertext of a sealed secret; `None` for a plain one.
fn parts(stored: &str) -> Result<Option<(&str, &str)>, OpenError> {
    match stored.strip_prefix(PREFIX) {
        Some(rest) => rest.split_once(':').map(Some).ok_or(OpenError::Malformed),
        None if stored.starts_with("whsec_") => Ok(None),
        None => Err(OpenError::Malformed),
    }
}

fn aad(client: &str) -> Aad<Vec<u8>> {
    Aad::from([CONTEXT, client].concat().into_bytes())
}

fn request_aad(transaction_id: Uuid) -> Aad<Vec<u8>> {
    Aad::from([REQUEST_CONTEXT.as_bytes(), transaction_id.as_bytes()].concat())
}

impl FromStr for MasterKeys {
    type Err = ParseMasterKeysError;

    /// Reads keys in standard base64, separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let key = |(index, part)| {
            let bytes = STANDARD.decode(part).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| MasterKey::new(&bytes)).ok_or(ParseMasterKeysError::Entry(index + 1))
        };
        let keys: Vec<MasterKey> = parts.enumerate().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(ParseMasterKeysError::Empty) } else { Ok(Self(keys)) }
    }
}

impl PartialEq for MasterKeys {
    fn eq(&self, other: &Self) -> bool {
        self.ids().eq(other.ids())
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MasterKeys").field(&self.ids().collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(texts: &[&str]) -> MasterKeys {
        texts.join(",").parse().unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_the_same_client_alone() {
        let keys = keys(&[&MasterKeys::generate()]);
        let secret = Secret::generate();
        let sealed = keys.seal("shop", &secret);
        assert_eq!(keys.open("shop", &sealed), Ok(secret));
        assert_eq!(keys.open("shop2", &sealed), Err(OpenError::Forged));
        assert_eq!(keys.open("", &sealed), Err(OpenError::Forged));
    }

    #[test]
    fn the_same_secret_is_sealed_differently_each_time_and_is_not_seen() {
        let keys = keys(&[&MasterKeys::generate()]);
        let secret = Secret::generate();
        let (one, other) = (keys.seal("shop", &secret), keys.seal("shop", &secret));
        assert_ne!(one, other);
        assert!(!one.contains(&secret.reveal()["whsec_".len()..]));
    }

    #[test]
    fn a_request_opens_for_its_transaction_alone_and_is_not_seen() {
        let sealing = keys(&[&MasterKeys::generate()]);
        let (id, request) = (Uuid::from_u128(7), b"amount=1250".to_vec());
        let sealed = sealing.seal_request(id, request.clone());
        assert_eq!(sealing.open_request(id, &sealed), Ok(request.clone()));
        assert_eq!(sealing.open_request(Uuid::from_u128(8), &sealed), Err(OpenError::Forged));
        assert_eq!(sealing.open("shop", &sealed), Err(OpenError::Forged));
        assert!(!sealed.contains(&URL_SAFE_NO_PAD.encode(&request)));
        let none = MasterKeys::default();
        let plain = none.seal_request(id, request.clone());
        assert_eq!(none.open_request(id, &plain).as_ref(), Ok(&request));
        assert_eq!(sealing.open_request(id, &plain), Ok(request));
        assert!(matches!(none.open_request(id, &sealed), Err(OpenError::UnknownKey(_))));
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let [old, new] = [(); 2].map(|()| MasterKeys::generate());
        let before = keys(&[&old]);
        let secret = Secret::generate();
        let sealed = before.seal("shop", &secret);
        let both = keys(&[&new, &old]);
        assert_eq!(both.state(&sealed), SealState::Older);
        assert_eq!(both.open("shop", &sealed).as_ref(), Ok(&secret));
        let resealed = both.seal("shop", &secret);
        assert_eq!(both.state(&resealed), SealState::Current);
        let after = keys(&[&new]);
        assert_eq!(after.open("shop", &resealed), Ok(secret));
        assert_eq!(after.state(&sealed), SealState::Unknown);
        let id = before.ids().next().unwrap().to_owned();
        assert_eq!(after.open("shop", &sealed), Err(OpenError::UnknownKey(id)));
    }

    #[test]
    fn a_plain_secret_of_an_earlier_release_is_read() {
        let keys = keys(&[&MasterKeys::generate()]);
        let secret = Secret::generate();
        assert_eq!(keys.state(&secret.reveal()), SealState::Plain);
        assert_eq!(keys.open("shop", &secret.reveal()), Ok(secret));
    }

    #[test]
    fn keys_are_32_bytes_in_base64_and_no_message_repeats_them() {
        let good = MasterKeys::generate();
        for (text, error) in [
            ("", ParseMasterKeysError::Empty),
            (" , ", ParseMasterKeysError::Empty),
            ("aGlkZGVuLWtleQ==", ParseMasterKeysError::Entry(1)),
            (&good[..43], ParseMasterKeysError::Entry(1)),
            (&format!("{good},hidden"), ParseMasterKeysError::Entry(2)),
        ] {
            let refused = text.parse::<MasterKeys>().unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!refused.to_string().contains("hidden"));
        }
    }

    #[test]
    fn debug_shows_ids_alone() {
        let text = MasterKeys::generate();
        let keys = keys(&[&text]);
        let printed = format!("{keys:?}");
        assert!(
            printed.contains(keys.ids().next().unwrap()) && !printed.contains(&text),
            "{printed}"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_changed_is_refused(position in any::<prop::sample::Index>(), byte in b' '..=b'~') {
            let keys = keys(&[&MasterKeys::generate()]);
            let sealed = keys.seal("shop", &Secret::generate());
            let mut changed = sealed.clone().into_bytes();
            let position = position.index(changed.len());
            changed[position] = byte;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(changed == sealed || keys.open("shop", &changed).is_err());
        }

        #[test]
        fn arbitrary_text_is_refused_without_panic(text in ".*", rest in ".*") {
            let keys = keys(&[&MasterKeys::generate()]);
            prop_assert!(keys.open("shop", &text).is_err());
            let id = keys.ids().next().unwrap().to_owned();
            let text = format!("{PREFIX}{}:{}", id, rest);
            prop_assert!(keys.open("shop", &text).is_err());
        }
    }
}
