//! One client, one peer never stops the others: each case posts as two clients, of which one is in
//! the way; most compare what the other one gets with what it gets alone, in the same run.

mod callback_hosts;
mod explained;
mod names;
mod posts;
mod reads;
mod scrapes;
mod slots;
mod waiting_reads;

use std::time::{Duration, Instant};

use quartet::sandbox::Sandbox;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{Client, transaction, wait_for, world};

/// For anything that is waited for.
const BOUND: Duration = Duration::from_secs(40);
/// What a busy machine may add to any time.
const SLACK: Duration = Duration::from_secs(2);

/// Settings with which nothing is polled during a test, so that polls are in nobody's way.
const NO_POLLS: [(&str, &str); 2] =
    [("QUARTET_POLL__FIRST", "10m"), ("QUARTET_POLL__DEADLINE", "1h")];

/// Registers a client whose callback URL is `url`; returns its API key.
async fn add_client(pool: &PgPool, name: &str, url: &str) -> String {
    let key = world::add_client(pool, name).await;
    let update = "UPDATE clients SET callback_url = $2 WHERE name = $1";
    sqlx::query(update).bind(name).bind(url).execute(pool).await.unwrap();
    key
}

/// Posts this many transactions at the same time.
async fn post_burst(client: &Client, count: usize) -> Vec<Uuid> {
    use futures_util::StreamExt;

    let posts = futures_util::stream::iter((0..count).map(|_| client.accept()));
    posts.buffer_unordered(16).collect().await
}

/// Posts `count` transactions, one every 20 ms; returns how long each took until the client of
/// `sandbox` was called, in order.
async fn times_to_first_call(client: &Client, sandbox: &Sandbox, count: usize) -> Vec<Duration> {
    let mut posted = Vec::new();
    for _ in 0..count {
        let (id, began) = (Uuid::now_v7(), Instant::now());
        client.post_transaction(&transaction(id)).await.expect(202);
        posted.push((id, began));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut times = Vec::new();
    for (id, began) in posted {
        let first = wait_for(&format!("the client is called about {id}"), BOUND, async || {
            sandbox.client().deliveries_of(id).first().map(|delivery| delivery.at)
        })
        .await;
        times.push(first - began);
    }
    times.sort();
    times
}

/// The time that 99 of 100 are within.
fn p99(times: &[Duration]) -> Duration {
    times[(times.len() - 1) * 99 / 100]
}
