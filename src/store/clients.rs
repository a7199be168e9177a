//! The client registry, `clients`.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::StoreError;

/// What is registered for a client.
#[derive(Debug, Clone)]
pub struct NewClient<'a> {
    pub name: &'a str,
    pub api_key_hash: &'a [u8],
    pub callback_url: &'a str,
    pub signing_secret: &'a str,
}

/// A registered client, without its secrets.
#[derive(Debug, Clone)]
pub struct Client {
    pub id: Uuid,
    pub name: String,
    pub callback_url: String,
    pub created_at: DateTime<Utc>,
    pub disabled_at: Option<DateTime<Utc>>,
}

/// Where and how a client is told.
#[derive(Clone)]
pub struct Callback {
    pub url: String,
    pub signing_secret: String,
}

impl fmt::Debug for Callback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Callback").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Adds a client. A name that is taken violates `clients_name_key`.
pub async fn add(executor: impl PgExecutor<'_>, new: &NewClient<'_>) -> Result<Client, StoreError> {
    Ok(sqlx::query_as!(
        Client,
        r#"
        INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ($1, $2, $3, $4)
        RETURNING id, name, callback_url, created_at, disabled_at
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
    )
    .fetch_one(executor)
    .await?)
}

/// Adds the client or brings it up to date, and enables it.
pub async fn upsert(
    executor: impl PgExecutor<'_>,
    new: &NewClient<'_>,
) -> Result<Client, StoreError> {
    Ok(sqlx::query_as!(
        Client,
        r#"
        INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (name) DO UPDATE
        SET api_key_hash = excluded.api_key_hash, callback_url = excluded.callback_url,
            signing_secret = excluded.signing_secret, updated_at = now(), disabled_at = NULL
        RETURNING id, name, callback_url, created_at, disabled_at
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
    )
    .fetch_one(executor)
    .await?)
}

/// All clients, by name.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<Client>, StoreError> {
    Ok(sqlx::query_as!(
        Client,
        "SELECT id, name, callback_url, created_at, disabled_at FROM clients ORDER BY name"
    )
    .fetch_all(executor)
    .await?)
}

/// Replaces the API key; tells whether the client exists.
pub async fn rotate_key(
    executor: impl PgExecutor<'_>,
    name: &str,
    api_key_hash: &[u8],
) -> Result<bool, StoreError> {
    let rotated = sqlx::query!(
        "UPDATE clients SET api_key_hash = $2, updated_at = now() WHERE name = $1",
        name,
        api_key_hash
    )
    .execute(executor)
    .await?;
    Ok(rotated.rows_affected() > 0)
}

/// Refuses the client's API key from now on; tells whether the client exists.
pub async fn disable(executor: impl PgExecutor<'_>, name: &str) -> Result<bool, StoreError> {
    let disabled = sqlx::query!(
        r#"
        UPDATE clients SET disabled_at = COALESCE(disabled_at, now()), updated_at = now()
        WHERE name = $1
        "#,
        name
    )
    .execute(executor)
    .await?;
    Ok(disabled.rows_affected() > 0)
}

/// The enabled client whose API key has this hash.
pub async fn find_by_api_key_hash(
    executor: impl PgExecutor<'_>,
    api_key_hash: &[u8],
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT id FROM clients WHERE api_key_hash = $1 AND disabled_at IS NULL",
        api_key_hash
    )
    .fetch_optional(executor)
    .await?)
}

/// The client of this name, enabled or not.
pub async fn find_by_name(
    executor: impl PgExecutor<'_>,
    name: &str,
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT id FROM clients WHERE name = $1", name)
        .fetch_optional(executor)
        .await?)
}

/// Where to tell clients; a disabled client is still told about what was accepted.
pub async fn callbacks(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Callback>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, callback_url, signing_secret FROM clients WHERE id = ANY ($1::uuid[])",
        ids
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.id, Callback { url: row.callback_url, signing_secret: row.signing_secret }))
        .collect())
}
