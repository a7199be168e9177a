//! What seals secrets in the database.

use super::super::{credentials::master_keys, settings::Settings};
use crate::secrets::MasterKeys;

/// `QUARTET_SECRETS__…`: what seals secrets in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Secrets {
    /// Keys that encrypt clients' signing secrets: the first encrypts, each decrypts. Without any
    /// the secrets are stored in plain text.
    pub master_keys: MasterKeys,
}

impl Secrets {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            master_keys: settings.secret(
                "QUARTET_SECRETS__MASTER_KEY",
                master_keys,
                "Key that encrypts clients' signing secrets in the database: 32 bytes in base64 \
                 (`quartet secrets generate-key`). Separate several with commas: the first \
                 encrypts, each decrypts. Unset, secrets are stored in plain text, with a warning \
                 at each start",
            ).unwrap_or_default(),
        }
    }
}
