//! graphile_worker (the Rust one) with its local queue and batched completion. The worker's numbers
//! are the best of some that were tried on two cores.

#[path = "../../measure.rs"]
mod measure;

use std::{ops::Range, sync::Arc, time::Duration};

use graphile_worker::{
    Database, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, Worker,
    WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::JoinHandle;

use measure::{Failure, Queue, Seen};

const SCHEMA: &str = "graphile_worker";
const TASK: &str = "nothing";

#[derive(Serialize, Deserialize)]
struct Nothing {
    number: i64,
}

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = TASK;

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(seen) = context.get_ext::<Seen>() {
            seen.job(self.number);
        }
        Ok::<(), String>(())
    }
}

struct GraphileWorker {
    pool: PgPool,
    utils: WorkerUtils,
}

impl Queue for GraphileWorker {
    const NAME: &'static str = "graphile_worker";
    /// As in `Cargo.toml`.
    const VERSION: &'static str = "0.14.1";
    type Worker = (Arc<Worker>, JoinHandle<Result<(), Failure>>);

    async fn insert(&self, numbers: Range<i64>) -> Result<(), Failure> {
        let specs: Vec<RawJobSpec> = numbers
            .map(|number| RawJobSpec {
                identifier: TASK.to_owned(),
                payload: serde_json::json!({ "number": number }),
                spec: JobSpec::default(),
            })
            .collect();
        self.utils.add_raw_jobs(&specs).await?;
        Ok(())
    }

    async fn settle_down(&self) -> Result<(), Failure> {
        sqlx::query("VACUUM ANALYZE graphile_worker._private_jobs").execute(&self.pool).await?;
        sqlx::query("CHECKPOINT").execute(&self.pool).await?;
        Ok(())
    }

    async fn start(&self, seen: Seen) -> Result<Self::Worker, Failure> {
        let local_queue = LocalQueueConfig::default().with_size(1_000);
        let worker = WorkerOptions::default()
            .database(Database::from(self.pool.clone()))
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

    async fn stop(&self, (worker, run): Self::Worker) -> Result<(), Failure> {
        worker.request_shutdown();
        run.await?
    }

    async fn add(&self, number: i64) -> Result<(), Failure> {
        self.utils.add_job(Nothing { number }, JobSpec::default()).await?;
        Ok(())
    }

    async fn unfinished(&self, _: i64) -> Result<i64, Failure> {
        // A finished job is deleted.
        let count = sqlx::query_scalar("SELECT count(*) FROM graphile_worker._private_jobs");
        Ok(count.fetch_one(&self.pool).await?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = measure::database_url()?;
    let pool = PgPoolOptions::new().max_connections(10).connect(&url).await?;
    let utils = WorkerUtils::new(Database::from(pool.clone()), SCHEMA);
    utils.migrate().await?;
    measure::measure(&GraphileWorker { pool, utils }).await
}
