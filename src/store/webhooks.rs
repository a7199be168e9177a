//! Receiving verified webhooks, in one SQL transaction: remember the id, settle, wake the jobs.
//! Those that wait together are received together (see [`super::postgres::coalesce`]).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    StoreError,
    dead_letters::{self, NewDeadLetter},
    direct_leases::{DirectLeases, HandOver},
    postgres::{
        batch::{BY_INDEX, Batch, Locked, gathering_pause, spread},
        columns::Time,
    },
    settle::{self, Settlement},
    transactions::{self, Transaction},
};
use crate::domain::{
    DeadLetterKind, Decision, EvidenceKind, ReportedStatus, SettledBy, Status, ThirdPartyName,
    string_enum,
};

const SOURCE: &str = "webhook";

string_enum! {
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

/// Says why a webhook is not about a transaction as the client posted it; `None`: it may be.
#[derive(Clone)]
pub struct Comparison(Arc<Contradicts>);

type Contradicts = dyn Fn(&Transaction) -> Option<String> + Send + Sync;

impl Comparison {
    pub fn new(
        contradiction: impl Fn(&Transaction) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(contradiction))
    }

    pub fn contradiction(&self, transaction: &Transaction) -> Option<String> {
        (self.0)(transaction)
    }
}

impl fmt::Debug for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Comparison")
    }
}

/// What else a webhook says, kept in the dead letter of one whose transaction is unknown: a replay
/// compares it.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The name of the profile that read it.
    pub profile: String,
    /// The third party's id, where it names that.
    pub provider_id: Option<String>,
    /// A JSON array for the caller.
    pub claims: Value,
}

/// A webhook whose signature is good.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The `webhook-id` header, 1 to 255 characters.
    pub webhook_id: String,
    /// Who sent it: it is about none of another third party's transactions.
    pub third_party: ThirdPartyName,
    pub transaction_id: Uuid,
    pub status: ReportedStatus,
    /// What of a profile decided the status.
    pub rule: Option<String>,
    /// What it says besides, for the operator who reads its dead letter.
    pub claims: String,
    /// The same, for the replay of that: while its transaction is unknown there is nothing to
    /// compare it with.
    pub compared: Option<Compared>,
    /// One with a final status that is not about the transaction settles nothing, and is an
    /// operator's.
    pub comparison: Option<Comparison>,
}

impl Webhook {
    /// ` (rule)`, with more behind the rule; empty without a profile.
    fn decided_by(&self, more: &str) -> String {
        self.rule.as_ref().map(|rule| format!(" ({rule}{more})")).unwrap_or_default()
    }

    /// What it does to a transaction of its third party.
    fn judge<'a>(&'a self, current: Option<&'a Transaction>) -> Judged<'a> {
        let status = Status::from(self.status);
        let contradiction = current
            .filter(|_| status.is_final())
            .zip(self.comparison.as_ref())
            .and_then(|(current, comparison)| comparison.contradiction(current));
        let outcome = match current {
            None => WebhookOutcome::UnknownTransaction,
            Some(_) if contradiction.is_some() => WebhookOutcome::Conflict,
            Some(current) => current.decide(status, SettledBy::Webhook).into(),
        };
        Judged { webhook: self, current, outcome, contradiction }
    }
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub outcome: WebhookOutcome,
    /// Whether this `webhook-id` was received before; nothing was done then.
    pub duplicate: bool,
    /// When it was received, by the database's clock; what it made due is due since then.
    pub at: DateTime<Utc>,
    /// When the transaction was accepted, where this webhook settled it.
    pub settled_since: Option<DateTime<Utc>>,
    /// Whether the client's notification is leased to a worker of this process.
    pub is_leased: bool,
}

/// Receives webhooks. When this fails nothing of it was written, and they may be sent again; one
/// that was written, without its answer having come, is a duplicate then.
#[derive(Debug)]
pub struct Webhooks {
    /// This process's workers.
    pub direct_leases: DirectLeases,
}

impl Batch for Webhooks {
    type Request = Webhook;
    type Owner = ThirdPartyName;
    type Answer = Received;
    type AfterCommit = HandOver;

    const MAX_BATCH: usize = 200;
    const LIMIT: Duration = Duration::from_secs(15);
    const SESSION: &'static [(&'static str, &'static str)] = BY_INDEX;

    fn owner(webhook: &Webhook) -> ThirdPartyName {
        webhook.third_party.clone()
    }

