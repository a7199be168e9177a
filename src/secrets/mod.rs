//! Secrets at rest, pure: keys that only need to be recognised are hashed; secrets that must be
//! read again are sealed (encrypted).
//!
//! API keys and operator tokens are kept as SHA-256 ([`hash_token`]): they are random and long, so
//! that a slow hash would add nothing. Clients' signing secrets are sealed with a master key
//! ([`MasterKeys`]) that is in the configuration and never in the database: a dump holds nothing
//! that signs.

mod master_keys;

use sha2::{Digest, Sha256};

pub use master_keys::{MasterKeys, OpenError, ParseMasterKeysError, SealState};

/// What is kept of an API key or an operator token.
pub fn hash_token(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
