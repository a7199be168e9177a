//! The harness itself: apps that stop and come back, apps beside each other, processes.

use std::time::Duration;

use quartet::config::Role;

use crate::support::{World, spawn_app};

const BOUND: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_stops_and_comes_back_at_its_address() {
    let mut app = spawn_app().await;
    let url = app.url().to_owned();
    let before = app.client().accept().await;
    app.stop().await;
    let refused = app.client().try_send(reqwest::Method::GET, "/health/live", &[], "").await;
    assert!(refused.is_err(), "{refused:?}");
    app.start().await;
    assert_eq!(app.url(), url);
    let after = app.client().accept().await;
    for id in [before, after] {
        app.wait_told(id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[before, after]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_and_worker_can_be_apart() {
    let api = World::new().await.app().role(Role::Api).spawn().await;
    let id = api.client().accept().await;
    let _worker = api.sibling().role(Role::Worker).spawn().await;
    assert_eq!(api.wait_told(id, BOUND).await["status"], "completed");
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_survives_kill_9_and_ends_on_sigterm() {
    let world = World::new().await;
    let mut process = world.process(Role::All).spawn().await;
    let before = process.client().accept().await;
    process.kill_9();
    let mut process = process.restart().await;
    let after = process.client().accept().await;
    for id in [before, after] {
        let path = format!("/v1/transactions/{id}?wait_seconds=15");
        assert_eq!(process.client().get(&path).await.expect(200)["status"], "completed");
    }
    world.wait_at_rest(BOUND).await;
    world.assert_invariants(&[before, after]).await;
    let status = process.terminate(BOUND).await;
    assert!(status.success(), "{status}: {}", process.output());
    assert!(process.operator().base_url().starts_with("http://127.0.0.1:"));
}
