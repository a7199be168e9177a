//! All SQL. One function a query, taking an executor, so that the caller chooses the transaction;
//! queries are checked against the schema when the project is built.
//!
//! Locks are always taken in one order, so that nothing deadlocks: a `transactions` row first
//! ([`transactions::lock`]), then rows of `apalis.jobs`, then dead letters. `FOR NO KEY UPDATE` is
//! enough for the transaction, and lets evidence (a foreign key to it) be written beside it.
//!
//! What comes often and together (accepts, webhooks, outcomes) is written together, by the writers
//! of [`postgres::coalesce`].
//!
//! A crash leaves nothing half-done: whatever belongs together is one SQL transaction.

pub mod accept;
pub mod audit;
pub mod call_budgets;
pub mod circuit;
pub mod client_secrets;
pub mod clients;
pub mod console_sessions;
pub mod dead_letter_actions;
pub mod dead_letters;
pub mod direct_leases;
pub mod evidence;
pub mod holds;
pub mod jobs;
pub mod maintenance;
pub mod minute_figures;
pub mod passed_probes;
pub mod postgres;
pub mod provider_webhooks;
pub mod queues;
pub mod reconcile;
pub mod rejected_webhooks;
pub mod retention;
pub mod scrape;
pub mod sent_creates;
pub mod settle;
pub mod summary;
pub mod transaction_list;
pub mod transaction_search;
pub mod transactions;
pub mod wakeups;
pub mod webhooks;

use std::{sync::Arc, time::Duration};

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

pub(crate) use self::postgres::database::{in_time, in_time_of};
pub use self::postgres::{
    clock::{clock_skew, now},
    database::{Database, SqlTransaction},
    migrate::{DEFAULT_WAIT, MigrateError, is_migrated, migrate, migrate_within},
    session::Target,
};
use crate::{domain::StringEnum, telemetry::database_errors::DatabaseErrors};

/// The wanted word, or all of its kind. A list reads a range of an index for each and merges them:
/// what is rare is found among millions of others, whatever plan the server makes.
fn wanted<W: StringEnum>(word: Option<W>) -> Vec<String> {
    let text = |word: W| word.as_str().to_owned();
    word.map_or_else(|| W::ALL.iter().copied().map(text).collect(), |word| vec![text(word)])
}

const UNAVAILABLE: &str = "the database is unavailable";
const REFUSED: &str = "the database refused the query";

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not serve this process: it is away, restarting, overloaded or read-only,
    /// or it refuses the role or the schema. Trying again later may work, with the same values;
    /// whether a commit under way took place is unknown.
    #[error("{}", UNAVAILABLE)]
    Unavailable(#[source] sqlx::Error),
    /// The query itself failed, because of its values or of a row that it met.
    #[error("{}", REFUSED)]
    Query(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_unavailable(&error) { Self::Unavailable(error) } else { Self::Query(error) }
    }
}

impl StoreError {
    /// Whether the same call may work later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether that may be over by itself, as a restart is. Else somebody has to change something
    /// first: a right, a setting, the schema.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(error) if may_pass(error))
    }

    /// Whether one of several requests that were made together may be the cause, or their number:
    /// the others may work one by one.
    pub fn may_concern_one(&self) -> bool {
        match self {
            Self::Query(_) => true,
            Self::Unavailable(sqlx::Error::Database(error)) => error
                .code()
                .is_some_and(|code| MAY_CONCERN_ONE.iter().any(|state| code.starts_with(state))),
            Self::Unavailable(_) => false,
        }
    }

    /// Whether the server has answered that it failed, so that nothing of it was written. All other
    /// errors leave open whether it was committed: no answer arrived, or one that cannot be read.
    pub fn is_answer(&self) -> bool {
        let (Self::Unavailable(error) | Self::Query(error)) = self;
        let sqlx::Error::Database(error) = error else { return false };
        error
            .code()
            .is_some_and(|code| !UNKNOWN_RESULT.iter().any(|unknown| code.starts_with(unknown)))
    }

    /// Whether the server ended the statement because of its time limit.
    pub fn took_too_long(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(QUERY_CANCELED))
    }

    /// Whether the session had prepared statements of another connection, or lacked those of this
    /// one: a pooler hands sessions on.
    pub fn met_anothers_session(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(error))
            if error.code().is_some_and(|code| ["42P05", "26000"].contains(&code.as_ref())))
    }

    /// Whether a text is all that an error of this kind says: its source says why.
    pub fn is_bare(text: &str) -> bool {
        [UNAVAILABLE, REFUSED].contains(&text)
    }

    /// The violated constraint, where one was.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Query(sqlx::Error::Database(error)) => error.constraint(),
            _ => None,
        }
    }
}

