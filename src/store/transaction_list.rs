//! All clients' transactions, as operators see them.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{
    StoreError,
    postgres::columns::{Column, MaybeTime, Time},
    transactions::Filter,
    wanted,
};
use crate::domain::{DEFAULT_THIRD_PARTY, SettledBy, Status};

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
    pub created_at: Time,
    pub settled_at: Option<DateTime<Utc>>,
    pub settled_by: Option<SettledBy>,
    pub third_party: String,
    /// The third party's id.
    pub provider_id: Option<String>,
}

/// A page of transactions, newest first, of the ranges of an index, one for each status, under a
/// further condition. After those that are the same for all, its parameters start at $7.
macro_rules! select_page {
    ($filter:ident, $limit:ident, $condition:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            TransactionRow,
            r#"
            WITH settled AS MATERIALIZED (
                SELECT page.*
                FROM unnest($1::text[]) AS wanted (status)
                CROSS JOIN LATERAL (
                    SELECT * FROM operator.transactions
                    WHERE created_at >= COALESCE($2, '-infinity'::timestamptz)
                        -- Not `<`: one at infinity is in the list too.
                        AND created_at <= COALESCE(
                            $3::timestamptz - interval '1 us', 'infinity'::timestamptz
                        )
                        AND (created_at, id) < (COALESCE($4, 'infinity'::timestamptz), $5)
                        AND status = wanted.status AND "# + $condition + r#"
                    ORDER BY created_at DESC, id DESC
                    LIMIT $6
                ) AS page
                WHERE wanted.status <> 'pending'
                ORDER BY page.created_at DESC, page.id DESC
                LIMIT $6
            ), pending AS (
                SELECT * FROM operator.transactions
                WHERE created_at >= COALESCE($2, '-infinity'::timestamptz)
                    -- Not `<`: one at infinity is in the list too.
                    AND created_at <= COALESCE(
                        $3::timestamptz - interval '1 us', 'infinity'::timestamptz
                    )
                    AND (created_at, id) < (COALESCE($4, 'infinity'::timestamptz), $5)
                    AND status = 'pending' AND 'pending' = ANY ($1) AND "# + $condition + r#"
                    -- None that is older than a full page of the others stands on this page. Each
                    -- that was settled has left a dead entry: without this bound all of them would
                    -- be read.
                    AND created_at >= COALESCE(
                        (SELECT min(created_at) FROM settled HAVING count(*) >= $6), '-infinity'
                    )
                ORDER BY created_at DESC, id DESC
                LIMIT $6
            )
            SELECT
                id AS "id!", client AS "client!", status AS "status!: Status",
                version AS "version!", notified_version AS "notified_version!", amount, currency,
                reference, created_at AS "created_at!: Time",
                settled_at AS "settled_at!: MaybeTime",
                settled_by AS "settled_by!: Column<Option<SettledBy>>",
                third_party AS "third_party!", provider_id
            FROM (SELECT * FROM settled UNION ALL SELECT * FROM pending) AS page
            ORDER BY created_at DESC, id DESC
            LIMIT $6
            "#,
            &wanted($filter.status),
            $filter.created_after,
            $filter.created_before,
            $filter.cursor.map(|cursor| cursor.at) as _,
            $filter.cursor.map_or(Uuid::max(), |cursor| cursor.id),
            $limit
            $(, $argument)*
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
    // A statement for each index: one for all would have one plan for all.
    let third_party = filter.third_party.as_deref();
    Ok(match (client_id, third_party) {
        (Some(client_id), _) => {
            let condition = select_page!(
                filter,
                limit,
                "client_id = $7 AND third_party = COALESCE($8, third_party)",
                client_id,
                third_party
            );
            condition.fetch_all(executor).await?
        }
        (None, None) => select_page!(filter, limit, "true").fetch_all(executor).await?,
        // Most are of this one: the index by status finds them.
        (None, Some(DEFAULT_THIRD_PARTY)) => {
            let of_default = select_page!(filter, limit, "third_party = 'third-party'");
            of_default.fetch_all(executor).await?
        }
        (None, Some(third_party)) => {
            let of_other = select_page!(
                filter,
                limit,
                "third_party = $7 AND third_party <> 'third-party'",
                third_party
            );
            of_other.fetch_all(executor).await?
        }
    })
}
