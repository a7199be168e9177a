//! The database for everything but the batch writers: a pool in which every wait has a limit.
//!
//! Each statement has a limit of its own here, beside the server's: a connection whose packets are
//! lost says nothing for as long as TCP tries, which is a quarter of an hour. A connection that did
//! not answer in time is closed; one that is given back is tested within a limit, too, because sqlx
//! waits for that test without end and its place in the pool would be gone meanwhile.
//!
//! A standby counts as unavailable: its data may be out of date. A connection that leads to one is
//! closed, and so is one that turned out to be read-only, so that the next one may lead to the
//! primary.
//!
//! Behind a pooler that hands its sessions from transaction to transaction nothing may rely on a
//! session: each statement is then a transaction of its own, which first puts the settings in
//! effect and forgets the statements that others have prepared.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    AssertSqlSafe, Connection, Describe, Either, Execute, Executor, PgConnection, PgPool, Postgres,
    SqlStr,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use super::{
    error_cause::noted,
    session::{Target, begin_in},
};
use crate::{
    store::StoreError,
    telemetry::{database_errors::DatabaseErrors, metrics::NamedPool},
};

/// How long an answer to a statement is awaited. Longer than the server works at one.
pub(crate) const STATEMENT_LIMIT: Duration = Duration::from_secs(6);
/// How long a connection that was idle may take to answer at all.
const TEST_LIMIT: Duration = Duration::from_secs(1);
/// How long a process that stops waits for its connections.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// An answer that does not come in time counts as an absent database.
pub(crate) async fn in_time<T, E: From<sqlx::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    in_time_of(STATEMENT_LIMIT, answer).await
}

/// [`in_time`] with another limit.
pub(crate) async fn in_time_of<T, E: From<sqlx::Error>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let silence = "the database did not answer in time";
        let silence = std::io::Error::new(std::io::ErrorKind::TimedOut, silence);
        Err(sqlx::Error::Io(silence).into())
    })
}

/// A pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    target: Target,
    database_errors: Arc<DatabaseErrors>,
}

impl Database {
    /// A pool whose users wait at most `acquire_timeout` for a connection. Connects on first use,
    /// so that a database that is away delays no start.
    pub(in crate::store) fn new(
        target: Target,
        max_connections: u32,
        acquire_timeout: Duration,
        database_errors: Arc<DatabaseErrors>,
    ) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(acquire_timeout)
            // Tested here, within a limit.
            .test_before_acquire(false)
            .connect_lazy_with(target.options(&[]));
        Self { pool, target, database_errors }
    }

    /// Where its connections lead.
    pub(in crate::store) fn target(&self) -> &Target {
        &self.target
    }

    /// What went wrong so far.
    pub fn database_errors(&self) -> &Arc<DatabaseErrors> {
        &self.database_errors
    }

    /// Whether a pooler hands its sessions from transaction to transaction.
    pub fn shares_sessions(&self) -> bool {
        self.target.shares_sessions()
    }

    /// How many connections it has at most.
    pub fn most_connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// The pool, for the metrics.
    pub fn named(&self, name: &'static str) -> NamedPool {
        NamedPool { name, pool: self.pool.clone() }
    }

    /// Closes all connections, and waits for them a while.
    pub async fn close(&self) {
        // Those that are black holes end with the process.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.pool.close()).await;
    }

    /// A connection on which no transaction has begun: behind a pooler the caller begins one first.
    pub(in crate::store) async fn acquire(&self) -> Result<Borrowed, sqlx::Error> {
        let acquired = async {
            loop {
                let conn = self.pool.acquire().await?;
                let is_new = conn.cached_statements_size() == 0 && !self.shares_sessions();
                let mut conn = Borrowed { conn: Some(conn), state: State::Unusable };
                if is_new {
                    // Prepares a statement, so that it is not new any more.
                    in_time(self.target.configure(&mut conn)).await?;
                } else if in_time_of(TEST_LIMIT, conn.ping()).await.is_err() {
                    // It was lost while it was idle; the next one may not be, or is new.
                    continue;
                }
                conn.is_clean();
                return Ok(conn);
            }
        };
        noted(&self.database_errors, acquired).await
    }

    /// Fails where transactions only read. The session is closed then: it keeps the setting that it
    /// was opened with, and a new one may write.
    pub(in crate::store) async fn refuse_read_only(&self) -> Result<(), sqlx::Error> {
        let mut conn = self.acquire().await?;
        if noted(&self.database_errors, in_time(is_read_only(conn.risk()))).await? {
            return Err(sqlx::Error::Io(std::io::Error::other("the database takes no writes")));
        }
        conn.is_clean();
        Ok(())
    }

    /// Begins a transaction of this mode, such as `READ ONLY`.
    ///
    /// It begins in a task of its own: a caller that goes away half-way, as a request does that
    /// took too long, would cost the connection.
    pub(in crate::store) async fn begin(
        &self,
        mode: &'static str,
    ) -> Result<SqlTransaction, StoreError> {
        let database = self.clone();
        let begun = tokio::spawn(async move {
            let mut conn = database.acquire().await?;
            noted(&database.database_errors, conn.begin(&database.target, mode)).await?;
            Ok::<_, sqlx::Error>(SqlTransaction(conn))
        });
        match begun.await {
            Ok(begun) => Ok(begun?),
            Err(ended) => {
                Err(StoreError::Unavailable(sqlx::Error::Io(std::io::Error::other(ended))))
            }
        }
    }

    /// A connection for one statement.
    async fn begin_statement(&self) -> Result<Borrowed, sqlx::Error> {
        let mut conn = self.acquire().await?;
        if self.shares_sessions() {
            noted(&self.database_errors, conn.begin(&self.target, "")).await?;
        }
        Ok(conn)
    }

    /// The end of that statement.
    async fn end_statement<T>(
        &self,
        conn: Borrowed,
        done: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        noted(&self.database_errors, conn.end(done)).await
    }
}

