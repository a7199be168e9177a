//! The embedded Postgres of the benchmark, and a migrated database of its own for each run.

use std::time::Duration;

use quartet::{
    dev::postgres::{EmbeddedPostgres, Options},
    store,
};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    error::BenchError,
    section::{Section, Unit},
    usage,
};

/// Over the embedded server's own settings; `fsync` and `synchronous_commit` stay on.
pub const SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "4GB"),
    ("max_connections", "300"),
    ("shared_preload_libraries", "pg_stat_statements"),
    ("pg_stat_statements.max", "1000"),
];
/// Settings that the report shows.
const SHOWN: [&str; 8] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
    "shared_preload_libraries",
];
const TEMPLATE: &str = "quartet_template";
const PERIODIC_TASKS: &str = "UPDATE maintenance_tasks SET due_at = now() + interval '5 minutes'";
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The server.
pub struct Server {
    postgres: EmbeddedPostgres,
    /// Process id of the postmaster.
    pub postmaster: u32,
}

impl Server {
    /// Starts it, with a migrated template.
    pub async fn start() -> Result<Self, BenchError> {
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = Options { settings: settings.into(), ..Options::default() };
        let postgres = EmbeddedPostgres::start(options).await?;
        let mut admin = PgConnection::connect(&postgres.url("postgres")).await?;
        execute(&mut admin, "CREATE EXTENSION pg_stat_statements").await?;
        execute(&mut admin, &format!("CREATE DATABASE {TEMPLATE}")).await?;
        let backend: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut admin).await?;
        admin.close().await?;
        let postmaster = usage::parent(backend.unsigned_abs())?;
        store::migrate(&postgres.url(TEMPLATE)).await?;
        Ok(Self { postgres, postmaster })
    }

    /// A new migrated database.
    pub async fn database(&self, name: &str) -> Result<Database, BenchError> {
        let mut admin = self.admin().await?;
        execute(&mut admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        execute(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await?;
        let url = self.postgres.url(name);
        // The checks after a run join all rows: without it on disk, or row by row.
        let options: PgConnectOptions =
            url.parse::<PgConnectOptions>()?.options([("work_mem", "256MB")]);
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(MAX_WAIT)
            .connect_with(options)
            .await?;
        // As after `quartet migrate`; the template is older than that.
        sqlx::query(PERIODIC_TASKS).execute(&pool).await?;
        Ok(Database { name: name.to_owned(), url, pool, admin })
    }

    /// Version and settings, for the report.
    pub async fn describe(&self) -> Result<Vec<(String, String)>, BenchError> {
        let mut admin = self.admin().await?;
        let mut lines = Vec::new();
        let version: String = sqlx::query_scalar("SELECT current_setting('server_version')")
            .fetch_one(&mut admin)
            .await?;
        lines.push(("PostgreSQL".to_owned(), version));
        for name in SHOWN {
            let value: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(name)
                .fetch_one(&mut admin)
                .await?;
            lines.push((name.to_owned(), value));
        }
        Ok(lines)
    }

    /// Ends it.
    pub async fn stop(self) -> Result<(), BenchError> {
        Ok(self.postgres.stop().await?)
    }

    async fn admin(&self) -> Result<PgConnection, BenchError> {
        Ok(PgConnection::connect(&self.postgres.url("postgres")).await?)
    }
}

/// What a database did since it was created.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Statements executed.
    pub statements: f64,
    /// Bytes of WAL of the whole server.
    pub wal_bytes: f64,
}

impl Work {
    /// What was done since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            statements: self.statements - earlier.statements,
            wal_bytes: self.wal_bytes - earlier.wal_bytes,
        }
    }

    /// Samples of what was done for one of `transactions`.
    pub fn sample_each(self, section: &mut Section, name: &str, transactions: usize) {
        let transactions = transactions.max(1) as f64;
        let statements = format!("{name}: statements per transaction");
        section.sample(&statements, Unit::Count, self.statements / transactions);
        let wal = format!("{name}: WAL per transaction");
        section.sample(&wal, Unit::Bytes, self.wal_bytes / transactions);
    }
}

/// What a table takes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TableSize {
    pub name: String,
    pub dead_rows: f64,
    /// Row versions that were ever written.
    pub versions: f64,
    pub table_bytes: f64,
    pub index_bytes: f64,
}

/// One database.
pub struct Database {
    name: String,
    url: String,
    pub pool: PgPool,
    admin: PgConnection,
}

impl Database {
    /// Its connection URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes all dirty pages out, so that no checkpoint due to earlier work falls into a figure.
    pub async fn checkpoint(&mut self) -> Result<(), BenchError> {
        execute(&mut self.admin, "CHECKPOINT").await
    }

    /// Statements and WAL so far.
    pub async fn work(&mut self) -> Result<Work, BenchError> {
        let query = "SELECT COALESCE(sum(calls), 0)::float8,
                (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8
            FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
            WHERE datname = $1";
        let (statements, wal_bytes) =
            sqlx::query_as(query).bind(&self.name).fetch_one(&mut self.admin).await?;
        Ok(Work { statements, wal_bytes })
    }

    /// Dead rows and bytes, with indexes, of the tables that grow with transactions.
    pub async fn tables(&self) -> Result<Vec<TableSize>, BenchError> {
        // What other sessions counted is reported at most once a second, and cached for a
        // transaction.
        let query = "SELECT relname::text AS name, n_dead_tup::float8 AS dead_rows,
                (n_tup_ins + n_tup_upd)::float8 AS versions,
                pg_table_size(relid)::float8 AS table_bytes,
                pg_indexes_size(relid)::float8 AS index_bytes
            FROM pg_stat_user_tables
            WHERE relname IN ('transactions', 'jobs', 'transaction_events') ORDER BY relname";
        Ok(sqlx::query_as(query).fetch_all(&self.pool).await?)
    }

    /// Row versions of the job table that no new snapshot sees, where the server has `pgstattuple`.
    pub async fn invisible_jobs(&self) -> Option<i64> {
        let extension = "CREATE EXTENSION IF NOT EXISTS pgstattuple";
        sqlx::query(extension).execute(&self.pool).await.ok()?;
        let count = "SELECT dead_tuple_count FROM pgstattuple('apalis.jobs')";
        sqlx::query_scalar(count).fetch_one(&self.pool).await.ok()
    }

    /// Gives it up.
    pub async fn discard(mut self) -> Result<(), BenchError> {
        self.pool.close().await;
        let name = &self.name;
        execute(&mut self.admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        Ok(self.admin.close().await?)
    }
}

async fn execute(connection: &mut PgConnection, statement: &str) -> Result<(), BenchError> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(())
}
