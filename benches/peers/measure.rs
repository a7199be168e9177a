//! The same measurement for every queue that is written in Rust: a drain of jobs that do nothing,
//! and how soon an idle worker picks a job up. The queue itself is given as a [`Queue`].
//!
//! Prints one line of JSON. Its figures mean the same as those of `node/measure.js`.

use std::{
    collections::HashMap,
    env,
    error::Error,
    ops::Range,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::time::MissedTickBehavior;

pub type Failure = Box<dyn Error + Send + Sync>;

/// Jobs that one call inserts.
const INSERT_JOBS: i64 = 5_000;
const BOUND: Duration = Duration::from_secs(60);

/// A job queue whose schema exists. Each of its jobs has a number.
pub trait Queue {
    const NAME: &'static str;
    const VERSION: &'static str;
    /// A worker that runs.
    type Worker;

    /// Inserts due jobs in bulk.
    async fn insert(&self, numbers: Range<i64>) -> Result<(), Failure>;

    /// Analyses its tables and writes all dirty pages out.
    async fn settle_down(&self) -> Result<(), Failure>;

    /// Starts a worker whose handlers call [`Seen::job`] and do nothing else.
    async fn start(&self, seen: Seen) -> Result<Self::Worker, Failure>;

    /// Ends a worker in good order.
    async fn stop(&self, worker: Self::Worker) -> Result<(), Failure>;

    /// Enqueues one job.
    async fn add(&self, number: i64) -> Result<(), Failure>;

    /// How many of this number of jobs are not finished, by the database.
    async fn unfinished(&self, of: i64) -> Result<i64, Failure>;
}

/// What the handlers have seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    ran: Arc<AtomicU64>,
    /// When the handler of a job began, where that is asked for.
    started: Option<Arc<Mutex<HashMap<i64, Instant>>>>,
}

impl Seen {
    /// The handler of this job begins.
    pub fn job(&self, number: i64) {
        if let Some(started) = &self.started {
            let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
            started.insert(number, Instant::now());
        }
        self.ran.fetch_add(1, Ordering::Relaxed);
    }

    fn ran(&self) -> i64 {
        i64::try_from(self.ran.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
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

/// The database that all of it is measured on.
pub fn database_url() -> Result<String, Failure> {
    Ok(env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?)
}

/// Measures `queue` and prints what was found.
pub async fn measure<Q: Queue>(queue: &Q) -> Result<(), Failure> {
    let drain_jobs_per_s = drain(queue).await?.round();
    let (from_return, from_call) = pick_up(queue).await?;
    let line = Line {
        name: Q::NAME,
        version: Q::VERSION,
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

async fn drain(queue: &impl Queue) -> Result<f64, Failure> {
    let jobs: i64 = setting("DRAIN_JOBS", 20_000);
    let mut first = 0;
    while first < jobs {
        let last = jobs.min(first + INSERT_JOBS);
        queue.insert(first..last).await?;
        first = last;
    }
    queue.settle_down().await?;

    let seen = Seen::default();
    let began = Instant::now();
    let worker = queue.start(seen.clone()).await?;
    // The database is asked only once the last handler has run.
    while seen.ran() < jobs || queue.unfinished(jobs).await? > 0 {
        wait(began, "the drain").await?;
    }
    let took = began.elapsed();
    queue.stop(worker).await?;
    Ok(jobs as f64 / took.as_secs_f64())
}

/// From the return of the enqueueing call, and from its begin, to the handler's begin; sorted.
async fn pick_up(queue: &impl Queue) -> Result<(Vec<Duration>, Vec<Duration>), Failure> {
    let jobs: i64 = setting("PICK_UP_JOBS", 500);
    let period = Duration::from_secs(1) / setting::<u32>("PICK_UP_RATE", 100).max(1);
    let started: Arc<Mutex<HashMap<i64, Instant>>> = Arc::default();
    let seen = Seen { started: Some(started.clone()), ..Seen::default() };
    let worker = queue.start(seen.clone()).await?;
    // One job to see that it is up.
    queue.add(-1).await?;
    let began = Instant::now();
    while seen.ran() < 1 {
        wait(began, "the first job").await?;
    }

    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut enqueued = Vec::new();
    for number in 0..jobs {
        ticks.tick().await;
        let called = Instant::now();
        queue.add(number).await?;
        enqueued.push((number, called, Instant::now()));
    }
    let began = Instant::now();
    while seen.ran() < jobs + 1 {
        wait(began, "picking up").await?;
    }
    queue.stop(worker).await?;

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
