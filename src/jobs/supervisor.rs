//! Keeps one apalis worker running for each queue, and stops them all gently.
//!
//! apalis ends a worker when its backend fails; this starts it again, under a new name, after a
//! wait that doubles from 100 ms to 10 s. On shutdown a worker claims nothing more, finishes what
//! it runs within `WORKER__SHUTDOWN_GRACE`, and gives the rest back without costing an attempt: at
//! once what was leased to it and has not begun.
//! The leases are kept until the last worker has ended.
//!
//! A crash leaves leased rows and a worker's row without heartbeat: another process's
//! [`super::lease_keeper`] rescues them.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use apalis::prelude::{WorkerBuilder, WorkerContext};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::{
    JobContext, JobDefinition, LeaseKeeper,
    backend::QueueBackend,
    queue::{JobQueue, LeasedJob, Registration},
    runner::Runner,
    watcher,
};
use crate::{
    domain::{Backoff, Retries},
    store::{
        StoreError,
        direct_leases::HandedJob,
        jobs::{self, Lease, leases},
    },
};

/// Waits before a worker that ended is started again.
const RESTART: Backoff =
    Backoff { base: Duration::from_millis(100), max_delay: Duration::from_secs(10) };
/// A worker that ran this long was healthy: the next wait is the first one again.
const HEALTHY: Duration = Duration::from_secs(60);
/// How long claims and other statements that lease jobs to a stopped worker may take, and what is
/// given back of that. Most of that is beside `WORKER__SHUTDOWN_GRACE`.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stopped worker's jobs may take to be given back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A task of the workers ended by a panic: the process cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("a task of the workers ended unexpectedly")]
pub struct SupervisorError(#[source] tokio::task::JoinError);

/// Runs the workers of `definitions` until `context.stopping`, and then until they have ended.
pub async fn run(
    context: Arc<JobContext>,
    definitions: Vec<JobDefinition>,
) -> Result<(), SupervisorError> {
    let queues: Vec<String> =
        definitions.iter().map(|definition| definition.queue.to_owned()).collect();
    let keeper = Arc::new(LeaseKeeper::new(&context, queues));

    let all_ended = CancellationToken::new();
    let mut background = JoinSet::new();
    background.spawn({
        let (keeper, all_ended) = (keeper.clone(), all_ended.clone());
        async move { keeper.run(all_ended).await }
    });
    background.spawn({
        let (keeper, all_ended) = (keeper.clone(), all_ended.clone());
        async move { keeper.clean_up(all_ended).await }
    });
    let watched = definitions.iter().map(|definition| definition.queue).collect();
    background.spawn(watcher::run(context.clone(), watched));

    let mut workers = JoinSet::new();
    for definition in definitions {
        workers.spawn(keep_running(context.clone(), keeper.clone(), definition));
    }
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(ended) => ended.map_err(SupervisorError)?,
                None => break,
            },
            Some(ended) = background.join_next() => ended.map_err(SupervisorError)?,
        }
    }
    all_ended.cancel();
    while let Some(ended) = background.join_next().await {
        ended.map_err(SupervisorError)?;
    }
    Ok(())
}

/// Runs workers of one queue, one after the other, until the process stops.
async fn keep_running(
    context: Arc<JobContext>,
    keeper: Arc<LeaseKeeper>,
    definition: JobDefinition,
) {
    let mut retries = Retries::new(RESTART);
    while !context.stopping.is_cancelled() {
        let began = Instant::now();
        run_worker(&context, &keeper, &definition).await;
        if began.elapsed() >= HEALTHY {
            retries.reset();
        }
        tokio::select! {
            () = context.stopping.cancelled() => {}
            () = tokio::time::sleep(retries.next_delay(rand::random())) => {}
        }
    }
}

