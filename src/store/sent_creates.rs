//! Creates that may have gone through, `sent_creates`, and the third party's ids of transactions.
//!
//! A create is recorded before it is sent. After a crash between the two, the record names a create
//! that was never sent. That is safe: it is repeated byte for byte, or an operator decides.
//!
//! The third party's id is a fact and not an outcome of a job: it is written as soon as an answer
//! names it, whether the job still holds its lease or not.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{StoreError, postgres::columns::Time};
use crate::domain::third_party::other_provider_id;

/// The index that keeps a third party's id to one transaction.
const ONE_TRANSACTION: &str = "transactions_provider_id_key";

/// The creates of one transaction so far that may have gone through.
#[derive(Debug, Clone)]
pub struct SentCreates {
    /// How long ago the first one was sent.
    pub since_first: Duration,
    /// How long ago the last one was sent.
    pub since_last: Duration,
    /// The first request, sealed; `None` where it is not repeated any more.
    pub request: Option<String>,
}

/// What was noted about a transaction's creates.
pub async fn get(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
) -> Result<Option<SentCreates>, StoreError> {
    let found = sqlx::query!(
        r#"
        SELECT
            extract(epoch FROM statement_timestamp() - first_sent_at)::float8 AS "since_first!",
            extract(epoch FROM statement_timestamp() - last_sent_at)::float8 AS "since_last!",
            request
        FROM sent_creates
        WHERE transaction_id = $1
        "#,
        transaction_id,
    )
    .fetch_optional(executor)
    .await?;
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Ok(found.map(|row| SentCreates {
        since_first: seconds(row.since_first),
        since_last: seconds(row.since_last),
        request: row.request,
    }))
}

/// A create that was noted, and is about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct NotedCreate {
    pub sent_at: DateTime<Utc>,
    /// Whether it is the first one of its transaction.
    pub is_first: bool,
}

/// Notes that a create is about to be sent. `request` is kept where it is the first one, for as
/// long as it may be repeated.
pub async fn note(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    request: Option<&str>,
    repeat_within: Duration,
) -> Result<NotedCreate, StoreError> {
    let noted = sqlx::query!(
        r#"
        INSERT INTO sent_creates
            (transaction_id, first_sent_at, last_sent_at, repeat_until, request)
        VALUES (
            $1, statement_timestamp(), statement_timestamp(),
            statement_timestamp() + make_interval(secs => $3), $2
        )
        ON CONFLICT (transaction_id) DO UPDATE
        SET last_sent_at = GREATEST(sent_creates.first_sent_at, excluded.last_sent_at)
        -- A row that was there has an xmax. Its times may be the same, where the clock was set back.
        RETURNING last_sent_at AS "sent_at: Time", xmax = 0 AS "is_first!"
        "#,
        transaction_id,
        request,
        repeat_within.as_secs_f64(),
    )
    .fetch_one(executor)
    .await?;
    Ok(NotedCreate { sent_at: noted.sent_at.at(), is_first: noted.is_first })
}

/// Forgets a create that certainly did not go through, unless another one was noted as well.
pub async fn forget(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    noted: NotedCreate,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        DELETE FROM sent_creates
        WHERE transaction_id = $1 AND first_sent_at = $2 AND last_sent_at = $2
        "#,
        transaction_id,
        noted.sent_at,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What became of a third party's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LearnedId {
    /// It is the transaction's, now or since before.
    Known,
    /// The transaction has this other one.
    Other(String),
    /// Another transaction has it.
    Taken,
}

impl LearnedId {
    /// Why an event that names `provider_id` is not about the transaction.
    pub fn contradiction(&self, provider_id: &str) -> Option<String> {
        match self {
            Self::Known => None,
            Self::Other(known) => Some(other_provider_id(known, provider_id)),
            Self::Taken => Some(format!(
                "it names the third party's id {provider_id:?}, which is another transaction's"
            )),
        }
    }
}

/// Writes the third party's id of a transaction that has none yet. Its first create is then never
/// repeated: it is looked up by that id.
pub async fn learn_provider_id(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    provider_id: &str,
) -> Result<LearnedId, StoreError> {
    let found = sqlx::query!(
        r#"
        WITH learned AS (
            UPDATE transactions
            SET provider_id = $2
            WHERE id = $1 AND provider_id IS NULL AND NOT EXISTS (
                SELECT FROM transactions AS other
                WHERE other.third_party = transactions.third_party AND other.provider_id = $2
            )
            RETURNING id
        ), unsealed AS (
            UPDATE sent_creates SET request = NULL
            WHERE transaction_id = (SELECT id FROM learned) AND request IS NOT NULL
        )
        SELECT EXISTS (SELECT FROM learned) AS "is_new!", provider_id AS known
        FROM transactions
        WHERE id = $1
        "#,
        transaction_id,
        provider_id,
    )
    .fetch_optional(executor)
    .await
    .map_err(StoreError::from);
    match found {
        Ok(Some(row)) if row.is_new => Ok(LearnedId::Known),
        Ok(Some(row)) => Ok(match row.known {
            Some(known) if known == provider_id => LearnedId::Known,
            Some(known) => LearnedId::Other(known),
            None => LearnedId::Taken,
        }),
        // No transaction, nothing to know.
        Ok(None) => Ok(LearnedId::Known),
        Err(error) if error.constraint() == Some(ONE_TRANSACTION) => Ok(LearnedId::Taken),
        Err(error) => Err(error),
    }
}

/// Removes what no create needs any more, at most `limit` rows of each kind: sealed requests that
/// are too old to be repeated, and all about transactions that have ended at the third party or by
/// an operator. What failed here stays: an operator may have it created again. Returns how many
/// rows were changed.
pub async fn prune(executor: impl PgExecutor<'_>, limit: i64) -> Result<u64, StoreError> {
    let pruned = sqlx::query_scalar!(
        r#"
        WITH ended AS (
            DELETE FROM sent_creates
            WHERE transaction_id = ANY (ARRAY(
                SELECT transaction_id
                FROM sent_creates
                JOIN transactions ON id = transaction_id
                WHERE status IN ('completed', 'declined') OR settled_by = 'operator'
                LIMIT $1
            ))
            RETURNING transaction_id
        ), expired AS (
            UPDATE sent_creates SET request = NULL
            WHERE transaction_id = ANY (ARRAY(
                SELECT transaction_id
                FROM sent_creates
                WHERE request IS NOT NULL AND repeat_until < statement_timestamp()
                ORDER BY repeat_until
                LIMIT $1
            )) AND transaction_id <> ALL (ARRAY(SELECT transaction_id FROM ended))
            RETURNING transaction_id
        )
        SELECT (SELECT count(*) FROM ended) + (SELECT count(*) FROM expired) AS "count!"
        "#,
        limit,
    )
    .fetch_one(executor)
    .await?;
    Ok(pruned.unsigned_abs())
}
