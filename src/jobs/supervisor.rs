//! Keeps one apalis worker running for each queue, and stops them all gently.
//!
//! apalis ends a worker when its backend fails; this starts it again, under a new name, after a
//! wait that doubles from 100 ms to 10 s. On shutdown a worker claims nothing more, finishes what
//! it runs within `WORKER__SHUTDOWN_GRACE`, and gives the rest back without costing an attempt.
//! The leases are kept until the last worker has ended.
//!
//! A crash leaves leased rows and a worker's row without heartbeat: another process's
//! [`super::lease_keeper`] rescues them.

use std::{sync::Arc, time::Duration};

use apalis::prelude::{WorkerBuilder, WorkerContext};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::{
    JobContext, JobDefinition, LeaseKeeper,
    backend::QueueBackend,
    queue::{JobQueue, LeasedJob},
    runner::Runner,
    watcher,
};
use crate::store::{StoreError, jobs, jobs::leases};

/// First and longest wait before a worker that ended is started again.
const RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A worker that ran this long was healthy: the next wait is the first one again.
const HEALTHY: Duration = Duration::from_secs(60);
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
    let (mut wait, longest) = RESTART;
    while !context.stopping.is_cancelled() {
        let began = Instant::now();
        run_worker(&context, &keeper, &definition).await;
        if began.elapsed() >= HEALTHY {
            wait = RESTART.0;
        }
        tokio::select! {
            () = context.stopping.cancelled() => {}
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(longest),
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
    let (lease, taker) = (job_queue.lease(), job_queue.taker());
    let runner = Runner::new(context.clone(), definition.clone());
    let worker = WorkerBuilder::new(&worker_context)
        .backend(QueueBackend::new(job_queue, context.config.worker.heartbeat))
        .build({
            let runner = runner.clone();
            move |job: LeasedJob| runner.clone().run(job)
        });

    let started = {
        let mut run = Box::pin(worker.run());
        let ended = tokio::select! {
            ended = &mut run => Some(ended),
            () = context.stopping.cancelled() => {
                // Fails only for a worker that has not started, which has nothing to finish.
                match worker_context.stop() {
                    Ok(()) => {
                        let grace = context.config.worker.shutdown_grace;
                        tokio::time::timeout(grace, &mut run).await.ok()
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
    if let Some(lease) = lease.get() {
        keeper.forget(lease);
        let release = async {
            if let Some(taker) = taker.get() {
                // Before: what is leased to the worker later would wait to be rescued.
                taker.close().await;
            }
            let backoff = context.config.third_party.create_backoff;
            let released = jobs::release(&context.pool, &name, &started, backoff).await?;
            if released > 0 {
                context.announcer.announce_change();
            }
            leases::remove(&context.pool, &name).await?;
            Ok::<_, StoreError>(released)
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
