//! The operators' commands: the same actions as over HTTP, on `DATABASE_URL`.

use quartet::sandbox::{Reaction, SendWebhook};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, audit, job};
use crate::support::{
    TestApp,
    command::{self, Ended},
    contents,
    jobs::quiet_app,
    spawn_api_at_rest, wait_until,
};

async fn quartet(app: &TestApp, args: &[&str]) -> Ended {
    let mut settings = app.settings();
    settings.push(("USER".to_owned(), "ada".to_owned()));
    command::run(args, &settings, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_listed_paused_and_resumed() {
    let app = spawn_api_at_rest().await;
    app.client().accept().await;
    let pause = ["queues", "pause", "notify_client", "--note", "night", "--json"];
    let paused = quartet(&app, &pause).await.expect_json();
    assert_eq!((&paused["paused"], &paused["pause_note"]), (&json!(true), &json!("night")));
    let answer = app.operator().get("/v1/operator/queues").await;
    let listed = quartet(&app, &["queues", "list", "--json"]).await.expect_json();
    let names = |list: &Value| {
        let items = list["items"].as_array().unwrap().clone();
        items
            .into_iter()
            .map(|item| (item["queue"].clone(), item["paused"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&listed), names(answer.expect(200)));
    let text = quartet(&app, &["queues", "list"]).await;
    for part in ["create_at_third_party", "oldest due", "by operator (", "night"] {
        assert!(text.expect().contains(part), "{part}: {}", text.stdout);
    }
    quartet(&app, &["queues", "resume", "notify_client"]).await.expect();
    let error = quartet(&app, &["queues", "pause", "notify"]).await;
    assert!(error.expect_failure().contains("notify_client"), "{error:?}");
    let audited = audit(&app).await;
    assert_eq!(audited.len(), 2);
    assert_eq!(audited[0]["operator"], command::operator(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_listed_shown_cancelled_and_retried() {
    let app = spawn_api_at_rest().await;
    let id = app.client().accept().await;
    let of = id.to_string();
    let listed = quartet(&app, &["jobs", "list", "--transaction-id", &of, "--json"]).await;
    assert_eq!(listed.expect_json()["items"].as_array().unwrap().len(), 4);
    let poll = job(&app, id, "update_status").await;
    let poll_id = poll["id"].as_str().unwrap();
    assert_eq!(quartet(&app, &["jobs", "show", poll_id, "--json"]).await.expect_json(), poll);
    let text = quartet(&app, &["jobs", "list", "--queue", "update_status"]).await;
    assert!(text.expect().contains(poll_id), "{}", text.stdout);
    let cancelled = quartet(&app, &["jobs", "cancel", poll_id, "--note", "no", "--json"]).await;
    assert_eq!(cancelled.expect_json()["state"], "cancelled");
    let again = quartet(&app, &["jobs", "cancel", poll_id]).await;
    assert!(again.expect_failure().contains("cancelled already"), "{again:?}");
    let retried = quartet(&app, &["jobs", "retry", poll_id]).await;
    assert!(retried.expect().contains("is due"), "{retried:?}");
    let missing = quartet(&app, &["jobs", "show", "none"]).await;
    assert!(missing.expect_failure().contains("there is no job"), "{missing:?}");
    assert_eq!(audit(&app).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_previewed_replayed_resolved_and_discarded() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1).spawn().await;
    app.sandbox.client().set_default(Reaction::status_code(500));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = app.client().accept().await;
        app.wait_dead_letter(id).await;
        ids.push(id);
    }
    app.sandbox.client().set_default(None);
    let all = ["dead-letters", "replay", "--all", "--kind", "exhausted"];
    let dry = quartet(&app, &[&all[..], &["--dry-run"]].concat()).await;
    for part in ["PUT http", "not_asked", "3 match. Nothing was done.", "--confirm 3"] {
        assert!(dry.expect().contains(part), "{part}: {}", dry.stdout);
    }
    let before = contents(&app.pool).await;
    let unconfirmed = quartet(&app, &all).await;
    let said = unconfirmed.expect_failure();
    assert!(said.contains("3 dead letters match: nothing was replayed"), "{said}");
    assert!(said.contains("--confirm 3"), "{said}");
    let wrong = quartet(&app, &[&all[..], &["--confirm", "2"]].concat()).await;
    assert!(wrong.expect_failure().contains("3 dead letters match, not 2"), "{wrong:?}");
    let every = quartet(&app, &["dead-letters", "replay", "--all"]).await;
    assert!(every.expect_failure().contains("--confirm"), "{every:?}");
    assert_eq!(contents(&app.pool).await, before);
    let done =
        quartet(&app, &[&all[..], &["--confirm", "3", "--note", "back", "--json"]].concat()).await;
    assert_eq!(done.expect_json()["replayed"], 3);
    app.settle_by_webhook(&ids).await;

    let stranger = Uuid::now_v7();
    for status in ["completed", "declined"] {
        app.send_webhook(SendWebhook::new(stranger, status)).await;
    }
    let of = stranger.to_string();
    let listed = quartet(&app, &["dead-letters", "list", "--transaction-id", &of, "--json"]).await;
    let letters = listed.expect_json()["items"].as_array().unwrap().clone();
    assert_eq!(letters.len(), 2);
    let letter = |index: usize| letters[index]["id"].as_str().unwrap();
    let resolve = ["dead-letters", "resolve", letter(0), "--note", "not ours"];
    let refused = quartet(&app, &[&resolve[..], &["--status", "completed"]].concat()).await;
    assert!(refused.expect_failure().contains("status cannot be set"), "{refused:?}");
    quartet(&app, &resolve).await.expect();
    let discarded = quartet(&app, &["dead-letters", "discard", letter(1), "--json"]).await;
    assert_eq!(discarded.expect_json()["state"], "discarded");
    quartet(&app, &["dead-letters", "discard", letter(1)]).await.expect_failure();
    let needs_note = quartet(&app, &["dead-letters", "resolve", letter(0)]).await;
    assert!(needs_note.expect_failure().contains("--note"), "{needs_note:?}");
    let none = quartet(&app, &["dead-letters", "list", "--state", "open", "--json"]).await;
    assert_eq!(none.expect_json()["items"], json!([]));
    let nobody = quartet(&app, &["dead-letters", "list", "--client", "nobody"]).await;
    assert!(nobody.expect_failure().contains("no client named nobody"), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_the_same_as_the_api() {
    let app = spawn_api_at_rest().await;
    let id = app.client().accept().await;
    let of = id.to_string();
    let path = format!("/v1/operator/transactions/{id}/explain");
    let mut by_api = app.operator().get(&path).await.expect(200).clone();
    let mut by_command = quartet(&app, &["explain", &of, "--json"]).await.expect_json();
    for explained in [&mut by_api, &mut by_command] {
        // Between the two a scheduled job may have fallen due.
        explained["jobs"] = json!(explained["jobs"].as_array().unwrap().len());
    }
    assert_eq!(by_command, by_api);
    let text = quartet(&app, &["explain", &of]).await;
    for part in ["Waits for:  third_party", "No worker of create_at_third_party", "accepted"] {
        assert!(text.expect().contains(part), "{part}: {}", text.stdout);
    }
    let missing = quartet(&app, &["explain", &Uuid::now_v7().to_string()]).await;
    assert!(missing.expect_failure().contains("there is no transaction"), "{missing:?}");
    wait_until("nothing was changed", BOUND, async || audit(&app).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circuit_and_a_dead_letters_story_are_shown_as_over_http() {
    let app = spawn_api_at_rest().await;
    let one = ["circuit", "--third-party", "third-party"];
    let closed = quartet(&app, &one).await;
    assert!(closed.expect().starts_with("closed"), "{closed:?}");
    let closed = quartet(&app, &["circuit"]).await;
    assert!(closed.expect().starts_with("third-party: closed"), "{closed:?}");
    let open = "UPDATE circuits SET opened_at = now(), open_until = now() + interval '1 hour',
        open_for = 3600, reason = 'no answer', trips = 3";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    let open = quartet(&app, &one).await;
    assert!(open.expect().starts_with("open") && open.stdout.contains("no answer"), "{open:?}");
    let answer = app.operator().get("/v1/operator/circuit").await;
    let shown = quartet(&app, &[&one[..], &["--json"]].concat()).await.expect_json();
    assert_eq!(&shown, answer.expect(200));
    let mut named = shown;
    named["third_party"] = "third-party".into();
    let listed = quartet(&app, &["circuit", "--json"]).await.expect_json();
    assert_eq!(listed, json!([named]));

    let id = app.client().accept().await;
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    let letter = app.operator().open_dead_letters(id).await.remove(0);
    let letter = letter["id"].as_str().unwrap();
    let blank = quartet(&app, &["dead-letters", "resolve", letter, "--note", " "]).await;
    assert!(blank.expect_failure().contains("--note"), "{blank:?}");
    let long = "x".repeat(1001);
    let long = quartet(&app, &["dead-letters", "discard", letter, "--note", &long]).await;
    assert!(long.expect_failure().contains("1000"), "{long:?}");
    quartet(&app, &["dead-letters", "discard", letter, "--note", "known"]).await.expect();
    let answer = app.operator().get(&format!("/v1/operator/dead-letters/{letter}")).await;
    let shown = quartet(&app, &["dead-letters", "show", letter, "--json"]).await.expect_json();
    assert_eq!(&shown, answer.expect(200));
    assert_eq!(shown["actions"][0]["note"], "known");
}
