//! Why the application does not start, or ended.

use std::net::SocketAddr;

use crate::{
    config::ConfigError,
    http::tls::TlsError,
    jobs::supervisor::SupervisorError,
    operations::secrets::SecretsError,
    outbound::SetupError,
    store::{
        StoreError,
        postgres::{diagnosis::ConnectFailure, requirements::Unmet},
    },
};

/// Why the application does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the configuration is not complete")]
    Config(#[from] ConfigError),
    #[error("DATABASE_URL is not set")]
    NoDatabase,
    #[error(transparent)]
    Connect(#[from] ConnectFailure),
    #[error("cannot listen on {address} (QUARTET_HTTP__LISTEN)")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the metrics could not be set up")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secrets(SecretsError),
    #[error("this database cannot be used")]
    Requirements(#[source] Unmet),
    #[error("the database schema is not up to date: run `quartet migrate`")]
    NotMigrated,
    #[error(
        "QUARTET_DEFAULT_CLIENT__API_KEY belongs to the client {owner} already: give {client} a \
         key of its own, or keep the name"
    )]
    KeyTaken { owner: String, client: String },
    #[error(
        "a pooler between here and the database shares its sessions: set \
         QUARTET_DATABASE__POOLER=transaction, or have it keep sessions"
    )]
    SharedSessions(#[source] StoreError),
    #[error("the listener cannot be used")]
    Http(#[source] std::io::Error),
    #[error("the HTTP server ended unexpectedly")]
    HttpTask(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Workers(#[from] SupervisorError),
}

impl From<SecretsError> for AppError {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::Store(error) => Self::Store(error),
            error => Self::Secrets(error),
        }
    }
}
