//! The session of somebody who has one to itself, such as a writer of batches.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::{
    database::{Database, in_time_of},
    error_cause::note,
    session::{CONNECT_LIMIT, Target},
};
use crate::{store::StoreError, telemetry::database_errors::DatabaseErrors};

/// A session that serves one purpose.
#[derive(Debug)]
pub(in crate::store) struct Session {
    target: Target,
    options: PgConnectOptions,
    settings: Vec<(&'static str, &'static str)>,
    conn: Option<PgConnection>,
    database_errors: Arc<DatabaseErrors>,
}

impl Session {
    /// Where `database` is, with these settings besides the usual ones. Connects on first use.
    pub(in crate::store) fn new(
        database: &Database,
        settings: Vec<(&'static str, &'static str)>,
    ) -> Self {
        let target = database.target();
        Self {
            options: target.options(&settings),
            settings,
            target: target.clone(),
            conn: None,
            database_errors: database.database_errors().clone(),
        }
    }

    /// The connection, taken out: one whose state is unknown is not [kept](Self::keep) but closed.
    pub(in crate::store) async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let connect = async {
            let mut conn = self.options.connect().await?;
            if !self.target.shares_sessions() {
                self.target.configure(&mut conn).await?;
            }
            Ok::<_, sqlx::Error>(conn)
        };
        // Whatever it is: no request is at fault.
        in_time_of(CONNECT_LIMIT, connect).await.map_err(StoreError::Unavailable)
    }

    /// What must begin a transaction before anything else is done, where that is needed.
    pub(in crate::store) fn begin(&self) -> Option<AssertSqlSafe<String>> {
        self.target.begin("", &self.settings).map(AssertSqlSafe)
    }

    /// Keeps the connection for the next time.
    pub(in crate::store) fn keep(&mut self, conn: PgConnection) {
        self.conn = Some(conn);
    }

    /// Counts what went wrong.
    pub(in crate::store) fn note(&self, error: &StoreError) {
        let (StoreError::Unavailable(error) | StoreError::Query(error)) = error;
        note(&self.database_errors, error);
    }

    /// Ends it.
    pub(in crate::store) async fn close(mut self) {
        use sqlx::Connection;

        if let Some(conn) = self.conn.take() {
            // Nothing is lost where the database does not hear of the end.
            let _ = tokio::time::timeout(CONNECT_LIMIT, conn.close()).await;
        }
    }
}
