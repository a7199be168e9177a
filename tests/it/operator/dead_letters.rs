//! Dead letters over HTTP: the whole story, filters, resolve, discard.

use futures_util::future::join_all;
use quartet::sandbox::{CreateStep, Reaction, SendWebhook};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, audit, nothing, post_as};
use crate::support::{
    TestApp, contents, jobs::quiet_app, spawn_api, spawn_app, wait_until, world::add_client,
};

async fn conflict(app: &TestApp) -> (Uuid, Value) {
    let id = app.client().accept().await;
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    let mut letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    (id, letters.remove(0))
}

async fn act(app: &TestApp, letter: &Value, action: &str, body: &Value) -> crate::support::Answer {
    app.operator().act_on_dead_letter(letter["id"].as_str().unwrap(), action, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolving_a_conflict_with_a_status_changes_it_and_tells_the_client() {
    let app = spawn_app().await;
    let (id, letter) = conflict(&app).await;
    app.wait_told(id, BOUND).await;
    let body = json!({ "status": "declined", "note": "they confirmed by phone" });
    let path = format!("/v1/operator/dead-letters/{}/resolve", letter["id"].as_str().unwrap());
    let resolved = post_as(&app, "Ada", &path, &body).await;
    let resolved = resolved.expect(200);
    for (field, value) in [
        ("state", json!("resolved")),
        ("closed_by", json!("operator (Ada)")),
        ("note", body["note"].clone()),
    ] {
        assert_eq!(resolved[field], value, "{field}");
    }
    wait_until("the client hears it", BOUND, async || {
        app.told(id).last() == Some(&("declined".to_owned(), 3))
    })
    .await;
    let transaction = app.client().get_transaction(id).await.expect(200).clone();
    assert_eq!(
        (&transaction["status"], &transaction["version"], &transaction["settled_by"]),
        (&json!("declined"), &json!(3), &json!("operator"))
    );
    // A later webhook contradicts the operator: another conflict, nothing overwritten.
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    let second = app.wait_dead_letter(id).await;
    act(&app, &second, "resolve", &json!({ "note": "seen" })).await.expect(200);
    app.rest(&[id]).await;
    let audited = audit(&app).await;
    assert_eq!(audited.len(), 2);
    let first = json!({ "operator": "operator (Ada)", "action": "resolve", "transaction_id": id,
        "dead_letter_id": letter["id"], "note": body["note"] });
    assert_eq!(audited[1], first);
    act(&app, &letter, "resolve", &body).await.expect_problem(409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolving_a_deadline_ends_what_is_pending() {
    let app =
        quiet_app().await.set("QUARTET_POLL__FIRST", "50ms").set("QUARTET_POLL__DEADLINE", "300ms");
    let app = app.spawn().await;
    let id = app.client().accept().await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "deadline");
    let body = json!({ "status": "completed", "note": "on their statement" });
    act(&app, &letter, "resolve", &body).await.expect(200);
    let told = app.wait_told(id, BOUND).await;
    assert_eq!((&told["status"], &told["settled_by"]), (&json!("completed"), &json!("operator")));
    app.rest(&[id]).await;
    let closed = app.dead_letter(&letter).await;
    assert_eq!((&closed["note"], &closed["closed_by"]), (&body["note"], &json!("operator")));
}

/// An operator's word ends the attempts to create: nothing is sent to the third party after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_status_stops_the_create() {
    let app = quiet_app()
        .await
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "400ms")
        .set("QUARTET_POLL__FIRST", "50ms")
        .set("QUARTET_POLL__DEADLINE", "200ms");
    let app = app.spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.third_party().script_creates_for(id, vec![CreateStep::gateway_timeout_lost()]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "deadline");
    act(&app, &letter, "resolve", &json!({ "status": "failed", "note": "withdrawn" }))
        .await
        .expect(200);
    app.rest(&[id]).await;
    assert_eq!(app.sandbox.third_party().creates_of(id), 1);
    assert_eq!(app.client().get_transaction(id).await.body["status"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_set_only_where_it_is_in_question() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1).spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, vec![Reaction::status_code(500)]);
    app.accept_as(id).await;
    let untold = app.wait_dead_letter(id).await;
    let stranger = Uuid::now_v7();
    app.send_webhook(SendWebhook::new(stranger, "completed")).await;
    let unknown = app.wait_dead_letter(stranger).await;
    app.settle_by_webhook(&[id]).await;
    let before = contents(&app.pool).await;
    for letter in [&untold, &unknown] {
        if app.dead_letter(letter).await["state"] == "open" {
            let body = json!({ "status": "completed", "note": "n" });
            act(&app, letter, "resolve", &body).await.expect_problem(409);
        }
    }
    for (body, faults) in [
        (nothing(), vec!["/note"]),
        (json!({ "note": " " }), vec!["/note"]),
        (json!({ "note": "n", "status": "pending" }), vec!["/status"]),
        (json!({ "note": "n", "status": "done" }), vec!["/status"]),
        (json!({ "note": "n", "force": true }), vec!["/force"]),
        (json!({ "note": "x".repeat(1001) }), vec!["/note"]),
    ] {
        let answer = act(&app, &unknown, "resolve", &body).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), faults, "{body}");
    }
    assert_eq!(contents(&app.pool).await, before);
    act(&app, &unknown, "resolve", &json!({ "note": "not ours" })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discarding_closes_and_changes_nothing_else() {
    let app = spawn_api().await;
    let (id, letter) = conflict(&app).await;
    let discarded = act(&app, &letter, "discard", &json!({ "note": "known" })).await;
    assert_eq!(discarded.expect(200)["state"], "discarded");
    assert_eq!(app.client().get_transaction(id).await.body["version"], 2);
    for action in ["discard", "replay"] {
        act(&app, &letter, action, &nothing()).await.expect_problem(409);
    }
    let none = json!({ "id": Uuid::now_v7() });
    act(&app, &none, "discard", &nothing()).await.expect_problem(404);
    assert_eq!(audit(&app).await.len(), 1);
}

/// Of many actions at once on one dead letter exactly one takes place.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn actions_race_and_one_wins() {
    let app = spawn_api().await;
    let (id, letter) = conflict(&app).await;
    let body = json!({ "status": "declined", "note": "n" });
    let actions = (0..12).map(|number| {
        let (app, letter, body) = (&app, &letter, &body);
        async move {
            let (action, body) =
                if number % 2 == 0 { ("resolve", body.clone()) } else { ("discard", nothing()) };
            act(app, letter, action, &body).await.status
        }
    });
    let statuses = join_all(actions).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert_eq!(audit(&app).await.len(), 1);
    let version = app.client().get_transaction(id).await.body["version"].clone();
    let resolved = app.dead_letter(&letter).await["state"] == "resolved";
    assert_eq!(version, if resolved { 3 } else { 2 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_story_is_in_one_answer() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 3).spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, vec![Reaction::status_code(500); 3]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    act(&app, &letter, "discard", &json!({ "note": "gone" })).await.expect(200);
    let path = format!("/v1/operator/dead-letters/{}", letter["id"].as_str().unwrap());
    let answer = app.operator().get(&path).await;
    let story = answer.expect(200);
    assert_eq!(story["attempts"].as_array().unwrap().len(), 3, "{story}");
    for attempt in story["attempts"].as_array().unwrap() {
        assert!(attempt["at"].is_string() && attempt["error"].as_str().unwrap().contains("500"));
    }
    assert_eq!(story["job"]["job_type"], "notify_client");
    assert_eq!(story["client"], "default");
    let kinds: Vec<&str> =
        story["evidence"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"accepted"));
    assert!(
        kinds.contains(&"client_refused") && kinds.contains(&"dead_letter_opened"),
        "{kinds:?}"
    );
    assert_eq!(story["actions"][0]["action"], "discard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_dead_letters_by_client_and_age() {
    let app = spawn_api().await;
    let (id, letter) = conflict(&app).await;
    let key = add_client(&app.pool, "second").await;
    let second = app.anonymous().with_key(&key).accept().await;
    app.send_webhook(SendWebhook::new(second, "completed")).await;
    app.send_webhook(SendWebhook::new(second, "declined")).await;
    app.send_webhook(SendWebhook::new(Uuid::now_v7(), "declined")).await;
    let aged = "UPDATE failed_jobs SET opened_at = opened_at - interval '2 days'
        WHERE transaction_id = $1";
    sqlx::query(aged).bind(id).execute(&app.pool).await.unwrap();
    let day = (chrono::Utc::now() - chrono::Duration::days(1)).format("%FT%TZ").to_string();
    let found = async |query: &str| {
        let answer = app.operator().list_dead_letters(query).await;
        let items = answer.expect(200)["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| item["transaction_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(found("client=default").await, [json!(id)]);
    assert_eq!(found("client=second").await, [json!(second)]);
    assert_eq!(found(&format!("opened_before={day}")).await, [json!(id)]);
    assert_eq!(found(&format!("opened_after={day}")).await.len(), 2);
    assert_eq!(found(&format!("opened_after={day}&kind=status_conflict")).await, [json!(second)]);
    assert_eq!(app.dead_letter(&letter).await["client"], "default");
    for (query, parameter) in [("client=nobody", "client"), ("opened_after=today", "opened_after")]
    {
        let answer = app.operator().list_dead_letters(query).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [parameter]);
    }
}

/// While a create is under way its answer is worth more than an operator's guess.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_waits_for_the_create_that_is_under_way() {
    let app = quiet_app()
        .await
        .set("QUARTET_POLL__FIRST", "50ms")
        .set("QUARTET_POLL__DEADLINE", "200ms")
        .spawn()
        .await;
    let id = Uuid::now_v7();
    let slow = CreateStep::created().delay(std::time::Duration::from_secs(2));
    app.sandbox.third_party().script_creates_for(id, vec![slow]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    let body = json!({ "status": "failed", "note": "they say so" });
    let answer = act(&app, &letter, "resolve", &body).await;
    let problem = answer.expect_problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("being created"), "{problem}");
    assert_eq!(app.dead_letter(&letter).await["state"], "open");
    app.wait_job("create_at_third_party", id, "Done").await;
    act(&app, &letter, "resolve", &body).await.expect(200);
    app.rest(&[id]).await;
}

/// An answer to a create that came too late for what was decided meanwhile contradicts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_succeeds_after_the_transaction_failed_is_a_conflict() {
    let app = quiet_app()
        .await
        .set("QUARTET_POLL__FIRST", "30s")
        .set("QUARTET_POLL__DEADLINE", "60s")
        .spawn()
        .await;
    let id = Uuid::now_v7();
    let slow = CreateStep::created_without_status().delay(std::time::Duration::from_secs(1));
    app.sandbox.third_party().script_creates_for(id, vec![slow]);
    app.accept_as(id).await;
    wait_until("the create is under way", BOUND, async || {
        app.sandbox.third_party().creates_of(id) == 1
    })
    .await;
    // As by a restore, or an operator's hand: settled while the call is out.
    let fail = "WITH failed AS (
            UPDATE transactions SET status = 'failed', version = 2, settled_at = now(),
                settled_by = 'operator' WHERE id = $1
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail) VALUES ($1, 'settled',
            'operator', '{\"status\": \"failed\", \"version\": 2, \"settled_by\": \"operator\"}')";
    sqlx::query(fail).bind(id).execute(&app.pool).await.unwrap();
    assert_eq!(app.wait_dead_letter(id).await["kind"], "status_conflict");
    assert_eq!(app.client().get_transaction(id).await.body["status"], "failed");
}
