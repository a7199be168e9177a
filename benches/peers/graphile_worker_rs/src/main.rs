//! graphile_worker (the Rust one) with its local queue and batched completion: the drain of jobs
//! that do nothing, and how soon an idle worker picks a job up. Prints one line of JSON.
//!
//! The figures mean the same as those of `../node/measure.js`. The worker's numbers are the best of
//! some that were tried on two cores.

use std::{
    collections::HashMap,
    env,
    error::Error,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use graphile_worker::{
    Database, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, Worker,
    WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

type Failure = Box<dyn Error + Send + Sync>;

const SCHEMA: &str = "graphile_worker";
const TASK: &str = "nothing";
/// As in `Cargo.toml`.
const VERSION: &str = "0.14.1";
const BOUND: Duration = Duration::from_secs(60);

/// What the handlers have seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    ran: Arc<AtomicU64>,
    /// When the handler of a job began, where that is asked for.
    started: Option<Arc<Mutex<HashMap<i64, Instant>>>>,
}

#[derive(Serialize, Deserialize)]
struct Nothing {
    number: i64,
}

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = TASK;

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(seen) = context.get_ext::<Seen>() {
            if let Some(started) = &seen.started {
                let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
                started.insert(self.number, Instant::now());
            }
            seen.ran.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<(), String>(())
    }
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    version: &'static str,
    drain_jobs_per_s: f64,
    pickup_p50_ms: f64,
    pickup_p95_ms: f64,
    pickup_p99_ms: f64,
    pickup_from_call_p50_ms: f64,
    pickup_from_call_p95_ms: f64,
    pickup_from_call_p99_ms: f64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let pool = PgPoolOptions::new().max_connections(10).connect(&url).await?;
    let utils = WorkerUtils::new(Database::from(pool.clone()), SCHEMA);
    utils.migrate().await?;

    let drain_jobs_per_s = drain(&pool, &utils).await?.round();
    let (from_return, from_call) = pick_up(&pool, &utils).await?;
    let line = Line {
        name: "graphile_worker",
        version: VERSION,
        drain_jobs_per_s,
        pickup_p50_ms: quantile_ms(&from_return, 0.5),
        pickup_p95_ms: quantile_ms(&from_return, 0.95),
        pickup_p99_ms: quantile_ms(&from_return, 0.99),
        pickup_from_call_p50_ms: quantile_ms(&from_call, 0.5),
        pickup_from_call_p95_ms: quantile_ms(&from_call, 0.95),
        pickup_from_call_p99_ms: quantile_ms(&from_call, 0.99),
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

async fn drain(pool: &PgPool, utils: &WorkerUtils) -> Result<f64, Failure> {
    let jobs: u32 = setting("DRAIN_JOBS", 20_000);
    let numbers: Vec<u32> = (0..jobs).collect();
    for numbers in numbers.chunks(5_000) {
        let specs: Vec<RawJobSpec> = numbers
            .iter()
            .map(|number| RawJobSpec {
                identifier: TASK.to_owned(),
                payload: serde_json::json!({ "number": number }),
                spec: JobSpec::default(),
            })
            .collect();
        utils.add_raw_jobs(&specs).await?;
    }
    sqlx::query("VACUUM ANALYZE graphile_worker._private_jobs").execute(pool).await?;
    sqlx::query("CHECKPOINT").execute(pool).await?;

    let seen = Seen::default();
    let began = Instant::now();
    let (worker, run) = start(pool, seen.clone()).await?;
    while seen.ran.load(Ordering::Relaxed) < u64::from(jobs) || unfinished(pool).await? > 0 {
        wait(began, "the drain").await?;
    }
    let took = began.elapsed();
    stop(&worker, run).await?;
    Ok(f64::from(jobs) / took.as_secs_f64())
}

/// From the return of the enqueueing call, and from its begin, to the handler's begin; sorted.
async fn pick_up(
    pool: &PgPool,
    utils: &WorkerUtils,
) -> Result<(Vec<Duration>, Vec<Duration>), Failure> {
    let jobs: u32 = setting("PICK_UP_JOBS", 500);
    let period = Duration::from_secs(1) / setting::<u32>("PICK_UP_RATE", 100).max(1);
    let started: Arc<Mutex<HashMap<i64, Instant>>> = Arc::default();
    let seen = Seen { started: Some(started.clone()), ..Seen::default() };
    let (worker, run) = start(pool, seen.clone()).await?;
    // One job to see that it is up.
    add(utils, -1).await?;
    let began = Instant::now();
    while seen.ran.load(Ordering::Relaxed) < 1 {
        wait(began, "the first job").await?;
    }

    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut enqueued = Vec::new();
    for number in 0..i64::from(jobs) {
        ticks.tick().await;
        let called = Instant::now();
        add(utils, number).await?;
        enqueued.push((number, called, Instant::now()));
    }
    let began = Instant::now();
    while seen.ran.load(Ordering::Relaxed) < u64::from(jobs) + 1 {
        wait(began, "picking up").await?;
    }
    stop(&worker, run).await?;

    let started = started.lock().unwrap_or_else(PoisonError::into_inner);
    let since = |moment: fn(&(i64, Instant, Instant)) -> Instant| {
        let mut waits: Vec<Duration> = enqueued
            .iter()
            .filter_map(|job| Some(started.get(&job.0)?.saturating_duration_since(moment(job))))
            .collect();
        waits.sort();
        waits
    };
    Ok((since(|job| job.2), since(|job| job.1)))
}

async fn start(
    pool: &PgPool,
    seen: Seen,
) -> Result<(Arc<Worker>, JoinHandle<Result<(), Failure>>), Failure> {
    let local_queue = LocalQueueConfig::default().with_size(1_000);
    let worker = WorkerOptions::default()
        .database(Database::from(pool.clone()))
        .schema(SCHEMA)
        .concurrency(24)
        .poll_interval(Duration::from_secs(1))
        .local_queue(local_queue)
        .complete_job_batch_delay(Duration::from_millis(5))
        .add_extension(seen)
        .define_job::<Nothing>()
        .init()
        .await?;
    let worker = Arc::new(worker);
    let running = worker.clone();
    let run = tokio::spawn(async move { Ok(running.run().await?) });
    Ok((worker, run))
}

async fn stop(worker: &Worker, run: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    worker.request_shutdown();
    run.await?
}

async fn add(utils: &WorkerUtils, number: i64) -> Result<(), Failure> {
    utils.add_job(Nothing { number }, JobSpec::default()).await?;
    Ok(())
}

async fn unfinished(pool: &PgPool) -> Result<i64, Failure> {
    let count = sqlx::query_scalar("SELECT count(*) FROM graphile_worker._private_jobs");
    Ok(count.fetch_one(pool).await?)
}

async fn wait(since: Instant, what: &str) -> Result<(), Failure> {
    if since.elapsed() > BOUND {
        return Err(format!("{what} took longer than {BOUND:?}").into());
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(())
}

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let index = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(index.saturating_sub(1)).copied().unwrap_or_default();
    (value.as_secs_f64() * 1e6).round() / 1e3
}
