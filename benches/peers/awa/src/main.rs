//! awa on its append-only storage. The worker's numbers are the best of some that were tried on two
//! cores; without a deadline its claims and completions are written as compact batches.

#[path = "../../measure.rs"]
mod measure;

use std::{ops::Range, time::Duration};

use awa::{
    Client, InsertOpts, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig,
    model::insert::params_with,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

use measure::{Failure, Queue, Seen};

const QUEUE: &str = "bench";
const CONNECTIONS: u32 = 20;
const SHUTDOWN: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize, JobArgs)]
struct Nothing {
    number: i64,
}

struct Awa {
    pool: PgPool,
    storage: QueueStorage,
}

fn to_queue() -> InsertOpts {
    InsertOpts { queue: QUEUE.to_owned(), ..InsertOpts::default() }
}

impl Queue for Awa {
    const NAME: &'static str = "awa";
    /// As in `Cargo.toml`.
    const VERSION: &'static str = "0.6.9";
    type Worker = Client;

    async fn insert(&self, numbers: Range<i64>) -> Result<(), Failure> {
        let jobs = numbers.map(|number| params_with(&Nothing { number }, to_queue()));
        let jobs: Vec<_> = jobs.collect::<Result<_, _>>()?;
        self.storage.enqueue_params_copy(&self.pool, &jobs).await?;
        Ok(())
    }

    async fn settle_down(&self) -> Result<(), Failure> {
        sqlx::query("VACUUM ANALYZE").execute(&self.pool).await?;
        sqlx::query("CHECKPOINT").execute(&self.pool).await?;
        Ok(())
    }

    async fn start(&self, seen: Seen) -> Result<Client, Failure> {
        let config = QueueConfig {
            max_workers: 1_024,
            claim_batch_size: 512,
            deadline_duration: Duration::ZERO,
            ..QueueConfig::default()
        };
        let client = Client::builder(self.pool.clone())
            .queue(QUEUE, config)
            .register::<Nothing, _, _>(move |job, _| {
                seen.job(job.number);
                std::future::ready(Ok(JobResult::Completed))
            })
            .build()?;
        client.start().await?;
        Ok(client)
    }

    async fn stop(&self, client: Client) -> Result<(), Failure> {
        client.shutdown(SHUTDOWN).await;
        Ok(())
    }

    async fn add(&self, number: i64) -> Result<(), Failure> {
        awa::insert_with(&self.pool, &Nothing { number }, to_queue()).await?;
        Ok(())
    }

    async fn unfinished(&self, of: i64) -> Result<i64, Failure> {
        Ok(of - self.storage.queue_counts(&self.pool, QUEUE).await?.terminal)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = measure::database_url()?;
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&url).await?;
    awa::migrations::run(&pool).await?;
    // A new installation begins with this storage; its first worker would say so.
    let begins = sqlx::query_scalar("SELECT awa.storage_auto_finalize_if_fresh('awa')");
    let begins: bool = begins.fetch_one(&pool).await?;
    if !begins {
        return Err("the database is not empty: awa keeps its former storage".into());
    }
    let storage = QueueStorage::new(QueueStorageConfig::default())?;
    measure::measure(&Awa { pool, storage }).await
}
