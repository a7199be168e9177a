//! The connection to Postgres.

use super::super::{
    database_url::database_url,
    settings::Settings,
    value::{Redacted, count, pooler},
};

/// `DATABASE_URL` and `QUARTET_DATABASE__…`: the connection to Postgres.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Where Postgres is.
    pub url: Option<Redacted<String>>,
    /// The connection pooler in between.
    pub pooler: Pooler,
    /// Postgres itself where `url` is a pooler, for what needs a session.
    pub direct_url: Option<Redacted<String>>,
    /// Maximum number of connections of one process.
    pub max_connections: u32,
}

/// What is between this process and Postgres.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pooler {
    /// Nothing, or what keeps sessions.
    #[default]
    None,
    /// A pooler that hands its sessions from transaction to transaction.
    Transaction,
}

impl Pooler {
    /// Whether the next transaction may be in another session.
    pub fn shares_sessions(self) -> bool {
        self == Self::Transaction
    }
}

impl Database {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            url: settings.secret(
                "DATABASE_URL",
                database_url,
                "Postgres connection URL, `postgres://user:password@host:5432/database`; required \
                 by `serve`",
            ),
            pooler: settings.read(
                "QUARTET_DATABASE__POOLER",
                "none",
                pooler,
                "Connection pooler between Quartet and Postgres: `transaction` for one in \
                 transaction mode, such as PgBouncer, or `none`. See \
                 [database.md](database.md#through-pgbouncer)",
            ),
            direct_url: settings.secret(
                "QUARTET_DATABASE__DIRECT_URL",
                database_url,
                "URL that leads to Postgres itself where `DATABASE_URL` leads to a pooler. \
                 `quartet migrate` needs it; each worker process also keeps one connection over it \
                 to hear `NOTIFY`",
            ),
            max_connections: settings.read(
                "QUARTET_DATABASE__MAX_CONNECTIONS",
                "20",
                count(10, 10_000),
                "Maximum number of database connections of one process, at least 10. Eight have a \
                 fixed use (writers, claims, leases, metrics); a third of the rest serves \
                 requests, the others serve jobs",
            ),
        }
    }
}
