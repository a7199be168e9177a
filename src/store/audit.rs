//! The audit of operators' actions, `operator_actions`: who did what, when and why.
//!
//! An action is recorded in the SQL transaction that it takes place in: one that failed or was
//! refused leaves nothing, one that took place is never missing. [`OperatorAction::Reconcile`] is
//! many transactions: it is recorded before the first of them, and the evidence says what each did.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    Database, StoreError,
    evidence::{self, NewEvidence},
    postgres::columns::{AnyJson, Column, Time, readable},
};
use crate::domain::{EvidenceKind, string_enum};

string_enum! {
    /// What an operator did.
    OperatorAction {
        Replay = "replay",
        Resolve = "resolve",
        Discard = "discard",
        RetryJob = "retry_job",
        CancelJob = "cancel_job",
        PauseQueue = "pause_queue",
        ResumeQueue = "resume_queue",
        AddClient = "add_client",
        /// The configuration brought the default client up to date, at the start of a process; or
        /// an operator set a client's third parties.
        ConfigureClient = "configure_client",
        DisableClient = "disable_client",
        RotateClientKey = "rotate_client_key",
        RotateClientSecret = "rotate_client_secret",
        ResealSecrets = "reseal_secrets",
        Reconcile = "reconcile",
    }
}

/// Who acts, and why.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// As it is written into the audit, the evidence and `closed_by`.
    pub operator: &'a str,
    pub note: Option<&'a str>,
}

/// What an action was about.
#[derive(Debug, Clone, Default)]
pub struct AuditTarget<'a> {
    pub transaction_id: Option<Uuid>,
    pub dead_letter_id: Option<Uuid>,
    pub job_id: Option<&'a str>,
    pub queue: Option<&'a str>,
    /// What changed.
    pub detail: Map<String, Value>,
}

/// A row of `operator_actions`.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub operator: String,
    pub action: OperatorAction,
    pub transaction_id: Option<Uuid>,
    pub dead_letter_id: Option<Uuid>,
    pub job_id: Option<String>,
    pub queue: Option<String>,
    pub note: Option<String>,
    pub detail: Value,
}

/// A row as it is stored.
struct StoredAction {
    id: i64,
    at: DateTime<Utc>,
    operator: String,
    action: Column<OperatorAction>,
    transaction_id: Option<Uuid>,
    dead_letter_id: Option<Uuid>,
    job_id: Option<String>,
    queue: Option<String>,
    note: Option<String>,
    detail: Value,
}

impl StoredAction {
    fn read(self) -> Result<Recorded, String> {
        let id = self.id;
        Ok(Recorded {
            id,
            at: self.at,
            operator: self.operator,
            action: self.action.0.map_err(|why| format!("the operator's action {id}: {why}"))?,
            transaction_id: self.transaction_id,
            dead_letter_id: self.dead_letter_id,
            job_id: self.job_id,
            queue: self.queue,
            note: self.note,
            detail: self.detail,
        })
    }
}

/// Records an action, and adds it to the evidence of the transaction that it is about.
pub async fn record(
    conn: &mut PgConnection,
    actor: Actor<'_>,
    action: OperatorAction,
    target: AuditTarget<'_>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        INSERT INTO operator_actions
            (operator, action, transaction_id, dead_letter_id, job_id, queue, note, detail)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        "#,
        actor.operator,
        action.as_str(),
        target.transaction_id,
        target.dead_letter_id,
        target.job_id,
        target.queue,
        actor.note,
        Value::Object(target.detail.clone()),
    )
    .execute(&mut *conn)
    .await?;
    let Some(transaction_id) = target.transaction_id else { return Ok(()) };
    let mut detail = target.detail;
    detail.insert("action".to_owned(), action.as_str().into());
    detail.insert("operator".to_owned(), actor.operator.into());
    detail.insert("note".to_owned(), actor.note.into());
    if let Some(id) = target.dead_letter_id {
        detail.insert("dead_letter_id".to_owned(), id.to_string().into());
    }
    if let Some(queue) = target.queue {
        detail.insert("queue".to_owned(), queue.into());
    }
    let acted = NewEvidence {
        kind: EvidenceKind::Operator,
        source: "operator",
        detail: Value::Object(detail),
    };
    evidence::append(conn, transaction_id, &acted).await
}

/// Records an action on a client. The detail holds neither key nor secret.
pub async fn record_client(
    conn: &mut PgConnection,
    actor: Actor<'_>,
    action: OperatorAction,
    client: &str,
    mut detail: Map<String, Value>,
) -> Result<(), StoreError> {
    detail.insert("client".to_owned(), client.into());
    record(conn, actor, action, AuditTarget { detail, ..AuditTarget::default() }).await
}

/// Records an action of many steps, before the first of them.
pub async fn record_begin(
    pool: &Database,
    actor: Actor<'_>,
    action: OperatorAction,
    detail: Map<String, Value>,
) -> Result<(), StoreError> {
    let mut tx = super::begin(pool).await?;
    record(&mut tx, actor, action, AuditTarget { detail, ..AuditTarget::default() }).await?;
    Ok(tx.commit().await?)
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    pub dead_letter_id: Option<Uuid>,
    pub transaction_id: Option<Uuid>,
    /// Only those before this one: the last id of the page before.
    pub before: Option<i64>,
}

/// The columns of [`Recorded`].
macro_rules! select_actions {
    ($rest:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            StoredAction,
            r#"
            SELECT
                id, at AS "at: Time", operator, action AS "action: Column<OperatorAction>",
                transaction_id, dead_letter_id, job_id, queue, note, detail AS "detail: AnyJson"
            FROM operator_actions
            "# + $rest,
            $($argument),+
        )
    };
}

/// Actions, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: Filter,
    limit: i64,
) -> Result<Vec<Recorded>, StoreError> {
    let before = filter.before.unwrap_or(i64::MAX);
    // A statement for each index: one for all filters would have one plan for all.
    let found = if let Some(dead_letter_id) = filter.dead_letter_id {
        select_actions!(
            r#"
            WHERE dead_letter_id = $1 AND ($2::uuid IS NULL OR transaction_id = $2) AND id < $3
            ORDER BY id DESC
            LIMIT $4
            "#,
            dead_letter_id,
            filter.transaction_id,
            before,
            limit,
        )
        .fetch_all(executor)
        .await?
    } else if let Some(transaction_id) = filter.transaction_id {
        select_actions!(
            "WHERE transaction_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
            transaction_id,
            before,
            limit,
        )
        .fetch_all(executor)
        .await?
    } else {
        select_actions!("WHERE id < $1 ORDER BY id DESC LIMIT $2", before, limit)
            .fetch_all(executor)
            .await?
    };
    Ok(readable(found, StoredAction::read))
}
