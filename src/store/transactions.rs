//! The `transactions` table: reading, locking, writing what an accept has not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, types::Json};
use uuid::Uuid;

pub use super::postgres::columns::Unreadable;
use super::{
    StoreError,
    postgres::{
        batch::{BY_INDEX, Batch, Locked},
        columns::{Column, MaybeTime, Metadata, Time},
    },
    wanted,
};
use crate::domain::{
    Content, Decision, JobKind, NewTransaction, Route, SettledBy, Status, Subject, ThirdPartyName,
};

/// A row of `transactions`. There is one for each row, however strange: a value that cannot be read
/// stands as the nearest one that can, and is named in `unreadable`.
#[derive(Debug, Clone)]
pub struct Transaction {
    pub id: Uuid,
    pub client_id: Uuid,
    pub content_hash: Vec<u8>,
    pub amount: Option<i64>,
    pub currency: Option<String>,
    pub reference: Option<String>,
    pub metadata: Option<Json<BTreeMap<String, String>>>,
    pub status: Status,
    pub version: i32,
    pub notified_version: i32,
    pub settled_at: Option<DateTime<Utc>>,
    pub settled_by: Option<SettledBy>,
    pub created_at: Time,
    pub updated_at: DateTime<Utc>,
    /// Where it is created.
    pub third_party: ThirdPartyName,
    /// The third party's id.
    pub provider_id: Option<String>,
    pub unreadable: Vec<Unreadable>,
}

impl Transaction {
    /// What a `reported` status does to it. One whose own status cannot be read is decided by an
    /// operator.
    pub fn decide(&self, reported: Status, by: SettledBy) -> Decision {
        match self.unreadable_among(&["status"]) {
            Some(_) if reported.is_final() => Decision::Conflict,
            Some(_) => Decision::Unchanged,
            None => self.status.decide(reported, by),
        }
    }

    /// The first of `columns` that cannot be read.
    pub fn unreadable_among(&self, columns: &[&str]) -> Option<&Unreadable> {
        self.unreadable.iter().find(|unreadable| columns.contains(&unreadable.column))
    }

    /// What the client posted, besides the id.
    pub fn content(&self) -> Content {
        Content {
            amount: self.amount,
            currency: self.currency.clone(),
            reference: self.reference.clone(),
            metadata: self.metadata.clone().map(|metadata| metadata.0),
        }
    }

    /// What a third party's profile says of it.
    pub fn subject(&self) -> Subject {
        Subject {
            content: self.content(),
            provider_id: self.provider_id.clone(),
            created_at: self.created_at.at(),
            since_create: None,
        }
    }

    /// The transaction as it was accepted.
    pub fn as_new(&self) -> NewTransaction {
        let content = self.content();
        let is_chosen = self.content_hash == content.hash_at(Some(&self.third_party));
        let route = Route { third_party: self.third_party.clone(), is_chosen };
        NewTransaction { id: self.id, client_id: self.client_id, content, route }
    }
}

/// A row as it is stored.
struct StoredTransaction {
    id: Uuid,
    client_id: Uuid,
    content_hash: Vec<u8>,
    amount: Option<i64>,
    currency: Option<String>,
    reference: Option<String>,
    metadata: Metadata,
    status: Column<Status>,
    version: i32,
    notified_version: i32,
    settled_at: Option<Time>,
    settled_by: Column<Option<SettledBy>>,
    created_at: Time,
    updated_at: Time,
    third_party: String,
    provider_id: Option<String>,
}

impl From<StoredTransaction> for Transaction {
    fn from(stored: StoredTransaction) -> Self {
        let mut unreadable = Vec::new();
        let mut note = |column, why| unreadable.push(Unreadable { column, why });
        let status = stored.status.0.unwrap_or_else(|why| {
            note("status", why);
            Status::Pending
        });
        let settled_by = stored.settled_by.0.unwrap_or_else(|why| {
            note("settled_by", why);
            None
        });
        if let Some(why) = stored.metadata.fault {
            note("metadata", why);
        }
        // No process can ever be configured to have it.
        if let Err(why) = ThirdPartyName::check(&stored.third_party) {
            note("third_party", why);
        }
        let times = [
            ("created_at", Some(stored.created_at)),
            ("updated_at", Some(stored.updated_at)),
            ("settled_at", stored.settled_at),
        ];
        for (column, time) in times {
            if time.is_some_and(|time| !time.is_in_range()) {
                note(column, "is infinite or beyond the years 1 to 9999".to_owned());
            }
        }
        Self {
            id: stored.id,
            client_id: stored.client_id,
            content_hash: stored.content_hash,
            amount: stored.amount,
            currency: stored.currency,
            reference: stored.reference,
            metadata: stored.metadata.pairs.map(Json),
            status,
            version: stored.version,
            notified_version: stored.notified_version,
            settled_at: stored.settled_at.map(Time::at),
            settled_by,
            created_at: stored.created_at,
            updated_at: stored.updated_at.at(),
            third_party: stored.third_party.into(),
            provider_id: stored.provider_id,
            unreadable,
        }
    }
}

