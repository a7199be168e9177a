//! Bringing the schema up to date, beside a system that runs.
//!
//! The database is checked first ([`requirements`]). What is created belongs to the tables' owner,
//! where the role that migrates may act as that. Apalis's migrations come before ours. A migration
//! of ours takes one strong lock on a table in use, or none: an `ALTER` has a file of its own,
//! indexes are built with `CREATE INDEX CONCURRENTLY` outside a transaction. What was done stays
//! done when a later file fails, and the next run goes on from there; an index whose build was cut
//! off is built again.
//!
//! Nothing waits in silence, and nothing without end: [`waits`] says for which sessions, and gives
//! up after a limit. A transaction asks for a lock for two seconds at a time, since everybody else
//! who wants the table queues behind it. On a table without rows an index is built at once: a
//! concurrent build would wait for every older snapshot, a dump's of another table included.
//!
//! One migrates at a time, under an advisory lock of our own that the others poll for. sqlx's own
//! lock is off: a session that waits in `pg_advisory_lock` holds a snapshot, and a concurrent index
//! build in the session that has the lock would wait for that snapshot for ever. The lock belongs
//! to the session that builds: where the command was killed and its statement goes on in the
//! server, nobody else begins before that has ended.

mod waits;

use std::{fmt, future, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection,
    migrate::{MigrateError as SqlxMigrateError, Migration, Migrator},
};

pub use self::waits::Blocker;
use self::waits::{GaveUp, Waits};
use super::{
    database::in_time,
    migration_files::{IndexBuild, migrations},
    requirements::{self, Purpose, Unmet},
    session,
};
use crate::store::{Database, StoreError};

/// How long a run waits for others, in all, unless it is given another limit.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(5 * 60);
/// The key of the advisory lock.
const LOCK: i64 = i64::from_be_bytes(*b"quartet ");
/// How often the lock is asked for while somebody else has it.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a transaction waits for a lock at a time.
const LOCK_TIMEOUT: &str = "2s";
/// How long it leaves the table to the others before it asks again.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// SQLSTATE of a statement that waited too long for a lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// SQLSTATE of a statement that the role may not run.
const NO_RIGHT: &str = "42501";

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("this database cannot be used")]
    Requirements(#[source] Unmet),
    #[error("apalis's migrations failed")]
    Apalis(#[source] SqlxMigrateError),
    #[error("Quartet's migrations failed")]
    Quartet(#[source] SqlxMigrateError),
    #[error(
        "{doing} waited for too long, for {}; what was done so far stays: end that session or wait \
         for it, and run `quartet migrate` again",
        Listed(blockers)
    )]
    GaveUp { doing: String, blockers: Vec<Blocker> },
    #[error("stopped; what was done so far stays")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The sessions, one after the other.
struct Listed<'a>(&'a [Blocker]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("a session that has ended since");
        }
        let blockers: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&blockers.join("; "))
    }
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Brings the schema up to date. Waits for other sessions for [`DEFAULT_WAIT`] in all, and logs for
/// which.
pub async fn migrate(url: &str) -> Result<(), MigrateError> {
    let report = |line: &str| tracing::warn!("{line}");
    migrate_within(url, DEFAULT_WAIT, &report, future::pending()).await
}

