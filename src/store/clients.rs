//! The client registry, `clients`.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};
use serde_json::Map;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    Database, StoreError,
    audit::{self, Actor, OperatorAction},
    postgres::columns::{MaybeTime, Time},
};

/// What is registered for a client.
#[derive(Debug, Clone)]
pub struct NewClient<'a> {
    pub name: &'a str,
    pub api_key_hash: &'a [u8],
    pub callback_url: &'a str,
    /// Sealed.
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
    /// Until when an API key is good that was rotated; `None` where only the present one is.
    pub old_key_until: Option<DateTime<Utc>>,
    /// Until when a signing secret signs that was rotated.
    pub old_secret_until: Option<DateTime<Utc>>,
}

/// Where and how a client is notified.
#[derive(Clone)]
pub struct Callback {
    /// The client's name.
    pub client: String,
    pub url: String,
    /// What signs, sealed: the present secret, then those that are retiring.
    pub signing_secrets: Vec<String>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Callback")
            .field("client", &self.client)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Adds a client. A name that is taken violates `clients_name_key`.
pub async fn add(
    pool: &Database,
    new: &NewClient<'_>,
    actor: Actor<'_>,
) -> Result<Uuid, StoreError> {
    let mut tx = super::begin(pool).await?;
    let id = sqlx::query_scalar!(
        r#"
        INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ($1, $2, $3, $4)
        RETURNING id
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
    )
    .fetch_one(&mut *tx)
    .await?;
    let detail = Map::from_iter([("callback_url".to_owned(), new.callback_url.into())]);
    audit::record_client(&mut tx, actor, OperatorAction::AddClient, new.name, detail).await?;
    tx.commit().await?;
    Ok(id)
}

/// Adds the client or brings it up to date, and enables it. What that changed of one that was there
/// goes into the audit; `is_same_secret` compares the signing secrets, which needs
/// the master keys, because each sealing looks different.
pub async fn upsert(
    pool: &Database,
    new: &NewClient<'_>,
    is_same_secret: impl Fn(&str) -> bool,
    actor: Actor<'_>,
) -> Result<(), StoreError> {
    let mut tx = super::begin(pool).await?;
    let added = sqlx::query!(
        r#"
        INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (name) DO NOTHING
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
    )
    .execute(&mut *tx)
    .await?;
    if added.rows_affected() == 0 {
        let changed = update(&mut tx, new, is_same_secret).await?;
        if !changed.is_empty() {
            let detail = Map::from_iter([
                ("changed".to_owned(), changed.into()),
                ("callback_url".to_owned(), new.callback_url.into()),
            ]);
            let action = OperatorAction::ConfigureClient;
            audit::record_client(&mut tx, actor, action, new.name, detail).await?;
        }
    }
    Ok(tx.commit().await?)
}

/// Brings a client that is there up to date, and enables it; returns what that changed.
async fn update(
    conn: &mut PgConnection,
    new: &NewClient<'_>,
    is_same_secret: impl Fn(&str) -> bool,
) -> Result<Vec<&'static str>, StoreError> {
    let before = sqlx::query!(
        r#"
        SELECT api_key_hash, callback_url, signing_secret,
            disabled_at IS NOT NULL AS "is_disabled!"
        FROM clients
        WHERE name = $1
        FOR NO KEY UPDATE
        "#,
        new.name
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query!(
        r#"
        UPDATE clients
        SET api_key_hash = $2, callback_url = $3, signing_secret = $4, updated_at = now(),
            disabled_at = NULL
        WHERE name = $1
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
    )
    .execute(conn)
    .await?;
    let differs = [
        ("api_key", before.api_key_hash != new.api_key_hash),
        ("callback_url", before.callback_url != new.callback_url),
        ("signing_secret", !is_same_secret(&before.signing_secret)),
        ("enabled", before.is_disabled),
    ];
    Ok(differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect())
}

/// All clients, by name.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<Client>, StoreError> {
    Ok(sqlx::query_as!(
        Client,
        r#"
        SELECT id, name, callback_url, created_at AS "created_at: Time",
            disabled_at AS "disabled_at!: MaybeTime",
            (
                SELECT max(valid_until) FROM client_retiring_keys
                WHERE client_id = clients.id AND valid_until > now()
            ) AS "old_key_until!: MaybeTime",
            (
                SELECT max(valid_until) FROM client_retiring_secrets
                WHERE client_id = clients.id AND valid_until > now()
            ) AS "old_secret_until!: MaybeTime"
        FROM clients
        ORDER BY name
        "#
    )
    .fetch_all(executor)
    .await?)
}

/// Refuses the client's API keys from now on; returns whether the client exists. Nothing changes
/// where they are refused already.
pub async fn disable(pool: &Database, name: &str, actor: Actor<'_>) -> Result<bool, StoreError> {
    let mut tx = super::begin(pool).await?;
    let disabled = sqlx::query!(
        r#"
        UPDATE clients SET disabled_at = now(), updated_at = now()
        WHERE name = $1 AND disabled_at IS NULL
        "#,
        name
    )
    .execute(&mut *tx)
    .await?;
    if disabled.rows_affected() == 0 {
        return Ok(find_by_name(&mut *tx, name).await?.is_some());
    }
    audit::record_client(&mut tx, actor, OperatorAction::DisableClient, name, Map::new()).await?;
    tx.commit().await?;
    Ok(true)
}

/// The enabled client whose API key, present or retiring, has this hash.
pub async fn find_by_api_key_hash(
    executor: impl PgExecutor<'_>,
    api_key_hash: &[u8],
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        SELECT id AS "id!" FROM clients WHERE api_key_hash = $1 AND disabled_at IS NULL
        UNION ALL
        -- Read only where the first one finds nothing.
        SELECT clients.id
        FROM client_retiring_keys AS retiring
        JOIN clients ON clients.id = retiring.client_id
        WHERE retiring.api_key_hash = $1 AND valid_until > now() AND disabled_at IS NULL
        LIMIT 1
        "#,
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

/// Where to notify clients; a disabled client is still notified of what was accepted.
pub async fn callbacks(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Callback>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT id, name, callback_url,
            signing_secret || ARRAY(
                SELECT retiring.signing_secret
                FROM client_retiring_secrets AS retiring
                WHERE client_id = clients.id AND valid_until > now()
                ORDER BY retiring.id DESC
            ) AS "signing_secrets!"
        FROM clients
        WHERE id = ANY ($1::uuid[])
        "#,
        ids
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let callback = Callback {
                client: row.name,
                url: row.callback_url,
                signing_secrets: row.signing_secrets,
            };
            (row.id, callback)
        })
        .collect())
}
