//! All SQL. One function a query, taking an executor, so that the caller chooses the transaction;
//! queries are checked against the schema when the project is built.
//!
//! Locks are always taken in one order, so that nothing deadlocks: a `transactions` row first
//! ([`transactions::lock`]), then rows of `apalis.jobs`, then dead letters. `FOR NO KEY UPDATE` is
//! enough for the transaction, and lets evidence (a foreign key to it) be written beside it.
//!
//! What comes often and together (accepts, webhooks, outcomes) is written together, by the writers of
//! [`coalesce`].
//!
//! A crash leaves nothing half-done: whatever belongs together is one SQL transaction.

pub mod accept;
pub mod announce;
pub mod audit;
pub mod circuit;
pub mod claims;
pub mod client_secrets;
pub mod clients;
pub mod coalesce;
pub mod console_sessions;
pub mod dead_letter_actions;
pub mod dead_letters;
pub mod evidence;
pub mod figures;
mod job_control;
pub mod job_list;
pub mod jobs;
pub mod leases;
pub mod maintenance;
mod migrate;
pub mod outcomes;
pub mod queues;
pub mod reconcile;
pub mod retention;
pub mod scrape;
pub mod settle;
pub mod summary;
pub mod transaction_list;
pub mod transactions;
pub mod wakeups;
pub mod webhooks;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{
    PgExecutor, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use self::migrate::{MigrateError, is_migrated, migrate};

/// No statement of ours takes longer unless something is wrong.
const STATEMENT_TIMEOUT_MS: &str = "5000";

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, restarting, overloaded or read-only. Trying again later may work;
    /// whether a commit under way took place is unknown.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The query itself failed.
    #[error("the database refused the query")]
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

    /// The violated constraint, where one was.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Query(sqlx::Error::Database(error)) => error.constraint(),
            _ => None,
        }
    }
}

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

/// A pool for `url`, whose users wait at most `acquire_timeout` for a connection. Connects on first
/// use, so that a database that is away delays no start.
pub fn connect(
    url: &str,
    max_connections: u32,
    acquire_timeout: Duration,
) -> Result<PgPool, StoreError> {
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(acquire_timeout)
        .connect_lazy_with(connect_options(url)?))
}

/// Begins a transaction. Every transaction of ours begins here.
///
/// It begins in a task of its own, because sqlx's `begin` must not be dropped half-way (sqlx 0.9.0
/// counts the transaction only when the answer to BEGIN has come): a caller that goes away, as a
/// request does that took too long and a worker that ends, would leave the connection in the pool inside an open
/// transaction, in which later statements of others take place and then vanish.
#[allow(clippy::disallowed_methods)] // The one place where it is safe.
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    let pool = pool.clone();
    match tokio::spawn(async move { pool.begin().await }).await {
        Ok(begun) => Ok(begun?),
        Err(ended) => Err(StoreError::Unavailable(sqlx::Error::Io(std::io::Error::other(ended)))),
    }
}

/// Begins a transaction that only reads, and sees the database as it is now until it ends.
pub async fn begin_snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    let mut tx = begin(pool).await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *tx)
        .await?;
    Ok(tx)
}

/// The database's clock.
pub async fn now(executor: impl PgExecutor<'_>) -> Result<DateTime<Utc>, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(executor).await?)
}

/// How every connection of ours is opened.
pub fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options: PgConnectOptions = url.parse()?;
    Ok(options.application_name("quartet").options([
        ("statement_timeout", STATEMENT_TIMEOUT_MS),
        ("idle_in_transaction_session_timeout", "10000"),
    ]))
}

/// Answers when the database does.
pub async fn ping(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query("SELECT 1").execute(pool).await?;
    Ok(())
}
