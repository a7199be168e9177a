//! The periodic tasks of a worker process, each run by one process at a time.
//!
//! Every process asks when a task is due and free, sleeps until then, and tries to take its lease
//! (`store::maintenance`); the one that gets it runs the task while it renews the lease, and gives
//! it back with the next due time. A holder that is killed is replaced when its lease ends, after
//! `WORKER__DEAD_AFTER`; a holder that was frozen and replaced finds out at its next renewal, and
//! stops. Until then two may run: every step is one SQL transaction that holds the rows it decides
//! about, so that this costs lookups and breaks nothing.
//!
//! An error, and a panic, is logged and kept in the row, and the task is due again after a backoff
//! of at most its interval. While the database is away nothing happens, and then all goes on.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::{
    reconcile, retention,
    run::{MaintenanceContext, Run, RunError},
};
use crate::{
    config::Config,
    domain::{Backoff, BootInstant, MaintenanceTask, with_causes},
    store::{
        Database, StoreError,
        jobs::floors,
        maintenance::{self, Occasion, RunEnd},
    },
};

/// The longest sleep: so that a due time that an operator has set is soon noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The shortest, so that processes that wait for the same task do not spin.
const SHORTEST_SLEEP: Duration = Duration::from_millis(50);
/// First wait after an error.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// How often the floors of the scans are moved.
const FLOORS_EVERY: Duration = Duration::from_secs(5);
/// How long a stopping process waits for a task to end between two steps, and then to give its
/// lease back.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the tasks whenever they are due and free, until the process stops.
pub async fn run(context: MaintenanceContext) {
    tokio::join!(
        keep_running(&context, MaintenanceTask::Reconcile),
        keep_running(&context, MaintenanceTask::Retention),
        keep_floors(&context),
    );
}

/// Moves the floors of the scans forward (`store::jobs::floors`). Every process tries; the database
/// lets one do it.
async fn keep_floors(context: &MaintenanceContext) {
    loop {
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(FLOORS_EVERY) => {}
        }
        // Without them scans take longer, and that is all.
        if let Err(error) = floors::advance(&context.pool).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the floors of the scans could not be moved");
        }
    }
}

async fn keep_running(context: &MaintenanceContext, task: MaintenanceTask) {
    let interval = interval(&context.config, task);
    let lease = context.config.worker.dead_after;
    let mut failures = 0;
    loop {
        let free_in = tokio::select! {
            free_in = maintenance::until_free(&context.pool, task, lease) => free_in,
            () = context.stopping.cancelled() => return,
        };
        let free_in = match free_in {
            Ok(Duration::ZERO) => run_once(context, task, &mut failures).await,
            free_in => free_in,
        };
        let sleep = match free_in {
            Ok(free_in) => free_in,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%task, error, "maintenance cannot reach the database");
                FIRST_RETRY
            }
        };
        let sleep = sleep.min(interval).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
        // Spread over the processes.
        let sleep = sleep.mul_f64(1.0 + 0.2 * rand::random::<f64>());
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

fn interval(config: &Config, task: MaintenanceTask) -> Duration {
    match task {
        MaintenanceTask::Reconcile => config.reconcile.interval,
        MaintenanceTask::Retention => config.retention.interval,
    }
}

/// Runs `task` if it is still due and free; returns how long to wait before asking again.
async fn run_once(
    context: &MaintenanceContext,
    task: MaintenanceTask,
    failures: &mut u32,
) -> Result<Duration, StoreError> {
    let holder = holder_name();
    let lease = context.config.worker.dead_after;
    if !maintenance::acquire(&context.pool, task, &holder, lease, Occasion::Due).await? {
        // Somebody else was first. Ask again when its lease may have ended.
        return Ok(lease);
    }
    let work = AssertUnwindSafe(run_task(context, task)).catch_unwind();
    let held = hold(&context.pool, task, &holder, lease, &context.stopping, work).await;
    let run = held.and_then(|run| run.unwrap_or(Err(RunError::Panicked)));
    let end = end_of(task, run, interval(&context.config, task), failures);
    let release = maintenance::release(&context.pool, task, &holder, &end);
    tokio::select! {
        released = release => released?,
        // Not given back, it ends by itself.
        () = stopped_for(&context.stopping, 2 * STOP_TIMEOUT) => {}
    }
    Ok(end.due_in.unwrap_or_default())
}

/// Returns when the process has been stopping for this long.
async fn stopped_for(stopping: &CancellationToken, patience: Duration) {
    stopping.cancelled().await;
    tokio::time::sleep(patience).await;
}

async fn run_task(context: &MaintenanceContext, task: MaintenanceTask) -> Result<Run, RunError> {
    match task {
        MaintenanceTask::Reconcile => reconcile::run(context).await,
        MaintenanceTask::Retention => {
            let stopping = &context.stopping;
            retention::run(&context.pool, &context.config.retention, stopping).await
        }
    }
}

fn end_of(
    task: MaintenanceTask,
    run: Result<Run, RunError>,
    interval: Duration,
    failures: &mut u32,
) -> RunEnd {
    match run {
        Ok(Run { result, due_in }) => {
            *failures = 0;
            RunEnd { result: Some(result), error: None, due_in: Some(due_in.unwrap_or(interval)) }
        }
        // Another process goes on at once.
        Err(RunError::Stopped) => {
            RunEnd { result: None, error: None, due_in: Some(Duration::ZERO) }
        }
        Err(error) => {
            *failures += 1;
            let backoff = Backoff { base: FIRST_RETRY.min(interval), max_delay: interval };
            let due_in = backoff.delay(*failures, rand::random());
            let text = with_causes(&error);
            tracing::warn!(%task, error = text, ?due_in, "maintenance failed");
            RunEnd { result: None, error: Some(text), due_in: Some(due_in) }
        }
    }
}

/// A name for one run.
pub fn holder_name() -> String {
    format!("{}-{}", std::process::id(), Ulid::generate())
}

/// Does `work` while it renews the lease of `holder`; ends it when somebody else has the lease, or
/// may have it. Once `stopping`, the work has a moment to end by itself.
pub async fn hold<T>(
    pool: &Database,
    task: MaintenanceTask,
    holder: &str,
    lease: Duration,
    stopping: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, RunError> {
    let lost = async {
        // Also over a suspension of the machine.
        let mut renewed_at = BootInstant::now();
        loop {
            tokio::time::sleep(lease / 3).await;
            let began = BootInstant::now();
            let left = lease.saturating_sub(renewed_at.elapsed());
            let renewed = maintenance::renew(pool, task, holder, lease);
            match tokio::time::timeout(left, renewed).await {
                Ok(Ok(true)) => renewed_at = began,
                // The database was away for a moment; the lease goes on.
                Ok(Err(_)) if renewed_at.elapsed() < lease => {}
                Ok(Ok(false) | Err(_)) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        done = work => Ok(done),
        () = lost => Err(RunError::LeaseLost),
        () = stopped_for(stopping, STOP_TIMEOUT) => Err(RunError::Stopped),
    }
}
