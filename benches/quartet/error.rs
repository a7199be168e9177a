//! Why a benchmark could not be carried out. Slow figures are none of these, and neither are
//! violated invariants: those are in the report.

use std::{io, process::ExitStatus, time::Duration};

use quartet::{app::AppError, config::ConfigError, dev::postgres, store::MigrateError};

/// What ends the benchmark early.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("the embedded PostgreSQL failed")]
    Postgres(#[from] postgres::Error),
    #[error("the schema could not be set up")]
    Migrate(#[from] MigrateError),
    #[error("a statement of the benchmark failed")]
    Sql(#[from] sqlx::Error),
    #[error("could not {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("`quartet serve` ended ({status}); its last output:\n{output}")]
    ServeEnded { status: ExitStatus, output: String },
    #[error("waited {} s in vain: {what}", bound.as_secs())]
    TimedOut { what: String, bound: Duration },
    #[error("{what} was answered {status}: {body}")]
    Refused { what: String, status: u16, body: String },
    #[error("{what}: cannot read {text:?}")]
    Unreadable { what: &'static str, text: String },
    #[error("pgbench failed ({status}):\n{output}")]
    Pgbench { status: ExitStatus, output: String },
    #[error("{name} failed ({status}):\n{output}")]
    Program { name: &'static str, status: ExitStatus, output: String },
    #[error("the configuration of the benchmark is wrong")]
    Config(#[from] ConfigError),
    #[error("Quartet ended")]
    App(#[from] AppError),
    #[error("a task of the benchmark ended unexpectedly")]
    Task(#[source] tokio::task::JoinError),
    #[error("{0}")]
    Incomplete(String),
    #[error("there is no section {0:?}")]
    UnknownSection(String),
}

/// Names what was being done when the system refused.
pub trait Doing<T> {
    /// `what` completes "could not …".
    fn doing(self, what: impl Into<String>) -> Result<T, BenchError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Io { what: what.into(), source })
    }
}