/// The same; gives up when it has waited for other sessions for `wait` in all. `report` is given a
/// line whenever somebody should know why it takes long. When `stop` is ready, the statement is
/// cancelled, and what was not begun is left for the next run.
pub async fn migrate_within(
    url: &str,
    wait: Duration,
    report: &(dyn Fn(&str) + Send + Sync),
    stop: impl Future<Output = ()>,
) -> Result<(), MigrateError> {
    let options = session::migration_options(url)?;
    let mut connection = in_time(options.connect()).await?;
    session::configure(&mut connection).await?;
    let findings = requirements::check(&mut connection, Purpose::Migrate).await?;
    for warning in requirements::refuse(findings).map_err(MigrateError::Requirements)? {
        report(&warning.to_string());
    }
    act_as_owner(&mut connection).await?;
    let pid = sqlx::query_scalar!(r#"SELECT pg_backend_pid() AS "pid!""#)
        .fetch_one(&mut connection)
        .await?;
    let waits = Waits::new(options, pid, wait, report);
    let mut run = Run { connection, waits };
    let migrated = tokio::select! {
        migrated = run.migrate() => migrated,
        () = stop => {
            // Without that it would go on in the server, and keep its locks.
            run.waits.cancel().await;
            Err(MigrateError::Stopped)
        }
    };
    // Its end gives the lock back.
    let closed = run.connection.close().await;
    migrated?;
    Ok(closed?)
}

/// Goes on as the owner of the tables, where this role is a member of it or may be anybody: what
/// the migrations create would belong to this role otherwise, and the owner's views may not read
/// it.
async fn act_as_owner(connection: &mut PgConnection) -> Result<(), StoreError> {
    let owner = sqlx::query_scalar!(
        r#"
        SELECT quote_ident(rolname) AS "owner!"
        FROM pg_class
        JOIN pg_roles ON pg_roles.oid = relowner
        WHERE relnamespace = to_regnamespace('public') AND relname = 'transactions'
            AND rolname <> current_user
            AND pg_has_role(relowner, 'MEMBER')
            -- Without these rights the owner could do less than this role.
            AND (
                SELECT bool_and(
                    has_schema_privilege(rolname, pg_namespace.oid, 'USAGE')
                    AND has_schema_privilege(rolname, pg_namespace.oid, 'CREATE')
                )
                FROM pg_namespace WHERE nspname IN ('public', 'apalis', 'operator')
            )
        "#
    );
    let Some(owner) = owner.fetch_optional(&mut *connection).await? else { return Ok(()) };
    let set_role = sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE {owner}")));
    match set_role.execute(connection).await {
        // Since PostgreSQL 16 a member may lack the option SET.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NO_RIGHT) => Ok(()),
        done => Ok(done.map(drop)?),
    }
}

/// One run, in one session.
struct Run<'a> {
    connection: PgConnection,
    waits: Waits<'a>,
}

