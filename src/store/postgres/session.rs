//! How sessions are opened, and what each sets for itself.
//!
//! What Quartet promises must not depend on what somebody set for the role, the database or the
//! server, or in this process's environment (`PGOPTIONS`): `docs/database.md` goes through the
//! settings one by one. Most have a fixed value, which is sent when the session is opened; that
//! costs nothing and holds until the session ends. A few depend on the server, and are set by
//! [`Target::configure`] in the round trip that asks whether it is a standby.
//!
//! A pooler that hands its sessions from transaction to transaction (PgBouncer with `pool_mode =
//! transaction`) refuses such settings, loses what a session knows, and has a session for one
//! transaction at a time. There all of them stand at the beginning of each transaction, in the
//! message that begins it, so that they cost no round trip either.
//!
//! sqlx prepares a statement under a name that is new on the connection, and in a message before
//! the one that executes it: behind such a pooler outside a transaction the two would reach
//! different sessions. Within one the name may still be one that another connection has left in the
//! session: each transaction begins with `DEALLOCATE ALL`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Executor, PgConnection, postgres::PgConnectOptions};

use super::connect_options;
use crate::store::StoreError;

/// The settings of every session that have a fixed value, as `SHOW` prints it. All exist since
/// PostgreSQL 13, whose sessions must open for its version to be refused.
const SETTINGS: &[(&str, &str)] = &[
    // No statement of ours takes longer unless something is wrong.
    ("statement_timeout", "5s"),
    IDLE_LIMIT,
    ("lock_timeout", "0"),
    // Statements are written for it: under a stricter level they fail where they would wait.
    ("default_transaction_isolation", "read committed"),
    // An error where a policy would hide rows.
    ("row_security", "off"),
    // What literals and texts mean.
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("IntervalStyle", "postgres"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // A batch that does not fit writes temporary files, which the server may forbid.
    ("work_mem", "16MB"),
    // Plans. Our statements are small: the compiler costs more than it saves.
    ("jit", "off"),
    ("plan_cache_mode", "auto"),
    ("join_collapse_limit", "8"),
    ("from_collapse_limit", "8"),
    ("enable_bitmapscan", "on"),
    ("enable_hashagg", "on"),
    ("enable_hashjoin", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_indexscan", "on"),
    ("enable_material", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("enable_sort", "on"),
];
/// Its value says whether the settings arrived, since no session overrides it.
const IDLE_LIMIT: (&str, &str) = ("idle_in_transaction_session_timeout", "10s");
/// The server's own way of finding out that this process is gone, which a pooler sees to itself: it
/// is soon rid of the connection, and of the locks.
const KEEPALIVES: &[(&str, &str)] = &[
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];
/// What sqlx sends at the start of a session, and a pooler may keep to itself.
const OF_THE_DRIVER: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    // The trigger on the job table asks for it.
    ("application_name", APPLICATION),
];
const APPLICATION: &str = "quartet";
/// Until the session knows where `hstore` is. Temporary tables come last: in a session that a
/// pooler shares they may be another program's, under a name of ours.
const SEARCH_PATH: (&str, &str) = ("search_path", "public, pg_temp");
const COMMIT: &str = "synchronous_commit";
/// The values of `synchronous_commit` that keep what was committed through a crash.
pub(in crate::store) const DURABLE: [&str; 2] = ["on", "remote_apply"];
/// What to do where the settings of a session did not arrive.
pub(in crate::store) const DROPPED: &str = "a pooler in between drops the start-up parameter `options`: let \
    it pass that, or set QUARTET_DATABASE__POOLER=transaction";
/// How long a connection may take to be opened.
pub(in crate::store) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// `search_path` with the schema of `hstore`, whose type and operators our statements name without
/// one.
const PATH: &str = "'public' || COALESCE((SELECT ', ' || extnamespace::regnamespace FROM \
    pg_extension WHERE extname = 'hstore' AND extnamespace::regnamespace::text <> 'public'), '') \
    || ', pg_temp'";
/// Settings that some versions do not have, where they are left alone.
const WHERE_KNOWN: &[(&str, &str)] = &[
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("restrict_nonsystem_relation_kind", ""),
];

/// Sets `settings`; `local` for this transaction alone. `path` is an expression.
///
/// What a session has not set itself follows the server's configuration while the session is open:
/// a session sets all of them, those that have the right value as well. A transaction sets what
/// differs, because comparing costs less than setting and this begins each transaction through a
/// pooler; but always `synchronous_commit`, which counts at the commit. That is raised where it is
/// weaker than `on`; what is stronger stays.
fn set(settings: &[(&str, &str)], path: &str, local: bool) -> String {
    let list = |values: Vec<String>| format!("ARRAY[{}]", values.join(", "));
    let all = settings.iter().chain(WHERE_KNOWN);
    let (mut names, mut values): (Vec<_>, Vec<_>) =
        all.map(|(name, value)| (literal(name), literal(value))).unzip();
    let present = format!("pg_catalog.current_setting('{COMMIT}')");
    let commit = format!(
        "CASE WHEN {present} IN ('off', 'local', 'remote_write') THEN '{}' ELSE {present} END",
        DURABLE[0],
    );
    names.extend([literal(SEARCH_PATH.0), literal(COMMIT)]);
    values.extend([path.to_owned(), commit]);
    let is_set = match local {
        true => format!("name = '{COMMIT}' OR pg_catalog.current_setting(name, true) <> value"),
        // Null in a version that does not have it.
        false => "pg_catalog.current_setting(name, true) IS NOT NULL".to_owned(),
    };
    format!(
        "SELECT pg_catalog.set_config(name, value, {local}) FROM ROWS FROM \
         (pg_catalog.unnest({}), pg_catalog.unnest({})) AS wanted (name, value) WHERE {is_set}",
        list(names),
        list(values),
    )
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The settings whose values a session of a [pool](super::database::Database) has, as `SHOW` prints
/// them.
pub(in crate::store) fn fixed_settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    SETTINGS.iter().copied()
}

/// Where the database is, and what is in between.
#[derive(Debug, Clone)]
pub struct Target {
    options: PgConnectOptions,
    shares_sessions: bool,
    /// The `search_path`, once a transaction through a pooler has found it out: looking it up costs
    /// more than all other settings together.
    path: Arc<OnceLock<String>>,
}

impl Target {
    /// Postgres, or a pooler that keeps sessions, at `url`; `shares_sessions` where it is a pooler
    /// that hands them from transaction to transaction.
    pub fn new(url: &str, shares_sessions: bool) -> Result<Self, StoreError> {
        let options = connect_options::read(url)?;
        let options = options.application_name(APPLICATION);
        if !shares_sessions {
            let settings = SETTINGS.iter().chain(KEEPALIVES).copied().chain([SEARCH_PATH]);
            let options = options.options(settings);
            return Ok(Self { options, shares_sessions, path: Arc::default() });
        }
        if options.get_options().is_some() {
            let error = "a pooler in transaction mode takes no settings of a session: remove \
                         PGOPTIONS from the environment and `options` from DATABASE_URL";
            return Err(StoreError::Query(sqlx::Error::Configuration(error.into())));
        }
        // What it has prepared it does not find again, and what it sends at the start that the
        // pooler does not know is refused.
        let options = options.statement_cache_capacity(0).extra_float_digits(None);
        Ok(Self { options, shares_sessions, path: Arc::default() })
    }

    pub(in crate::store) fn shares_sessions(&self) -> bool {
        self.shares_sessions
    }

    /// The same, with sessions that the server lists under this name.
    pub fn named(self, application: &str) -> Self {
        Self { options: self.options.application_name(application), ..self }
    }

    /// Where a connection leads: host and port, or the socket.
    pub fn place(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => {
                let (host, port) = (self.options.get_host(), self.options.get_port());
                match host.contains(':') {
                    // An address of IPv6 has colons of its own.
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                }
            }
        }
    }

    pub fn host(&self) -> &str {
        self.options.get_host()
    }

    pub fn user(&self) -> &str {
        self.options.get_username()
    }

    /// The name of the database: the user's, where the URL has none.
    pub fn database(&self) -> &str {
        self.options.get_database().unwrap_or_else(|| self.user())
    }

    /// How a session with these further settings is opened.
    pub(in crate::store) fn options(&self, settings: &[(&str, &str)]) -> PgConnectOptions {
        if self.shares_sessions || settings.is_empty() {
            return self.options.clone();
        }
        self.options.clone().options(settings.iter().copied())
    }

    /// What begins a transaction of this mode, with these further settings, where no session keeps
    /// them.
    pub(in crate::store) fn begin(&self, mode: &str, further: &[(&str, &str)]) -> Option<String> {
        let path = self.path.get().map(|path| literal(path));
        let path = path.as_deref().unwrap_or(PATH);
        self.shares_sessions.then(|| begin_with(mode, further, path))
    }

    /// Finds out what that may say at once, in a transaction that has begun.
    pub(in crate::store) async fn learn(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.shares_sessions || self.path.get().is_some() {
            return Ok(());
        }
        // In the simple protocol, which needs nothing to be prepared.
        let path = format!("SELECT {PATH} FROM pg_extension WHERE extname = 'hstore'");
        if let Some(row) = conn.fetch_optional(AssertSqlSafe(path)).await? {
            // Another transaction may have been first, with the same.
            let _ = self.path.set(sqlx::Row::try_get(&row, 0)?);
        }
        Ok(())
    }

    /// Prepares a session that was just opened. Refuses a standby: it answers, but late, and counts
    /// as an absent database.
    pub(in crate::store) async fn configure(
        &self,
        conn: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let (is_standby, limit) = if self.shares_sessions {
            // The session is others' too; each transaction begins with its settings.
            let answer: bool =
                sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(conn).await?;
            (answer, IDLE_LIMIT.1.to_owned())
        } else {
            configure(conn).await?
        };
        if is_standby {
            return Err(sqlx::Error::Io(std::io::Error::other("the server is a standby")));
        }
        if limit != IDLE_LIMIT.1 {
            return Err(sqlx::Error::Configuration(DROPPED.into()));
        }
        Ok(())
    }
}

/// Sets what depends on the server, so that it stays as it is for as long as the session is open.
/// Answers whether the server is a standby, and for how long a transaction may idle.
pub(in crate::store) async fn configure(
    conn: &mut PgConnection,
) -> Result<(bool, String), sqlx::Error> {
    // Not a checked query: its text is put together.
    let configure = format!(
        "WITH configured AS MATERIALIZED ({}) SELECT pg_is_in_recovery(), current_setting('{}'), \
         (SELECT count(*) FROM configured)",
        set(&[], PATH, false),
        IDLE_LIMIT.0,
    );
    let row = sqlx::query(AssertSqlSafe(configure)).fetch_one(conn).await?;
    Ok((sqlx::Row::try_get(&row, 0)?, sqlx::Row::try_get(&row, 1)?))
}

/// How a session is opened that migrates: it may work at a statement for as long as that takes.
pub(in crate::store) fn migration_options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options = connect_options::read(url)?;
    // Notices say what a migration found already done.
    let own = [("statement_timeout", "0"), (IDLE_LIMIT.0, "0"), ("client_min_messages", "warning")];
    let settings = SETTINGS.iter().chain(KEEPALIVES).copied().chain([SEARCH_PATH]).chain(own);
    Ok(options.application_name("quartet migrate").options(settings))
}

