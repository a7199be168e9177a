//! Explains why a statement or a migration failed, with the remedy.

use std::io::ErrorKind;

use sqlx::migrate::MigrateError;

use super::connect::{innermost_text, without_number};

/// What happened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub found: String,
    pub remedy: String,
}

fn explained(found: impl Into<String>, remedy: &str) -> Explanation {
    Explanation { found: found.into(), remedy: remedy.to_owned() }
}

const AGAIN: &str = "try again; `quartet doctor` says what is wrong with the database";

/// Why a statement gave no result.
pub fn explain(error: &sqlx::Error) -> Explanation {
    match error {
        sqlx::Error::Database(error) => {
            let message = error.message();
            match error.code().unwrap_or_default().as_ref() {
                "42P01" | "42703" | "42883" | "42704" | "3F000" => explained(
                    format!("the schema is not the one of this release: {message}"),
                    "run `quartet migrate`, or use the release that the database was migrated with",
                ),
                "42501" => explained(
                    format!("the database's role may not do this: {message}"),
                    "grant it what docs/database.md lists; `quartet doctor` names the statement",
                ),
                "42P05" | "26000" => explained(
                    "a pooler hands the database's sessions from transaction to transaction",
                    "set QUARTET_DATABASE__POOLER=transaction, or have the pooler keep sessions",
                ),
                "28P01" | "28000" => explained(
                    format!("the database refuses the role: {message}"),
                    "correct user and password in DATABASE_URL; `quartet doctor` says more",
                ),
                "25006" => explained(
                    "the database takes no writes",
                    "let DATABASE_URL lead to the primary; `quartet doctor` says why it only reads",
                ),
                "57014" => explained(
                    "the database worked at a statement for longer than it may",
                    "ask for less (--limit, filters), or try again when less is going on; \
                     `quartet doctor` says what slows it down",
                ),
                "55P03" => explained(
                    "another session holds a lock that this needs",
                    "try again; `quartet doctor` names sessions that have been open for long",
                ),
                "53100" => explained(
                    format!("the database's disk is full: {message}"),
                    "give it space; nothing that was accepted is lost",
                ),
                "53300" => explained(
                    format!("the database takes no more connections: {message}"),
                    "raise max_connections (or the role's or the database's limit), or lower \
                     QUARTET_DATABASE__MAX_CONNECTIONS",
                ),
                code if code.starts_with("57P") => {
                    explained(format!("the server ended the connection: {message}"), AGAIN)
                }
                code => explained(
                    format!("the database refuses this ({code}): {message}"),
                    "look into the server's log; `quartet doctor` checks all that Quartet needs",
                ),
            }
        }
        sqlx::Error::Configuration(error) => {
            explained(error.to_string(), "correct DATABASE_URL, or libpq's variables (PG…)")
        }
        sqlx::Error::PoolTimedOut => explained("no connection to the database in time", AGAIN),
        sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut => {
            explained("the database did not answer in time", AGAIN)
        }
        // What this program found out by itself, such as that the server is a standby.
        sqlx::Error::Io(error) if error.kind() == ErrorKind::Other => explained(
            error.to_string(),
            "let DATABASE_URL lead to a primary that takes writes; `quartet doctor` says more",
        ),
        sqlx::Error::Io(error) => explained(
            format!(
                "the connection to the database was lost: {}",
                without_number(&error.to_string())
            ),
            AGAIN,
        ),
        sqlx::Error::Tls(error) => explained(
            format!("no TLS with the database: {}", innermost_text(error.as_ref())),
            "correct sslmode and sslrootcert in DATABASE_URL; `quartet doctor` says more",
        ),
        sqlx::Error::ColumnDecode { index, source } => explained(
            format!("the column {index} cannot be read: {source}"),
            "repair the row: docs/database.md, `A row that cannot be read`",
        ),
        error => explained(
            format!("the database's answer cannot be used: {}", innermost_text(error)),
            "run `quartet migrate` and `quartet doctor` of this release",
        ),
    }
}

/// Why a migration was not applied.
pub fn explain_migration(error: &MigrateError) -> Explanation {
    match error {
        MigrateError::ExecuteMigration(error, version) => {
            let Explanation { found, remedy } = explain_change(error);
            Explanation { found: format!("migration {version} was not applied: {found}"), remedy }
        }
        MigrateError::Execute(error) => explain_change(error),
        MigrateError::VersionMissing(version) => explained(
            format!("the database has a migration {version} that this release does not know"),
            "use the release that it was migrated with, or a newer one",
        ),
        MigrateError::VersionMismatch(version) => explained(
            format!("migration {version} is not the one that was applied to this database"),
            "use a release as it was published, not a build whose migrations were changed",
        ),
        MigrateError::Dirty(version) => explained(
            format!("migration {version} was begun and did not come to its end"),
            "restore the database from before it, or ask for help with the server's log",
        ),
        error => explained(
            innermost_text(error),
            "run it again with the release as it was published; `quartet doctor` says more",
        ),
    }
}

/// A missing table is no reason to migrate while migrating.
fn explain_change(error: &sqlx::Error) -> Explanation {
    match error {
        sqlx::Error::Database(error) => {
            let remedy = match error.code().unwrap_or_default().as_ref() {
                "42501" => {
                    "migrate as the owner of the tables and the database; docs/database.md lists \
                     the rights"
                }
                "53100" => "give the database space and run `quartet migrate` again",
                _ => {
                    "what was done so far stays: mend this and run `quartet migrate` again; the \
                     server's log has the statement"
                }
            };
            explained(error.message(), remedy)
        }
        error => explain(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn no_error_is_passed_on_in_the_drivers_words() {
        let silence = sqlx::Error::Io(Error::from(ErrorKind::TimedOut));
        assert_eq!(explain(&silence).found, "the database did not answer in time");
        let reset = sqlx::Error::Io(Error::from_raw_os_error(104));
        let found = explain(&reset).found;
        assert!(found.contains("lost: ") && !found.contains("os error"), "{found}");
        let standby = sqlx::Error::Io(Error::other("the server is a standby"));
        assert_eq!(explain(&standby).found, "the server is a standby");
        assert!(explain(&standby).remedy.contains("primary"));
        assert!(!explain(&sqlx::Error::PoolTimedOut).found.contains("pool"));
    }

    #[test]
    fn a_migration_is_named_by_its_version_alone() {
        let unknown = explain_migration(&MigrateError::VersionMissing(7));
        assert!(unknown.found.contains("migration 7"), "{unknown:?}");
        let error = sqlx::Error::Io(Error::from(ErrorKind::TimedOut));
        let cut = explain_migration(&MigrateError::ExecuteMigration(error, 8));
        assert!(cut.found.starts_with("migration 8 was not applied: the database"), "{cut:?}");
    }
}
