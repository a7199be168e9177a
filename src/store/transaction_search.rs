//! Finding transactions by what an operator has of one: its id or the beginning of that, the third
//! party's id, or its reference.

use sqlx::PgExecutor;
use uuid::Uuid;

use super::{
    StoreError,
    postgres::columns::{Column, MaybeTime, Time},
    transaction_list::TransactionRow,
    transactions::Filter,
    wanted,
};
use crate::domain::{SettledBy, Status, ThirdPartyName};

/// References are looked for among this many of the newest transactions of each status: they have
/// no index.
pub const REFERENCES_SEARCHED: i64 = 10_000;
/// Most ids that a search goes on with.
const MAX_FOUND: i64 = 1_000;
/// A shorter text is not taken for the beginning of an id: too many begin with it.
const MIN_ID_DIGITS: usize = 4;
const ID_DIGITS: usize = 32;

/// The transactions whose id begins with this, or that have it as their id at one of these third
/// parties.
pub async fn by_id(
    executor: impl PgExecutor<'_>,
    sought: &str,
    third_parties: &[ThirdPartyName],
) -> Result<Vec<Uuid>, StoreError> {
    // Nothing lies between the last id and the first.
    let (first, last) = id_range(sought).unwrap_or((Uuid::max(), Uuid::nil()));
    let names: Vec<String> = third_parties.iter().map(ToString::to_string).collect();
    Ok(sqlx::query_scalar!(
        r#"
        SELECT id AS "id!" FROM (
            SELECT id FROM transactions WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT $5
        ) AS by_id
        UNION
        SELECT id FROM transactions WHERE third_party = ANY ($3) AND provider_id = $4
        "#,
        first,
        last,
        &names,
        sought,
        MAX_FOUND,
    )
    .fetch_all(executor)
    .await?)
}

/// Those of the newest transactions whose reference begins with this text, whatever its case.
pub async fn by_reference(
    executor: impl PgExecutor<'_>,
    sought: &str,
    status: Option<Status>,
) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"
        SELECT newest.id AS "id!"
        FROM unnest($1::text[]) AS wanted (status)
        CROSS JOIN LATERAL (
            SELECT id, reference, created_at FROM transactions
            WHERE status = wanted.status
            ORDER BY created_at DESC, id DESC
            LIMIT $3
        ) AS newest
        WHERE starts_with(lower(newest.reference), lower($2))
        ORDER BY newest.created_at DESC, newest.id DESC
        LIMIT $4
        "#,
        &wanted(status),
        sought,
        REFERENCES_SEARCHED,
        MAX_FOUND,
    )
    .fetch_all(executor)
    .await?)
}

/// Those of these transactions that the filter lets pass, newest first; of one client, or of all.
pub async fn rows(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
    client_id: Option<Uuid>,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<TransactionRow>, StoreError> {
    Ok(sqlx::query_as!(
        TransactionRow,
        r#"
        SELECT
            id AS "id!", client AS "client!", status AS "status!: Status",
            version AS "version!", notified_version AS "notified_version!", amount, currency,
            reference, created_at AS "created_at!: Time", settled_at AS "settled_at!: MaybeTime",
            settled_by AS "settled_by!: Column<Option<SettledBy>>",
            third_party AS "third_party!", provider_id
        FROM operator.transactions
        WHERE id = ANY ($1)
            AND client_id = COALESCE($2, client_id)
            AND status = COALESCE($3, status)
            AND third_party = COALESCE($4, third_party)
        ORDER BY created_at DESC, id DESC
        LIMIT $5
        "#,
        ids,
        client_id,
        filter.status.map(Status::as_str),
        filter.third_party.as_deref(),
        limit,
    )
    .fetch_all(executor)
    .await?)
}

/// The first and the last id that begin with these hexadecimal digits, with or without dashes.
fn id_range(sought: &str) -> Option<(Uuid, Uuid)> {
    if let Ok(id) = Uuid::try_parse(sought) {
        return Some((id, id));
    }
    let digits = sought.replace('-', "");
    if digits.len() < MIN_ID_DIGITS {
        return None;
    }
    let missing = ID_DIGITS.checked_sub(digits.len())?;
    let filled = |with: &str| Uuid::try_parse(&(digits.clone() + &with.repeat(missing))).ok();
    Some((filled("0")?, filled("f")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_a_range() {
        let range =
            |text: &str| id_range(text).map(|(first, last)| (first.to_string(), last.to_string()));
        let (first, last) = range("0195F3a2-7b").unwrap();
        assert_eq!(first, "0195f3a2-7b00-0000-0000-000000000000");
        assert_eq!(last, "0195f3a2-7bff-ffff-ffff-ffffffffffff");
        let whole = Uuid::now_v7();
        for text in [whole.to_string(), whole.simple().to_string(), format!("{{{whole}}}")] {
            assert_eq!(id_range(&text), Some((whole, whole)), "{text}");
        }
        for text in ["", "019", "Invoice 7", "0195-é", &"0".repeat(33)] {
            assert_eq!(range(text), None, "{text}");
        }
    }
}