/// SQLSTATE of a statement that was ended by its time limit or by an administrator.
const QUERY_CANCELED: &str = "57014";

/// SQLSTATEs, by their first characters, after which a commit may have taken place: the connection
/// broke (08), the session was ended (57P), the result is unknown (40003); and what a pooler says
/// for a server that it has lost (58, XX).
const UNKNOWN_RESULT: [&str; 5] = ["08", "57P", "40003", "58", "XX"];

/// SQLSTATEs, by their first characters, that may have one row as their cause, or something else:
/// not supported (0A000; also a plan whose tables were changed), temporary files beyond their limit
/// (53400), raised by a trigger (P0), internal errors and corrupted data (XX).
const MAY_CONCERN_ONE: [&str; 4] = ["0A000", "53400", "P0", "XX"];

/// SQLSTATEs, by their first characters, that only a value or a row causes: cardinality (21), a
/// value (22), a constraint (23), the depth or size of a value (54). The texts of our statements
/// are checked when the project is built, so that a syntax error (42601) is one of a value, such as
/// an `hstore`'s.
const OF_ROW: [&str; 5] = ["21", "22", "23", "42601", "54"];

/// Functions of the server that refuse all writes until the database is vacuumed, with a SQLSTATE
/// (54000) that a value too large for an index has, too.
const REFUSE_WRAPAROUND: [&str; 2] = ["GetNewTransactionId", "GetNewMultiXactId"];

/// Whether the server blames the values of the query, or a row that it met. It blames none where it
/// refuses the role, the database or the schema: then nothing may be concluded about a row.
fn is_of_row(error: &(dyn DatabaseError + 'static)) -> bool {
    let routine = error.try_downcast_ref::<PgDatabaseError>().and_then(|error| error.routine());
    error.code().is_some_and(|code| {
        OF_ROW.iter().any(|state| code.starts_with(state))
            && !routine.is_some_and(|routine| REFUSE_WRAPAROUND.contains(&routine))
    })
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => !is_of_row(error.as_ref()),
        // Settings that did not arrive, a type that is not in the schema, a session in another
        // state than it should be.
        sqlx::Error::Configuration(_)
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::BeginFailed => true,
        error => may_pass(error),
    }
}

fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Classes of SQLSTATE: connection (08), serialisation and deadlock (40), resources
            // (53), shutdown and start-up (57), system error (58). Single codes: read-only after a
            // failover (25006), idle in a transaction for too long (25P03), lock timeout (55P03).
            ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                || matches!(code.as_ref(), "25006" | "25P03" | "55P03")
        }),
        _ => false,
    }
}

/// A pool at `target`, whose users wait at most `acquire_timeout` for a connection, and which
/// counts what goes wrong in `database_errors`. Connects on first use, so that a database that is
/// away delays no start.
pub fn connect(
    target: &Target,
    max_connections: u32,
    acquire_timeout: Duration,
    database_errors: &Arc<DatabaseErrors>,
) -> Database {
    Database::new(target.clone(), max_connections, acquire_timeout, database_errors.clone())
}