    fn pause_after(&self, requests: usize, took: Duration) -> Duration {
        gathering_pause(requests, took)
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        webhooks: &[Webhook],
        locked: Locked,
        after: &mut HandOver,
    ) -> Result<Vec<Option<Received>>, StoreError> {
        let (mut transactions, mut webhook_ids) = (HashSet::new(), HashSet::new());
        let taken: Vec<usize> = (0..webhooks.len())
            .filter(|index| {
                let webhook = &webhooks[*index];
                transactions.insert(webhook.transaction_id)
                    && webhook_ids.insert(webhook.webhook_id.as_str())
            })
            .collect();
        let mut tx = conn.begin().await?;
        let batch = taken.iter().map(|index| &webhooks[*index]).collect();
        let received = self.receive(&mut tx, batch, locked, after).await?;
        tx.commit().await?;
        Ok(spread(webhooks, taken, received))
    }
}

impl Webhooks {
    /// Receives webhooks with different ids about different transactions.
    async fn receive(
        &self,
        conn: &mut PgConnection,
        webhooks: Vec<&Webhook>,
        locked: Locked,
        after: &mut HandOver,
    ) -> Result<Vec<Option<Received>>, StoreError> {
        let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.transaction_id).collect();
        let transactions = transactions::lock_all(conn, &ids, locked).await?;
        let is_taken = |webhook: &&Webhook| !transactions.is_skipped(webhook.transaction_id);
        let judged: Vec<_> = webhooks
            .iter()
            .copied()
            .filter(is_taken)
            .map(|webhook| {
                let current = transactions.get(webhook.transaction_id);
                webhook.judge(current.filter(|known| known.third_party == webhook.third_party))
            })
            .collect();
        let new = remember(conn, &judged).await?;

        let mut settlements = Vec::new();
        let mut received = HashMap::new();
        for judged in judged {
            let Judged { webhook, current, outcome, .. } = judged;
            let webhook_id = webhook.webhook_id.as_str();
            let Some(at) = new.get(webhook_id).copied() else {
                let (outcome, at) = first_outcome(&mut *conn, webhook_id).await?;
                let duplicate = Received {
                    outcome,
                    duplicate: true,
                    at,
                    settled_since: None,
                    is_leased: false,
                };
                received.insert(webhook_id, duplicate);
                continue;
            };
            let mut settled_since = None;
            match current {
                Some(current) => {
                    let status = Status::from(webhook.status);
                    match outcome {
                        WebhookOutcome::Conflict => match &judged.contradiction {
                            Some(why) => {
                                let rule = webhook.decided_by("");
                                let why = format!("{why}{rule}");
                                open_contradiction(conn, current, status, &why, SOURCE).await?;
                            }
                            None => {
                                let by = SettledBy::Webhook;
                                settle::open_conflict(conn, current, status, by, SOURCE).await?;
                            }
                        },
                        WebhookOutcome::Settled => {
                            settlements.push(Settlement {
                                current,
                                status,
                                by: SettledBy::Webhook,
                                source: SOURCE,
                            });
                            settled_since = Some(current.created_at.at());
                        }
                        _ => {}
                    }
                }
                None => {
                    let is_anothers = transactions.get(webhook.transaction_id).is_some();
                    open_unknown(&mut *conn, webhook, is_anothers).await?;
                }
            }
            let new = Received { outcome, duplicate: false, at, settled_since, is_leased: false };
            received.insert(webhook_id, new);
        }
        after.reserve(settle::reserve(&self.direct_leases, &settlements));
        let leased = settle::settle(conn, &settlements, after.reservation()).await?;
        for webhook in &webhooks {
            if let Some(received) = received.get_mut(webhook.webhook_id.as_str()) {
                received.is_leased =
                    received.settled_since.is_some() && leased.contains(&webhook.transaction_id);
            }
        }
        Ok(webhooks.iter().map(|webhook| received.remove(webhook.webhook_id.as_str())).collect())
    }
}

/// A webhook and what it does.
struct Judged<'a> {
    webhook: &'a Webhook,
    /// The transaction that it is about, where that exists.
    current: Option<&'a Transaction>,
    outcome: WebhookOutcome,
    /// Why it is not about the transaction as the client posted it.
    contradiction: Option<String>,
}

impl Judged<'_> {
    /// The detail of its evidence, where its transaction exists.
    fn evidence(&self) -> Option<Value> {
        self.current?;
        let mut detail = json!({
            "webhook_id": self.webhook.webhook_id,
            "status": self.webhook.status.as_str(),
            "outcome": self.outcome.as_str(),
        });
        if let Some(rule) = &self.webhook.rule {
            detail["rule"] = rule.as_str().into();
        }
        if let Some(why) = &self.contradiction {
            detail["contradiction"] = why.as_str().into();
        }
        Some(detail)
    }
}

