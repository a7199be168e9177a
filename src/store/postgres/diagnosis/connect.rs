//! Opens one connection, and explains a failure with its place and remedy.
//!
//! A pool would hide the cause: it retries until its time limit.

use std::{error::Error, fmt, io::ErrorKind};

use sqlx::{ConnectOptions, Connection};

use super::super::{
    database::in_time_of,
    session::{CONNECT_LIMIT, Target},
};
use crate::{domain::innermost, store::StoreError};

/// Why no connection was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFailure {
    pub found: String,
    pub remedy: String,
    /// A pooler is there that takes no settings at the start of a session.
    pub is_pooler: bool,
    /// Whether it may pass by itself, as when a server is started. Else somebody has to change a
    /// setting, and trying again is in vain.
    pub may_pass: bool,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found)
    }
}

impl Error for ConnectFailure {}

/// Opens a connection as the program does, and closes it.
pub async fn connect(target: &Target) -> Result<(), ConnectFailure> {
    let opened = in_time_of(CONNECT_LIMIT, async {
        let conn = target.options(&[]).connect().await?;
        // What follows does not depend on a good end.
        let _ = conn.close().await;
        Ok::<_, StoreError>(())
    });
    opened.await.map_err(|error| {
        let (StoreError::Unavailable(error) | StoreError::Query(error)) = error;
        explain(target, &error)
    })
}

fn explain(target: &Target, error: &sqlx::Error) -> ConnectFailure {
    let (place, user, database) = (target.place(), target.user(), target.database());
    let failure = |found: String, remedy: String| ConnectFailure {
        found,
        remedy,
        is_pooler: false,
        may_pass: true,
    };
    let permanent = |found: String, remedy: String| ConnectFailure {
        may_pass: false,
        ..failure(found, remedy)
    };
    match error {
        sqlx::Error::Database(error) => {
            let message = error.message();
            match error.code().unwrap_or_default().as_ref() {
                "28P01" => permanent(
                    format!("password refused for user {user} at {place}"),
                    format!(
                        "correct the password in DATABASE_URL, or: ALTER ROLE {user} PASSWORD '…'"
                    ),
                ),
                "28000" => permanent(
                    format!("{place} refuses user {user}: {message}"),
                    "add a line to the server's pg_hba.conf, or correct the user in DATABASE_URL"
                        .to_owned(),
                ),
                "3D000" => permanent(
                    format!("there is no database {database} at {place}"),
                    create_database(database),
                ),
                "42501" => permanent(
                    format!("user {user} may not connect to {database} at {place}: {message}"),
                    format!("GRANT CONNECT ON DATABASE {database} TO {user}"),
                ),
                "53300" => failure(
                    format!("{place} takes no more connections: {message}"),
                    "raise max_connections (or the role's or the database's limit), or lower \
                     QUARTET_DATABASE__MAX_CONNECTIONS"
                        .to_owned(),
                ),
                "57P03" => failure(
                    format!("the server at {place} is not ready: {message}"),
                    "wait until it has started, and look into its log".to_owned(),
                ),
                _ if message.contains("startup parameter") => ConnectFailure {
                    found: format!(
                        "a pooler at {place} refuses the settings of a session: {message}"
                    ),
                    remedy:
                        "set QUARTET_DATABASE__POOLER=transaction where it pools transactions; \
                             in session mode let it pass the start-up parameter `options`"
                            .to_owned(),
                    is_pooler: true,
                    may_pass: false,
                },
                "42704" | "22023" => permanent(
                    format!("{place} does not know a setting of the session: {message}"),
                    "correct `options` in DATABASE_URL, or PGOPTIONS in the environment".to_owned(),
                ),
                code => failure(
                    format!("{place} refuses the connection ({code}): {message}"),
                    "look into the server's log".to_owned(),
                ),
            }
        }
        sqlx::Error::Tls(error) => permanent(
            format!("no TLS with {place}: {}", innermost_text(error.as_ref())),
            "correct sslmode and sslrootcert in DATABASE_URL, or the server's certificate"
                .to_owned(),
        ),
        sqlx::Error::Configuration(error) => permanent(
            error.to_string(),
            "correct DATABASE_URL, or libpq's variables (PG…)".to_owned(),
        ),
        sqlx::Error::Io(error) if of_tls(error).is_some() => {
            let (found, remedy) = of_tls(error).unwrap_or_default();
            permanent(format!("no TLS with {place}: {found}"), remedy.to_owned())
        }
        sqlx::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => failure(
                format!("connection refused at {place}"),
                "start the server there, or correct host and port in DATABASE_URL".to_owned(),
            ),
            ErrorKind::TimedOut => failure(
                format!("no answer from {place} within {} s", CONNECT_LIMIT.as_secs()),
                "open the way to it (firewall, network policy), or correct DATABASE_URL".to_owned(),
            ),
            // The resolver's errors have no kind of their own.
            _ if error.to_string().contains("lookup") => failure(
                format!("the name {} is not resolved: {}", target.host(), innermost_text(error)),
                "correct the host in DATABASE_URL, or the name server".to_owned(),
            ),
            _ => failure(
                format!("no connection to {place}: {}", innermost_text(error)),
                "open the way to it (network, firewall), or correct DATABASE_URL".to_owned(),
            ),
        },
        error => failure(
            format!("no connection to {place}: {}", innermost_text(error)),
            "correct DATABASE_URL".to_owned(),
        ),
    }
}

/// Creates a database as Quartet needs it. `database` is quoted where it must be.
pub(in crate::store) fn create_database(database: &str) -> String {
    format!("CREATE DATABASE {database} ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
}

/// What is wrong with the server's certificate or its TLS, and the remedy.
fn of_tls(error: &std::io::Error) -> Option<(String, &'static str)> {
    use rustls::{CertificateError as Certificate, Error as Tls};

    let error = error.get_ref()?.downcast_ref::<Tls>()?;
    Some(match error {
        // The second one where the other authority goes by the same name.
        Tls::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => (
            "its certificate is of an authority that is not trusted".to_owned(),
            "name the authority's certificate in DATABASE_URL (sslrootcert=FILE), or let those \
             of the system hold (sslrootcert=system)",
        ),
        Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => (
            "its certificate is for another name".to_owned(),
            "connect by a name that is in the certificate, or check its authority alone \
             (sslmode=verify-ca with sslrootcert=FILE)",
        ),
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => (
            "its certificate has expired".to_owned(),
            "renew the server's certificate, or correct this machine's clock",
        ),
        error => (
            error.to_string(),
            "correct sslmode and sslrootcert in DATABASE_URL, or the server's certificate",
        ),
    })
}

/// What the error is due to in the end, in words.
pub(super) fn innermost_text(error: &(dyn Error + 'static)) -> String {
    without_number(&innermost(error).to_string())
}

/// The text of an error of the system without its number, which means nothing to a reader.
pub(in crate::store) fn without_number(text: &str) -> String {
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
