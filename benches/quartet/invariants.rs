//! The invariants after each run: what the rows say (the same queries as in the tests), and what
//! the stubs saw.

#[path = "../../tests/it/support/invariant_queries.rs"]
mod invariant_queries;

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use crate::{database::Database, error::BenchError, stubs::Ledger, wait::wait_until};

const AT_REST: Duration = Duration::from_secs(60);
/// `WORKER__DEAD_AFTER` and a heartbeat, by default.
const LEASE: Duration = Duration::from_secs(20);

/// Waits until no job runs or waits any more.
pub async fn wait_at_rest(database: &Database) -> Result<(), BenchError> {
    wait_until("no job runs or waits", AT_REST, async || {
        let busy = "SELECT EXISTS (SELECT FROM apalis.jobs WHERE status = 'Pending')
            OR EXISTS (SELECT FROM apalis.jobs WHERE lock_by IS NOT NULL)";
        let busy: bool = sqlx::query_scalar(busy).fetch_one(&database.pool).await?;
        Ok(!busy)
    })
    .await
}

/// Violations after a run in which only accepts happened: workers off.
pub async fn check_accepted(
    database: &Database,
    ledger: &Ledger,
) -> Result<Vec<String>, BenchError> {
    let ids: Vec<Uuid> = ledger.records_since(0).into_iter().map(|(id, _)| id).collect();
    let mut violations = invariant_queries::check_rows(&database.pool, LEASE).await?;
    violations.extend(invariant_queries::check_accepted(&database.pool, &ids).await?);
    violations.extend(ledger.violations(false));
    Ok(violations)
}

/// Violations after a run beside rows that the load generator did not post: the stubs know nothing
/// of those, so that what the client heard is checked for the accepted ones alone.
pub async fn check_beside_others(
    database: &Database,
    ledger: &Ledger,
) -> Result<Vec<String>, BenchError> {
    let mut violations = check_accepted(database, ledger).await?;
    violations.extend(ledger.violations(true));
    violations.dedup();
    Ok(violations)
}

/// Violations after a run that has come to rest: every accepted transaction has ended, and the
/// client has heard it.
pub async fn check_ended(database: &Database, ledger: &Ledger) -> Result<Vec<String>, BenchError> {
    let ids: Vec<Uuid> = ledger.records_since(0).into_iter().map(|(id, _)| id).collect();
    let heard: HashMap<Uuid, Vec<i64>> = ledger
        .told_versions()
        .into_iter()
        .map(|(id, version)| (id, vec![version.into()]))
        .collect();
    let mut violations = invariant_queries::check_rows(&database.pool, LEASE).await?;
    violations.extend(invariant_queries::check_told(&database.pool, &heard).await?);
    violations.extend(invariant_queries::check_accepted(&database.pool, &ids).await?);
    violations.extend(ledger.violations(true));
    Ok(violations)
}