/// Remembers those that are new, with the evidence of each about a transaction that exists. Returns
/// their ids, with the time of this SQL transaction.
async fn remember(
    conn: &mut PgConnection,
    judged: &[Judged<'_>],
) -> Result<HashMap<String, DateTime<Utc>>, StoreError> {
    let webhooks = judged.iter().map(|judged| judged.webhook);
    let ids: Vec<&str> = webhooks.clone().map(|webhook| webhook.webhook_id.as_str()).collect();
    let transactions: Vec<Uuid> = webhooks.clone().map(|webhook| webhook.transaction_id).collect();
    let statuses: Vec<&str> = webhooks.map(|webhook| webhook.status.as_str()).collect();
    let outcomes: Vec<&str> = judged.iter().map(|judged| judged.outcome.as_str()).collect();
    let details: Vec<Option<Value>> = judged.iter().map(Judged::evidence).collect();
    let remembered = sqlx::query!(
        r#"
        WITH received AS (
            SELECT *
            FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[])
                AS received (webhook_id, transaction_id, status, outcome, detail)
        ), remembered AS (
            INSERT INTO webhook_deliveries (webhook_id, transaction_id, status, outcome)
            SELECT webhook_id, transaction_id, status, outcome FROM received
            -- Batches that hold the same ids wait for each other in one order.
            ORDER BY received.webhook_id
            ON CONFLICT (webhook_id) DO NOTHING
            RETURNING webhook_id
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source, detail)
            SELECT received.transaction_id, $6, $7, received.detail
            FROM received
            JOIN remembered ON remembered.webhook_id = received.webhook_id
            WHERE received.detail IS NOT NULL
        )
        SELECT webhook_id, now() AS "at!: Time" FROM remembered
        "#,
        &ids as _,
        &transactions,
        &statuses as _,
        &outcomes as _,
        &details as _,
        EvidenceKind::Webhook.as_str(),
        SOURCE,
    )
    .fetch_all(conn)
    .await?;
    Ok(remembered.into_iter().map(|row| (row.webhook_id, row.at.at())).collect())
}

async fn first_outcome(
    conn: &mut PgConnection,
    webhook_id: &str,
) -> Result<(WebhookOutcome, DateTime<Utc>), StoreError> {
    let first = sqlx::query!(
        r#"
        SELECT outcome AS "outcome: WebhookOutcome", now() AS "at!: Time"
        FROM webhook_deliveries
        WHERE webhook_id = $1
        "#,
        webhook_id
    )
    .fetch_one(conn)
    .await?;
    Ok((first.outcome, first.at.at()))
}

/// Keeps a webhook that is not about the transaction for an operator; it changes nothing.
pub(super) async fn open_contradiction(
    conn: &mut PgConnection,
    current: &Transaction,
    reported: Status,
    why: &str,
    source: &'static str,
) -> Result<(), StoreError> {
    let id = current.id;
    let letter = NewDeadLetter {
        kind: DeadLetterKind::StatusConflict,
        cause: format!("contradiction:{id}:{reported}"),
        transaction_id: id,
        reason: format!(
            "a webhook reports {reported}, but is not about the transaction as it was posted, and \
             settles nothing: {why}"
        ),
        detail: json!({
            "status": current.status.as_str(),
            "reported": reported.as_str(),
            "reported_by": SettledBy::Webhook.as_str(),
            "contradiction": why,
        }),
    };
    settle::open_with_evidence(conn, letter, source).await
}

async fn open_unknown(
    conn: &mut PgConnection,
    webhook: &Webhook,
    is_anothers: bool,
) -> Result<(), StoreError> {
    let (id, status) = (webhook.transaction_id, webhook.status);
    let third_party = &webhook.third_party;
    let mut detail = json!({ "status": status.as_str(), "webhook_id": webhook.webhook_id });
    if !third_party.is_default() {
        detail["third_party"] = third_party.as_str().into();
    }
    // Also where it says nothing else: that differs from not knowing what it said.
    detail["claims"] = json!([]);
    if let Some(Compared { profile, provider_id, claims }) = &webhook.compared {
        detail["claims"] = claims.clone();
        detail["profile"] = profile.as_str().into();
        detail["provider_id"] = provider_id.as_deref().into();
    }
    let rule = webhook.decided_by(&webhook.claims);
    dead_letters::open(
        conn,
        &NewDeadLetter {
            kind: DeadLetterKind::UnknownTransaction,
            cause: match third_party.is_default() {
                true => format!("unknown:{id}:{status}"),
                false => format!("unknown:{third_party}:{id}:{status}"),
            },
            transaction_id: id,
            reason: match is_anothers {
                false => {
                    format!("a webhook reports {status} for a transaction that is not here{rule}")
                }
                true => format!(
                    "a webhook of {third_party} reports {status} for a transaction of another third \
                     party, and changes nothing{rule}"
                ),
            },
            detail,
        },
        SOURCE,
    )
    .await?;
    Ok(())
}
