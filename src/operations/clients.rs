//! The client registry: adding a client, its third parties, disabling it, rotating its API key. Its signing secret is
//! rotated by [`secrets`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use url::Url;
use uuid::Uuid;

use super::secrets::{self, SecretsError};
pub use crate::store::clients::{ThirdPartiesChange, ThirdPartiesChanged};
use crate::{
    domain::ClientThirdParties,
    secrets::MasterKeys,
    signature::Secret,
    store::{Database, StoreError, audit::Actor, client_secrets, clients},
};

/// Most characters of a client's name.
const MAX_NAME: usize = 100;
/// The constraint that keeps names unique.
const NAME_TAKEN: &str = "clients_name_key";

/// A client to add.
#[derive(Debug)]
pub struct NewClient<'a> {
    pub name: &'a str,
    pub api_key_hash: &'a [u8],
    /// One that the egress policy allows.
    pub callback_url: &'a Url,
    pub signing_secret: &'a Secret,
    pub third_parties: &'a ClientThirdParties,
}

/// Why a client was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddClientError {
    #[error("a name has 1 to {MAX_NAME} characters")]
    Name,
    #[error("there is a client named {0} already")]
    NameTaken(String),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Store(StoreError),
}

/// Adds a client; returns its id.
pub async fn add(
    pool: &Database,
    keys: &MasterKeys,
    client: NewClient<'_>,
    actor: Actor<'_>,
) -> Result<Uuid, AddClientError> {
    let NewClient { name, api_key_hash, callback_url, signing_secret, third_parties } = client;
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err(AddClientError::Name);
    }
    secrets::check_sealing_key(pool, keys).await?;
    let new = clients::NewClient {
        name,
        api_key_hash,
        callback_url: callback_url.as_str(),
        signing_secret: &keys.seal(name, signing_secret),
        third_party: Some(&third_parties.default),
        other_third_parties: Some(&third_parties.allowed),
    };
    clients::add(pool, &new, actor).await.map_err(|error| match error.constraint() {
        Some(NAME_TAKEN) => AddClientError::NameTaken(name.to_owned()),
        _ => AddClientError::Store(error),
    })
}

/// Changes the third parties that a client may use. `None` where there is no such client.
pub async fn set_third_parties(
    pool: &Database,
    name: &str,
    change: &ThirdPartiesChange,
    actor: Actor<'_>,
) -> Result<Option<ThirdPartiesChanged>, StoreError> {
    clients::set_third_parties(pool, name, change, actor).await
}

/// Refuses a client's API keys from now on. Returns whether the client exists.
pub async fn disable(pool: &Database, name: &str, actor: Actor<'_>) -> Result<bool, StoreError> {
    clients::disable(pool, name, actor).await
}

/// Replaces a client's API key ([`client_secrets::rotate_key`]). `None` where there is no such
/// client, else until when the old one is good.
pub async fn rotate_key(
    pool: &Database,
    name: &str,
    api_key_hash: &[u8],
    overlap: Duration,
    actor: Actor<'_>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    client_secrets::rotate_key(pool, name, api_key_hash, overlap, actor).await
}
