//! Replaying many dead letters: the preview, the count to confirm, the end of each, and a kill.

use std::time::Duration;

use quartet::{
    config::Role,
    sandbox::{CreateStep, LookupStep, Reaction, SendWebhook, Status},
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, audit};
use crate::support::{
    Answer, TestApp, World, contents,
    jobs::{patient, quiet_app},
    wait_until,
};

/// For several hundred.
const LONG: Duration = Duration::from_secs(60);

const PATH: &str = "/v1/operator/dead-letters/replay";

async fn bulk(app: &TestApp, body: &Value) -> Answer {
    app.operator().post(PATH, body).await
}

fn item(answer: &Value, id: Uuid) -> &Value {
    let items = answer["items"].as_array().unwrap();
    items.iter().find(|item| item["transaction_id"] == json!(id)).unwrap()
}

/// A dead letter of each sort, and what the third party shows of it; nothing is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tells_what_would_be_done_and_does_nothing() {
    let app = quiet_app()
        .await
        .set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 0)
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "50ms")
        .set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1)
        .set("QUARTET_POLL__FIRST", "50ms")
        .set("QUARTET_POLL__DEADLINE", "300ms")
        .spawn()
        .await;
    let third_party = app.sandbox.third_party();
    let failed = async || {
        let id = Uuid::now_v7();
        third_party.script_creates_for(id, vec![CreateStep::gateway_timeout_lost()]);
        app.accept_as(id).await;
        app.wait_told(id, BOUND).await;
        id
    };
    let (absent, late, unanswered) = (failed().await, failed().await, failed().await);
    let untold = Uuid::now_v7();
    app.sandbox.client().script_for(untold, vec![Reaction::status_code(500)]);
    app.accept_as(untold).await;
    let deadline = app.client().accept().await;
    let (unknown, conflict) = (Uuid::now_v7(), app.client().accept().await);
    app.send_webhook(SendWebhook::new(unknown, "completed")).await;
    app.send_webhook(SendWebhook::new(conflict, "completed")).await;
    app.send_webhook(SendWebhook::new(conflict, "declined")).await;
    for id in [untold, deadline] {
        wait_until("it is in front of an operator", BOUND, async || {
            let letters = app.operator().open_dead_letters(id).await;
            letters
                .iter()
                .any(|letter| letter["kind"] == if id == untold { "exhausted" } else { "deadline" })
        })
        .await;
    }
    wait_until("nothing runs", BOUND, async || {
        let busy = "SELECT count(*) FROM apalis.jobs WHERE status IN ('Pending', 'Running')";
        sqlx::query_scalar::<_, i64>(busy).fetch_one(&app.pool).await.unwrap() == 0
    })
    .await;
    third_party.store(late, Status::Completed);
    third_party.set_status(deadline, Status::Declined);
    third_party.script_lookups_for(unanswered, vec![LookupStep::status_code(500)]);

    let before = contents(&app.pool).await;
    let answer = bulk(&app, &json!({ "dry_run": true })).await;
    let planned = answer.expect(200).clone();
    assert_eq!(contents(&app.pool).await, before);
    assert_eq!((&planned["dry_run"], &planned["replayed"]), (&json!(true), &json!(0)));
    assert_eq!(planned["matched"], planned["items"].as_array().unwrap().len());

    let create = format!("POST {}/transaction", app.sandbox.base_url());
    for (id, there, status, resulting, outcome, effect) in [
        (absent, "absent", None, "failed", "planned", "created at the third party"),
        (late, "found", Some("completed"), "failed", "planned", "status_conflict"),
        (unanswered, "unanswered", None, "failed", "planned", "looked up"),
        (deadline, "found", Some("declined"), "declined", "planned", "becomes declined"),
    ] {
        let item = item(&planned, id);
        assert_eq!(item["at_third_party"], there, "{item}");
        assert_eq!(item["third_party_status"].as_str(), status, "{item}");
        assert_eq!(item["resulting_status"], resulting, "{item}");
        assert_eq!(item["outcome"], outcome, "{item}");
        assert!(item["effect"].as_str().unwrap().contains(effect), "{item}");
        let call = item["call"].as_str().unwrap();
        assert!(call.starts_with("GET ") && call.contains(&id.to_string()), "{item}");
        assert_eq!(call.contains(&create), id != deadline, "{item}");
    }
    let told =
        planned["items"].as_array().unwrap().iter().find(|item| item["queue"] == "notify_client");
    let told = told.unwrap();
    let call = format!("PUT {} (version 1)", app.sandbox.callback_url());
    assert_eq!((&told["call"], &told["at_third_party"]), (&json!(call), &json!("not_asked")));
    let refused = item(&planned, conflict);
    assert_eq!((&refused["outcome"], &refused["call"]), (&json!("refused"), &Value::Null));
    let stranger = item(&planned, unknown);
    assert_eq!(stranger["outcome"], "refused", "{stranger}");
    assert_eq!(stranger["resulting_status"], Value::Null);

    // By kind, by id, with a limit.
    let answer =
        bulk(&app, &json!({ "dry_run": true, "kind": "creation_failure", "limit": 2 })).await;
    let limited = answer.expect(200);
    assert_eq!(limited["matched"], 3, "{limited}");
    assert_eq!(limited["items"].as_array().unwrap().len(), 2);
    let id = refused["id"].clone();
    let answer = bulk(&app, &json!({ "dry_run": true, "ids": [id, id] })).await;
    assert_eq!(answer.expect(200)["matched"], 1);
    // One that is not there is none that matches.
    for (dry_run, matched) in [(true, 1), (false, 1)] {
        let answer = bulk(&app, &json!({ "dry_run": dry_run, "ids": [id, Uuid::now_v7()] })).await;
        let done = answer.expect(200);
        assert_eq!((&done["matched"], &done["replayed"]), (&json!(matched), &json!(0)), "{done}");
        assert_eq!(done["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_needs_the_count_that_was_confirmed() {
    let app = quiet_app().await.role(Role::Api).spawn().await;
    for _ in 0..3 {
        app.send_webhook(SendWebhook::new(Uuid::now_v7(), "completed")).await;
    }
    let before = contents(&app.pool).await;
    let answer = bulk(&app, &json!({ "kind": "unknown_transaction", "confirm": 2 })).await;
    let problem = answer.expect_problem(409);
    assert!(problem["detail"].as_str().unwrap().starts_with("3 dead letters match"), "{problem}");
    // Nor without one, whatever is selected.
    for body in [json!({}), json!({ "kind": "unknown_transaction" }), json!({ "limit": 2 })] {
        let answer = bulk(&app, &body).await;
        let problem = answer.expect_problem(422);
        let selected = body["limit"].as_u64().unwrap_or(3);
        let detail = problem["errors"][0]["detail"].as_str().unwrap();
        assert!(
            detail.contains(&format!("would be {selected}: 3 dead letters match")),
            "{problem}"
        );
        assert_eq!(answer.faults(), ["/confirm"], "{problem}");
    }
    let empty = app.operator().send(Method::POST, PATH, &[], "").await;
    empty.expect_problem(422);
    assert_eq!(contents(&app.pool).await, before);
    // Confirmed, but none can be replayed: each is refused and stays open.
    let answer = bulk(&app, &json!({ "kind": "unknown_transaction", "confirm": 3 })).await;
    let done = answer.expect(200);
    assert_eq!((&done["matched"], &done["replayed"]), (&json!(3), &json!(0)));
    for item in done["items"].as_array().unwrap() {
        assert_eq!((&item["outcome"], &item["state"]), (&json!("refused"), &json!("open")));
        assert!(item["effect"].as_str().unwrap().contains("still unknown"), "{item}");
    }
    assert_eq!(contents(&app.pool).await, before);

    for (body, fault) in [
        (json!({ "kind": "unknown" }), "/kind"),
        (json!({ "limit": 0 }), "/limit"),
        (json!({ "limit": 1001 }), "/limit"),
        (json!({ "dry_run": "yes" }), "/dry_run"),
        (json!({ "confirm": -1 }), "/confirm"),
        (json!({ "created_before": "today" }), "/created_before"),
        (json!({ "ids": [] }), "/ids"),
        (json!({ "ids": ["x"] }), "/ids"),
        (json!({ "state": "open" }), "/state"),
        (json!({ "client": "nobody" }), "client"),
    ] {
        let answer = bulk(&app, &body).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [fault], "{body}");
    }
    app.client().post("/v1/operator/dead-letters/replay", &json!({})).await.expect_problem(403);
}

/// Dead notifications, written as the runner would, of settled transactions.
async fn dead_notifications(app: &TestApp, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(app.client().accept().await);
    }
    wait_until("each is dead", LONG, async || {
        let open = "SELECT count(*) FROM failed_jobs WHERE state = 'open'";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&app.pool).await.unwrap();
        open == count as i64
    })
    .await;
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_are_delivered_or_dead_again() {
    const COUNT: usize = 500;
    let app = quiet_app()
        .await
        .set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1)
        .set("QUARTET_POLL__FIRST", "10m")
        .set("QUARTET_POLL__DEADLINE", "20m")
        .spawn()
        .await;
    app.sandbox.client().set_default(Reaction::status_code(500));
    let ids = dead_notifications(&app, COUNT).await;
    // The client is back, but not for every tenth.
    app.sandbox.client().set_default(None);
    for id in ids.iter().step_by(10) {
        app.sandbox.client().script_for(*id, vec![Reaction::status_code(500)]);
    }
    let answer = bulk(&app, &json!({ "limit": 1000, "dry_run": true })).await;
    let matched = answer.expect(200)["matched"].clone();
    assert_eq!(matched, COUNT);
    let body = json!({ "limit": 1000, "confirm": matched, "note": "client is back" });
    let answer = bulk(&app, &body).await;
    let done = answer.expect(200);
    assert_eq!((&done["matched"], &done["replayed"]), (&json!(COUNT), &json!(COUNT)));
    wait_until("each is delivered or dead again", LONG, async || {
        let ended = "SELECT count(*) FROM transactions t WHERE notified_version = version
            OR EXISTS (SELECT FROM failed_jobs WHERE transaction_id = t.id AND state = 'open')";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&app.pool).await.unwrap();
        ended == COUNT as i64
    })
    .await;
    let states = "SELECT state, count(*) FROM failed_jobs GROUP BY state ORDER BY state";
    let states: Vec<(String, i64)> = sqlx::query_as(states).fetch_all(&app.pool).await.unwrap();
    assert_eq!(states, [("open".to_owned(), 50), ("replayed".to_owned(), 500)]);
    let audited = "SELECT count(DISTINCT dead_letter_id) FROM operator_actions
        WHERE action = 'replay' AND note = 'client is back' AND operator = 'operator'";
    let audited: i64 = sqlx::query_scalar(audited).fetch_one(&app.pool).await.unwrap();
    assert_eq!(audited, COUNT as i64);
    // The rest too, and all ends.
    let answer = bulk(&app, &json!({ "confirm": 50 })).await;
    assert_eq!(answer.expect(200)["replayed"], 50);
    wait_until("all are told", LONG, async || {
        let untold = "SELECT count(*) FROM transactions WHERE notified_version < version";
        let untold: i64 = sqlx::query_scalar(untold).fetch_one(&app.pool).await.unwrap();
        untold == 0
    })
    .await;
    assert_eq!(audit(&app).await.len(), 200);
}