/// Writes the transaction if it does not exist (the create_transaction job); returns whether
/// it did.
pub async fn insert_if_absent(
    executor: impl PgExecutor<'_>,
    new: &NewTransaction,
) -> Result<bool, StoreError> {
    let content = &new.content;
    let inserted = sqlx::query!(
        r#"
        WITH accepted AS (
            INSERT INTO transactions
                (id, client_id, content_hash, amount, currency, reference, metadata, third_party)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $9)
            ON CONFLICT (id) DO NOTHING
            RETURNING id
        )
        INSERT INTO transaction_events (transaction_id, kind, source)
        SELECT id, 'accepted', $8 FROM accepted
        "#,
        new.id,
        new.client_id,
        &new.content_hash()[..],
        content.amount,
        content.currency,
        content.reference,
        content.metadata.as_ref().map(Json) as _,
        JobKind::CreateTransaction.as_str(),
        new.route.third_party.as_str(),
    )
    .execute(executor)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// One transaction.
pub async fn get(
    executor: impl PgExecutor<'_>,
    id: Uuid,
) -> Result<Option<Transaction>, StoreError> {
    Ok(get_all(executor, &[id]).await?.remove(&id))
}

/// Reads of one transaction each, for those who ask often.
#[derive(Debug)]
pub struct Reads;

impl Batch for Reads {
    type Request = Uuid;
    type Owner = ();
    type Answer = Option<Transaction>;
    type AfterCommit = ();

    const MAX_BATCH: usize = 500;
    // A job that reads can wait for its next run.
    const MAX_WAIT: Duration = Duration::from_secs(2);
    const SESSION: &'static [(&'static str, &'static str)] = BY_INDEX;

    fn owner(_: &Uuid) {}

    async fn run(
        &self,
        conn: &mut PgConnection,
        ids: &[Uuid],
        _: Locked,
        _: &mut Self::AfterCommit,
    ) -> Result<Vec<Option<Option<Transaction>>>, StoreError> {
        let found = get_all(conn, ids).await?;
        Ok(ids.iter().map(|id| Some(found.get(id).cloned())).collect())
    }
}

/// Locked transactions.
#[derive(Debug, Default)]
pub(super) struct LockedTransactions {
    held: HashMap<Uuid, Transaction>,
    /// Those that somebody else has locked.
    skipped: HashSet<Uuid>,
}

impl LockedTransactions {
    /// The transaction; `None` where it does not exist or was skipped.
    pub fn get(&self, id: Uuid) -> Option<&Transaction> {
        self.held.get(&id)
    }

    /// Whether somebody else has locked it.
    pub fn is_skipped(&self, id: Uuid) -> bool {
        self.skipped.contains(&id)
    }
}

/// Those of `ids` that exist, locked as by [`lock`], in the order of their ids, as
/// everything that locks several does.
pub(super) async fn lock_all(
    conn: &mut PgConnection,
    ids: &[Uuid],
    locked: Locked,
) -> Result<LockedTransactions, StoreError> {
    if ids.is_empty() {
        return Ok(LockedTransactions::default());
    }
    let found = match locked {
        Locked::Wait => {
            sqlx::query_as!(
                StoredTransaction,
                r#"
            SELECT
                id, client_id, content_hash, amount, currency, reference,
                metadata AS "metadata!: Metadata",
                status AS "status!: Column<Status>", version, notified_version,
                settled_at AS "settled_at!: MaybeTime",
                settled_by AS "settled_by!: Column<Option<SettledBy>>",
                created_at AS "created_at: Time", updated_at AS "updated_at: Time",
                third_party, provider_id
            FROM transactions
            WHERE id = ANY ($1::uuid[])
            ORDER BY id
            -- Not FOR UPDATE: evidence is written beside it under a foreign key.
            FOR NO KEY UPDATE
            "#,
                ids
            )
            .fetch_all(&mut *conn)
            .await?
        }
        Locked::Skip => {
            sqlx::query_as!(
                StoredTransaction,
                r#"
            SELECT
                id, client_id, content_hash, amount, currency, reference,
                metadata AS "metadata!: Metadata",
                status AS "status!: Column<Status>", version, notified_version,
                settled_at AS "settled_at!: MaybeTime",
                settled_by AS "settled_by!: Column<Option<SettledBy>>",
                created_at AS "created_at: Time", updated_at AS "updated_at: Time",
                third_party, provider_id
            FROM transactions
            WHERE id = ANY ($1::uuid[])
            ORDER BY id
            FOR NO KEY UPDATE SKIP LOCKED
            "#,
                ids
            )
            .fetch_all(&mut *conn)
            .await?
        }
    };
    let held = by_id(found);
    let missing: Vec<Uuid> = ids.iter().copied().filter(|id| !held.contains_key(id)).collect();
    let skipped = match locked {
        Locked::Skip => get_all(conn, &missing).await?.into_keys().collect(),
        Locked::Wait => HashSet::new(),
    };
    Ok(LockedTransactions { held, skipped })
}

