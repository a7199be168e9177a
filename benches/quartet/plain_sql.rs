//! What Postgres allows: the same rows claimed and finished by plain SQL, without any program.
//!
//! Each of some connections claims a batch and commits, finishes it and commits, until nothing is
//! left.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use sqlx::{Connection, PgConnection, PgPool};
use ulid::Ulid;

use crate::{error::BenchError, queue};

const CLAIM: &str = "
    UPDATE apalis.jobs
    SET status = 'Running', lock_by = $1, lock_at = now()
    WHERE id = ANY (ARRAY(
        SELECT id FROM apalis.jobs
        WHERE job_type = 'create_transaction' AND status = 'Pending' AND run_at <= now()
        ORDER BY run_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, job";

const DONE: &str = "
    UPDATE apalis.jobs
    SET status = 'Done', attempts = attempts + 1, done_at = clock_timestamp(), lock_by = NULL,
        lock_at = NULL, last_result = '{\"Ok\": null}'
    WHERE id = ANY ($1)";

/// Claims and finishes `jobs` rows by `batch` over `connections`; how long it took.
pub async fn drain(
    url: &str,
    jobs: u32,
    batch: i64,
    connections: usize,
) -> Result<Duration, BenchError> {
    let pool = PgPool::connect(url).await?;
    queue::insert(&pool, jobs).await?;
    let mut workers = Vec::new();
    for _ in 0..connections {
        let worker = Ulid::generate().to_string();
        sqlx::query(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
            VALUES ($1, 'plain_sql', 'plain_sql', now())",
        )
        .bind(&worker)
        .execute(&pool)
        .await?;
        workers.push((PgConnection::connect(url).await?, worker));
    }
    let began = Instant::now();
    let drained = try_join_all(workers.into_iter().map(|(connection, worker)| {
        tokio::spawn(async move { drain_over(connection, &worker, batch).await })
    }))
    .await
    .map_err(BenchError::Task)?;
    let took = began.elapsed();
    let done: usize = drained.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    if done != jobs as usize {
        let what = format!("{done} of {jobs} jobs were finished by plain SQL");
        return Err(BenchError::Incomplete(what));
    }
    pool.close().await;
    Ok(took)
}

async fn drain_over(
    mut connection: PgConnection,
    worker: &str,
    batch: i64,
) -> Result<usize, sqlx::Error> {
    let mut done = 0;
    loop {
        let claimed: Vec<(String, Vec<u8>)> =
            sqlx::query_as(CLAIM).bind(worker).bind(batch).fetch_all(&mut connection).await?;
        if claimed.is_empty() {
            connection.close().await?;
            return Ok(done);
        }
        let ids: Vec<String> = claimed.into_iter().map(|(id, _)| id).collect();
        done += ids.len();
        sqlx::query(DONE).bind(&ids).execute(&mut connection).await?;
    }
}