/// `kill -9` in the middle of a bulk replay: each dead letter is either open, with its job stopped,
/// or replayed, with its audit and its job at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_half_way_leaves_none_both_replayed_and_open() {
    const COUNT: usize = 300;
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created());
    let app = patient(world.app())
        .set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1)
        .set("QUARTET_POLL__FIRST", "10m")
        .set("QUARTET_POLL__DEADLINE", "20m");
    let mut app = app.spawn().await;
    app.sandbox.client().set_default(Reaction::status_code(500));
    let ids = dead_notifications(&app, COUNT).await;
    app.stop().await;
    let mut process = world.process(Role::Api).spawn().await;
    let client = process.operator();
    let replay = tokio::spawn(async move {
        let json = [("content-type", "application/json")];
        let body = json!({ "limit": 1000, "confirm": COUNT }).to_string();
        client.try_send(Method::POST, PATH, &json, body).await
    });
    let replayed = async || {
        let query = "SELECT count(*) FROM failed_jobs WHERE state = 'replayed'";
        sqlx::query_scalar::<_, i64>(query).fetch_one(&world.pool).await.unwrap()
    };
    wait_until("some are replayed", LONG, async || replayed().await >= 20).await;
    process.kill_9();
    assert!(replay.await.unwrap().is_err(), "the process ended before it was killed");
    wait_until("its connections are gone", BOUND, async || {
        let theirs = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'quartet'";
        sqlx::query_scalar::<_, i64>(theirs).fetch_one(&world.pool).await.unwrap() == 0
    })
    .await;
    let left = COUNT as i64 - replayed().await;
    assert!(left > 0, "it was not killed half-way");

    let wrong = "SELECT f.id::text FROM failed_jobs f JOIN apalis.jobs j ON j.id = f.job_id
        WHERE (f.state = 'open') <> (j.status = 'Failed')
            OR (f.state = 'replayed') <> EXISTS (
                SELECT FROM operator_actions a WHERE a.dead_letter_id = f.id AND action = 'replay'
            )";
    let wrong: Vec<String> = sqlx::query_scalar(wrong).fetch_all(&world.pool).await.unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");

    // The same request, with the number that is left, goes on with the others.
    app.sandbox.client().set_default(None);
    app.start().await;
    let answer = bulk(&app, &json!({ "limit": 1000, "confirm": left })).await;
    assert_eq!(answer.expect(200)["replayed"], left);
    app.settle_by_webhook(&ids).await;
}
