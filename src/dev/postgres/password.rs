//! The superuser's password and what PostgreSQL stores of it.
//!
//! Other users of the machine can reach the port, so there is a password, a random one.
//! Authentication is SCRAM-SHA-256 (RFC 5802, RFC 7677) with a single iteration instead of
//! PostgreSQL's 4096: iterations slow down the guessing of weak passwords, which a random one of
//! 190 bits is not, and would cost a debug build 50 ms a connection.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::digest::InvalidLength;
use hmac::{Hmac, KeyInit, Mac};
use rand::distr::{Alphanumeric, SampleString};
use sha2::{Digest, Sha256};

const LENGTH: usize = 32;
const SALT_BYTES: usize = 16;

/// A new password: letters and digits, so that it fits into a URL as it is.
pub fn generate() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), LENGTH)
}

/// What `PASSWORD '…'` takes and `pg_authid` stores:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
pub fn verifier(password: &str) -> Result<String, InvalidLength> {
    let salt: [u8; SALT_BYTES] = rand::random();
    // PBKDF2 with one iteration: the first block is one HMAC over the salt and the block's number.
    let salted = hmac(password.as_bytes(), &[&salt[..], &[0, 0, 0, 1]].concat())?;
    let stored_key = Sha256::digest(hmac(&salted, b"Client Key")?);
    let server_key = hmac(&salted, b"Server Key")?;
    Ok(format!(
        "SCRAM-SHA-256$1:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    ))
}

fn hmac(key: &[u8], message: &[u8]) -> Result<Vec<u8>, InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(message);
    Ok(mac.finalize().into_bytes().to_vec())
}
