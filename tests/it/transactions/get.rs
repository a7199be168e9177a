//! `GET /v1/transactions/{id}`, with and without `wait_seconds`.

use std::time::{Duration, Instant};

use quartet::sandbox::SendWebhook;
use uuid::Uuid;

use crate::support::{spawn_api, world::add_client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_transaction_shows_the_own_one_only() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let upper = id.to_string().to_uppercase();
    app.client().get_transaction(id).await.expect(200);
    app.client().get(&format!("/v1/transactions/{upper}")).await.expect(200);

    let other = app.client().with_key(&add_client(&app.pool, "other").await);
    let theirs = other.get_transaction(id).await;
    let nobodys = other.get_transaction(Uuid::now_v7()).await;
    // Another client's transaction looks like none.
    assert_eq!(theirs.expect_problem(404), nobodys.expect_problem(404));
    other.list_events(id).await.expect_problem(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_parameters_are_named() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let wrong_id = app.client().get("/v1/transactions/123").await;
    wrong_id.expect_problem(422);
    assert_eq!(wrong_id.faults(), ["id"]);
    for wait in ["31", "-1", "1.5", "abc", "4294967296"] {
        let answer = app.client().get(&format!("/v1/transactions/{id}?wait_seconds={wait}")).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), ["wait_seconds"], "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_seconds_answers_as_soon_as_the_status_is_final() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let waiting = app.client();
    let path = format!("/v1/transactions/{id}?wait_seconds=30");
    let mut waiting = tokio::spawn(async move { waiting.get(&path).await });
    // A bound, not a sleep: it must not answer while the transaction is pending.
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "answered while pending: {early:?}");

    let settled = Instant::now();
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(waiting.await.unwrap().expect(200)["status"], "completed");
    assert!(settled.elapsed() < Duration::from_secs(2), "{:?}", settled.elapsed());

    let at_once = Instant::now();
    app.client().get(&format!("/v1/transactions/{id}?wait_seconds=30")).await.expect(200);
    assert!(at_once.elapsed() < Duration::from_secs(1), "{:?}", at_once.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_seconds_ends_with_the_pending_transaction() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let start = Instant::now();
    let answer = app.client().get(&format!("/v1/transactions/{id}?wait_seconds=1")).await;
    assert_eq!(answer.expect(200)["status"], "pending");
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_requests_do_not_starve_the_others() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let waiting: Vec<_> = (0..60)
        .map(|_| {
            let client = app.client();
            tokio::spawn(async move {
                client.get(&format!("/v1/transactions/{id}?wait_seconds=20")).await
            })
        })
        .collect();
    for _ in 0..20 {
        app.client().accept().await;
    }
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().expect(200)["status"], "declined");
    }
}
