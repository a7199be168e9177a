//! Replaying a dead letter, kind by kind, through the API and the command line.

use chrono::{DateTime, Utc};
use quartet::{
    config::Role,
    sandbox::{CallKind, CreateStep, LookupStep, Reaction, SendWebhook, Status},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestApp,
    app::AppBuilder,
    command::{self, Ended},
    jobs::{BOUND, quiet_app},
    spawn_app, wait_for, wait_until,
};

const CREATE: &str = "create_at_third_party";

/// An app that tries to create once, and hardly polls.
async fn build() -> AppBuilder {
    let app = quiet_app().await;
    app.set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 0)
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "100ms")
        .set("QUARTET_POLL__FIRST", "50s")
        .set("QUARTET_POLL__DEADLINE", "60s")
        .set("QUARTET_NOTIFY__FIRST", "50ms")
}

/// A transaction that was given up, its dead letter, and the client told.
async fn given_up(app: &TestApp, answer: CreateStep) -> (Uuid, Value) {
    let id = Uuid::now_v7();
    app.sandbox.third_party().script_creates_for(id, vec![answer]);
    app.accept_as(id).await;
    assert_eq!(app.wait_told(id, BOUND).await["status"], "failed");
    (id, app.wait_dead_letter(id).await)
}

/// Replays and asserts what holds for every replay: closed, by whom, why, and the evidence.
async fn replay(app: &TestApp, letter: &Value) {
    let closed = app.replay(letter).await;
    assert_eq!((&closed["state"], &closed["note"]), (&json!("replayed"), &json!("test")));
    assert!(closed["closed_by"].as_str().unwrap().contains("operator"), "{closed}");
    let (opened, closed_at) = (time(&closed["opened_at"]), time(&closed["closed_at"]));
    assert!(closed_at > opened, "{closed}");
    assert_eq!(app.dead_letter(letter).await, closed);

    let query = "SELECT detail FROM transaction_events
        WHERE transaction_id = $1 AND kind = 'operator' ORDER BY id DESC LIMIT 1";
    let id: Uuid = letter["transaction_id"].as_str().unwrap().parse().unwrap();
    let detail: Value = sqlx::query_scalar(query).bind(id).fetch_one(&app.pool).await.unwrap();
    assert_eq!(
        (&detail["action"], &detail["dead_letter_id"], &detail["note"]),
        (&json!("replay"), &letter["id"], &json!("test"))
    );

    let path = letter["id"].as_str().unwrap();
    app.operator().act_on_dead_letter(path, "replay", &json!({})).await.expect_problem(409);
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Waits for another open dead letter than `before`.
async fn next_letter(app: &TestApp, id: Uuid, before: &Value) -> Value {
    let next = app.wait_dead_letter(id).await;
    assert_ne!(next["id"], before["id"]);
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_creation_failure_conflicts_with_whatever_the_third_party_then_says() {
    let app = build().await.spawn().await;
    let html = Reaction::status_code(200).text("<html>fine</html>");
    let answers = [
        CreateStep::created_final(Status::Completed),
        CreateStep::created(),
        CreateStep::new(html).stored(Status::Pending),
        CreateStep::conflict_exists(Some(Status::Declined)),
    ];
    let mut ids = Vec::new();
    for answer in answers {
        let (id, letter) = given_up(&app, CreateStep::gateway_timeout_lost()).await;
        assert_eq!(
            (&letter["kind"], &letter["queue"]),
            (&json!("creation_failure"), &json!(CREATE))
        );
        app.sandbox.third_party().script_creates_for(id, vec![answer]);
        replay(&app, &letter).await;
        let conflict = next_letter(&app, id, &letter).await;
        assert_eq!(conflict["kind"], "status_conflict", "{conflict}");
        assert_eq!(app.wait_job(CREATE, id, "Done").await.attempts, 1, "fresh attempts");
        let path = conflict["id"].as_str().unwrap();
        let again = app.operator().act_on_dead_letter(path, "replay", &json!({})).await;
        again.expect_problem(409);
        ids.push(id);
    }
    app.rest_failed(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_creation_failure_that_is_found_conflicts_too() {
    let app = build().await.spawn().await;
    let mut ids = Vec::new();
    for status in [Status::Pending, Status::Declined] {
        let (id, letter) = given_up(&app, CreateStep::gateway_timeout_lost()).await;
        app.sandbox.third_party().store(id, status);
        replay(&app, &letter).await;
        let conflict = next_letter(&app, id, &letter).await;
        assert_eq!(conflict["kind"], "status_conflict", "{conflict}");
        assert_eq!(app.sandbox.third_party().creates_of(id), 1, "it was found");
        ids.push(id);
    }
    app.rest_failed(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_creation_failure_that_fails_again_is_a_new_dead_letter() {
    let app = build().await.spawn().await;
    let (id, letter) = given_up(&app, CreateStep::gateway_timeout_lost()).await;
    let (refused, refusal) = given_up(&app, CreateStep::rejected(422)).await;
    assert_eq!(refusal["kind"], "rejected");
    app.sandbox.third_party().set_create_default(CreateStep::gateway_timeout_lost());
    replay(&app, &letter).await;
    assert_eq!(next_letter(&app, id, &letter).await["kind"], "creation_failure");
    assert_eq!(app.sandbox.third_party().creates_of(id), 2);
    // What was refused is sent again, too.
    app.sandbox.third_party().set_create_default(CreateStep::rejected(400));
    replay(&app, &refusal).await;
    assert_eq!(next_letter(&app, refused, &refusal).await["kind"], "rejected");
    app.rest_failed(&[id, refused]).await;
}

impl TestApp {
    /// At rest, they are still failed, and the client heard so once.
    async fn rest_failed(&self, ids: &[Uuid]) {
        self.rest(ids).await;
        for id in ids {
            let transaction = self.client().get_transaction(*id).await.body;
            assert_eq!(transaction["status"], "failed", "{transaction}");
            assert_eq!(transaction["version"], 2);
            assert_eq!(self.told(*id).last(), Some(&("failed".to_owned(), 2)));
            assert_eq!(self.operator().open_dead_letters(*id).await.len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_refusal_that_is_accepted_now_conflicts() {
    let app = build().await.spawn().await;
    let (id, letter) = given_up(&app, CreateStep::rejected(400)).await;
    replay(&app, &letter).await;
    assert_eq!(next_letter(&app, id, &letter).await["kind"], "status_conflict");
    app.rest_failed(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_deadline_polls_again_up_to_a_fresh_one() {
    let app = build().await.set("QUARTET_POLL__FIRST", "10ms");
    let app = app.set("QUARTET_POLL__DEADLINE", "500ms").spawn().await;
    let id = app.client().accept().await;
    let first = app.wait_dead_letter(id).await;
    assert_eq!(first["kind"], "deadline", "{first}");
    app.wait_at_rest(BOUND).await;
    let polls = app.sandbox.third_party().lookups_of(id);

    replay(&app, &first).await;
    let second = next_letter(&app, id, &first).await;
    assert_eq!(second["kind"], "deadline", "{second}");
    let waited = time(&second["opened_at"]) - time(&app.dead_letter(&first).await["closed_at"]);
    // It counts from the replay, which closed the first one a little later; and the process knows
    // the database's time to half a round trip.
    assert!(waited.num_milliseconds() >= 400, "a whole deadline: {waited}");
    // 10, 20, 40, … from the start again.
    assert!(app.sandbox.third_party().lookups_of(id) >= polls + 4);
    assert_eq!(app.job("update_status", id).await.attempts, 1, "fresh attempts");

    app.sandbox.third_party().set_status(id, Status::Completed);
    replay(&app, &second).await;
    assert_eq!(app.wait_told(id, BOUND).await["settled_by"], "poll");
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_create_without_an_answer_finds_out() {
    let app = build().await.spawn().await;
    let id = Uuid::now_v7();
    let lookups = vec![LookupStep::normal(), LookupStep::status_code(500)];
    app.sandbox.third_party().script_lookups_for(id, lookups);
    app.sandbox.third_party().script_creates_for(id, vec![CreateStep::gateway_timeout_lost()]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!("exhausted"), &json!(CREATE)));
    replay(&app, &letter).await;
    assert_eq!(app.wait_job(CREATE, id, "Done").await.attempts, 1);
    assert_eq!(app.sandbox.third_party().creates_of(id), 2, "absent, so it is created");
    app.settle_by_webhook(&[id]).await;
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_notifications_reach_a_client_that_is_back() {
    let app = build().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 2).spawn().await;
    let mut ids = Vec::new();
    for (code, kind) in [(410, "rejected"), (500, "exhausted")] {
        let id = Uuid::now_v7();
        app.sandbox.client().script_for(id, vec![Reaction::status_code(code); 2]);
        app.accept_as(id).await;
        let letter = app.wait_dead_letter(id).await;
        assert_eq!((&letter["kind"], &letter["queue"]), (&json!(kind), &json!("notify_client")));
        app.sandbox.client().clear_scripts();
        replay(&app, &letter).await;
        app.wait_notified(id, 1).await;
        assert_eq!(app.wait_job("notify_client", id, "Done").await.attempts, 1, "fresh attempts");
        assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
        ids.push(id);
    }
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_unknown_transaction_is_applied_once_the_id_exists() {
    let app = quiet_app().await.spawn().await;
    let id = Uuid::now_v7();
    let (_, answer) = app.send_webhook(SendWebhook::new(id, "declined")).await;
    assert_eq!(answer["outcome"], "unknown_transaction");
    let letter = app.wait_dead_letter(id).await;
    let path = letter["id"].as_str().unwrap();
    let early = app.operator().act_on_dead_letter(path, "replay", &json!({})).await;
    early.expect_problem(409);
    assert_eq!(app.dead_letter(&letter).await["state"], "open");

    app.accept_as(id).await;
    replay(&app, &letter).await;
    let transaction = app.wait_told(id, BOUND).await;
    assert_eq!(
        (&transaction["status"], &transaction["settled_by"]),
        (&json!("declined"), &json!("webhook"))
    );
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_poison_runs_once_its_payload_is_repaired() {
    // Nothing else wakes the job: a settlement would.
    let app = quiet_app().await.role(Role::Api).spawn().await;
    let id = app.client().accept().await;
    let query = "UPDATE apalis.jobs new SET job = $3 FROM apalis.jobs old
        WHERE new.id = old.id AND new.job_type = $1 AND new.idempotency_key = $2
        RETURNING old.job";
    let set = async |payload: Vec<u8>| -> Vec<u8> {
        let set = sqlx::query_scalar(query).bind("notify_client").bind(id.to_string());
        set.bind(payload).fetch_one(&app.pool).await.unwrap()
    };
    let payload = set(b"\xff\x00 no JSON".to_vec()).await;
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!("poison"), &json!("notify_client")));
    assert_eq!(app.job("notify_client", id).await.status, "Failed");

    // Unrepaired, it is poison again.
    replay(&app, &letter).await;
    let again = next_letter(&app, id, &letter).await;
    assert_eq!(again["kind"], "poison", "{again}");
    set(payload).await;
    replay(&app, &again).await;
    app.wait_notified(id, 1).await;
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    app.settle_by_webhook(&[id]).await;
}

/// The client was notified of `failed`, and an operator confirms it while another create waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolving_with_the_status_that_it_has_ends_a_create_that_was_replayed() {
    let app = build().await.spawn().await;
    let (id, letter) = given_up(&app, CreateStep::gateway_timeout_lost()).await;
    let (status, _) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(status, 200);
    let conflict = wait_for("the conflict is in front of an operator", BOUND, async || {
        let letters = app.operator().open_dead_letters(id).await;
        letters.into_iter().find(|letter| letter["kind"] == "status_conflict")
    })
    .await;
    let pause = format!("/v1/operator/queues/{CREATE}/pause");
    app.operator().post(&pause, &json!({ "note": "test" })).await.expect(200);
    replay(&app, &letter).await;
    assert_eq!(app.job(CREATE, id).await.status, "Pending");

    let path = conflict["id"].as_str().unwrap();
    let resolve = json!({ "status": "failed", "note": "the third party says so" });
    app.operator().act_on_dead_letter(path, "resolve", &resolve).await.expect(200);
    assert_eq!(app.job(CREATE, id).await.status, "Killed");
    let creates = app.call_kinds(id).iter().filter(|kind| **kind == CallKind::Create).count();
    assert_eq!(creates, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_dead_letter_is_not_found() {
    let app = spawn_app().await;
    let id = Uuid::new_v4().to_string();
    app.operator().act_on_dead_letter(&id, "replay", &json!({})).await.expect_problem(404);
}

/// Runs `quartet dead-letters …` against the app's database.
async fn dead_letters(app: &TestApp, arguments: &[&str]) -> Ended {
    let settings = [("DATABASE_URL".to_owned(), app.database_url().to_owned())];
    command::run(&[&["dead-letters"], arguments].concat(), &settings, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_lists_shows_and_replays() {
    let app = build().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1).spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, vec![Reaction::status_code(500)]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    let letter_id = letter["id"].as_str().unwrap();

    let list = dead_letters(&app, &["list", "--json"]).await.expect_json();
    let items = list.as_array().or(list["items"].as_array()).unwrap();
    assert_eq!(items.len(), 1, "{list}");
    assert_eq!(items[0]["id"], letter["id"]);
    let none = dead_letters(&app, &["list", "--json", "--kind", "deadline"]).await.expect_json();
    assert_eq!(none.as_array().or(none["items"].as_array()).unwrap().len(), 0, "{none}");
    let table = dead_letters(&app, &["list"]).await;
    assert!(table.expect().contains(letter_id), "{table:?}");

    let shown = dead_letters(&app, &["show", letter_id, "--json"]).await.expect_json();
    for field in ["id", "kind", "state", "transaction_id", "job_id", "queue", "reason", "attempts"]
    {
        assert_eq!(shown[field], letter[field], "{field}");
    }

    let replay = ["replay", letter_id, "--note", "by hand", "--json"];
    let replayed = dead_letters(&app, &replay).await.expect_json();
    assert_eq!((&replayed["state"], &replayed["note"]), (&json!("replayed"), &json!("by hand")));
    app.wait_notified(id, 1).await;
    wait_until("it is closed", BOUND, async || {
        app.operator().open_dead_letters(id).await.is_empty()
    })
    .await;
    let again = dead_letters(&app, &replay).await;
    assert!(again.expect_failure().contains("replayed"), "{again:?}");
    assert_eq!(again.stdout, "");
    let kinds = wait_for("the operator's action is evidence", BOUND, async || {
        let kinds = app.client().event_kinds(id).await;
        kinds.contains(&"operator".to_owned()).then_some(kinds)
    })
    .await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "operator").count(), 1, "{kinds:?}");
    app.settle_by_webhook(&[id]).await;
}