/// Runs one worker until it fails or the process stops, and gives back what it still holds.
async fn run_worker(
    context: &Arc<JobContext>,
    keeper: &Arc<LeaseKeeper>,
    definition: &JobDefinition,
) {
    let queue = definition.queue;
    let name = format!("{queue}-{}-{}", std::process::id(), Ulid::generate());
    let worker_context = WorkerContext::new(&name);
    let job_queue = JobQueue::new(definition, context, keeper.clone());
    let registration = job_queue.registration();
    let runner = Runner::new(context.clone(), definition.clone());
    let worker = WorkerBuilder::new(&worker_context)
        .backend(QueueBackend::new(job_queue, context.config.worker.heartbeat))
        .build({
            let runner = runner.clone();
            move |job: LeasedJob| runner.clone().run(job)
        });

    let mut closed = None;
    let started = {
        let mut run = Box::pin(worker.run());
        let ended = tokio::select! {
            ended = &mut run => Some(ended),
            () = context.stopping.cancelled() => {
                // Fails only for a worker that has not started, which has nothing to finish.
                match worker_context.stop() {
                    Ok(()) => {
                        let grace = context.config.worker.shutdown_grace;
                        let ended = tokio::time::timeout(grace, &mut run);
                        let (ended, left) = tokio::join!(ended, close(context, &registration));
                        closed = Some(left);
                        ended.ok()
                    }
                    Err(_) => None,
                }
            }
        };
        if let Some(Err(error)) = ended {
            tracing::warn!(worker = name, error = &error as &dyn std::error::Error, "worker ended");
        }
        // Dropping the worker below aborts the handlers that are left.
        runner.started()
    };
    // Kept until it is released below: what is not held any more counts as cut off.
    let _left = match closed {
        Some(left) => left,
        None => close(context, &registration).await,
    };
    if let Some(Registration { lease, .. }) = registration.get() {
        keeper.forget(lease);
        let backoff = super::longest_create_backoff(&context.config);
        let release_all = async || {
            let released = jobs::release(&context.pool, &name, &started, backoff).await?;
            if released > 0 {
                context.announcer.announce_change();
            }
            Ok::<_, StoreError>(released)
        };
        let release = async {
            let released = release_all().await?;
            match leases::remove(&context.pool, &name).await {
                // A statement that was not waited for any more has leased something to it.
                Err(error) if error.constraint() == Some(leases::WORKER_FOREIGN_KEY) => {
                    let released = released + release_all().await?;
                    leases::remove(&context.pool, &name).await?;
                    Ok(released)
                }
                removed => removed.map(|()| released),
            }
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(0)) => {}
            Ok(Ok(released)) => tracing::info!(worker = name, released, "jobs given back"),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(worker = name, error, "jobs not given back: they will be rescued");
            }
            Err(_) => tracing::warn!(worker = name, "jobs not given back: they will be rescued"),
        }
    }
}

/// Has nothing more leased to the worker, and gives back what was and has not begun: without
/// costing an attempt, and before the runs under way have ended. Returns what could not be given
/// back.
async fn close(context: &JobContext, registration: &OnceLock<Registration>) -> Vec<HandedJob> {
    let Some(Registration { taker, .. }) = registration.get() else { return Vec::new() };
    let mut handed: Vec<HandedJob> = Vec::new();
    let close = async {
        taker.close().await;
        handed = taker.take_handed();
        if handed.is_empty() {
            return Ok(());
        }
        let unused: Vec<Lease> = handed.iter().map(|job| job.claimed.lease.clone()).collect();
        let backoff = super::longest_create_backoff(&context.config);
        let given = leases::give_back(&context.pool, &unused, &[], backoff).await?;
        handed.drain(..).for_each(|job| job.hold.end());
        context.announcer.announce_change();
        tracing::info!(jobs = given.len(), "jobs given back that had not begun");
        Ok::<_, StoreError>(())
    };
    match tokio::time::timeout(CLOSE_TIMEOUT, close).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "jobs that have not begun could not be given back yet");
        }
        Err(_) => tracing::warn!("statements that lease jobs have not ended in time"),
    }
    handed
}
