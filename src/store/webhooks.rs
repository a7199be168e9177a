//! Receiving a verified webhook, in one SQL transaction: remember its id, settle, wake the jobs.

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    dead_letters::{self, NewDeadLetter},
    evidence::{self, NewEvidence},
    settle, transactions,
};
use crate::domain::{
    DeadLetterKind, Decision, EvidenceKind, ReportedStatus, SettledBy, Status, words,
};

const SOURCE: &str = "webhook";

words! {
    /// What a webhook did.
    WebhookOutcome {
        Settled = "settled",
        Unchanged = "unchanged",
        Conflict = "conflict",
        UnknownTransaction = "unknown_transaction",
    }
}

impl From<Decision> for WebhookOutcome {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Settle => Self::Settled,
            Decision::Unchanged => Self::Unchanged,
            Decision::Conflict => Self::Conflict,
        }
    }
}

/// A webhook whose signature is good.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The `webhook-id` header, 1 to 255 characters.
    pub webhook_id: String,
    pub transaction_id: Uuid,
    pub status: ReportedStatus,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub outcome: WebhookOutcome,
    /// Whether this `webhook-id` came before; nothing was done then.
    pub duplicate: bool,
    /// How long after its accept the transaction was settled, where this webhook did.
    pub settled_after: Option<Duration>,
}

/// Receives a webhook. When this fails, nothing of it was written, and it may be sent again.
pub async fn receive(pool: &PgPool, webhook: &Webhook) -> Result<Received, StoreError> {
    let mut tx = super::begin(pool).await?;
    let transaction = transactions::lock(&mut tx, webhook.transaction_id).await?;
    let reported = Status::from(webhook.status);
    let outcome = match &transaction {
        Some(current) => current.status.decide(reported, SettledBy::Webhook).into(),
        None => WebhookOutcome::UnknownTransaction,
    };
    if !remember(&mut tx, webhook, outcome).await? {
        tx.rollback().await?;
        let outcome = first_outcome(pool, &webhook.webhook_id).await?;
        return Ok(Received { outcome, duplicate: true, settled_after: None });
    }
    let mut settled_after = None;
    match &transaction {
        Some(current) => {
            let received = NewEvidence {
                kind: EvidenceKind::Webhook,
                source: SOURCE,
                detail: json!({
                    "webhook_id": webhook.webhook_id,
                    "status": reported.as_str(),
                    "outcome": outcome.as_str(),
                }),
            };
            evidence::append(&mut *tx, current.id, &received).await?;
            let decision =
                settle::apply(&mut tx, current, reported, SettledBy::Webhook, SOURCE).await?;
            settled_after = (decision == Decision::Settle).then(|| current.age());
        }
        None => open_unknown(&mut tx, webhook).await?,
    }
    tx.commit().await?;
    Ok(Received { outcome, duplicate: false, settled_after })
}

/// Whether this `webhook-id` is new.
async fn remember(
    conn: &mut PgConnection,
    webhook: &Webhook,
    outcome: WebhookOutcome,
) -> Result<bool, StoreError> {
    let remembered = sqlx::query!(
        r#"
        INSERT INTO webhook_deliveries (webhook_id, transaction_id, status, outcome)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (webhook_id) DO NOTHING
        "#,
        webhook.webhook_id,
        webhook.transaction_id,
        webhook.status.as_str(),
        outcome.as_str(),
    )
    .execute(conn)
    .await?;
    Ok(remembered.rows_affected() > 0)
}

async fn first_outcome(pool: &PgPool, webhook_id: &str) -> Result<WebhookOutcome, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT outcome AS "outcome: WebhookOutcome" FROM webhook_deliveries WHERE webhook_id = $1"#,
        webhook_id
    )
    .fetch_one(pool)
    .await?)
}

async fn open_unknown(conn: &mut PgConnection, webhook: &Webhook) -> Result<(), StoreError> {
    let (id, status) = (webhook.transaction_id, webhook.status);
    dead_letters::open(
        conn,
        &NewDeadLetter {
            kind: DeadLetterKind::UnknownTransaction,
            cause: format!("unknown:{id}:{status}"),
            transaction_id: id,
            reason: format!("a webhook reports {status} for a transaction that is not here"),
            detail: json!({ "status": status.as_str(), "webhook_id": webhook.webhook_id }),
        },
        SOURCE,
    )
    .await?;
    Ok(())
}
