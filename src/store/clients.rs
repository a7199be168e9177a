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
use crate::domain::{ClientThirdParties, ThirdPartyName};

/// What is registered for a client.
#[derive(Debug, Clone)]
pub struct NewClient<'a> {
    pub name: &'a str,
    pub api_key_hash: &'a [u8],
    pub callback_url: &'a str,
    /// Sealed.
    pub signing_secret: &'a str,
    /// Its default third party; `None`: as it is, at first the one without a name.
    pub third_party: Option<&'a ThirdPartyName>,
    /// Those that it may name besides; `None`: as they are, at first none.
    pub other_third_parties: Option<&'a [ThirdPartyName]>,
}

impl NewClient<'_> {
    fn others(&self) -> Option<Vec<&str>> {
        let others = self.other_third_parties?;
        Some(others.iter().map(ThirdPartyName::as_str).collect())
    }
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
    /// Where its transactions go that name no third party.
    pub third_party: String,
    /// Those that they may name besides.
    pub other_third_parties: Vec<String>,
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
    let others = new.others();
    let mut tx = super::begin(pool).await?;
    let id = sqlx::query_scalar!(
        r#"
        INSERT INTO clients
            (name, api_key_hash, callback_url, signing_secret, third_party, other_third_parties)
        VALUES ($1, $2, $3, $4, COALESCE($5, 'third-party'), COALESCE($6::text[], '{}'))
        RETURNING id
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
        new.third_party.map(ThirdPartyName::as_str),
        others.as_deref() as Option<&[&str]>,
    )
    .fetch_one(&mut *tx)
    .await?;
    let detail = Map::from_iter([("callback_url".to_owned(), new.callback_url.into())]);
    audit::record_client(&mut tx, actor, OperatorAction::AddClient, new.name, detail).await?;
    tx.commit().await?;
    Ok(id)
}

/// Adds the client or brings it up to date; returns whether it is disabled. A disabled one is
/// enabled by another API key alone: the key that was disabled stays refused. What that changed of
/// one that was there goes into the audit; `is_same_secret` compares the signing secrets, which
/// needs the master keys, because each sealing looks different. The API key of another client
/// violates `clients_api_key_hash_key`.
pub async fn upsert(
    pool: &Database,
    new: &NewClient<'_>,
    is_same_secret: impl Fn(&str) -> bool,
    actor: Actor<'_>,
) -> Result<bool, StoreError> {
    let others = new.others();
    let mut tx = super::begin(pool).await?;
    let added = sqlx::query!(
        r#"
        INSERT INTO clients
            (name, api_key_hash, callback_url, signing_secret, third_party, other_third_parties)
        VALUES ($1, $2, $3, $4, COALESCE($5, 'third-party'), COALESCE($6::text[], '{}'))
        ON CONFLICT (name) DO NOTHING
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
        new.third_party.map(ThirdPartyName::as_str),
        others.as_deref() as Option<&[&str]>,
    )
    .execute(&mut *tx)
    .await?;
    let (changed, is_disabled) = match added.rows_affected() {
        0 => update(&mut tx, new, is_same_secret).await?,
        _ => (Vec::new(), false),
    };
    if !changed.is_empty() {
        let detail = Map::from_iter([
            ("changed".to_owned(), changed.into()),
            ("callback_url".to_owned(), new.callback_url.into()),
        ]);
        let action = OperatorAction::ConfigureClient;
        audit::record_client(&mut tx, actor, action, new.name, detail).await?;
    }
    tx.commit().await?;
    Ok(is_disabled)
}

/// Brings a client that is there up to date; returns what that changed, and whether the client is
/// disabled.
async fn update(
    conn: &mut PgConnection,
    new: &NewClient<'_>,
    is_same_secret: impl Fn(&str) -> bool,
) -> Result<(Vec<&'static str>, bool), StoreError> {
    let before = sqlx::query!(
        r#"
        SELECT api_key_hash, callback_url, signing_secret, third_party, other_third_parties,
            disabled_at IS NOT NULL AS "is_disabled!"
        FROM clients
        WHERE name = $1
        FOR NO KEY UPDATE
        "#,
        new.name
    )
    .fetch_one(&mut *conn)
    .await?;
    let others = new.others();
    let is_disabled = sqlx::query_scalar!(
        r#"
        UPDATE clients
        SET api_key_hash = $2, callback_url = $3, signing_secret = $4, updated_at = now(),
            -- The key that was disabled enables nothing, however often it is configured.
            disabled_at = CASE WHEN api_key_hash = $2 THEN disabled_at END,
            third_party = COALESCE($5, third_party),
            other_third_parties = COALESCE($6::text[], other_third_parties)
        WHERE name = $1
        RETURNING disabled_at IS NOT NULL AS "is_disabled!"
        "#,
        new.name,
        new.api_key_hash,
        new.callback_url,
        new.signing_secret,
        new.third_party.map(ThirdPartyName::as_str),
        others.as_deref() as Option<&[&str]>,
    )
    .fetch_one(conn)
    .await?;
    let differs = [
        ("api_key", before.api_key_hash != new.api_key_hash),
        ("callback_url", before.callback_url != new.callback_url),
        ("signing_secret", !is_same_secret(&before.signing_secret)),
        ("enabled", before.is_disabled && !is_disabled),
        ("third_party", new.third_party.is_some_and(|name| *name.as_str() != before.third_party)),
        (
            "other_third_parties",
            new.others().is_some_and(|others| others != before.other_third_parties),
        ),
    ];
    let changed = differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what);
    Ok((changed.collect(), is_disabled))
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
            ) AS "old_secret_until!: MaybeTime",
            third_party, other_third_parties
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

