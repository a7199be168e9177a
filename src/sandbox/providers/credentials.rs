//! What a caller of a simulated third party presents, and the keys that its webhooks are signed
//! with.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use uuid::Uuid;

/// DER of a public key on P-256 before its point (RFC 5480).
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0,
];

pub(super) struct Credentials {
    /// The bearer token, or with OAuth2 the client's secret.
    pub api_key: String,
    pub webhook_secret: String,
    /// A second key that some want in a header of each call.
    pub subscription_key: String,
    random: SystemRandom,
    /// Made when it is needed first.
    signing_key: Mutex<Option<Vec<u8>>>,
    /// When each OAuth2 token ends.
    tokens: Mutex<HashMap<String, Instant>>,
}

/// The client's name with OAuth2.
pub(super) const CLIENT_ID: &str = "sandbox-client";

impl Credentials {
    pub fn new(api_key: Option<String>, webhook_secret: String) -> Self {
        let random = || Uuid::new_v4().simple().to_string();
        Self {
            api_key: api_key.unwrap_or_else(|| format!("sk_sandbox_{}", random())),
            webhook_secret,
            subscription_key: random(),
            random: SystemRandom::new(),
            signing_key: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// Whether this `Authorization` header names the client and its secret.
    pub fn is_client(&self, authorization: Option<&str>) -> bool {
        let encoded = BASE64_STANDARD.encode(format!("{CLIENT_ID}:{}", self.api_key));
        authorization == Some(&format!("Basic {encoded}"))
    }

    /// A new OAuth2 token.
    pub fn issue(&self, lives: Duration) -> String {
        let token = Uuid::new_v4().simple().to_string();
        let now = Instant::now();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, ends_at| *ends_at > now);
        tokens.insert(token.clone(), now + lives);
        token
    }

    /// Whether this is the API key or, with OAuth2, a token that is still good.
    pub fn is_good(&self, token: &str, is_oauth2: bool) -> bool {
        if !is_oauth2 {
            return token == self.api_key;
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token).is_some_and(|ends_at| *ends_at > Instant::now())
    }

    /// The public key on P-256 of its webhooks: DER in base64.
    pub fn public_key(&self) -> String {
        let point = self.key_pair().map(|pair| pair.public_key().as_ref().to_vec());
        BASE64_STANDARD.encode([P256_HEAD.as_slice(), &point.unwrap_or_default()].concat())
    }

    /// A signature over `text` with that key. Empty where the operating system has no random
    /// numbers, which nothing can verify.
    pub fn sign_with_key(&self, text: &str) -> Vec<u8> {
        let signed = self.key_pair().and_then(|pair| pair.sign(&self.random, text.as_bytes()).ok());
        signed.map(|signature| signature.as_ref().to_vec()).unwrap_or_default()
    }

    fn key_pair(&self) -> Option<EcdsaKeyPair> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let mut key = self.signing_key.lock().unwrap_or_else(PoisonError::into_inner);
        if key.is_none() {
            let made = EcdsaKeyPair::generate_pkcs8(algorithm, &self.random).ok()?;
            *key = Some(made.as_ref().to_vec());
        }
        EcdsaKeyPair::from_pkcs8(algorithm, key.as_deref()?, &self.random).ok()
    }
}
