//! Quartet's queue alone: jobs that do nothing, through claim, worker, runner and outcome.
//!
//! The application is built as `quartet serve` builds it, and only the handlers are replaced. It
//! runs in this process, on a runtime of its own with the threads that `quartet serve` would have.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use quartet::{
    app::{App, AppError},
    config::{Config, Role},
    domain::JobKind,
    jobs::Job,
    store::{StoreError, jobs::outcomes::Outcome},
};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;
use uuid::Uuid;

use crate::{
    error::{BenchError, Doing},
    http::{self, Connection},
    quantiles::Quantiles,
    serve::{API_KEY, MASTER_KEY},
    usage::{self, Cpu},
};

/// The queue that is drained: with outcomes that change nothing but the job's row.
const QUEUE: JobKind = JobKind::CreateTransaction;
/// The queue that jobs are picked up from: due at once when a transaction is accepted.
const DUE_AT_ONCE: JobKind = JobKind::CreateAtThirdParty;
/// Rows of one INSERT.
const INSERT_ROWS: usize = 5_000;
/// Nothing measured here takes longer.
const BOUND: Duration = Duration::from_secs(60);
/// Of the rows in `apalis.jobs`.
const UNFINISHED: &str = "status = 'Pending' OR lock_by IS NOT NULL";
const POLL: Duration = Duration::from_millis(1);
/// 32 bytes of nothing, as the configuration wants them.
const SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// How a drain went.
pub struct Drained {
    /// From the start of the worker to the moment at which no job is left.
    pub elapsed: Duration,
    /// This process is Quartet.
    pub cpu: Cpu,
    /// What is wrong with the outcome.
    pub violations: Vec<String>,
}

/// Inserts `jobs` due jobs and measures how long a worker takes to finish them.
pub async fn drain(url: &str, postmaster: u32, jobs: u32) -> Result<Drained, BenchError> {
    let url = url.to_owned();
    apart(async move {
        let pool = PgPool::connect(&url).await?;
        insert(&pool, jobs).await?;
        let cpu = || -> Result<Cpu, BenchError> {
            let postgres = usage::of_postgres(postmaster)?;
            Ok(Cpu { quartet: usage::of_self()?, postgres, bench: 0.0 })
        };
        let ran = Arc::new(AtomicU64::new(0));
        let counter = ran.clone();
        let (before, began) = (cpu()?, Instant::now());
        let app = Running::start(&url, Role::Worker, move |kind, _| {
            if kind == QUEUE.as_str() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await?;
        // The database is asked only once the last handler has run.
        while ran.load(Ordering::Relaxed) < u64::from(jobs) || count(&pool, UNFINISHED).await? > 0 {
            app.wait(began, "the drain of jobs that do nothing").await?;
        }
        let (elapsed, cpu) = (began.elapsed(), cpu()?.since(before));
        app.stop().await?;
        let done = count(&pool, "status = 'Done' AND attempts = 1").await?;
        pool.close().await;
        let ran = ran.load(Ordering::Relaxed);
        let is_right = ran == u64::from(jobs) && done == i64::from(jobs);
        let violations = (!is_right).then(|| {
            format!("of {jobs} jobs {done} are done at the first attempt, after {ran} runs")
        });
        Ok(Drained { elapsed, cpu, violations: violations.into_iter().collect() })
    })
    .await
}

/// Waits of jobs for an idle worker in the same process, in milliseconds.
pub struct PickUp {
    /// From the return of the enqueueing call, which is a POST: 0 where the handler was first.
    pub from_return: Quantiles,
    /// From its begin.
    pub from_call: Quantiles,
}

/// Posts transactions one by one at `rate` per second, and looks when the handlers of their first
/// jobs begin.
pub async fn pick_up(url: &str, jobs: usize, rate: u32) -> Result<PickUp, BenchError> {
    let url = url.to_owned();
    apart(async move {
        let started: Arc<Mutex<HashMap<Uuid, Instant>>> = Arc::default();
        let seen = started.clone();
        let app = Running::start(&url, Role::All, move |kind, job| {
            if kind == DUE_AT_ONCE.as_str() {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.insert(job.transaction_id(), Instant::now());
            }
        })
        .await?;
        let picked_up = || started.lock().unwrap_or_else(PoisonError::into_inner).len();
        let mut connection = Connection::open(app.address).await.doing("connect to Quartet")?;
        // The first one is answered once the application is up, and its job run once workers are.
        let began = Instant::now();
        while post(&mut connection, Uuid::now_v7()).await.is_err() {
            app.wait(began, "the first accept").await?;
        }
        while picked_up() < 1 {
            app.wait(began, "the first job").await?;
        }

        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut enqueued = Vec::with_capacity(jobs);
        for _ in 0..jobs {
            ticks.tick().await;
            let (id, called) = (Uuid::now_v7(), Instant::now());
            post(&mut connection, id).await?;
            enqueued.push((id, called, Instant::now()));
        }
        let began = Instant::now();
        while picked_up() < jobs + 1 {
            app.wait(began, "picking up").await?;
        }
        app.stop().await?;
        let started = started.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |moment: fn(&(Uuid, Instant, Instant)) -> Instant| {
            let waits = enqueued.iter().filter_map(|job| {
                let wait = started.get(&job.0)?.saturating_duration_since(moment(job));
                Some(wait.as_secs_f64() * 1000.0)
            });
            Quantiles::new(waits.collect())
        };
        Ok(PickUp { from_return: since(|job| job.2), from_call: since(|job| job.1) })
    })
    .await
}

async fn post(connection: &mut Connection, id: Uuid) -> Result<(), BenchError> {
    let headers = format!("authorization: Bearer {API_KEY}\r\ncontent-type: application/json\r\n");
    let body = format!(r#"{{"id":"{id}"}}"#);
    let request = http::request("POST /v1/transactions", &headers, &body);
    let answer = connection.send(&request).await.doing("post a transaction")?;
    if answer.status != 202 {
        let (status, body) = (answer.status, answer.text());
        return Err(BenchError::Refused { what: "the transaction".to_owned(), status, body });
    }
    Ok(())
}

/// Runs `work` on a runtime of several threads, while this one waits.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, BenchError>> + Send + 'static,
) -> Result<T, BenchError> {
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.doing("start a runtime")?.block_on(work)
    });
    thread.await.map_err(BenchError::Task)?
}

