//! `quartet doctor`: checks everything that a deployment needs, and says what is wrong and how to
//! correct it.
//!
//! Nothing is written, no transaction is created and no client is notified. Each check is bounded
//! in time, and those that do not need each other run at once, so that the whole ends within
//! seconds, even if every peer is away. A check that another fault prevents is left out if that
//! fault is reported, and reported as impossible otherwise.

mod database;
mod finding;
mod peers;
mod pooler;
mod process;
mod profiles;

use std::time::Duration;

pub use finding::{Finding, Level};

use crate::{
    config::{Config, ConfigError, Role},
    domain::with_causes,
    store::{StoreError, postgres::diagnosis},
};

/// How long one check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// What is looked at.
#[derive(Debug)]
pub struct Request {
    /// What the process is to do.
    pub role: Role,
    /// Transactions in the database that have been open for longer are reported.
    pub open_limit: Duration,
    /// `QUARTET_OPERATOR_TOKEN` as given: the configuration keeps hashes.
    pub operator_token: Option<String>,
    /// The names of variables that were ignored because they belong to services.
    pub ignored_variables: Vec<String>,
}

/// What is wrong with a configuration that could not be loaded: nothing else can be checked then.
pub fn of_wrong_configuration(error: &ConfigError) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    const REMEDY: &str = "correct it; docs/configuration.md lists all settings";
    let problems = error.problems();
    if problems.is_empty() {
        return vec![Finding::error(CHECK, with_causes(error), REMEDY)];
    }
    let of_problem =
        |problem: &crate::config::Problem| Finding::error(CHECK, problem.message.clone(), REMEDY);
    problems.iter().map(of_problem).collect()
}

/// Looks at everything.
pub async fn examine(config: &Config, request: &Request) -> Vec<Finding> {
    let mut findings = process::check(config, request);
    let (third_party, (database, clients)) = tokio::join!(
        peers::check_third_parties(config, request.role),
        database::check(config, request)
    );
    findings.extend(database);
    findings.extend(third_party);
    findings.extend(peers::check_callbacks(config, clients).await);
    findings
}

/// The findings of one check, or that it took too long.
async fn bounded(
    check: &'static str,
    findings: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    tokio::time::timeout(CHECK_LIMIT, findings).await.unwrap_or_else(|_| {
        let found = format!("no result within {} s", CHECK_LIMIT.as_secs());
        vec![Finding::error(check, found, "find out what is so slow, and run it again")]
    })
}

/// A check that the database did not let be made.
fn failed(check: &'static str, error: &StoreError) -> Finding {
    let remedy = match error.may_pass() {
        true => "see what the other findings say about the database",
        false => "see what the other findings say about rights and the schema",
    };
    Finding::error(check, format!("cannot be checked: {}", diagnosis::cause(error)), remedy)
}
