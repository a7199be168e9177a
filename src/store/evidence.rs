//! The append-only evidence about transactions, `transaction_events`.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{
    StoreError,
    postgres::columns::{AnyJson, Column, Time, readable},
};
use crate::domain::EvidenceKind;

/// In the detail of a create that may have gone through: how long its worker waits before the next
/// try, in seconds. An operator's retry waits as long, whatever the settings there are.
pub const BACKOFF: &str = "backoff_s";

/// Something observed or decided, about to be written.
#[derive(Debug, Clone)]
pub struct NewEvidence {
    pub kind: EvidenceKind,
    /// Who saw or did it: `api`, `webhook`, `operator`, `lease`, `reconcile`, or a job's kind.
    pub source: &'static str,
    /// A JSON object.
    pub detail: Value,
}

/// A row of `transaction_events`.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub kind: EvidenceKind,
    pub source: String,
    pub detail: Value,
}

/// Appends one piece of evidence; nothing where the transaction does not exist.
pub async fn append(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    evidence: &NewEvidence,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT id, $2, $3, $4 FROM transactions WHERE id = $1
        "#,
        transaction_id,
        evidence.kind.as_str(),
        evidence.source,
        evidence.detail,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Everything known about a transaction, oldest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
) -> Result<Vec<Evidence>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT id, at AS "at: Time", kind AS "kind: Column<EvidenceKind>", source,
            detail AS "detail: AnyJson"
        FROM transaction_events
        WHERE transaction_id = $1
        ORDER BY id
        "#,
        transaction_id
    )
    .fetch_all(executor)
    .await?;
    Ok(readable(rows, |row| {
        let id = row.id;
        let kind = row.kind.0.map_err(|why| format!("the kind of evidence {id}: {why}"))?;
        let (at, detail) = (row.at.at(), row.detail.into());
        Ok(Evidence { id, at, kind, source: row.source, detail })
    }))
}

/// Whether a create may have reached the third party without an answer.
pub async fn has_ambiguous_create(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT FROM transaction_events WHERE transaction_id = $1 AND kind = 'create_ambiguous'
        ) AS "exists!"
        "#,
        transaction_id
    )
    .fetch_one(executor)
    .await?)
}
