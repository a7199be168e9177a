//! The dead-letter store over HTTP: list, get, replay.

use std::time::Duration;

use futures_util::future::join_all;
use quartet::sandbox::{CreateStep, SendWebhook};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Answer, TestApp, World, contents, jobs::without_story, spawn_api, transaction, wait_until,
};

const BOUND: Duration = Duration::from_secs(10);

/// A webhook about a transaction that is not here; returns its dead letter's id.
async fn unknown(app: &TestApp, id: Uuid, status: &str) -> String {
    app.send_webhook(SendWebhook::new(id, status)).await;
    only_letter(app, id).await["id"].as_str().unwrap().to_owned()
}

/// A settled transaction and a contradiction; returns its dead letter's id.
async fn conflict(app: &TestApp, id: Uuid) -> String {
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    only_letter(app, id).await["id"].as_str().unwrap().to_owned()
}

async fn only_letter(app: &TestApp, id: Uuid) -> Value {
    let mut letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.remove(0)
}

async fn list(app: &TestApp, query: &str) -> Vec<String> {
    let answer = app.operator().list_dead_letters(query).await;
    let items = answer.expect(200)["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn replay(app: &TestApp, letter: &str) -> Answer {
    app.operator().act_on_dead_letter(letter, "replay", &json!({})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_dead_letter_shows_all_fields() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let letter = unknown(&app, id, "completed").await;
    let answer = app.operator().get(&format!("/v1/operator/dead-letters/{letter}")).await;
    let shown = answer.expect(200);
    for (field, value) in [
        ("kind", json!("unknown_transaction")),
        ("state", json!("open")),
        ("transaction_id", json!(id)),
        ("job_id", Value::Null),
        ("queue", Value::Null),
        ("attempts", json!([])),
        ("closed_at", Value::Null),
        ("closed_by", Value::Null),
        ("note", Value::Null),
    ] {
        assert_eq!(shown.get(field), Some(&value), "{field}");
    }
    for field in ["id", "reason", "opened_at"] {
        assert!(shown[field].is_string(), "{field}: {shown}");
    }
    assert_eq!(without_story(shown), only_letter(&app, id).await);
    let path = format!("/v1/operator/dead-letters/{}", Uuid::now_v7());
    app.operator().get(&path).await.expect_problem(404);
    let answer = app.operator().get("/v1/operator/dead-letters/1").await;
    answer.expect_problem(422);
    assert_eq!(answer.faults(), ["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_dead_letters_filters_and_pages() {
    let app = spawn_api().await;
    let settled = app.client().accept().await;
    let conflicts = conflict(&app, settled).await;
    let mut unknowns = Vec::new();
    for _ in 0..5 {
        unknowns.insert(0, unknown(&app, Uuid::now_v7(), "completed").await);
    }
    let all: Vec<String> = unknowns.iter().chain([&conflicts]).cloned().collect();
    assert_eq!(list(&app, "").await, all);
    assert_eq!(list(&app, "kind=status_conflict").await, [conflicts.as_str()]);
    assert_eq!(list(&app, "kind=unknown_transaction&state=open").await, unknowns);
    assert!(list(&app, "kind=deadline").await.is_empty());
    assert!(list(&app, "state=replayed").await.is_empty());
    assert_eq!(list(&app, &format!("transaction_id={settled}")).await, [conflicts]);

    let mut paged = Vec::new();
    let mut query = "limit=4".to_owned();
    loop {
        paged.extend(list(&app, &query).await);
        let answer = app.operator().list_dead_letters(&query).await;
        let Some(cursor) = answer.body["next_cursor"].as_str() else { break };
        query = format!("limit=4&cursor={cursor}");
    }
    assert_eq!(paged, all);

    for (query, parameter) in [
        ("kind=unknown", "kind"),
        ("state=closed", "state"),
        ("transaction_id=1", "transaction_id"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=abc", "cursor"),
    ] {
        let answer = app.operator().list_dead_letters(query).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [parameter], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaying_an_unknown_transaction_applies_its_status_once_the_id_exists() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let letter = unknown(&app, id, "declined").await;
    let before = contents(&app.pool).await;
    replay(&app, &letter).await.expect_problem(409);
    assert_eq!(contents(&app.pool).await, before);

    app.client().post_transaction(&transaction(id)).await.expect(202);
    let body = json!({ "note": "the post came late" });
    let answer = app.operator().act_on_dead_letter(&letter, "replay", &body).await;
    let replayed = answer.expect(200);
    assert_eq!(replayed["state"], "replayed");
    assert_eq!(replayed["closed_by"], "operator");
    assert_eq!(replayed["note"], "the post came late");
    assert!(replayed["closed_at"].is_string(), "{replayed}");
    let settled = app.client().get_transaction(id).await;
    assert_eq!(settled.expect(200)["status"], "declined");
    assert_eq!(settled.body["settled_by"], "webhook");
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds, ["accepted", "settled", "operator"]);

    let before = contents(&app.pool).await;
    replay(&app, &letter).await.expect_problem(409);
    assert_eq!(contents(&app.pool).await, before, "a closed one is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaying_what_contradicts_opens_a_conflict() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let letter = unknown(&app, id, "declined").await;
    app.client().post_transaction(&transaction(id)).await.expect(202);
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    replay(&app, &letter).await.expect(200);
    assert_eq!(app.client().get_transaction(id).await.body["status"], "completed");
    assert_eq!(only_letter(&app, id).await["kind"], "status_conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_conflict_has_nothing_to_replay() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let letter = conflict(&app, id).await;
    let before = contents(&app.pool).await;
    replay(&app, &letter).await.expect_problem(409);
    assert_eq!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_replays_close_it_once() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let letter = unknown(&app, id, "completed").await;
    app.client().post_transaction(&transaction(id)).await.expect(202);
    let answers = join_all((0..8).map(|_| replay(&app, &letter))).await;
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((of(200), of(409)), (1, 7), "{answers:?}");
    assert_eq!(app.client().get_transaction(id).await.body["version"], 2);
    assert_eq!(app.client().event_kinds(id).await, ["accepted", "settled", "operator"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaying_a_refused_create_runs_it_again_with_fresh_attempts() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::rejected(422));
    let app = world.app().spawn().await;
    let id = app.client().accept().await;
    assert_eq!(app.wait_told(id, BOUND).await["status"], "failed");
    let letter = only_letter(&app, id).await;
    assert_eq!(
        (&letter["kind"], &letter["queue"]),
        (&json!("rejected"), &json!("create_at_third_party"))
    );
    assert_eq!(letter["attempts"].as_array().map(Vec::len), Some(1), "{letter}");
    for field in ["attempt", "at", "error"] {
        assert!(!letter["attempts"][0][field].is_null(), "{letter}");
    }
    assert!(letter["job_id"].is_string() && letter["job"].is_object(), "{letter}");

    // Refused again: a new dead letter for the same cause, as the old one is closed.
    let old = letter["id"].as_str().unwrap();
    replay(&app, old).await.expect(200);
    wait_until("it is refused again", BOUND, async || {
        world.sandbox.third_party().creates_of(id) == 2
            && app.operator().open_dead_letters(id).await.len() == 1
    })
    .await;
    assert_ne!(only_letter(&app, id).await["id"], old);
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bodies_of_a_replay_are_named_and_an_empty_one_is_fine() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let letter = unknown(&app, id, "completed").await;
    app.client().post_transaction(&transaction(id)).await.expect(202);
    let before = contents(&app.pool).await;
    for (body, pointer) in [
        (json!({ "note": 1 }), "/note"),
        (json!({ "note": "x".repeat(1001) }), "/note"),
        (json!({ "note": "a\0" }), "/note"),
        (json!({ "status": "completed" }), "/status"),
    ] {
        let answer = app.operator().act_on_dead_letter(&letter, "replay", &body).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [pointer], "{body}");
    }
    let path = format!("/v1/operator/dead-letters/{letter}/replay");
    app.operator().post_raw(&path, "{").await.expect_problem(400);
    app.operator().post_raw(&path, "[]").await.expect_problem(400);
    let text = [("content-type", "text/plain")];
    app.operator().send(reqwest::Method::POST, &path, &text, "x").await.expect_problem(415);
    assert_eq!(contents(&app.pool).await, before);
    let nobodys = Uuid::now_v7().to_string();
    replay(&app, &nobodys).await.expect_problem(404);
    app.operator().send(reqwest::Method::POST, &path, &[], "").await.expect(200);
}
