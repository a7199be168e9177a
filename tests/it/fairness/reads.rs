//! Reads: one client's burst cannot take all connections.

use futures_util::{StreamExt, stream::FuturesUnordered};
use quartet::config::Role;

use super::BOUND;
use crate::support::{World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_reads_leaves_a_connection_to_everything_else() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_DATABASE__MAX_CONNECTIONS", 12);
    let app = app.spawn().await;
    let id = app.client().accept().await;
    // Every read of evidence waits for the table.
    let mut locking = app.pool.begin().await.unwrap();
    let lock = "LOCK TABLE transaction_events IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *locking).await.unwrap();
    let path = format!("/v1/transactions/{id}/events");
    let client = app.client();
    let mut burst: FuturesUnordered<_> = (0..64).map(|_| client.get(&path)).collect();
    let held = async || -> i64 {
        let held = "SELECT count(*) FROM pg_locks
            JOIN pg_database ON pg_database.oid = pg_locks.database
            WHERE NOT granted AND relation = 'transaction_events'::regclass
                AND datname = current_database()";
        sqlx::query_scalar(held).fetch_one(&app.pool).await.unwrap()
    };
    let checks = async {
        wait_until("reads wait for the table", BOUND, async || held().await > 1).await;
        for _ in 0..5 {
            app.anonymous().get("/health/ready").await.expect(200);
        }
    };
    let mut checks = Box::pin(checks);
    // They give up after a while, and others take their places.
    loop {
        tokio::select! {
            () = &mut checks => break,
            Some(read) = burst.next() => {
                read.expect_problem(503);
                burst.push(client.get(&path));
            }
        }
    }
    drop(checks);
    locking.rollback().await.unwrap();
    while let Some(read) = burst.next().await {
        assert!([200, 503].contains(&read.status), "{}", read.text);
    }
    client.get(&path).await.expect(200);
}
