//! The reconciliation sweep on demand, under the lease of the periodic one.
//!
//! The audit says who asked for it before anything is looked up. A crash leaves the lease, which
//! ends by itself, and what was written until then.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Map;
use tokio::time::Instant;

use crate::{
    domain::MaintenanceTask,
    maintenance::{
        reconcile::{self, Report, Request},
        run::{MaintenanceContext, RunError},
        scheduler::{hold, holder_name},
    },
    store::{
        StoreError,
        audit::{self, Actor, OperatorAction},
        maintenance::{self, Occasion, RunEnd},
    },
};

const TASK: MaintenanceTask = MaintenanceTask::Reconcile;
/// How long a sweep that is under way is waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Why a sweep did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error("a sweep is under way: {holder} holds it until {} or longer", .until.to_rfc3339())]
    UnderWay { holder: String, until: DateTime<Utc> },
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A sweep that began.
#[derive(Debug)]
pub struct Sweep {
    /// What it did, also where it did not come to its end.
    pub report: Report,
    pub ended: Result<(), RunError>,
}

/// Looks up what is open, as `request` says, and settles what can be settled. Waits a while for a
/// sweep that is under way. `progress` is called after each lookup. A dry run writes nothing, not
/// even that it took place.
pub async fn sweep(
    context: &MaintenanceContext,
    request: &Request,
    actor: Actor<'_>,
    progress: impl FnMut(&Report),
) -> Result<Sweep, BeginError> {
    let MaintenanceContext { pool, config, stopping, .. } = context;
    let holder = format!("command line {}", holder_name());
    let lease = config.worker.dead_after;
    acquire(context, &holder, request).await?;
    let mut report = Report::default();
    let work = async {
        // Within the work: where it fails, the lease is given back.
        if !request.dry_run {
            record(context, request, actor).await?;
        }
        reconcile::sweep(context, request, &mut report, progress).await
    };
    let swept = hold(pool, TASK, &holder, lease, stopping, work).await;
    let swept = swept.and_then(|swept| Ok(swept?));
    let released = if request.dry_run {
        maintenance::release_dry_run(pool, TASK, &holder).await
    } else {
        let end = RunEnd {
            result: swept.is_ok().then(|| report.summary()),
            error: swept.as_ref().err().map(ToString::to_string),
            due_in: None,
        };
        maintenance::release(pool, TASK, &holder, &end).await
    };
    Ok(Sweep { report, ended: swept.and(released.map_err(RunError::from)) })
}

/// Records in the audit that somebody has asked for a sweep.
async fn record(
    context: &MaintenanceContext,
    request: &Request,
    actor: Actor<'_>,
) -> Result<(), StoreError> {
    let detail = Map::from_iter([
        ("since".to_owned(), request.since.map(|since| since.to_rfc3339()).into()),
        ("limit".to_owned(), request.limit.into()),
    ]);
    audit::record_begin(&context.pool, actor, OperatorAction::Reconcile, detail).await
}

/// Takes the lease, or says who has it.
async fn acquire(
    context: &MaintenanceContext,
    holder: &str,
    request: &Request,
) -> Result<(), BeginError> {
    let MaintenanceContext { pool, config, stopping, .. } = context;
    let lease = config.worker.dead_after;
    let occasion = if request.dry_run { Occasion::DryRun } else { Occasion::OnDemand };
    let deadline = Instant::now() + MAX_WAIT;
    while !maintenance::acquire(pool, TASK, holder, lease, occasion).await? {
        if let Some((holder, until)) = maintenance::holder(pool, TASK).await?
            && Instant::now() > deadline
        {
            return Err(BeginError::UnderWay { holder, until });
        }
        tokio::select! {
            () = stopping.cancelled() => return Err(BeginError::Interrupted),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
    Ok(())
}