/// Begins a transaction. Every transaction of ours begins here, but for those of the writers.
pub(crate) async fn begin(database: &Database) -> Result<SqlTransaction, StoreError> {
    database.begin("").await
}

/// Begins a transaction that only reads, and sees the database as it is now until it ends.
pub async fn begin_snapshot(database: &Database) -> Result<SqlTransaction, StoreError> {
    database.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// Answers when the database does, and takes writes.
pub async fn ping(database: &Database) -> Result<(), StoreError> {
    database.refuse_read_only().await?;
    if database.database_errors().disk_was_full() {
        let error = std::io::Error::other("the database's disk was full a moment ago");
        return Err(StoreError::Unavailable(sqlx::Error::Io(error)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error, fmt};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What the server answers with this SQLSTATE.
    #[derive(Debug)]
    struct Answer(&'static str);

    impl fmt::Display for Answer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }
    }

    impl Error for Answer {}

    impl DatabaseError for Answer {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn answer(code: &'static str) -> StoreError {
        sqlx::Error::Database(Box::new(Answer(code))).into()
    }

    #[test]
    fn what_the_server_refuses_is_answered_also_where_it_may_work_later() {
        // A lock or statement timeout, a serialisation failure, a deadlock, a full disk.
        for code in ["55P03", "57014", "40001", "40P01", "53100"] {
            assert!(answer(code).is_answer(), "{code}");
        }
        for code in ["23503", "22003", "42P01"] {
            assert!(answer(code).is_answer(), "{code}");
        }
    }

    #[test]
    fn only_what_a_row_causes_is_blamed_on_a_row() {
        for code in ["21000", "22P02", "23514", "42601", "54000", "54001", "54011", "54023"] {
            let error = answer(code);
            assert!(!error.is_unavailable() && error.may_concern_one(), "{code}");
        }
        // The role, the password, the database, a right, the schema; a pooler that lost a session.
        let refused = [
            "28000", "28P01", "3D000", "55000", "42501", "42P01", "42703", "42883", "3F000",
            "26000", "42P05",
        ];
        for code in refused {
            let error = answer(code);
            assert!(error.is_unavailable() && !error.may_concern_one(), "{code}");
            assert!(!error.may_pass(), "{code}: somebody has to change something");
        }
        for code in ["08006", "25006", "40001", "53100", "53300", "55P03", "57014", "57P01"] {
            let error = answer(code);
            assert!(error.is_unavailable() && !error.may_concern_one(), "{code}");
            assert!(error.may_pass(), "{code}");
        }
        // The row may be the cause: it is tried again, and apart from others.
        for code in ["0A000", "53400", "P0001", "XX000", "XX001"] {
            assert!(answer(code).is_unavailable() && answer(code).may_concern_one(), "{code}");
        }
        assert!(answer("26000").met_anothers_session());
    }

    #[test]
    fn a_session_that_is_not_as_it_should_be_is_no_rows_fault() {
        let dropped = sqlx::Error::Configuration("a pooler drops settings".into());
        let no_type = sqlx::Error::TypeNotFound { type_name: "hstore".to_owned() };
        for error in [dropped, no_type, sqlx::Error::BeginFailed] {
            let error = StoreError::from(error);
            assert!(error.is_unavailable() && !error.may_pass(), "{error:?}");
        }
        assert!(!StoreError::from(sqlx::Error::RowNotFound).is_unavailable());
    }

    #[test]
    fn what_may_be_committed_is_not_answered() {
        for code in ["08006", "08P01", "57P01", "57P02", "40003", "58000", "XX000"] {
            assert!(!answer(code).is_answer(), "{code}");
        }
        let decoded_wrongly = sqlx::Error::ColumnDecode {
            index: "1".into(),
            source: "the answer of a statement that was committed".into(),
        };
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        for error in [decoded_wrongly, lost, sqlx::Error::WorkerCrashed, sqlx::Error::RowNotFound] {
            let error = StoreError::from(error);
            assert!(!error.is_answer(), "{error:?}");
        }
    }
}
