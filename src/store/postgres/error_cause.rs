//! Which errors mean that the database does not serve this process, and why.

use crate::{
    store::is_of_row,
    telemetry::{database_errors::DatabaseErrors, labels::DatabaseErrorCause},
};

/// The cause, where the error is one that ends by itself or by an operator's hand; `None` where the
/// database works and a row is at fault, or another one's lock.
fn cause(error: &sqlx::Error) -> Option<DatabaseErrorCause> {
    use DatabaseErrorCause as Cause;

    match error {
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Some(Cause::Timeout)
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut => Some(Cause::Connection),
        sqlx::Error::Database(error) => match error.code()?.as_ref() {
            "25006" => Some(Cause::ReadOnly),
            "53100" => Some(Cause::DiskFull),
            "53300" => Some(Cause::TooManyConnections),
            // The server's own limit for a statement, or an administrator.
            "57014" => Some(Cause::Timeout),
            code if ["08", "57"].iter().any(|class| code.starts_with(class)) => {
                Some(Cause::Connection)
            }
            // Another transaction's lock; and one of ours that was idle for too long.
            code if code.starts_with("40") || ["25P03", "55P03"].contains(&code) => None,
            _ => (!is_of_row(error.as_ref())).then_some(Cause::Other),
        },
        _ => None,
    }
}

/// Counts an error by its cause.
pub(in crate::store) fn note(database_errors: &DatabaseErrors, error: &sqlx::Error) {
    if let Some(cause) = cause(error) {
        database_errors.count(cause);
    }
}

/// What comes of `done`, counted.
pub(in crate::store) async fn noted<T>(
    database_errors: &DatabaseErrors,
    done: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let done = done.await;
    if let Err(error) = &done {
        note(database_errors, error);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn errors_have_a_cause_unless_the_statement_is_at_fault() {
        let reset = sqlx::Error::Io(Error::from(ErrorKind::ConnectionReset));
        assert_eq!(cause(&reset), Some(DatabaseErrorCause::Connection));
        let silence = sqlx::Error::Io(Error::from(ErrorKind::TimedOut));
        assert_eq!(cause(&silence), Some(DatabaseErrorCause::Timeout));
        assert_eq!(cause(&sqlx::Error::PoolTimedOut), Some(DatabaseErrorCause::Connection));
        assert_eq!(cause(&sqlx::Error::RowNotFound), None);
    }
}