/// What begins a transaction of this mode, such as `READ ONLY`.
pub(in crate::store) fn begin_in(mode: &str) -> String {
    // Also where the session's default should be another.
    let level =
        if mode.contains("ISOLATION LEVEL") { "" } else { "ISOLATION LEVEL READ COMMITTED" };
    format!("BEGIN {level} {mode}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same with the settings of a session, and these further ones.
fn begin_with(mode: &str, further: &[(&str, &str)], path: &str) -> String {
    let is_usual = |(name, _): &&(&str, &str)| further.iter().all(|(other, _)| other != name);
    let usual = SETTINGS.iter().chain(OF_THE_DRIVER).filter(is_usual);
    let settings: Vec<_> = usual.chain(further).copied().collect();
    format!("{}; {}; DEALLOCATE ALL", begin_in(mode), set(&settings, path, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_begins_with_its_settings_and_forgets_what_others_prepared() {
        let begin = begin_with("READ ONLY", &[("lock_timeout", "200ms")], "'public'");
        assert!(
            begin.starts_with("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SELECT "),
            "{begin}"
        );
        assert!(begin.ends_with("; DEALLOCATE ALL"), "{begin}");
        // Once, with its own value.
        assert_eq!(begin.matches("'lock_timeout'").count(), 1, "{begin}");
        assert_eq!(begin.matches("'200ms'").count(), 1, "{begin}");
    }

    #[test]
    fn the_path_is_quoted_once_it_is_known() {
        let target = Target::new("postgres://quartet@localhost/quartet", true).unwrap();
        assert!(target.begin("", &[]).unwrap().contains("pg_extension"));
        target.path.set("public, \"it's\", pg_temp".to_owned()).unwrap();
        let begin = target.begin("", &[]).unwrap();
        assert!(begin.contains("'public, \"it''s\", pg_temp'"), "{begin}");
    }

    #[test]
    fn a_session_sets_what_has_the_right_value_too_and_a_transaction_its_commit() {
        let always = "name = 'synchronous_commit' OR ";
        let (session, transaction) = (set(&[], PATH, false), set(&[], PATH, true));
        assert!(session.ends_with("current_setting(name, true) IS NOT NULL"), "{session}");
        assert!(transaction.contains(always) && !session.contains(always), "{transaction}");
        assert!(session.contains("set_config(name, value, false)"), "{session}");
        assert!(transaction.contains("set_config(name, value, true)"), "{transaction}");
    }

    #[test]
    fn an_address_of_ipv6_is_named_with_its_port() {
        let place = |url| Target::new(url, false).unwrap().place();
        assert_eq!(place("postgres://quartet@[::1]:5433/quartet"), "[::1]:5433");
        assert_eq!(place("postgres://quartet@db.example:5433/quartet"), "db.example:5433");
    }

    #[test]
    fn a_level_of_isolation_that_is_asked_for_stays() {
        assert_eq!(begin_in(""), "BEGIN ISOLATION LEVEL READ COMMITTED");
        let snapshot = "ISOLATION LEVEL REPEATABLE READ READ ONLY";
        assert_eq!(begin_in(snapshot), format!("BEGIN {snapshot}"));
    }

    #[test]
    fn a_pooler_is_sent_no_settings_at_the_start() {
        let url = "postgres://quartet@localhost/quartet";
        let direct = Target::new(url, false).unwrap().options(&[("lock_timeout", "200ms")]);
        let sent = direct.get_options().unwrap();
        assert!(sent.contains("statement_timeout=5s"), "{sent}");
        // What comes last holds.
        assert!(sent.ends_with("lock_timeout=200ms"), "{sent}");
        let pooled = Target::new(url, true).unwrap().options(&[("jit", "off")]);
        assert_eq!(pooled.get_options(), None);
        let error = Target::new(&format!("{url}?options=-cjit%3Don"), true).unwrap_err();
        assert!(matches!(error, StoreError::Query(sqlx::Error::Configuration(_))), "{error:?}");
    }
}
