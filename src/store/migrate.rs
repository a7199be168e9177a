//! Bringing the schema up to date, beside a system that runs.
//!
//! Apalis's migrations come first, then ours. A migration of ours takes one strong lock on a table
//! in use, or none: an `ALTER` has a file of its own and bounds its wait, indexes are built with
//! `CREATE INDEX CONCURRENTLY` outside a transaction. What was done stays done when a later file
//! fails, and the next run goes on from there; an index whose build was cut off is built anew.
//!
//! One migrates at a time, under an advisory lock of our own that the others poll for. Sqlx's is
//! turned off: a session that waits in `pg_advisory_lock` holds a snapshot meanwhile, for whose end
//! the concurrent build of an index waits, for ever, in the session that has the lock. The lock
//! belongs to the session that builds: where the command was killed and its statement goes on in
//! the server, nobody else begins before that has ended.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{MigrateError as SqlxMigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::{Database, StoreError};

/// The key of the advisory lock.
const LOCK: i64 = i64::from_be_bytes(*b"quartet ");
/// How often the lock is asked for while somebody else has it.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// What precedes the name of an index in the file that builds it.
const BUILDS: &str = "INDEX CONCURRENTLY IF NOT EXISTS ";

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("apalis's migrations failed")]
    Apalis(#[source] SqlxMigrateError),
    #[error("Quartet's migrations failed")]
    Quartet(#[source] SqlxMigrateError),
    #[error(
        "a table was in use by a long transaction and could not be altered; what was done so far \
         stays, run `quartet migrate` again"
    )]
    InUse(#[source] SqlxMigrateError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Ours.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.set_locking(false);
    migrations
}

/// Applies apalis's migrations, then ours. Processes that migrate at once wait for each other.
pub async fn migrate(url: &str) -> Result<(), MigrateError> {
    // A migration may run longer than a statement of daily work: no statement timeout here.
    let options: PgConnectOptions = url.parse()?;
    let options = options.application_name("quartet migrate");
    let mut connection = PgConnection::connect_with(&options).await?;
    while !try_lock(&mut connection).await? {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    let migrated = apply(&mut connection).await;
    // Its end gives the lock back.
    let closed = connection.close().await;
    migrated?;
    Ok(closed?)
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LOCK);
    Ok(locked.fetch_one(connection).await?)
}

async fn apply(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut apalis = apalis_postgres::PostgresStorage::<()>::migrations();
    apalis.set_locking(false);
    apalis.run(&mut *connection).await.map_err(MigrateError::Apalis)?;
    let ours = migrations();
    drop_unfinished(connection, &ours).await?;
    ours.run(connection).await.map_err(|error| match &error {
        SqlxMigrateError::ExecuteMigration(sqlx::Error::Database(cause), _)
            // Lock not available: the wait for it was too long.
            if cause.code().as_deref() == Some("55P03") =>
        {
            MigrateError::InUse(error)
        }
        _ => MigrateError::Quartet(error),
    })
}

/// Drops the indexes whose build was cut off: they are there, and `IF NOT EXISTS` would take them
/// for good.
async fn drop_unfinished(
    connection: &mut PgConnection,
    migrations: &Migrator,
) -> Result<(), StoreError> {
    let names: Vec<String> = migrations
        .iter()
        .filter_map(|migration| migration.sql.as_str().split_once(BUILDS))
        .filter_map(|(_, rest)| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let unfinished = sqlx::query_scalar!(
        r#"
        SELECT format('%I.%I', pg_namespace.nspname, pg_class.relname) AS "name!"
        FROM pg_index
        JOIN pg_class ON pg_class.oid = pg_index.indexrelid
        JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
        WHERE NOT pg_index.indisvalid AND pg_namespace.nspname IN ('public', 'apalis')
            AND pg_class.relname = ANY($1)
        "#,
        &names,
    )
    .fetch_all(&mut *connection)
    .await?;
    for name in unfinished {
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
        sqlx::query(AssertSqlSafe(drop)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Whether every migration of this build has been applied.
pub async fn is_migrated(pool: &Database) -> Result<bool, StoreError> {
    let table = sqlx::query_scalar!("SELECT to_regclass('public._sqlx_migrations')::text")
        .fetch_one(pool)
        .await?;
    if table.is_none() {
        return Ok(false);
    }
    // Not a checked query: sqlx's own table is no part of the schema that queries are checked with.
    let applied: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM public._sqlx_migrations WHERE success")
            .fetch_all(pool)
            .await?;
    Ok(migrations().iter().all(|migration| applied.contains(&migration.version)))
}
