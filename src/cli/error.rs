//! Why a command failed, and the message for the operator.
//!
//! The database's errors are explained ([`diagnosis`]): what happened, and what to do. Messages of
//! drivers and parsers, and lines of migrations, are not passed on.

use std::error::Error;

use super::COMMAND_LIMIT;
use crate::{
    app::AppError,
    config::ConfigError,
    dev::postgres,
    domain::{causes, visible},
    maintenance::run::RunError,
    operations::{
        clients::AddClientError, reconcile::BeginError, replay::BulkError, secrets::SecretsError,
    },
    profiles::ProfileError,
    sandbox::SandboxError,
    store::{
        MigrateError, StoreError,
        dead_letter_actions::DeadLetterError,
        jobs::job_list::JobActionError,
        postgres::diagnosis::{self, ConnectFailure, Explanation},
    },
    telemetry::TelemetryError,
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("the schema could not be brought up to date")]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
    #[error(transparent)]
    BulkReplay(#[from] BulkError),
    #[error(transparent)]
    Job(#[from] JobActionError),
    #[error(transparent)]
    Client(#[from] crate::outbound::SetupError),
    #[error(transparent)]
    AddClient(#[from] AddClientError),
    #[error(transparent)]
    BeginReconcile(#[from] BeginError),
    #[error(transparent)]
    Reconcile(#[from] RunError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    #[error(
        "DATABASE_URL is not set: set it to postgres://user:password@host:5432/database, in the \
         environment or as `database_url` in the file of --config"
    )]
    NoDatabase,
    #[error(
        "QUARTET_DATABASE__DIRECT_URL is not set: migrations need a session, which the pooler at \
         DATABASE_URL does not keep"
    )]
    NoSessions,
    #[error(transparent)]
    Connect(#[from] ConnectFailure),
    #[error(
        "the database did not answer within {} s; `quartet doctor` says what is wrong with it",
        COMMAND_LIMIT.as_secs()
    )]
    NoAnswer,
    #[error("reading or writing failed")]
    Io(#[from] std::io::Error),
    #[error("signals cannot be handled")]
    Signals(#[source] std::io::Error),
    #[error("the output could not be written: {0}")]
    Output(&'static std::io::Error),
    /// The same where it had a secret that is printed only once.
    #[error("{done}, but the output could not be written: {error}")]
    SecretNotPrinted { done: String, remedy: String, error: &'static std::io::Error },
    #[error("the request to Quartet failed")]
    Request(#[from] reqwest::Error),
    #[error("output could not be written as JSON")]
    Json(#[from] serde_json::Error),
    /// Something that only its text explains.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// What went wrong, why, and what to do: a line each.
    pub fn report(&self) -> String {
        let (mut said, mut remedy) = (Vec::new(), None);
        for error in causes(self) {
            if let Some(Explanation { found, remedy: what_to_do }) = explanation(error) {
                said.push(found);
                remedy = Some(what_to_do);
                break;
            }
            let text = error.to_string();
            if !(StoreError::is_bare(&text) && error.source().is_some()) {
                said.push(without_code(&text));
            }
        }
        // An error that passes its source on says the same.
        said.dedup();
        let mut report = format!("error: {}", said.join("\n  because: "));
        if let Some(remedy) = remedy {
            report.push_str(&format!("\n  what to do: {remedy}"));
        }
        visible(&report).into_owned()
    }
}

/// An error's text without the system's number for it.
fn without_code(text: &str) -> String {
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What an error means that comes with a remedy.
fn explanation(error: &(dyn Error + 'static)) -> Option<Explanation> {
    if let Some(error @ CliError::SecretNotPrinted { remedy, .. }) = error.downcast_ref() {
        let found = without_code(&error.to_string());
        return Some(Explanation { found, remedy: remedy.clone() });
    }
    if let Some(CliError::Connect(ConnectFailure { found, remedy, .. })) = error.downcast_ref() {
        return Some(Explanation { found: found.clone(), remedy: remedy.clone() });
    }
    if let Some(ConnectFailure { found, remedy, .. }) = error.downcast_ref() {
        return Some(Explanation { found: found.clone(), remedy: remedy.clone() });
    }
    if let Some(error) = error.downcast_ref() {
        return Some(diagnosis::explain(error));
    }
    error.downcast_ref().map(diagnosis::explain_migration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_database_is_explained_wherever_it_comes_from() {
        let lost = || StoreError::from(sqlx::Error::PoolTimedOut);
        for error in [
            CliError::Store(lost()),
            CliError::App(AppError::Store(lost())),
            CliError::DeadLetter(DeadLetterError::Store(lost())),
            CliError::Job(JobActionError::Store(lost())),
            CliError::Reconcile(RunError::Store(lost())),
            CliError::BeginReconcile(BeginError::Store(lost())),
            CliError::AddClient(AddClientError::Store(lost())),
            CliError::AddClient(AddClientError::Secrets(SecretsError::Store(lost()))),
            CliError::Migrate(MigrateError::Store(lost())),
            CliError::BulkReplay(BulkError::Interrupted {
                replayed: 1,
                matched: 2,
                source: lost(),
            }),
        ] {
            let report = error.report();
            assert!(report.contains("no connection to the database in time"), "{report}");
            assert!(report.contains("\n  what to do: "), "{report}");
            assert!(!report.contains("pool timed out"), "{report}");
            assert!(!report.contains("the database is unavailable"), "{report}");
        }
        let interrupted = BulkError::Interrupted { replayed: 1, matched: 2, source: lost() };
        let report = CliError::BulkReplay(interrupted).report();
        assert!(report.starts_with("error: interrupted: 1 of 2"), "{report}");
    }
}
