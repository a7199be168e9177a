//! Webhooks of a third party with a profile: whose transactions they are about, those that wait for
//! the third party's id (`waiting_webhooks`).
//!
//! What settles goes through [`super::webhooks`], as every webhook does.
//!
//! A webhook that names the third party's id alone may come before the create's answer is recorded.
//! It is kept in a row, so that a crash loses nothing, until a transaction has the id; then it is
//! applied and its row removed. Applying it twice is harmless: its id is in `webhook_deliveries`.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    StoreError,
    postgres::columns::{AnyJson, Column},
};
use crate::domain::{DeadLetterKind, ReportedStatus};

/// Most that are given up by one statement.
const GIVEN_UP_AT_ONCE: i64 = 500;

/// The transactions that the third party knows by these ids of its own.
pub async fn ids_of(
    executor: impl PgExecutor<'_>,
    third_party: &str,
    provider_ids: &[String],
) -> Result<HashMap<String, Uuid>, StoreError> {
    if provider_ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query!(
        r#"
        SELECT provider_id AS "provider_id!", id FROM transactions
        WHERE third_party = $1 AND provider_id = ANY ($2::text[])
        "#,
        third_party,
        provider_ids,
    )
    .fetch_all(executor)
    .await?;
    Ok(found.into_iter().map(|row| (row.provider_id, row.id)).collect())
}

/// A verified webhook about a third party's id that no transaction has yet.
#[derive(Debug, Clone)]
pub struct WaitingWebhook {
    /// 1 to 255 characters.
    pub webhook_id: String,
    pub third_party: String,
    /// The name of the profile that it was read by.
    pub profile: String,
    pub provider_id: String,
    /// `Pending` where there is only something to look up, and where nothing is proved.
    pub status: ReportedStatus,
    /// What of the profile decided that.
    pub rule: String,
    /// What else it says, a JSON array for the caller.
    pub claims: Value,
}

/// Keeps webhooks until their transactions are known. One that is kept already stays as it is.
pub async fn keep(
    executor: impl PgExecutor<'_>,
    webhooks: &[WaitingWebhook],
) -> Result<(), StoreError> {
    if webhooks.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = webhooks.iter().map(|webhook| webhook.webhook_id.as_str()).collect();
    let third_parties: Vec<&str> =
        webhooks.iter().map(|webhook| webhook.third_party.as_str()).collect();
    let profiles: Vec<&str> = webhooks.iter().map(|webhook| webhook.profile.as_str()).collect();
    let provider_ids: Vec<&str> =
        webhooks.iter().map(|webhook| webhook.provider_id.as_str()).collect();
    let statuses: Vec<&str> = webhooks.iter().map(|webhook| webhook.status.as_str()).collect();
    let rules: Vec<&str> = webhooks.iter().map(|webhook| webhook.rule.as_str()).collect();
    let claims: Vec<Value> = webhooks.iter().map(|webhook| webhook.claims.clone()).collect();
    sqlx::query!(
        r#"
        INSERT INTO waiting_webhooks
            (webhook_id, third_party, profile, provider_id, status, rule, claims)
        SELECT *
        FROM unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[]
        ) AS waiting (webhook_id, third_party, profile, provider_id, status, rule, claims)
        -- In one order, so that two bodies with the same events wait for each other.
        ORDER BY webhook_id
        ON CONFLICT (webhook_id) DO NOTHING
        "#,
        &ids as _,
        &third_parties as _,
        &profiles as _,
        &provider_ids as _,
        &statuses as _,
        &rules as _,
        &claims,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Waiting webhooks of this third party and profile whose transaction is known by now and whose next try is due,
/// oldest first.
pub async fn known(
    executor: impl PgExecutor<'_>,
    third_party: &str,
    profile: &str,
    limit: i64,
) -> Result<Vec<(WaitingWebhook, Uuid)>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT webhook_id, third_party, profile, provider_id, status AS "status: Column<ReportedStatus>",
            rule, claims AS "claims: AnyJson", known.id AS "transaction_id!"
        FROM waiting_webhooks AS waiting
        -- The limit keeps this a lookup by the index, one row after the other.
        CROSS JOIN LATERAL (
            SELECT id FROM transactions
            WHERE third_party = waiting.third_party AND provider_id = waiting.provider_id
            LIMIT 1
        ) AS known
        WHERE ended_at IS NULL AND profile = $1 AND waiting.third_party = $3
            AND next_try_at <= now()
        ORDER BY received_at, webhook_id
        LIMIT $2
        "#,
        profile,
        limit,
        third_party,
    )
    .fetch_all(executor)
    .await?;
    let webhooks = rows.into_iter().filter_map(|row| {
        // The table's check lets no other word in.
        let status = row.status.0.ok()?;
        let waiting = WaitingWebhook {
            webhook_id: row.webhook_id,
            third_party: row.third_party,
            profile: row.profile,
            provider_id: row.provider_id,
            status,
            rule: row.rule,
            claims: row.claims.into(),
        };
        Some((waiting, row.transaction_id))
    });
    Ok(webhooks.collect())
}

