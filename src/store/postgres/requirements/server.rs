//! The server, the database and what they say about this session.

use sqlx::{PgConnection, Row};

use super::{Finding, Purpose, StoreError};
use crate::store::postgres::{
    diagnosis::create_database,
    session::{self, DURABLE},
};

/// Major versions that the tests run on.
const OLDEST: i32 = 14;
const NEWEST: i32 = 18;
pub(super) const READ_ONLY: &str = "read_only";

/// What several checks need.
#[derive(Debug)]
pub(super) struct Facts {
    /// Such as 150018 for 15.18.
    version_number: i32,
    /// As the server writes it.
    version: String,
    encoding: String,
    /// Whether texts are in the order in which ULIDs were made, the ids of jobs.
    orders_ulids: bool,
    pub(super) database: String,
    /// Whose rights count, quoted as an identifier where it must be.
    pub(super) role: String,
    is_standby: bool,
    is_read_only: bool,
    fsync: bool,
    full_page_writes: bool,
    replication_role: String,
}

pub(super) async fn facts(conn: &mut PgConnection) -> Result<Facts, StoreError> {
    // `default_transaction_read_only`: the transaction of the check itself may only read.
    let facts = sqlx::query!(
        r#"
        SELECT
            current_setting('server_version_num')::int AS "version_number!",
            current_setting('server_version') AS "version!",
            current_setting('server_encoding') AS "encoding!",
            '01KCH' < '01KD' AND '01KAA' < '01KB' AND '01K9' < '01KA' AS "orders_ulids!",
            quote_ident(current_database()) AS "database!",
            quote_ident(current_user) AS "role!",
            pg_is_in_recovery() AS "is_standby!",
            current_setting('default_transaction_read_only')::bool AS "is_read_only!",
            current_setting('fsync')::bool AS "fsync!",
            current_setting('full_page_writes')::bool AS "full_page_writes!",
            current_setting('session_replication_role') AS "replication_role!"
        "#
    )
    .fetch_one(conn)
    .await?;
    Ok(Facts {
        version_number: facts.version_number,
        version: facts.version,
        encoding: facts.encoding,
        orders_ulids: facts.orders_ulids,
        database: facts.database,
        role: facts.role,
        is_standby: facts.is_standby,
        is_read_only: facts.is_read_only,
        fsync: facts.fsync,
        full_page_writes: facts.full_page_writes,
        replication_role: facts.replication_role,
    })
}

pub(super) fn check_version(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "server_version";

    let found = format!("the server is PostgreSQL {}", facts.version);
    let works = format!("Quartet works with PostgreSQL {OLDEST} to {NEWEST}");
    vec![match facts.version_number / 10_000 {
        major if major < OLDEST => Finding::error(CHECK, found, works),
        major if major > NEWEST => {
            Finding::warning(CHECK, found, format!("{works}; newer ones are not tested"))
        }
        _ => Finding::ok(CHECK, found),
    }]
}

pub(super) async fn check(
    conn: &mut PgConnection,
    facts: &Facts,
    purpose: Purpose,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = vec![
        encoding(facts),
        collation(facts),
        read_only(conn, facts).await?,
        storage(facts),
        replication_role(conn, facts).await?,
        synchronous_commit(conn).await?,
    ];
    // A session that migrates has limits of its own.
    if purpose == Purpose::Serve {
        findings.push(session_settings(conn).await?);
    }
    Ok(findings)
}

fn encoding(facts: &Facts) -> Finding {
    const CHECK: &str = "encoding";

    let found = format!("the database's encoding is {}", facts.encoding);
    if facts.encoding == "UTF8" {
        return Finding::ok(CHECK, found);
    }
    Finding::error(
        CHECK,
        found,
        format!(
            "Quartet needs UTF8, which is chosen when a database is created: {}",
            create_database(&facts.database)
        ),
    )
}

/// In Danish AA comes behind Z, in Czech CH behind H. Nothing is lost by that.
fn collation(facts: &Facts) -> Finding {
    const CHECK: &str = "collation";

    if facts.orders_ulids {
        return Finding::ok(CHECK, "job ids are in the order in which they were made");
    }
    Finding::warning(
        CHECK,
        "the database's collation has job ids in another order than they were made: lists of jobs \
         are not by age, and finished jobs may be removed weeks late",
        format!(
            "such an order is chosen when a database is created: move it (docs/backup.md) into {}",
            create_database(&facts.database)
        ),
    )
}

async fn read_only(conn: &mut PgConnection, facts: &Facts) -> Result<Finding, StoreError> {
    if facts.is_standby {
        let remedy = "DATABASE_URL must lead to the primary";
        return Ok(Finding::error(READ_ONLY, "the server is a standby", remedy));
    }
    if facts.is_read_only {
        let found = "transactions only read (default_transaction_read_only = on), as a provider \
                     sets it when the disk is nearly full";
        let remedy = reset(conn, "default_transaction_read_only").await?;
        return Ok(Finding::error(READ_ONLY, found, remedy));
    }
    Ok(Finding::ok(READ_ONLY, "the database takes writes"))
}

