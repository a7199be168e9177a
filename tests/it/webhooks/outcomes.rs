//! What a webhook does, as answered.

use std::time::Duration;

use quartet::sandbox::{CreateStep, SendWebhook};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    console::visitor::Visitor,
    support::{TestApp, World, counts, spawn_api},
};

const BOUND: Duration = Duration::from_secs(10);

async fn outcome(app: &TestApp, id: Uuid, status: &str) -> Value {
    let (code, body) = app.send_webhook(SendWebhook::new(id, status)).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(body["duplicate"], false, "{body}");
    body["outcome"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_settles_a_pending_transaction() {
    let app = spawn_api().await;
    for status in ["completed", "declined"] {
        let id = app.client().accept().await;
        assert_eq!(outcome(&app, id, status).await, "settled");
        let transaction = app.client().get_transaction(id).await;
        let transaction = transaction.expect(200);
        assert_eq!(transaction["status"], status);
        assert_eq!(transaction["version"], 2);
        assert_eq!(transaction["settled_by"], "webhook");
        assert_eq!(transaction["settled_at"], transaction["updated_at"]);
        assert_eq!(transaction["notified_version"], 0);
    }
    assert_eq!(counts(&app.pool).await, [2, 8, 6, 2, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_and_the_present_status_change_nothing() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let before = app.client().get_transaction(id).await;
    assert_eq!(outcome(&app, id, "pending").await, "unchanged");
    assert_eq!(app.client().get_transaction(id).await.body, before.body);

    assert_eq!(outcome(&app, id, "declined").await, "settled");
    let settled = app.client().get_transaction(id).await;
    for status in ["declined", "pending"] {
        assert_eq!(outcome(&app, id, status).await, "unchanged");
        assert_eq!(app.client().get_transaction(id).await.body, settled.body);
    }
    assert!(app.operator().open_dead_letters(id).await.is_empty());
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds, ["accepted", "webhook", "webhook", "settled", "webhook", "webhook"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_final_status_is_a_conflict_for_the_operator() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    assert_eq!(outcome(&app, id, "completed").await, "settled");
    let settled = app.client().get_transaction(id).await;
    assert_eq!(outcome(&app, id, "declined").await, "conflict");
    assert_eq!(app.client().get_transaction(id).await.body, settled.body);

    let letters = app.operator().open_dead_letters(id).await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(letter["kind"], "status_conflict");
    assert_eq!(letter["state"], "open");
    assert_eq!(letter["transaction_id"], json!(id));
    for word in ["completed", "declined", "webhook"] {
        assert!(letter["reason"].as_str().unwrap().contains(word), "{letter}");
    }
    // What it said last, oldest first, with the times.
    let said: Vec<_> = letter["attempts"].as_array().unwrap().iter().collect();
    let said_words: Vec<_> = said.iter().map(|answer| &answer["error"]).collect();
    assert_eq!(said_words, ["webhook: it is completed", "webhook: it is declined"]);
    let times: Vec<_> = said.iter().map(|answer| answer["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted() && times[0].starts_with("20"), "{letter}");
    let console = Visitor::signed_in(&app).await;
    let path = format!("/console/dead-letters/{}", letter["id"].as_str().unwrap());
    let page = console.get(&path).await;
    assert!(page.expect(200).contains("webhook: it is declined"), "{}", page.html);
    // Said once more by another webhook: the same cause has no second dead letter, and the conflict
    // is one conflict.
    assert_eq!(outcome(&app, id, "declined").await, "conflict");
    assert_eq!(app.operator().open_dead_letters(id).await, letters);
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "conflict").count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "dead_letter_opened").count(), 1, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_conflicts_with_failed() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::rejected(400));
    let app = world.app().spawn().await;
    for status in ["completed", "declined"] {
        let id = app.client().accept().await;
        let failed = app.wait_told(id, BOUND).await;
        assert_eq!(
            (&failed["status"], &failed["settled_by"]),
            (&json!("failed"), &json!("creation_failure"))
        );
        assert_eq!(outcome(&app, id, "pending").await, "unchanged");
        assert_eq!(outcome(&app, id, status).await, "conflict");
        assert_eq!(app.client().get_transaction(id).await.body, failed);
        let letters = app.operator().open_dead_letters(id).await;
        let mut kinds: Vec<_> = letters.iter().map(|letter| &letter["kind"]).collect();
        kinds.sort_by_key(|kind| kind.to_string());
        assert_eq!(kinds, ["rejected", "status_conflict"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_transaction_is_kept_for_the_operator() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    assert_eq!(outcome(&app, id, "completed").await, "unknown_transaction");
    let letters = app.operator().open_dead_letters(id).await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(letter["kind"], "unknown_transaction");
    assert_eq!(letter["transaction_id"], json!(id));
    assert_eq!((&letter["job_id"], &letter["queue"]), (&Value::Null, &Value::Null));
    // The same report again, by another webhook.
    assert_eq!(outcome(&app, id, "completed").await, "unknown_transaction");
    assert_eq!(app.operator().open_dead_letters(id).await.len(), 1);
    app.client().get_transaction(id).await.expect_problem(404);
    assert_eq!(counts(&app.pool).await, [0, 0, 0, 2, 1]);
}
