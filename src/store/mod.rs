//! All SQL. One function a query, taking an executor, so that the caller chooses the transaction;
//! queries are checked against the schema when the project is built.
//!
//! Locks are always taken in one order, so that nothing deadlocks: a `transactions` row first
//! ([`transactions::lock`]), then rows of `apalis.jobs`, then dead letters. `FOR NO KEY UPDATE` is
//! enough for the transaction, and lets evidence (a foreign key to it) be written beside it.
//!
//! What comes often and together (accepts, webhooks, outcomes) is written together, by the writers
//! of [`postgres::coalesce`].
//!
//! A crash leaves nothing half-done: whatever belongs together is one SQL transaction.

pub mod accept;
pub mod audit;
pub mod circuit;
pub mod client_secrets;
pub mod clients;
pub mod console_sessions;
pub mod dead_letter_actions;
pub mod dead_letters;
pub mod evidence;
pub mod jobs;
pub mod maintenance;
pub mod minute_figures;
pub mod postgres;
pub mod provider_webhooks;
pub mod queues;
pub mod reconcile;
pub mod rejected_webhooks;
pub mod retention;
pub mod scrape;
pub mod sent_creates;
pub mod settle;
pub mod summary;
pub mod transaction_list;
pub mod transactions;
pub mod wakeups;
pub mod webhooks;

use std::{sync::Arc, time::Duration};

pub(crate) use self::postgres::database::{in_time, in_time_of};
pub use self::postgres::{
    clock::{clock_skew, now},
    database::{Database, SqlTransaction},
    migrate::{DEFAULT_WAIT, MigrateError, is_migrated, migrate, migrate_within},
    session::Target,
};
use crate::{domain::StringEnum, telemetry::database_errors::DatabaseErrors};

/// The wanted word, or all of its kind. A list reads a range of an index for each and merges them:
/// what is rare is found among millions of others, whatever plan the server makes.
fn wanted<W: StringEnum>(word: Option<W>) -> Vec<String> {
    let text = |word: W| word.as_str().to_owned();
    word.map_or_else(|| W::ALL.iter().copied().map(text).collect(), |word| vec![text(word)])
}

const UNAVAILABLE: &str = "the database is unavailable";
const REFUSED: &str = "the database refused the query";

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, restarting, overloaded or read-only. Trying again later may work;
    /// whether a commit under way took place is unknown.
    #[error("{}", UNAVAILABLE)]
    Unavailable(#[source] sqlx::Error),
    /// The query itself failed.
    #[error("{}", REFUSED)]
    Query(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_unavailable(&error) { Self::Unavailable(error) } else { Self::Query(error) }
    }
}

impl StoreError {
    /// Whether the same call may work later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the server ended the statement because of its time limit.
    pub fn took_too_long(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(QUERY_CANCELED))
    }

    /// Whether the session had prepared statements of another connection, or lacked those of this
    /// one: a pooler hands sessions on.
    pub fn met_anothers_session(&self) -> bool {
        matches!(self, Self::Query(sqlx::Error::Database(error))
            if error.code().is_some_and(|code| ["42P05", "26000"].contains(&code.as_ref())))
    }

    /// Whether a text is all that an error of this kind says: its source says why.
    pub fn is_bare(text: &str) -> bool {
        [UNAVAILABLE, REFUSED].contains(&text)
    }

    /// The violated constraint, where one was.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Query(sqlx::Error::Database(error)) => error.constraint(),
            _ => None,
        }
    }
}

/// SQLSTATE of a statement that was ended by its time limit or by an administrator.
const QUERY_CANCELED: &str = "57014";

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Classes of SQLSTATE: connection (08), serialisation and deadlock (40), resources
            // (53), shutdown and start-up (57), system error (58). Single codes: read-only after a
            // failover (25006), idle in a transaction for too long (25P03), lock timeout (55P03).
            ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                || matches!(code.as_ref(), "25006" | "25P03" | "55P03")
        }),
        _ => false,
    }
}

/// A pool at `target`, whose users wait at most `acquire_timeout` for a connection, and which
/// counts what goes wrong in `database_errors`. Connects on first use, so that a database that is
/// away delays no start.
pub fn connect(
    target: &Target,
    max_connections: u32,
    acquire_timeout: Duration,
    database_errors: &Arc<DatabaseErrors>,
) -> Database {
    Database::new(target.clone(), max_connections, acquire_timeout, database_errors.clone())
}

/// Begins a transaction. Every transaction of ours begins here, but for those of the writers.
pub(crate) async fn begin(database: &Database) -> Result<SqlTransaction, StoreError> {
    database.begin("").await
}

/// Begins a transaction that only reads, and sees the database as it is now until it ends.
pub async fn begin_snapshot(database: &Database) -> Result<SqlTransaction, StoreError> {
    database.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// Answers when the database does, and takes writes.
pub async fn ping(database: &Database) -> Result<(), StoreError> {
    database.refuse_read_only().await?;
    if database.database_errors().disk_was_full() {
        let error = std::io::Error::other("the database's disk was full a moment ago");
        return Err(StoreError::Unavailable(sqlx::Error::Io(error)));
    }
    Ok(())
}
