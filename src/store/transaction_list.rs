//! All clients' transactions, as operators see them.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{StoreError, transactions::Filter, wanted};
use crate::domain::{SettledBy, Status};

/// A transaction in an operator's list.
#[derive(Debug, Clone)]
pub struct TransactionRow {
    pub id: Uuid,
    /// The client's name.
    pub client: String,
    pub status: Status,
    pub version: i32,
    pub notified_version: i32,
    pub amount: Option<i64>,
    pub currency: Option<String>,
    pub reference: Option<String>,
    pub created_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
    pub settled_by: Option<SettledBy>,
}

/// The columns of [`TransactionRow`], from `operator.transactions`.
macro_rules! select_transactions {
    ($rest:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            TransactionRow,
            r#"
            SELECT
                transactions.id AS "id!", transactions.client AS "client!",
                transactions.status AS "status!: Status", transactions.version AS "version!",
                transactions.notified_version AS "notified_version!", transactions.amount,
                transactions.currency, transactions.reference,
                transactions.created_at AS "created_at!", transactions.settled_at,
                transactions.settled_by AS "settled_by: SettledBy"
            "# + $rest,
            $($argument),+
        )
    };
}

/// Transactions, newest first; of one client, or of all.
pub async fn list(
    executor: impl PgExecutor<'_>,
    client_id: Option<Uuid>,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<TransactionRow>, StoreError> {
    let cursor_at = filter.cursor.map(|cursor| cursor.at);
    let cursor_id = filter.cursor.map_or(Uuid::max(), |cursor| cursor.id);
    let statuses = wanted(filter.status);
    if let Some(client_id) = client_id {
        return Ok(select_transactions!(
            r#"
            FROM unnest($2::text[]) AS wanted (status)
            CROSS JOIN LATERAL (
                SELECT * FROM operator.transactions
                WHERE client_id = $1 AND status = wanted.status
                    AND created_at >= COALESCE($3, '-infinity'::timestamptz)
                    AND created_at < COALESCE($4, 'infinity'::timestamptz)
                    AND (created_at, id) < (COALESCE($5, 'infinity'::timestamptz), $6)
                ORDER BY created_at DESC, id DESC
                LIMIT $7
            ) AS transactions
            ORDER BY transactions.created_at DESC, transactions.id DESC
            LIMIT $7
            "#,
            client_id,
            &statuses,
            filter.created_after,
            filter.created_before,
            cursor_at,
            cursor_id,
            limit,
        )
        .fetch_all(executor)
        .await?);
    }
    Ok(select_transactions!(
        r#"
        FROM unnest($1::text[]) AS wanted (status)
        CROSS JOIN LATERAL (
            SELECT * FROM operator.transactions
            WHERE status = wanted.status
                AND created_at >= COALESCE($2, '-infinity'::timestamptz)
                AND created_at < COALESCE($3, 'infinity'::timestamptz)
                AND (created_at, id) < (COALESCE($4, 'infinity'::timestamptz), $5)
            ORDER BY created_at DESC, id DESC
            LIMIT $6
        ) AS transactions
        ORDER BY transactions.created_at DESC, transactions.id DESC
        LIMIT $6
        "#,
        &statuses,
        filter.created_after,
        filter.created_before,
        cursor_at,
        cursor_id,
        limit,
    )
    .fetch_all(executor)
    .await?)
}