/// A transaction; rolled back where it is dropped.
#[derive(Debug)]
pub struct SqlTransaction(Borrowed);

impl SqlTransaction {
    /// Commits it.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }

    /// Rolls it back.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        in_time(self.0.roll_back()).await?;
        self.0.is_clean();
        Ok(())
    }
}

impl Deref for SqlTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for SqlTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// A connection of the pool, which is given back when this is dropped.
#[derive(Debug)]
pub(in crate::store) struct Borrowed {
    /// Taken when this is dropped, and not before.
    conn: Option<PoolConnection<Postgres>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Clean,
    InTransaction,
    /// Its state is unknown, or it leads nowhere: it is closed.
    Unusable,
}

impl Borrowed {
    async fn begin(&mut self, target: &Target, mode: &str) -> Result<(), sqlx::Error> {
        let begin = target.begin(mode, &[]).unwrap_or_else(|| begin_in(mode));
        self.state = State::Unusable;
        in_time(self.execute(AssertSqlSafe(begin))).await?;
        in_time(target.learn(self)).await?;
        self.state = State::InTransaction;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.state = State::Unusable;
        in_time(self.execute("COMMIT")).await?;
        self.state = State::Clean;
        Ok(())
    }

    /// The connection while it is in a state that nobody knows: it is only given back when it was
    /// [marked as clean](Self::is_clean) again.
    pub(in crate::store) fn risk(&mut self) -> &mut PgConnection {
        self.state = State::Unusable;
        self
    }

    /// Nothing is under way or open on it.
    pub(in crate::store) fn is_clean(&mut self) {
        self.state = State::Clean;
    }

    async fn end<T>(mut self, done: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &done {
            Ok(_) if self.state == State::InTransaction => self.commit().await?,
            Ok(_) => {}
            Err(error) if ends_connection(error) => self.state = State::Unusable,
            Err(_) => {}
        }
        done
    }

    /// Rolls back. Fails on a connection that only reads: it is not worth keeping.
    async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.execute("ROLLBACK").await?;
        match is_read_only(self).await? {
            false => Ok(()),
            true => Err(sqlx::Error::Io(std::io::Error::other("the session is read-only"))),
        }
    }
}

/// Whether transactions of this session only read, as on a standby.
pub(in crate::store) async fn is_read_only(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // In the simple protocol, which needs nothing to be prepared.
    let value: String = sqlx::Row::get(&conn.fetch_one("SHOW transaction_read_only").await?, 0);
    Ok(value == "on")
}

/// Whether a connection is of no more use after this error.
fn ends_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error
            .code()
            // Read-only; and ended by an administrator, a crash or a pooler.
            .is_some_and(|code| {
                code == "25006" || code.starts_with("57P") || code.starts_with("08")
            }),
        _ => false,
    }
}

impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        // Taken by `drop` alone.
        self.conn.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        // As above.
        self.conn.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        match self.state {
            // Without sqlx's farewell, which waits.
            State::Unusable => drop(conn.detach()),
            // Tests it first; where that takes too long it is closed.
            State::Clean => {
                let returned = conn.return_to_pool();
                tokio::spawn(tokio::time::timeout(STATEMENT_LIMIT, returned));
            }
            State::InTransaction => {
                let mut conn = Self { conn: Some(conn), state: State::Unusable };
                tokio::spawn(async move {
                    if in_time(conn.roll_back()).await.is_ok() {
                        conn.is_clean();
                    }
                });
            }
        }
    }
}

impl<'p> Executor<'p> for &'_ Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        // All at once: what is read here is a page at most, and the limit is for the whole.
        let fetched = async move {
            let mut conn = database.begin_statement().await?;
            let rows = in_time(conn.fetch_many(query).try_collect::<Vec<_>>()).await;
            let rows = database.end_statement(conn, rows).await?;
            Ok::<_, sqlx::Error>(stream::iter(rows.into_iter().map(Ok)))
        };
        stream::once(fetched).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        async move {
            let mut conn = database.begin_statement().await?;
            let row = in_time(conn.fetch_optional(query)).await;
            database.end_statement(conn, row).await
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.pool.clone();
        async move { pool.prepare_with(sql, parameters).await }.boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.pool.clone();
        async move { pool.describe(sql).await }.boxed()
    }
}

impl Database {
    /// A pool of one connection for a session that listens. Each session has its own: sqlx gives a
    /// lost one back to its pool, and waits for that without end.
    pub(in crate::store) fn session_pool(&self) -> PgPool {
        let options: PgConnectOptions = self.target.options(&[]);
        PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(STATEMENT_LIMIT)
            .connect_lazy_with(options)
    }
}