/// Those of `ids` that exist.
pub async fn get_all(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Transaction>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = sqlx::query_as!(
        StoredTransaction,
        r#"
        SELECT
            id, client_id, content_hash, amount, currency, reference,
            metadata AS "metadata!: Metadata",
            status AS "status!: Column<Status>", version, notified_version,
            settled_at AS "settled_at!: MaybeTime",
            settled_by AS "settled_by!: Column<Option<SettledBy>>",
            created_at AS "created_at: Time", updated_at AS "updated_at: Time",
            third_party, provider_id
        FROM transactions
        WHERE id = ANY ($1::uuid[])
        "#,
        ids
    )
    .fetch_all(executor)
    .await?;
    Ok(by_id(found))
}

fn by_id(found: Vec<StoredTransaction>) -> HashMap<Uuid, Transaction> {
    found.into_iter().map(|stored| (stored.id, stored.into())).collect()
}

/// One transaction, locked until the SQL transaction ends; code that decides about a status holds
/// this lock.
pub async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Option<Transaction>, StoreError> {
    Ok(lock_all(conn, &[id], Locked::Wait).await?.held.remove(&id))
}

/// Where a page of a list ends: the next one starts after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub at: Time,
    pub id: Uuid,
}

/// What a client's list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub status: Option<Status>,
    /// At or after.
    pub created_after: Option<DateTime<Utc>>,
    /// Before.
    pub created_before: Option<DateTime<Utc>>,
    pub third_party: Option<ThirdPartyName>,
    pub cursor: Option<Cursor>,
}

/// A client's transactions, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    client_id: Uuid,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Transaction>, StoreError> {
    let found = sqlx::query_as!(
        StoredTransaction,
        r#"
        WITH settled AS MATERIALIZED (
            SELECT page.*
            FROM unnest($2::text[]) AS wanted (status)
            CROSS JOIN LATERAL (
                SELECT * FROM transactions
                WHERE client_id = $1 AND status = wanted.status
                    AND created_at >= COALESCE($3, '-infinity'::timestamptz)
                    -- Not `<`: one at infinity is in the list too.
                    AND created_at <= COALESCE(
                        $4::timestamptz - interval '1 us', 'infinity'::timestamptz
                    )
                    -- Keyset: strictly after the last row of the page before, in the index's order.
                    AND (created_at, id) < (COALESCE($5, 'infinity'::timestamptz), $6)
                ORDER BY created_at DESC, id DESC
                LIMIT $7
            ) AS page
            WHERE wanted.status <> 'pending'
            ORDER BY page.created_at DESC, page.id DESC
            LIMIT $7
        ), pending AS (
            SELECT * FROM transactions
            WHERE client_id = $1 AND status = 'pending' AND 'pending' = ANY ($2)
                AND created_at >= COALESCE($3, '-infinity'::timestamptz)
                -- Not `<`: one at infinity is in the list too.
                AND created_at <= COALESCE(
                    $4::timestamptz - interval '1 us', 'infinity'::timestamptz
                )
                AND (created_at, id) < (COALESCE($5, 'infinity'::timestamptz), $6)
                -- None that is older than a full page of the others stands on this page. Each that
                -- was settled has left a dead entry: without this bound all of them would be read.
                AND created_at >= COALESCE(
                    (SELECT min(created_at) FROM settled HAVING count(*) >= $7), '-infinity'
                )
            ORDER BY created_at DESC, id DESC
            LIMIT $7
        )
        SELECT
            id AS "id!", client_id AS "client_id!", content_hash AS "content_hash!", amount,
            currency, reference, metadata AS "metadata!: Metadata",
            status AS "status!: Column<Status>", version AS "version!",
            notified_version AS "notified_version!", settled_at AS "settled_at!: MaybeTime",
            settled_by AS "settled_by!: Column<Option<SettledBy>>",
            created_at AS "created_at!: Time", updated_at AS "updated_at!: Time",
            third_party AS "third_party!", provider_id
        FROM (SELECT * FROM settled UNION ALL SELECT * FROM pending) AS page
        ORDER BY created_at DESC, id DESC
        LIMIT $7
        "#,
        client_id,
        &wanted(filter.status),
        filter.created_after,
        filter.created_before,
        filter.cursor.map(|cursor| cursor.at) as _,
        filter.cursor.map_or(Uuid::max(), |cursor| cursor.id),
        limit,
    )
    .fetch_all(executor)
    .await?;
    Ok(found.into_iter().map(Transaction::from).collect())
}
