//! What `quartet doctor` reads of the server: what holds vacuum back, how the tables are vacuumed,
//! how many connections are left, and whether a pooler is in between.
//!
//! Nothing here writes. A role that may not see other roles' sessions reads what it may, and learns
//! how much was hidden from it.

mod connect;
mod pooler;
mod statement;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sqlx::PgConnection;

pub use connect::{ConnectFailure, connect};
pub(in crate::store) use connect::{create_database, without_number};
pub use pooler::shares_sessions;
pub use statement::{Explanation, explain, explain_migration};

use super::columns::Time;
use crate::store::StoreError;

/// What the server lists the sessions of these checks as.
pub const APPLICATION: &str = "quartet doctor";

/// Why a statement gave no result, as the server says it.
pub fn cause(error: &StoreError) -> String {
    let (StoreError::Unavailable(error) | StoreError::Query(error)) = error;
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Configuration(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// The server and the database that a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub version: String,
    pub user: String,
    pub database: String,
    pub is_standby: bool,
    /// These two are the same for every way to one database.
    pub started_at: Time,
    pub database_oid: i64,
}

pub async fn server(conn: &mut PgConnection) -> Result<Server, StoreError> {
    Ok(sqlx::query_as!(
        Server,
        r#"
        SELECT current_setting('server_version') AS "version!", current_user::text AS "user!",
            datname::text AS "database!", pg_is_in_recovery() AS "is_standby!",
            pg_postmaster_start_time() AS "started_at!: Time", oid::bigint AS "database_oid!"
        FROM pg_database
        WHERE datname = current_database()
        "#
    )
    .fetch_one(conn)
    .await?)
}

/// How far this machine's clock is ahead of the database's, and how exactly that is known: half of
/// what the question took.
pub async fn clock_skew(conn: &mut PgConnection) -> Result<(TimeDelta, Duration), StoreError> {
    // The first statement of a connection prepares itself, which takes one more round trip.
    crate::store::now(&mut *conn).await?;
    let (before, asked) = (Utc::now(), std::time::Instant::now());
    let database = crate::store::now(&mut *conn).await?;
    let half = asked.elapsed() / 2;
    let here = before + TimeDelta::from_std(half).unwrap_or_default();
    Ok((here - database, half))
}

/// A session whose transaction has been open for long.
#[derive(Debug, Clone)]
pub struct OpenTransaction {
    pub pid: i32,
    pub user: String,
    pub application: String,
    /// Empty for one of the machine's own.
    pub address: String,
    pub state: String,
    pub open_for_seconds: f64,
    /// Whether rows that died since then cannot be removed; else it holds its locks alone.
    pub holds_vacuum_back: bool,
    /// The beginning of its last statement.
    pub statement: String,
}

/// Transactions that have been open for longer than `limit`, the longest first.
pub async fn open_transactions(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<Vec<OpenTransaction>, StoreError> {
    Ok(sqlx::query_as!(
        OpenTransaction,
        r#"
        SELECT pid AS "pid!", coalesce(usename::text, '') AS "user!",
            coalesce(application_name, '') AS "application!",
            coalesce(host(client_addr), '') AS "address!", coalesce(state, '') AS "state!",
            extract(epoch FROM clock_timestamp() - xact_start)::float8 AS "open_for_seconds!",
            backend_xmin IS NOT NULL OR backend_xid IS NOT NULL AS "holds_vacuum_back!",
            left(query, 60) AS "statement!"
        FROM pg_stat_activity
        WHERE xact_start < clock_timestamp() - make_interval(secs => $1)
            AND application_name <> $2
            -- The snapshot of another database's session does not keep our dead rows.
            AND datname = current_database()
            -- Vacuum's own snapshot holds nothing back.
            AND backend_type <> 'autovacuum worker'
        ORDER BY xact_start
        LIMIT 20
        "#,
        limit.as_secs_f64(),
        APPLICATION
    )
    .fetch_all(conn)
    .await?)
}

/// How many sessions in this database this role may not look at.
pub async fn hidden_sessions(conn: &mut PgConnection) -> Result<i64, StoreError> {
    let hidden = sqlx::query_scalar!(
        r#"
        SELECT count(*) AS "count!"
        FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type IS NULL
        "#
    );
    Ok(hidden.fetch_one(conn).await?)
}

/// A replication slot that nothing reads, or whose reader is far behind.
#[derive(Debug, Clone)]
pub struct Slot {
    pub name: String,
    pub is_active: bool,
    /// For how many transactions dead rows of our tables are kept.
    pub kept_transactions: Option<i64>,
    /// Of the write-ahead log.
    pub kept_bytes: Option<i64>,
}

pub async fn slots(conn: &mut PgConnection) -> Result<Vec<Slot>, StoreError> {
    Ok(sqlx::query_as!(
        Slot,
        r#"
        SELECT slot_name::text AS "name!", active AS "is_active!",
            age(xmin)::bigint AS kept_transactions,
            pg_wal_lsn_diff(
                CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                    ELSE pg_current_wal_lsn() END,
                restart_lsn
            )::bigint AS kept_bytes
        FROM pg_replication_slots
        WHERE NOT temporary
        ORDER BY slot_name
        "#
    )
    .fetch_all(conn)
    .await?)
}

/// A transaction that was prepared for a two-phase commit and not ended.
#[derive(Debug, Clone)]
pub struct PreparedTransaction {
    pub gid: String,
    pub owner: String,
    pub age_seconds: f64,
}

/// Those of this database that are older than `limit`.
pub async fn prepared_transactions(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<Vec<PreparedTransaction>, StoreError> {
    Ok(sqlx::query_as!(
        PreparedTransaction,
        r#"
        SELECT gid AS "gid!", owner::text AS "owner!",
            extract(epoch FROM clock_timestamp() - prepared)::float8 AS "age_seconds!"
        FROM pg_prepared_xacts
        WHERE database = current_database()
            AND prepared < clock_timestamp() - make_interval(secs => $1)
        ORDER BY prepared
        LIMIT 20
        "#,
        limit.as_secs_f64()
    )
    .fetch_all(conn)
    .await?)
}

/// How a table of ours is vacuumed.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    /// Whether the table itself switches autovacuum off.
    pub is_left_out: bool,
    pub live_rows: i64,
    pub dead_rows: i64,
}

/// Whether the server vacuums by itself, and how our tables that change a lot stand.
pub async fn vacuuming(conn: &mut PgConnection) -> Result<(bool, Vec<Table>), StoreError> {
    let is_on = sqlx::query_scalar!(
        r#"
        SELECT current_setting('autovacuum')::bool AND current_setting('track_counts')::bool
            AS "is_on!"
        "#
    );
    let is_on = is_on.fetch_one(&mut *conn).await?;
    let tables = sqlx::query_as!(
        Table,
        r#"
        SELECT format('%I.%I', schemaname, stats.relname) AS "name!",
            coalesce(reloptions && ARRAY['autovacuum_enabled=false', 'autovacuum_enabled=off'], false)
                AS "is_left_out!",
            n_live_tup AS "live_rows!", n_dead_tup AS "dead_rows!"
        FROM pg_stat_user_tables AS stats
        JOIN pg_class ON pg_class.oid = relid
        WHERE (schemaname, stats.relname) IN (
            ('apalis', 'jobs'), ('public', 'transactions'), ('public', 'transaction_events'),
            ('public', 'failed_jobs'), ('public', 'webhook_deliveries'))
        ORDER BY 1
        "#
    );
    Ok((is_on, tables.fetch_all(conn).await?))
}

/// How many connections the server takes.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Without those that are kept for superusers.
    pub most: i64,
    pub used: i64,
    /// Of those in use, by this role's processes of Quartet.
    pub ours: i64,
    /// The role's own limit, and the database's.
    pub role_limit: Option<i64>,
    pub database_limit: Option<i64>,
    /// In use by this role, and in this database.
    pub used_by_role: i64,
    pub used_in_database: i64,
}

pub async fn connections(conn: &mut PgConnection) -> Result<Connections, StoreError> {
    Ok(sqlx::query_as!(
        Connections,
        r#"
        SELECT
            current_setting('max_connections')::bigint
                - current_setting('superuser_reserved_connections')::bigint
                -- From version 16 on.
                - coalesce(current_setting('reserved_connections', true)::bigint, 0) AS "most!",
            -- Whose they are may be hidden, their number is not.
            (SELECT sum(numbackends)::bigint FROM pg_stat_database) AS "used!",
            (
                SELECT count(*) FROM pg_stat_activity WHERE application_name = 'quartet'
            ) AS "ours!",
            (
                SELECT rolconnlimit::bigint FROM pg_roles
                WHERE rolname = current_user AND rolconnlimit >= 0 AND NOT rolsuper
            ) AS role_limit,
            (
                SELECT datconnlimit::bigint FROM pg_database
                WHERE datname = current_database() AND datconnlimit >= 0
            ) AS database_limit,
            (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)
                AS "used_by_role!",
            (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
                AS "used_in_database!"
        "#
    )
    .fetch_one(conn)
    .await?)
}

/// Whether everybody may create tables and functions beside ours, as before version 15.
pub async fn anybody_may_create(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let may = sqlx::query_scalar!(
        r#"SELECT has_schema_privilege('public', 'public', 'CREATE') AS "may!""#
    );
    Ok(may.fetch_one(conn).await?)
}