/// A warning and no error: such a server may be meant to be thrown away, or lie on a file system
/// that never writes half a page; what was committed survives a crash of Postgres itself.
fn storage(facts: &Facts) -> Finding {
    const CHECK: &str = "storage";

    let off: Vec<_> = [("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)]
        .into_iter()
        .filter_map(|(name, is_on)| (!is_on).then_some(name))
        .collect();
    match off[..] {
        [] => Finding::ok(CHECK, "fsync and full_page_writes are on"),
        [first, ..] => Finding::warning(
            CHECK,
            format!(
                "{} = off: a crash of the machine may lose or corrupt what was answered 2xx",
                off.join(" = off and ")
            ),
            format!("ALTER SYSTEM RESET {first}, then SELECT pg_reload_conf()"),
        ),
    }
}

/// A superuser's setting, which this session cannot change.
async fn replication_role(conn: &mut PgConnection, facts: &Facts) -> Result<Finding, StoreError> {
    const CHECK: &str = "session_replication_role";

    let found = format!("session_replication_role is {}", facts.replication_role);
    if facts.replication_role != "replica" {
        return Ok(Finding::ok(CHECK, found));
    }
    let found = format!("{found}: foreign keys are not checked and triggers do not run");
    Ok(Finding::error(CHECK, found, reset(conn, "session_replication_role").await?))
}

/// Whether what this session sets for itself is in effect: a pooler may have dropped it.
async fn session_settings(conn: &mut PgConnection) -> Result<Finding, StoreError> {
    const CHECK: &str = "session_settings";

    let (names, values): (Vec<_>, Vec<_>) =
        session::fixed_settings().map(|(name, value)| (name.to_owned(), value.to_owned())).unzip();
    let differ = sqlx::query_scalar!(
        r#"
        SELECT format('%s = %s', sent.name, current_setting(sent.name)) AS "setting!"
        FROM unnest($1::text[], $2::text[]) AS sent (name, value)
        WHERE current_setting(sent.name) <> sent.value
        ORDER BY 1
        "#,
        &names,
        &values,
    )
    .fetch_all(conn)
    .await?;
    if differ.is_empty() {
        return Ok(Finding::ok(CHECK, "the settings of the session are in effect"));
    }
    Ok(Finding::error(
        CHECK,
        format!("the session has other settings than it asked for ({})", differ.join(", ")),
        session::DROPPED,
    ))
}

/// The session raises it, so that nothing has to be mended; the report says so.
async fn synchronous_commit(conn: &mut PgConnection) -> Result<Finding, StoreError> {
    const CHECK: &str = "synchronous_commit";

    let setting = sqlx::query!(
        r#"
        SELECT setting AS "session!", reset_val AS "server!"
        FROM pg_settings WHERE name = 'synchronous_commit'
        "#
    )
    .fetch_one(conn)
    .await?;
    let (session, server) = (setting.session, setting.server);
    if !DURABLE.contains(&session.as_str()) {
        let found = format!("synchronous_commit is {session} in a session of Quartet's");
        return Ok(Finding::error(CHECK, found, session::DROPPED));
    }
    if session == server {
        return Ok(Finding::ok(CHECK, format!("synchronous_commit is {session}")));
    }
    let found = format!(
        "synchronous_commit is {session}: the server says {server}, and each \
                         session of Quartet's raises it"
    );
    Ok(Finding::ok(CHECK, found))
}

/// The statement that undoes a setting, by where it comes from.
async fn reset(conn: &mut PgConnection, setting: &str) -> Result<String, StoreError> {
    // Not a checked query: `setrole` and `setdatabase` are 0 where they mean all.
    let found = sqlx::query(
        "SELECT CASE
            WHEN setrole <> 0 AND setdatabase <> 0
                THEN format('ALTER ROLE %I IN DATABASE %I RESET %I', session_user,
                    current_database(), $1::text)
            WHEN setrole <> 0 THEN format('ALTER ROLE %I RESET %I', session_user, $1::text)
            WHEN setdatabase <> 0
                THEN format('ALTER DATABASE %I RESET %I', current_database(), $1::text)
            ELSE format('ALTER ROLE ALL RESET %I', $1::text)
        END
        FROM pg_db_role_setting
        WHERE setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
            AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND EXISTS (SELECT FROM unnest(setconfig) AS line WHERE line LIKE $1::text || '=%')
        -- As Postgres does: what is said about both wins, then the role, then the database.
        ORDER BY setrole <> 0 AND setdatabase <> 0 DESC, setrole <> 0 DESC, setdatabase <> 0 DESC
        LIMIT 1",
    )
    .bind(setting)
    .fetch_optional(conn)
    .await?;
    Ok(match found {
        Some(row) => row.try_get(0)?,
        None => format!("ALTER SYSTEM RESET {setting}, then SELECT pg_reload_conf()"),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn level(version_number: i32) -> (Level, String) {
        let facts = Facts {
            version_number,
            version: format!("{}.1", version_number / 10_000),
            encoding: "UTF8".to_owned(),
            orders_ulids: true,
            database: "quartet".to_owned(),
            role: "relay".to_owned(),
            is_standby: false,
            is_read_only: false,
            fsync: true,
            full_page_writes: true,
            replication_role: "origin".to_owned(),
        };
        let finding = check_version(&facts).remove(0);
        (finding.level, finding.to_string())
    }

    #[test]
    fn the_versions_that_are_tested_are_taken() {
        let refused = "the server is PostgreSQL 13.1: Quartet works with PostgreSQL 14 to 18";
        assert_eq!(level(130_022), (Level::Error, refused.to_owned()));
        assert_eq!((level(140_000).0, level(180_004).0), (Level::Ok, Level::Ok));
        assert_eq!(level(190_000).0, Level::Warning);
    }
}