/// What to change of the third parties that a client may use; `None` stays as it is registered.
#[derive(Debug, Clone, Default)]
pub struct ThirdPartiesChange {
    pub default: Option<ThirdPartyName>,
    pub allowed: Option<Vec<ThirdPartyName>>,
}

/// The third parties of a client, before a change and after it.
#[derive(Debug, Clone)]
pub struct ThirdPartiesChanged {
    pub before: ClientThirdParties,
    pub after: ClientThirdParties,
}

/// Changes the third parties that a client may use; `None` where there is no such client.
pub async fn set_third_parties(
    pool: &Database,
    name: &str,
    change: &ThirdPartiesChange,
    actor: Actor<'_>,
) -> Result<Option<ThirdPartiesChanged>, StoreError> {
    let mut tx = super::begin(pool).await?;
    let Some(before) = lock_third_parties(&mut tx, name).await? else { return Ok(None) };
    let after = ClientThirdParties {
        default: change.default.clone().unwrap_or_else(|| before.default.clone()),
        allowed: change.allowed.clone().unwrap_or_else(|| before.allowed.clone()),
    };
    if after == before {
        return Ok(Some(ThirdPartiesChanged { before, after }));
    }
    let others: Vec<&str> = after.allowed.iter().map(ThirdPartyName::as_str).collect();
    sqlx::query!(
        r#"
        UPDATE clients
        SET third_party = $2, other_third_parties = $3::text[], updated_at = now()
        WHERE name = $1
        "#,
        name,
        after.default.as_str(),
        &others as &[&str],
    )
    .execute(&mut *tx)
    .await?;
    let detail = Map::from_iter([
        ("changed".to_owned(), vec!["third_parties"].into()),
        ("third_party".to_owned(), after.default.as_str().into()),
        ("third_party_before".to_owned(), before.default.as_str().into()),
        ("other_third_parties".to_owned(), others.into()),
    ]);
    audit::record_client(&mut tx, actor, OperatorAction::ConfigureClient, name, detail).await?;
    tx.commit().await?;
    Ok(Some(ThirdPartiesChanged { before, after }))
}

async fn lock_third_parties(
    conn: &mut PgConnection,
    name: &str,
) -> Result<Option<ClientThirdParties>, StoreError> {
    let found = sqlx::query!(
        r#"
        SELECT third_party, other_third_parties FROM clients
        WHERE name = $1
        FOR NO KEY UPDATE
        "#,
        name,
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|row| ClientThirdParties::stored(row.third_party, row.other_third_parties)))
}

/// A client as its API key finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundClient {
    pub id: Uuid,
    pub third_parties: ClientThirdParties,
}

/// The enabled client whose API key, present or retiring, has this hash.
pub async fn find_by_api_key_hash(
    executor: impl PgExecutor<'_>,
    api_key_hash: &[u8],
) -> Result<Option<FoundClient>, StoreError> {
    let found = sqlx::query!(
        r#"
        SELECT id AS "id!", third_party AS "third_party!",
            other_third_parties AS "other_third_parties!"
        FROM clients WHERE api_key_hash = $1 AND disabled_at IS NULL
        UNION ALL
        -- Read only where the first one finds nothing.
        SELECT clients.id, third_party, other_third_parties
        FROM client_retiring_keys AS retiring
        JOIN clients ON clients.id = retiring.client_id
        WHERE retiring.api_key_hash = $1 AND valid_until > now() AND disabled_at IS NULL
        LIMIT 1
        "#,
        api_key_hash
    )
    .fetch_optional(executor)
    .await?;
    Ok(found.map(|row| FoundClient {
        id: row.id,
        third_parties: ClientThirdParties::stored(row.third_party, row.other_third_parties),
    }))
}

/// The name of the client, enabled or not, whose present API key has this hash.
pub async fn name_of_api_key(
    executor: impl PgExecutor<'_>,
    api_key_hash: &[u8],
) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT name FROM clients WHERE api_key_hash = $1", api_key_hash)
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