impl Run<'_> {
    async fn migrate(&mut self) -> Result<(), MigrateError> {
        self.lock().await?;
        self.apply().await
    }

    /// Waits until nobody else migrates.
    async fn lock(&mut self) -> Result<(), MigrateError> {
        const DOING: &str = "the lock of `quartet migrate`";

        loop {
            let locked =
                sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LOCK);
            if locked.fetch_one(&mut self.connection).await? {
                return Ok(());
            }
            let holders = waits::holders(&mut self.connection, LOCK).await?;
            self.waits.saw(DOING, holders);
            self.waits.count(ASK_AGAIN).map_err(gave_up(DOING))?;
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn apply(&mut self) -> Result<(), MigrateError> {
        let mut apalis = apalis_postgres::PostgresStorage::<()>::migrations();
        apalis.set_locking(false);
        self.apply_all(&apalis, "apalis._sqlx_migrations", MigrateError::Apalis).await?;
        // It may just have created the extension `hstore`.
        session::configure(&mut self.connection).await?;
        let ours = migrations();
        self.drop_unfinished(&ours).await?;
        self.apply_all(&ours, "public._sqlx_migrations", MigrateError::Quartet).await?;
        self.grant_to_readers().await
    }

    /// Applies what of `migrations` is recorded in no row of `table`, each by itself.
    async fn apply_all(
        &mut self,
        migrations: &Migrator,
        table: &'static str,
        failed: fn(SqlxMigrateError) -> MigrateError,
    ) -> Result<(), MigrateError> {
        // Nothing yet: it only reads what was applied, and refuses what it does not know.
        self.step("the list of migrations", true, migrations, 0, failed).await?;
        let applied: Vec<i64> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT version FROM {table}")))
                .fetch_all(&mut self.connection)
                .await?;
        for migration in migrations.iter() {
            let version = migration.version;
            if applied.contains(&version) {
                continue;
            }
            let doing = format!("migration {version} ({})", migration.description);
            match self.at_once(migration).await? {
                Some(at_once) => {
                    let instead = |other: &Migration| {
                        if other.version == version { at_once.clone() } else { other.clone() }
                    };
                    let mut one =
                        Migrator::with_migrations(migrations.iter().map(instead).collect());
                    one.set_locking(false);
                    self.step(&doing, true, &one, version, failed).await?;
                }
                None => {
                    let done =
                        self.step(&doing, !migration.no_tx, migrations, version, failed).await;
                    if let Err(MigrateError::GaveUp { .. }) = &done
                        && IndexBuild::of(migration).is_some()
                    {
                        self.drop_cancelled(migrations).await;
                    }
                    done?;
                }
            }
            // A migration may have changed the settings of the session.
            session::configure(&mut self.connection).await?;
        }
        Ok(())
    }

    /// The migration without `CONCURRENTLY`, where its table has no rows and never had any.
    async fn at_once(&mut self, migration: &Migration) -> Result<Option<Migration>, StoreError> {
        let Some(build) = IndexBuild::of(migration) else { return Ok(None) };
        let is_empty = sqlx::query_scalar!(
            r#"SELECT COALESCE(pg_relation_size(to_regclass($1)) = 0, false) AS "is_empty!""#,
            build.table,
        );
        let is_empty = is_empty.fetch_one(&mut self.connection).await?;
        Ok(is_empty.then(|| build.at_once(migration)))
    }

    /// Applies what comes up to `version`. A transaction waits for a lock for a moment at a time.
    async fn step(
        &mut self,
        doing: &str,
        is_transaction: bool,
        migrations: &Migrator,
        version: i64,
        failed: fn(SqlxMigrateError) -> MigrateError,
    ) -> Result<(), MigrateError> {
        self.lock_timeout(if is_transaction { LOCK_TIMEOUT } else { "0" }).await?;
        loop {
            let work = migrations.run_to(version, &mut self.connection);
            match self.waits.watch(doing, work).await.map_err(gave_up(doing))? {
                Ok(()) => return Ok(()),
                Err(error) if is_transaction && is_lock_timeout(&error) => {
                    self.waits.count(LOCK_PAUSE).map_err(gave_up(doing))?;
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn lock_timeout(&mut self, timeout: &'static str) -> Result<(), StoreError> {
        sqlx::query!(r#"SELECT set_config('lock_timeout', $1, false) AS "set!""#, timeout)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Drops the indexes whose build was cut off: they are there, and `IF NOT EXISTS` would take
    /// them for good.
    async fn drop_unfinished(&mut self, migrations: &Migrator) -> Result<(), MigrateError> {
        const DOING: &str = "dropping what an index build that was cut off left";

        self.lock_timeout("0").await?;
        for index in unfinished(&mut self.connection, migrations).await? {
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
            let drop = sqlx::query(AssertSqlSafe(drop)).execute(&mut self.connection);
            self.waits.watch(DOING, drop).await.map_err(gave_up(DOING))??;
        }
        Ok(())
    }

    /// The same for a build that was just given up. It may not work, since the session that was
    /// waited for is still there: then the next run does it.
    async fn drop_cancelled(&mut self, migrations: &Migrator) {
        let dropped = async {
            self.lock_timeout(LOCK_TIMEOUT).await?;
            for index in unfinished(&mut self.connection, migrations).await? {
                let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                sqlx::query(AssertSqlSafe(drop)).execute(&mut self.connection).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = dropped.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "left for the next run");
        }
    }

    /// The role that reads the operators' views, and its rights: a dump without owners and rights,
    /// as one restores into another cluster, has neither.
    async fn grant_to_readers(&mut self) -> Result<(), MigrateError> {
        // The owner may not be allowed to create roles.
        sqlx::raw_sql("RESET ROLE").execute(&mut self.connection).await?;
        sqlx::raw_sql(READERS).execute(&mut self.connection).await?;
        Ok(())
    }
}

/// As the migration of the views does, and only where something is missing.
const READERS: &str = "
DO $$
BEGIN
    IF to_regrole('quartet_reader') IS NULL THEN
        CREATE ROLE quartet_reader NOLOGIN;
    END IF;
EXCEPTION
    -- Another database's migration was first; or somebody else has to create it.
    WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END
$$;
DO $$
BEGIN
    IF to_regrole('quartet_reader') IS NOT NULL AND (
        NOT has_schema_privilege('quartet_reader', 'operator', 'USAGE')
        OR EXISTS (
            SELECT FROM pg_class
            WHERE relnamespace = 'operator'::regnamespace AND relkind = 'v'
                AND NOT has_table_privilege('quartet_reader', oid, 'SELECT')
        )
    ) THEN
        GRANT USAGE ON SCHEMA operator TO quartet_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA operator TO quartet_reader;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR undefined_object THEN NULL;
END
$$;
";

fn gave_up(doing: &str) -> impl Fn(GaveUp) -> MigrateError {
    let doing = doing.to_owned();
    move |GaveUp(blockers)| MigrateError::GaveUp { doing: doing.clone(), blockers }
}

fn is_lock_timeout(error: &SqlxMigrateError) -> bool {
    match error {
        SqlxMigrateError::ExecuteMigration(sqlx::Error::Database(cause), _)
        | SqlxMigrateError::Execute(sqlx::Error::Database(cause)) => {
            cause.code().as_deref() == Some(LOCK_NOT_AVAILABLE)
        }
        _ => false,
    }
}

/// The indexes of `migrations` whose build was cut off.
async fn unfinished(
    connection: &mut PgConnection,
    migrations: &Migrator,
) -> Result<Vec<String>, StoreError> {
    let builds = migrations.iter().filter_map(IndexBuild::of);
    let names: Vec<String> = builds.map(|build| build.index).collect();
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
    .fetch_all(connection)
    .await?;
    Ok(unfinished)
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
