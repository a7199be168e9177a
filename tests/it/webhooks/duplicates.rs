//! A repeated `webhook-id` answers its first outcome and does nothing.

use std::time::Duration;

use chrono::Utc;
use futures_util::future::join_all;
use quartet::{
    config::Role,
    sandbox::SendWebhook,
    signature::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign},
};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{World, contents, spawn_api, transaction, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_id_answers_the_first_outcome_and_does_nothing() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let unknown = Uuid::now_v7();
    let cases = [
        ("unchanged", id, "pending"),
        ("settled", id, "completed"),
        ("conflict", id, "declined"),
        ("unknown_transaction", unknown, "completed"),
    ];
    for (outcome, id, status) in cases {
        let webhook = SendWebhook::new(id, status).webhook_id(outcome);
        let first = app.send_webhook(webhook.clone()).await;
        assert_eq!(first, (200, json!({ "outcome": outcome, "duplicate": false })));
        let before = contents(&app.pool).await;
        for _ in 0..2 {
            let again = app.send_webhook(webhook.clone()).await;
            assert_eq!(again, (200, json!({ "outcome": outcome, "duplicate": true })));
        }
        assert_eq!(contents(&app.pool).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_outcome_stands_although_the_world_has_changed() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let early = SendWebhook::new(id, "pending").webhook_id("early");
    app.send_webhook(early.clone()).await;
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    let before = contents(&app.pool).await;
    // The same id with another content is the same event.
    let other = SendWebhook::new(id, "declined").webhook_id("early");
    for webhook in [early, other] {
        let again = app.send_webhook(webhook).await;
        assert_eq!(again, (200, json!({ "outcome": "unchanged", "duplicate": true })));
    }
    assert_eq!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_webhooks_with_one_id_act_once() {
    let app = spawn_api().await;
    let sibling = app.sibling().role(Role::Api).spawn().await;
    for round in 0..10 {
        let id = app.client().accept().await;
        let webhook = SendWebhook::new(id, "completed").webhook_id(format!("round_{round}"));
        let sent = [&app, &sibling, &app, &sibling].map(|to| to.send_webhook(webhook.clone()));
        let answers = join_all(sent).await;
        for (code, body) in &answers {
            assert_eq!((*code, &body["outcome"]), (200, &json!("settled")), "{answers:?}");
        }
        let first = answers.iter().filter(|(_, body)| body["duplicate"] == false).count();
        assert_eq!(first, 1, "{answers:?}");
        assert_eq!(app.client().event_kinds(id).await, ["accepted", "webhook", "settled"]);
        assert_eq!(app.client().get_transaction(id).await.body["version"], 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_contradictions_settle_once_and_conflict_once() {
    let app = spawn_api().await;
    for _ in 0..10 {
        let id = app.client().accept().await;
        let sent = ["completed", "declined"].map(|status| SendWebhook::new(id, status));
        let answers = join_all(sent.map(|webhook| app.send_webhook(webhook))).await;
        let mut outcomes: Vec<_> = answers.iter().map(|(_, body)| &body["outcome"]).collect();
        outcomes.sort_by_key(|outcome| outcome.to_string());
        assert_eq!(outcomes, ["conflict", "settled"]);
        assert_eq!(app.client().get_transaction(id).await.body["version"], 2);
        assert_eq!(app.operator().open_dead_letters(id).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_races_the_accept_is_never_lost() {
    let app = spawn_api().await;
    for _ in 0..10 {
        let id = Uuid::now_v7();
        let post = transaction(id);
        let client = app.client();
        let (accepted, (code, body)) = tokio::join!(
            client.post_transaction(&post),
            app.send_webhook(SendWebhook::new(id, "completed"))
        );
        accepted.expect(202);
        assert_eq!(code, 200);
        let status = app.client().get_transaction(id).await.body["status"].clone();
        let letters = app.operator().open_dead_letters(id).await.len();
        match body["outcome"].as_str().unwrap() {
            "settled" => assert_eq!((status, letters), (json!("completed"), 0)),
            "unknown_transaction" => assert_eq!((status, letters), (json!("pending"), 1)),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_waits_too_long_for_the_row_is_503_and_can_come_again() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let mut holder = app.pool.begin().await.unwrap();
    let lock = "SELECT id FROM transactions WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(id).execute(&mut *holder).await.unwrap();
    let webhook = SendWebhook::new(id, "completed").webhook_id("late");
    assert_eq!(app.send_webhook(webhook.clone()).await.0, 503);
    holder.rollback().await.unwrap();
    // What was given up is rolled back, sooner or later, and nothing of it remains.
    wait_until("the webhook settles", Duration::from_secs(10), async || {
        let (code, body) = app.send_webhook(webhook.clone()).await;
        assert!(matches!(code, 200 | 503), "{code} {body}");
        code == 200
    })
    .await;
    let transaction = app.client().get_transaction(id).await;
    assert_eq!(transaction.body["status"], "completed");
    assert_eq!(app.client().event_kinds(id).await, ["accepted", "webhook", "settled"]);
}

/// A webhook that is dated as far ahead as is allowed has a good signature for twice the tolerance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_remembered_for_as_long_as_its_signature_is_good() {
    const TOLERANCE_SECONDS: i64 = 2;
    let world = World::new().await;
    let app = world
        .app()
        .set("QUARTET_WEBHOOK__TOLERANCE", format!("{TOLERANCE_SECONDS}s"))
        .set("QUARTET_RETENTION__WEBHOOKS", format!("{}s", 2 * TOLERANCE_SECONDS))
        .set("QUARTET_RETENTION__INTERVAL", "50ms")
        .spawn()
        .await;
    let id = app.client().accept().await;
    let body = json!({ "id": id, "status": "completed" }).to_string();
    // As far ahead as the whole seconds of both clocks allow.
    let time = Utc::now().timestamp() + TOLERANCE_SECONDS;
    let signature = sign(&world.sandbox.config().webhook_secret, "evt", time, body.as_bytes());
    let time = time.to_string();
    let headers = [
        (ID_HEADER, "evt"),
        (TIMESTAMP_HEADER, time.as_str()),
        (SIGNATURE_HEADER, signature.as_str()),
        ("content-type", "application/json"),
    ];
    let path = "/v1/webhooks/third-party";
    let send = async || app.anonymous().send(Method::POST, path, &headers, body.clone()).await;
    assert_eq!(send().await.expect(200)["duplicate"], false);
    world.make_task_due("retention").await;
    wait_until("the signature is too old", Duration::from_secs(30), async || {
        let answer = send().await;
        if answer.status == 200 {
            assert_eq!(answer.body["duplicate"], true, "{}", answer.text);
        }
        answer.status == 401
    })
    .await;
    wait_until("it is forgotten", Duration::from_secs(30), async || {
        let count = "SELECT count(*) FROM webhook_deliveries";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&world.pool).await.unwrap() == 0
    })
    .await;
}
