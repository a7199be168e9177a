//! How sessions are opened, and the sessions of those who have one of their own.
//!
//! The settings of a session are sent when it is opened: they cost nothing, and hold until it ends.
//! A pooler that hands its sessions from transaction to transaction (PgBouncer with `pool_mode =
//! transaction`) refuses such settings, loses what a session knows, and has a session for one
//! transaction at a time. There the settings stand at the beginning of each transaction, in the
//! message that begins it, so that they cost no time either.
//!
//! sqlx prepares a statement under a name that is new on the connection, and in a message before
//! the one that executes it: behind such a pooler outside a transaction the two would reach
//! different sessions. Within one the name may still be one that another connection has left in the
//! session: each transaction begins with `DEALLOCATE ALL`.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::{
    StoreError,
    database::{Database, in_time_of},
    trouble::note,
};
use crate::telemetry::troubles::Troubles;

/// The settings of every session.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    // No statement of ours takes longer unless something is wrong.
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
/// The server's own way of finding out that this process is gone, which a pooler sees to itself: it
/// is soon rid of the connection, and of the locks.
const KEEPALIVES: &[(&str, &str)] = &[
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];
/// How long a connection may take to be opened.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Where the database is, and what is in between.
#[derive(Debug, Clone)]
pub struct Target {
    options: PgConnectOptions,
    shares_sessions: bool,
}

impl Target {
    /// Postgres, or a pooler that keeps sessions, at `url`; `shares_sessions` where it is a pooler
    /// that hands them from transaction to transaction.
    pub fn new(url: &str, shares_sessions: bool) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(StoreError::from)?;
        let options = options.application_name("quartet");
        let options = if shares_sessions {
            // What it has prepared it does not find again, and what it sends at the start that the
            // pooler does not know is refused.
            options.statement_cache_capacity(0).extra_float_digits(None)
        } else {
            options.options(SETTINGS.iter().chain(KEEPALIVES).copied())
        };
        Ok(Self { options, shares_sessions })
    }

    pub(super) fn shares_sessions(&self) -> bool {
        self.shares_sessions
    }

    /// How a session with these further settings is opened.
    pub(super) fn options(&self, settings: &[(&str, &str)]) -> PgConnectOptions {
        if self.shares_sessions || settings.is_empty() {
            return self.options.clone();
        }
        self.options.clone().options(settings.iter().copied())
    }
}

/// What begins a transaction of this mode in which the settings hold.
pub(super) fn begin_with(mode: &str, first: &[(&str, &str)], then: &[(&str, &str)]) -> String {
    let mut begin = format!("BEGIN {mode}; ");
    for (name, value) in first.iter().chain(then) {
        begin.push_str(&format!("SET LOCAL {name} = '{value}'; "));
    }
    begin + "DEALLOCATE ALL"
}

/// A standby answers, but late: it counts as an absent database.
pub(super) async fn refuse_standby(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let is_standby = sqlx::query_scalar!(r#"SELECT pg_is_in_recovery() AS "is_standby!""#);
    if is_standby.fetch_one(conn).await? {
        return Err(sqlx::Error::Io(std::io::Error::other("the server is a standby")));
    }
    Ok(())
}

/// A session that serves one purpose.
#[derive(Debug)]
pub(super) struct Session {
    options: PgConnectOptions,
    begin: Option<String>,
    conn: Option<PgConnection>,
    troubles: Arc<Troubles>,
}

impl Session {
    /// Where `database` is, with these settings besides the usual ones. Connects on first use.
    pub(super) fn new(database: &Database, settings: &[(&str, &str)]) -> Self {
        let target = database.target();
        Self {
            options: target.options(settings),
            begin: target.shares_sessions().then(|| begin_with("", SETTINGS, settings)),
            conn: None,
            troubles: database.troubles().clone(),
        }
    }

    /// The connection, taken out: one of which nobody knows how far it came is not
    /// [kept](Self::keep), and closed.
    pub(super) async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let connect = async {
            let mut conn = self.options.connect().await?;
            if self.begin.is_none() {
                refuse_standby(&mut conn).await?;
            }
            Ok(conn)
        };
        in_time_of(CONNECT_LIMIT, connect).await
    }

    /// What must begin a transaction before anything else is done, where that is needed.
    pub(super) fn begin(&self) -> Option<AssertSqlSafe<String>> {
        self.begin.clone().map(AssertSqlSafe)
    }

    /// Keeps the connection for the next time.
    pub(super) fn keep(&mut self, conn: PgConnection) {
        self.conn = Some(conn);
    }

    /// Counts what went wrong.
    pub(super) fn note(&self, error: &StoreError) {
        let (StoreError::Unavailable(error) | StoreError::Query(error)) = error;
        note(&self.troubles, error);
    }

    /// Ends it.
    pub(super) async fn close(mut self) {
        use sqlx::Connection;

        if let Some(conn) = self.conn.take() {
            // Nothing is lost where the database does not hear of the end.
            let _ = tokio::time::timeout(CONNECT_LIMIT, conn.close()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_begins_with_its_settings_and_forgets_what_others_prepared() {
        assert_eq!(
            begin_with("READ ONLY", &[("statement_timeout", "5s")], &[("jit", "off")]),
            "BEGIN READ ONLY; SET LOCAL statement_timeout = '5s'; SET LOCAL jit = 'off'; \
             DEALLOCATE ALL"
        );
    }

    #[test]
    fn a_pooler_is_sent_no_settings_at_the_start() {
        let url = "postgres://quartet@localhost/quartet";
        let direct = Target::new(url, false).unwrap().options(&[("jit", "off")]);
        let sent = direct.get_options().unwrap();
        assert!(sent.contains("statement_timeout=5s") && sent.contains("jit=off"), "{sent}");
        let pooled = Target::new(url, true).unwrap().options(&[("jit", "off")]);
        assert_eq!(pooled.get_options(), None);
    }
}
