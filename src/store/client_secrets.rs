//! Clients' keys and signing secrets in rotation: the present ones in `clients`, those that are
//! good for a while longer in `client_retiring_keys` and `client_retiring_secrets`.
//!
//! Secrets arrive here sealed and leave sealed; only code with the master keys opens them.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    Database, StoreError,
    audit::{self, Actor, AuditTarget, OperatorAction},
    postgres::columns::Time,
};

/// A signing secret as it is stored.
pub struct StoredSecret {
    /// The name of its client.
    pub client: String,
    pub signing_secret: String,
    pub place: Place,
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, place, .. } = self;
        f.debug_struct("StoredSecret")
            .field("client", client)
            .field("place", place)
            .finish_non_exhaustive()
    }
}

/// Where a secret is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The present one of this client.
    Present(Uuid),
    /// A row of `client_retiring_secrets`.
    Retiring(i64),
}

/// Replaces the API key of the client of this name. The old one, and those that were retiring
/// already, stay good: it for `overlap`, they for as long as they were; without an overlap all of
/// them end now. `None` where there is no such client, else until when the old one is good.
pub async fn rotate_key(
    pool: &Database,
    name: &str,
    api_key_hash: &[u8],
    overlap: Duration,
    actor: Actor<'_>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let mut tx = super::begin(pool).await?;
    let Some(old) = lock(&mut tx, name, overlap).await? else { return Ok(None) };
    let ends_all = overlap.is_zero();
    sqlx::query!(
        "DELETE FROM client_retiring_keys
        WHERE client_id = $1 AND ($2 OR valid_until <= now() OR api_key_hash = $3)",
        old.id,
        ends_all,
        old.api_key_hash
    )
    .execute(&mut *tx)
    .await?;
    if !ends_all {
        sqlx::query!(
            "INSERT INTO client_retiring_keys (api_key_hash, client_id, valid_until)
            VALUES ($1, $2, $3)",
            old.api_key_hash,
            old.id,
            old.valid_until
        )
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query!(
        "UPDATE clients SET api_key_hash = $2, updated_at = now() WHERE id = $1",
        old.id,
        api_key_hash
    )
    .execute(&mut *tx)
    .await?;
    let action = OperatorAction::RotateClientKey;
    audit::record_client(&mut tx, actor, action, name, ends(&old, overlap)).await?;
    tx.commit().await?;
    Ok(Some(old.valid_until))
}

/// Replaces the signing secret, sealed, as [`rotate_key`] does the key. Violates
/// `client_retiring_secrets_signing_secret_is_sealed` where the old one was never sealed.
pub async fn rotate_secret(
    pool: &Database,
    name: &str,
    signing_secret: &str,
    overlap: Duration,
    actor: Actor<'_>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let mut tx = super::begin(pool).await?;
    let Some(old) = lock(&mut tx, name, overlap).await? else { return Ok(None) };
    let ends_all = overlap.is_zero();
    sqlx::query!(
        "DELETE FROM client_retiring_secrets
        WHERE client_id = $1 AND ($2 OR valid_until <= now())",
        old.id,
        ends_all
    )
    .execute(&mut *tx)
    .await?;
    if !ends_all {
        sqlx::query!(
            "INSERT INTO client_retiring_secrets (client_id, signing_secret, valid_until)
            VALUES ($1, $2, $3)",
            old.id,
            old.signing_secret,
            old.valid_until
        )
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query!(
        "UPDATE clients SET signing_secret = $2, updated_at = now() WHERE id = $1",
        old.id,
        signing_secret
    )
    .execute(&mut *tx)
    .await?;
    let action = OperatorAction::RotateClientSecret;
    audit::record_client(&mut tx, actor, action, name, ends(&old, overlap)).await?;
    tx.commit().await?;
    Ok(Some(old.valid_until))
}

/// What a rotation replaces.
struct Old {
    id: Uuid,
    api_key_hash: Vec<u8>,
    signing_secret: String,
    /// Until when it is good, by the database's clock.
    valid_until: DateTime<Utc>,
}

/// Until when the old one is good, for the audit.
fn ends(old: &Old, overlap: Duration) -> Map<String, Value> {
    let until = (!overlap.is_zero()).then(|| old.valid_until.to_rfc3339());
    Map::from_iter([("old_until".to_owned(), until.into())])
}

/// Two rotations of a client come one after the other.
async fn lock(
    conn: &mut PgConnection,
    name: &str,
    overlap: Duration,
) -> Result<Option<Old>, StoreError> {
    Ok(sqlx::query_as!(
        Old,
        r#"
        SELECT id, api_key_hash, signing_secret,
            now() + make_interval(secs => $2) AS "valid_until!: Time"
        FROM clients
        WHERE name = $1
        FOR NO KEY UPDATE
        "#,
        name,
        overlap.as_secs_f64()
    )
    .fetch_optional(conn)
    .await?)
}

/// Removes keys and secrets whose overlap has ended.
pub async fn remove_ended(executor: impl PgExecutor<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH keys AS (DELETE FROM client_retiring_keys WHERE valid_until <= now())
        DELETE FROM client_retiring_secrets WHERE valid_until <= now()
        "#
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Every signing secret there is, by client.
pub async fn stored_secrets(
    executor: impl PgExecutor<'_>,
) -> Result<Vec<StoredSecret>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT id AS "client_id!", name AS "name!", signing_secret AS "signing_secret!",
            NULL::bigint AS retiring
        FROM clients
        UNION ALL
        SELECT clients.id, name, retiring.signing_secret, retiring.id
        FROM client_retiring_secrets AS retiring
        JOIN clients ON clients.id = retiring.client_id
        ORDER BY 2, 4 NULLS FIRST
        "#
    )
    .fetch_all(executor)
    .await?;
    let secrets = rows.into_iter().map(|row| StoredSecret {
        client: row.name,
        signing_secret: row.signing_secret,
        place: row.retiring.map_or(Place::Present(row.client_id), Place::Retiring),
    });
    Ok(secrets.collect())
}

/// Replaces each of these, which are in the order of [`stored_secrets`], as [`replace`] does: all
/// of them or none. Returns how many those were.
pub async fn reseal(
    pool: &Database,
    sealed_again: &[(&StoredSecret, String)],
    actor: Actor<'_>,
) -> Result<usize, StoreError> {
    let mut tx = super::begin(pool).await?;
    let mut resealed = 0;
    for (read, sealed) in sealed_again {
        resealed += usize::from(replace(&mut *tx, read, sealed).await?);
    }
    let detail = Map::from_iter([("resealed".to_owned(), resealed.into())]);
    let target = AuditTarget { detail, ..AuditTarget::default() };
    audit::record(&mut tx, actor, OperatorAction::ResealSecrets, target).await?;
    tx.commit().await?;
    Ok(resealed)
}

/// Puts the same secret, sealed again, in the place of what was read there. `false` where something
/// else has come into that place since.
pub async fn replace(
    executor: impl PgExecutor<'_>,
    read: &StoredSecret,
    sealed: &str,
) -> Result<bool, StoreError> {
    let replaced = match read.place {
        Place::Present(id) => {
            sqlx::query!(
                "UPDATE clients SET signing_secret = $3 WHERE id = $1 AND signing_secret = $2",
                id,
                read.signing_secret,
                sealed
            )
            .execute(executor)
            .await?
        }
        Place::Retiring(id) => {
            sqlx::query!(
                "UPDATE client_retiring_secrets SET signing_secret = $3
                WHERE id = $1 AND signing_secret = $2",
                id,
                read.signing_secret,
                sealed
            )
            .execute(executor)
            .await?
        }
    };
    Ok(replaced.rows_affected() > 0)
}
