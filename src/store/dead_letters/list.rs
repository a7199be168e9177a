//! Reading dead letters: one, a page, and how many are open.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{DeadLetter, StoredDeadLetter};
use crate::{
    domain::{DeadLetterKind, DeadLetterState},
    store::{
        StoreError,
        postgres::columns::{AnyJson, Column, MaybeJson, MaybeTime, Time, readable},
        transactions::Cursor,
        wanted,
    },
};

/// The columns of [`DeadLetter`].
macro_rules! select_dead_letters {
    ($($rest:literal)+, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            StoredDeadLetter,
            r#"
            SELECT
                failed_jobs.id, failed_jobs.kind AS "kind!: Column<DeadLetterKind>",
                failed_jobs.state AS "state!: Column<DeadLetterState>",
                failed_jobs.transaction_id, clients.name AS "client?", failed_jobs.job_id,
                failed_jobs.queue, failed_jobs.job AS "job!: MaybeJson", failed_jobs.reason,
                failed_jobs.detail AS "detail: AnyJson", failed_jobs.attempts AS "attempts: AnyJson",
                failed_jobs.opened_at AS "opened_at: Time",
                failed_jobs.closed_at AS "closed_at!: MaybeTime", failed_jobs.closed_by,
                failed_jobs.note
            "# $(+ $rest)+,
            $($argument),+
        )
    };
}

/// One dead letter.
pub async fn get(
    executor: impl PgExecutor<'_>,
    id: Uuid,
) -> Result<Option<DeadLetter>, StoreError> {
    let found = select_dead_letters!(
        r#"
        FROM failed_jobs
        LEFT JOIN clients ON clients.id = client_id
        WHERE failed_jobs.id = $1
        "#,
        id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(readable(found, StoredDeadLetter::read).pop())
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub kind: Option<DeadLetterKind>,
    pub state: Option<DeadLetterState>,
    pub transaction_id: Option<Uuid>,
    /// The client of the transaction.
    pub client_id: Option<Uuid>,
    /// At or after.
    pub opened_after: Option<DateTime<Utc>>,
    /// Before.
    pub opened_before: Option<DateTime<Utc>>,
    pub cursor: Option<Cursor>,
}

/// A page of dead letters, newest first, of the ranges of an index that have a condition. After
/// those that are the same for all, their parameters start at $6.
macro_rules! select_page {
    ($filter:ident, $limit:ident, $ranges:literal, $condition:literal, $($argument:expr),+) => {
        select_dead_letters!(
            $ranges
            r#"
            CROSS JOIN LATERAL (
                SELECT * FROM failed_jobs
                WHERE opened_at >= COALESCE($1, '-infinity'::timestamptz)
                    -- Not `<`: one at infinity is in the list too.
                    AND opened_at <= COALESCE($2::timestamptz - interval '1 us', 'infinity'::timestamptz)
                    AND (opened_at, id) < (COALESCE($3, 'infinity'::timestamptz), $4)
                    AND "#
            $condition
            r#"
                ORDER BY opened_at DESC, id DESC
                LIMIT $5
            ) AS failed_jobs
            LEFT JOIN clients ON clients.id = client_id
            ORDER BY opened_at DESC, failed_jobs.id DESC
            LIMIT $5
            "#,
            $filter.opened_after,
            $filter.opened_before,
            $filter.cursor.map(|cursor| cursor.at) as _,
            $filter.cursor.map_or(Uuid::max(), |cursor| cursor.id),
            $limit,
            $($argument),+
        )
    };
}

/// Dead letters, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<DeadLetter>, StoreError> {
    let (kinds, states) = (wanted(filter.kind), wanted(filter.state));
    // A statement for each index: one for all filters would have one plan for all.
    let found = if let Some(transaction_id) = filter.transaction_id {
        select_page!(
            filter,
            limit,
            "FROM unnest($6::text[]) AS states (state)",
            r#"transaction_id = $7 AND state = states.state AND kind = ANY ($8::text[])
                    AND ($9::uuid IS NULL OR client_id = $9)"#,
            &states,
            transaction_id,
            &kinds,
            filter.client_id
        )
        .fetch_all(executor)
        .await?
    } else if let Some(client_id) = filter.client_id {
        select_page!(
            filter,
            limit,
            "FROM unnest($6::text[]) AS states (state)",
            "client_id = $7 AND state = states.state AND kind = ANY ($8::text[])",
            &states,
            client_id,
            &kinds
        )
        .fetch_all(executor)
        .await?
    } else {
        select_page!(
            filter,
            limit,
            "FROM unnest($6::text[]) AS states (state) CROSS JOIN unnest($7::text[]) AS kinds (kind)",
            "state = states.state AND kind = kinds.kind",
            &states,
            &kinds
        )
        .fetch_all(executor)
        .await?
    };
    Ok(readable(found, StoredDeadLetter::read))
}

/// How many open dead letters match, and the ids of the first of them, oldest first: what a bulk
/// replay works off.
pub async fn open_ids(
    executor: impl PgExecutor<'_>,
    filter: &Filter,
    limit: i64,
) -> Result<(usize, Vec<Uuid>), StoreError> {
    let found = sqlx::query!(
        r#"
        WITH matching AS NOT MATERIALIZED (
            SELECT id, opened_at
            FROM failed_jobs
            WHERE state = 'open'
                AND ($1::text IS NULL OR kind = $1)
                AND ($2::uuid IS NULL OR client_id = $2)
                AND opened_at <= COALESCE($3::timestamptz - interval '1 us', 'infinity'::timestamptz)
        )
        SELECT id, (SELECT count(*) FROM matching) AS "matched!"
        FROM matching
        ORDER BY opened_at, id
        LIMIT $4
        "#,
        filter.kind.map(DeadLetterKind::as_str),
        filter.client_id,
        filter.opened_before,
        limit,
    )
    .fetch_all(executor)
    .await?;
    let matched = found.first().map_or(0, |row| usize::try_from(row.matched).unwrap_or_default());
    Ok((matched, found.into_iter().map(|row| row.id).collect()))
}

/// How many dead letters of a kind are open.
#[derive(Debug, Clone)]
pub struct OpenCount {
    pub kind: DeadLetterKind,
    pub count: i64,
    pub oldest_opened_at: DateTime<Utc>,
}

/// The open dead letters by kind; kinds without any are left out.
pub async fn count_open(executor: impl PgExecutor<'_>) -> Result<Vec<OpenCount>, StoreError> {
    let counts = sqlx::query!(
        r#"
        SELECT
            kind AS "kind: Column<DeadLetterKind>", count(*) AS "count!",
            min(opened_at) AS "oldest_opened_at!: Time"
        FROM failed_jobs
        WHERE state = 'open'
        GROUP BY kind
        ORDER BY kind
        "#
    )
    .fetch_all(executor)
    .await?;
    Ok(readable(counts, |row| {
        let oldest_opened_at = row.oldest_opened_at.at();
        Ok(OpenCount { kind: row.kind.0?, count: row.count, oldest_opened_at })
    }))
}
