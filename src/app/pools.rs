//! The connections of a process.

use std::{sync::Arc, time::Duration};

use super::{ACCEPT_WRITERS, error::AppError};
use crate::{
    config::{self, Config, Role},
    store::{self, Database, Target},
    telemetry::{database_errors::DatabaseErrors, metrics::NamedPool},
};

/// How long a request waits for a connection before it is answered that the database is away.
const REQUEST_ACQUIRE: Duration = Duration::from_millis(1_500);
/// How long a job waits for a connection: it has time, but it must not wait unseen.
const JOB_ACQUIRE: Duration = Duration::from_secs(10);
/// Connections of requests besides their pool: the writers of accepts and of webhooks.
const REQUEST_CONNECTIONS: u32 = ACCEPT_WRITERS + 1;
/// Connections of scrapes of the metrics, which share one reading.
const SCRAPE_CONNECTIONS: u32 = 1;
/// Connections of jobs besides their pool: for claims, outcomes, reads, leases and the watcher.
const JOB_CONNECTIONS: u32 = 5;

/// Connections that lease the calls of third parties that have a budget.
const BUDGET_CONNECTIONS: u32 = 1;

/// The connections of a process, split so that neither requests nor leases wait behind jobs.
pub(super) struct Pools {
    pub(super) requests: Database,
    pub(super) scrapes: Database,
    pub(super) jobs: Database,
    pub(super) leases: Database,
    pub(super) watch: Database,
    /// No call of a third party with a budget is sent without it.
    pub(super) budgets: Database,
}

impl Pools {
    pub(super) fn new(
        role: Role,
        config: &Config,
        database_errors: &Arc<DatabaseErrors>,
    ) -> Result<Self, AppError> {
        // A pool or a writer that is not used opens no connection.
        let own_of_requests = if role.serves_api() { REQUEST_CONNECTIONS } else { 0 };
        let own_of_jobs = if role.runs_jobs() { JOB_CONNECTIONS } else { 0 };
        let mut third_parties = config.all_third_parties();
        let has_budget = third_parties.any(|(_, settings)| settings.max_calls.is_some());
        let own_of_budgets = if has_budget { BUDGET_CONNECTIONS } else { 0 };
        let own = own_of_requests + own_of_jobs + own_of_budgets + SCRAPE_CONNECTIONS;
        let rest = config.database.max_connections.saturating_sub(own);
        // A third for requests, where both are served.
        let (requests, jobs) = match role {
            Role::All => {
                let requests = (rest / 3).max(1);
                (requests, rest.saturating_sub(requests))
            }
            Role::Api => (rest, 1),
            Role::Worker => (1, rest - 1.min(rest)),
        };
        let target = target(&config.database)?;
        let connect =
            |target: &Target, most, acquire| store::connect(target, most, acquire, database_errors);
        Ok(Self {
            requests: connect(&target, requests.max(1), REQUEST_ACQUIRE),
            scrapes: connect(&target, SCRAPE_CONNECTIONS, REQUEST_ACQUIRE),
            jobs: connect(&target, jobs.max(1), JOB_ACQUIRE),
            // A heartbeat that finds no connection fails before the next one is due.
            leases: connect(&target, 1, config.worker.heartbeat),
            budgets: connect(&target, BUDGET_CONNECTIONS, JOB_ACQUIRE),
            watch: connect(&session_target(&config.database)?, 1, JOB_ACQUIRE),
        })
    }

    /// For the metrics.
    pub(super) fn named(&self) -> Vec<NamedPool> {
        let pools = [
            ("requests", &self.requests),
            ("scrapes", &self.scrapes),
            ("jobs", &self.jobs),
            ("leases", &self.leases),
        ];
        pools.map(|(name, pool)| pool.named(name)).into()
    }
}

/// Where the database of `config` is.
pub fn target(config: &config::Database) -> Result<Target, AppError> {
    let url = config.url.as_ref().ok_or(AppError::NoDatabase)?;
    Ok(Target::new(url.expose(), config.pooler.shares_sessions())?)
}

/// Where sessions are kept: around the pooler, where there is a way.
fn session_target(config: &config::Database) -> Result<Target, AppError> {
    match &config.direct_url {
        Some(url) => Ok(Target::new(url.expose(), false)?),
        None => target(config),
    }
}