/// Removes a webhook that was applied.
pub async fn remove(executor: impl PgExecutor<'_>, webhook_id: &str) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM waiting_webhooks WHERE webhook_id = $1", webhook_id)
        .execute(executor)
        .await?;
    Ok(())
}

/// One that could not be applied is tried again after twice as long as before, up to four minutes:
/// meanwhile the others have their turn.
pub async fn try_later(executor: impl PgExecutor<'_>, webhook_id: &str) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE waiting_webhooks
        SET tries = LEAST(tries, 1000) + 1,
            next_try_at = now() + make_interval(secs => power(2, LEAST(tries, 8)))
        WHERE webhook_id = $1
        "#,
        webhook_id,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Gives up those that have waited for `wait`, or twice as long where a transaction has the id but
/// nobody has applied them; each with a final status becomes a dead letter. Forgets those that were
/// given up longer than `age` ago. A few hundred of each; returns how many dead letters there are
/// now for this.
pub async fn give_up(
    executor: impl PgExecutor<'_>,
    wait: Duration,
    age: Duration,
) -> Result<u64, StoreError> {
    let given_up = sqlx::query_scalar!(
        r#"
        WITH forgotten AS (
            DELETE FROM waiting_webhooks
            WHERE webhook_id = ANY (ARRAY(
                SELECT webhook_id FROM waiting_webhooks
                WHERE ended_at < now() - make_interval(secs => $2)
                ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED
            ))
        ), late AS MATERIALIZED (
            SELECT waiting.webhook_id, known.id AS transaction_id
            FROM waiting_webhooks AS waiting
            LEFT JOIN LATERAL (
                SELECT id FROM transactions
                WHERE third_party = waiting.third_party AND provider_id = waiting.provider_id
                LIMIT 1
            ) AS known ON true
            WHERE ended_at IS NULL AND received_at < now() - make_interval(secs => $1)
                AND (known.id IS NULL OR received_at < now() - 2 * make_interval(secs => $1))
            ORDER BY received_at LIMIT $3 FOR UPDATE OF waiting SKIP LOCKED
        ), ended AS (
            UPDATE waiting_webhooks AS waiting
            SET ended_at = now()
            FROM late
            WHERE waiting.webhook_id = late.webhook_id
            RETURNING waiting.*, late.transaction_id
        ), opened AS (
            INSERT INTO failed_jobs (kind, cause, reason, detail)
            SELECT $4,
                'unknown:' || third_party || ':' || provider_id || ':' || status,
                'a webhook of ' || third_party || ' reports ' || status || ' for its id '
                    || provider_id || CASE
                        WHEN transaction_id IS NULL THEN ', which no transaction here has ('
                        ELSE ', and could not be applied to ' || transaction_id::text || ' ('
                    END || rule || ')',
                jsonb_build_object(
                    'status', status, 'webhook_id', webhook_id, 'third_party', third_party,
                    'profile', profile, 'provider_id', provider_id, 'rule', rule,
                    'claims', claims
                )
            FROM ended
            -- The others only say that there is something to look up.
            WHERE status <> 'pending'
            ON CONFLICT (cause) WHERE state = 'open' DO NOTHING
            RETURNING id
        )
        SELECT count(*) AS "count!" FROM opened
        "#,
        wait.as_secs_f64(),
        age.as_secs_f64(),
        GIVEN_UP_AT_ONCE,
        DeadLetterKind::UnknownTransaction.as_str(),
    )
    .fetch_one(executor)
    .await?;
    Ok(given_up.unsigned_abs())
}

/// The transaction that has the third party's id in the detail of an `unknown_transaction`.
pub async fn named_by(
    executor: impl PgExecutor<'_>,
    detail: &Value,
) -> Result<Option<Uuid>, StoreError> {
    let text = |name: &str| detail[name].as_str();
    let (Some(third_party), Some(provider_id)) = (text("third_party"), text("provider_id")) else {
        return Ok(None);
    };
    let ids = ids_of(executor, third_party, &[provider_id.to_owned()]).await?;
    Ok(ids.into_values().next())
}

/// Has the webhook of an `unknown_transaction` wait again, where a transaction has its id by now;
/// tells whether one has. It is then compared and applied as it would have been.
pub(super) async fn wait_again(
    conn: &mut PgConnection,
    detail: &Value,
) -> Result<bool, StoreError> {
    let waits = sqlx::query!(
        r#"
        INSERT INTO waiting_webhooks AS known
            (webhook_id, third_party, profile, provider_id, status, rule, claims)
        SELECT detail ->> 'webhook_id', detail ->> 'third_party', detail ->> 'profile',
            detail ->> 'provider_id', detail ->> 'status', detail ->> 'rule', detail -> 'claims'
        FROM (SELECT $1::jsonb AS detail) AS letter
        WHERE EXISTS (
            SELECT FROM transactions
            WHERE third_party = detail ->> 'third_party' AND provider_id = detail ->> 'provider_id'
        )
        ON CONFLICT (webhook_id) DO UPDATE
        SET ended_at = NULL, received_at = now(), tries = 0, next_try_at = now()
        "#,
        detail,
    )
    .execute(conn)
    .await?;
    Ok(waits.rows_affected() > 0)
}
