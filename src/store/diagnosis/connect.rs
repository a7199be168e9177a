//! Opening one connection, and what a failure means, in words that name the place and the remedy.
//!
//! A pool hides the cause: it tries until its time is up.

use std::{error::Error, io::ErrorKind};

use sqlx::{ConnectOptions, Connection};

use super::super::{
    StoreError,
    database::in_time_of,
    session::{CONNECT_LIMIT, Target},
};

/// Why no connection was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFailure {
    pub found: String,
    pub remedy: String,
    /// A pooler is there that takes no settings at the start of a session.
    pub is_pooler: bool,
}

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
    let failure =
        |found: String, remedy: String| ConnectFailure { found, remedy, is_pooler: false };
    match error {
        sqlx::Error::Database(error) => {
            let message = error.message();
            match error.code().unwrap_or_default().as_ref() {
                "28P01" => failure(
                    format!("password refused for user {user} at {place}"),
                    format!(
                        "correct the password in DATABASE_URL, or: ALTER ROLE {user} PASSWORD '…'"
                    ),
                ),
                "28000" => failure(
                    format!("{place} refuses user {user}: {message}"),
                    "add a line to the server's pg_hba.conf, or correct the user in DATABASE_URL"
                        .to_owned(),
                ),
                "3D000" => failure(
                    format!("there is no database {database} at {place}"),
                    format!("CREATE DATABASE {database} ENCODING 'UTF8' TEMPLATE template0"),
                ),
                "42501" => failure(
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
                },
                code => failure(
                    format!("{place} refuses the connection ({code}): {message}"),
                    "look into the server's log".to_owned(),
                ),
            }
        }
        sqlx::Error::Tls(error) => failure(
            format!("no TLS with {place}: {}", innermost(error.as_ref())),
            "correct sslmode and sslrootcert in DATABASE_URL, or the server's certificate"
                .to_owned(),
        ),
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
                format!("the name {} is not resolved: {}", target.host(), innermost(error)),
                "correct the host in DATABASE_URL, or the name server".to_owned(),
            ),
            _ => failure(
                format!("no connection to {place}: {}", innermost(error)),
                "open the way to it (network, firewall), or correct DATABASE_URL".to_owned(),
            ),
        },
        error => failure(
            format!("no connection to {place}: {}", innermost(error)),
            "correct DATABASE_URL".to_owned(),
        ),
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