/// The application, with handlers that do nothing but tell of themselves.
struct Running {
    address: SocketAddr,
    run: JoinHandle<Result<(), AppError>>,
    stop: CancellationToken,
}

impl Running {
    async fn start(
        url: &str,
        role: Role,
        on_job: impl Fn(&'static str, &Job) + Send + Sync + 'static,
    ) -> Result<Self, BenchError> {
        let settings = [
            ("DATABASE_URL", url),
            ("QUARTET_HTTP__LISTEN", "127.0.0.1:0"),
            // Nobody calls these: there is nothing at such a port.
            ("QUARTET_THIRD_PARTY__BASE_URL", "http://127.0.0.1:9"),
            ("QUARTET_WEBHOOK__SECRETS", SECRET),
            ("QUARTET_SECRETS__MASTER_KEY", MASTER_KEY),
            ("QUARTET_DEFAULT_CLIENT__NAME", "bench"),
            ("QUARTET_DEFAULT_CLIENT__API_KEY", API_KEY),
            ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", "http://127.0.0.1:9009"),
            ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", SECRET),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(settings, None)?;
        let on_job = Arc::new(on_job);
        let app = App::build(config, role).await?.map_definitions(|mut definition| {
            let (queue, on_job) = (definition.queue, on_job.clone());
            definition.handler = Arc::new(move |_, job| {
                on_job(queue, &job);
                let done: BoxFuture<'static, Result<Outcome, StoreError>> =
                    Box::pin(std::future::ready(Ok(Outcome::done())));
                done
            });
            definition
        });
        let (address, stop) = (app.address(), CancellationToken::new());
        Ok(Self { address, run: tokio::spawn(app.run(stop.clone())), stop })
    }

    /// Waits a little for `what`, which has begun then.
    async fn wait(&self, began: Instant, what: &str) -> Result<(), BenchError> {
        if began.elapsed() > BOUND || self.run.is_finished() {
            return Err(BenchError::TimedOut { what: what.to_owned(), bound: BOUND });
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    async fn stop(self) -> Result<(), BenchError> {
        self.stop.cancel();
        Ok(self.run.await.map_err(BenchError::Task)??)
    }
}

/// Inserts due jobs with their transactions, and lets Postgres settle.
pub async fn insert(pool: &PgPool, jobs: u32) -> Result<(), BenchError> {
    let client: Uuid = sqlx::query_scalar(
        "INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ('drain', sha256('drain'), 'http://127.0.0.1/', 'none')
        RETURNING id",
    )
    .fetch_one(pool)
    .await?;
    let keys: Vec<Uuid> = (0..jobs).map(|_| Uuid::now_v7()).collect();
    for keys in keys.chunks(INSERT_ROWS) {
        sqlx::query(
            "INSERT INTO transactions (id, client_id, content_hash)
            SELECT id, $1, sha256('drain') FROM unnest($2::uuid[]) AS new (id)",
        )
        .bind(client)
        .bind(keys)
        .execute(pool)
        .await?;
        let ids: Vec<String> = keys.iter().map(|_| Ulid::generate().to_string()).collect();
        sqlx::query(
            "INSERT INTO apalis.jobs (id, job_type, job, max_attempts, run_at, idempotency_key)
            SELECT id, $1, convert_to(jsonb_build_object('transaction_id', key)::text, 'UTF8'), 15,
                now(), key::text
            FROM unnest($2::text[], $3::uuid[]) AS new (id, key)",
        )
        .bind(QUEUE.as_str())
        .bind(ids)
        .bind(keys)
        .execute(pool)
        .await?;
    }
    sqlx::query("VACUUM ANALYZE").execute(pool).await?;
    sqlx::query("CHECKPOINT").execute(pool).await?;
    Ok(())
}

/// Inserted jobs of which `condition` is true.
async fn count(pool: &PgPool, condition: &'static str) -> Result<i64, BenchError> {
    let query = format!("SELECT count(*) FROM apalis.jobs WHERE job_type = $1 AND ({condition})");
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).bind(QUEUE.as_str()).fetch_one(pool).await?)
}
