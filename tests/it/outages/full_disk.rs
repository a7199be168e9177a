//! A disk without space: a real one, small and full.

use std::time::Instant;

use quartet::{
    dev::postgres::{EmbeddedPostgres, Options},
    store,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::{
    Callers, HEALED, accept_some, assert_all_end_well, assert_calm, assert_refused, pending_world,
    process_on,
};
use crate::support::{line::Line, small_disk::SmallDisk, transaction, wait_for, wait_until};

/// More than fit into the space that is left within the tables.
const MOST_POSTS: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_space_is_refused_and_goes_on_when_there_is_some() {
    // Dropped after the server.
    let disk = SmallDisk::mount();
    let postgres = EmbeddedPostgres::start(Options::default()).await.unwrap();
    let mut admin = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    // The tables alone: a server without space for its log stops, as in other tests.
    let location = disk.path().display();
    for statement in [
        format!("CREATE TABLESPACE small LOCATION '{location}'"),
        "CREATE DATABASE relay TABLESPACE small".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
    }
    let url = postgres.url("relay");
    store::migrate(&url).await.unwrap();
    let world = pending_world(&url).await;
    let line = Line::to(&url).await;
    let mut process = process_on(&world, &line).spawn().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let mut ids = accept_some(&client, &world).await;

    disk.fill();
    let refused = wait_for("the space is used up", HEALED, async || {
        // Large, so that it is soon.
        let id = Uuid::now_v7();
        assert!(ids.len() < MOST_POSTS, "posts are still accepted");
        let mut new = transaction(id);
        new["metadata"] = serde_json::json!({ "note": "x".repeat(500) });
        let began = Instant::now();
        let answer = client.post_transaction(&new).await;
        if answer.status == 202 {
            ids.push(id);
            return None;
        }
        assert_refused("accept", began, &answer);
        Some(new)
    })
    .await;
    // It says so.
    let ready = callers.anonymous.get("/health/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    callers.assert_alive().await;
    client.get_transaction(ids[0]).await.expect(200);
    assert_calm(&process, &line).await;
    let full = callers.metric(r#"quartet_database_errors_total{cause="disk_full"}"#).await;
    assert!(full > 0.0, "the metrics say nothing");

    disk.free();
    process.wait_ready().await;
    wait_until("the same post is accepted", HEALED, async || {
        matches!(client.post_transaction(&refused).await.status, 200 | 202)
    })
    .await;
    ids.push(refused["id"].as_str().unwrap().parse().unwrap());
    assert_all_end_well(&client, &world, &ids).await;
    drop(process);
    postgres.stop().await.unwrap();
}
