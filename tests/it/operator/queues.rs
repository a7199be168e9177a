//! Queues over HTTP: figures, pause and resume for all processes.

use std::time::{Duration, Instant};

use quartet::config::Role;
use serde_json::{Value, json};

use super::{BOUND, audit, nothing, post_as};
use crate::support::{TestApp, World, job_rows, jobs::quiet_app, spawn_api, wait_until};

async fn queue(app: &TestApp, name: &str) -> Value {
    let answer = app.operator().get("/v1/operator/queues").await;
    let items = answer.expect(200)["items"].as_array().unwrap();
    let found = items.iter().find(|item| item["queue"] == name);
    found.unwrap_or_else(|| panic!("{name}: {}", answer.text)).clone()
}

async fn act(app: &TestApp, name: &str, action: &str) -> Value {
    let path = format!("/v1/operator/queues/{name}/{action}");
    app.operator().post(&path, &json!({ "note": "maintenance" })).await.expect(200).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_queues_counts_by_state() {
    let app = spawn_api().await;
    let names: Vec<Value> = {
        let answer = app.operator().get("/v1/operator/queues").await;
        assert_eq!(answer.expect(200)["next_cursor"], Value::Null);
        let items = answer.body["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| item["queue"].clone()).collect()
    };
    let order = ["create_transaction", "create_at_third_party", "update_status", "notify_client"];
    assert_eq!(names, order);

    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(app.client().accept().await);
    }
    // One of each state besides two that are due, for half an hour at most.
    let set = "UPDATE apalis.jobs SET status = $3, run_at = now() + $4::text::interval,
            done_at = CASE WHEN $3 = 'Failed' THEN now() END
        WHERE idempotency_key = $1 AND job_type = $2";
    for (id, status, run_at) in [
        (ids[0], "Pending", "-30 min"),
        (ids[1], "Pending", "-1 min"),
        (ids[2], "Pending", "1 hour"),
        (ids[3], "Failed", "0"),
    ] {
        let set = sqlx::query(set).bind(id.to_string()).bind("notify_client").bind(status);
        set.bind(run_at).execute(&app.pool).await.unwrap();
    }
    job_rows::lease_to(&app.pool, "somebody", ids[3], "update_status").await;

    let notify = queue(&app, "notify_client").await;
    let age = notify["oldest_due_age_ms"].as_i64().unwrap();
    assert!((1_800_000..1_860_000).contains(&age), "{notify}");
    for (field, value) in
        [("due", 2), ("scheduled", 1), ("running", 0), ("failed", 1), ("done_per_minute", 0)]
    {
        assert_eq!(notify[field], value, "{field}: {notify}");
    }
    assert_eq!(notify["paused"], false);
    let polls = queue(&app, "update_status").await;
    assert_eq!(polls["running"], 1, "{polls}");
    let creates = queue(&app, "create_transaction").await;
    assert_eq!((&creates["due"], &creates["running"]), (&json!(4), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_rests_in_all_processes_until_it_is_resumed() {
    let app = quiet_app().await.spawn().await;
    let other = app.sibling().role(Role::Worker).spawn().await;
    let paused = act(&app, "notify_client", "pause").await;
    assert_eq!(paused["paused"], true);
    assert_eq!(paused["paused_by"], "operator");
    assert_eq!(paused["pause_note"], "maintenance");
    // Again: nothing changes, and nothing is audited twice.
    assert_eq!(act(&app, "notify_client", "pause").await["paused_at"], paused["paused_at"]);

    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(app.client().accept().await);
    }
    wait_until("all are created, and their notifications due", BOUND, async || {
        let created = app.sandbox.third_party().stats().creates_received >= 10;
        created && queue(&app, "notify_client").await["due"] == 10
    })
    .await;
    assert!(app.sandbox.client().deliveries().is_empty());
    assert_eq!(queue(&app, "notify_client").await["running"], 0);

    // It outlives the processes.
    let mut app = app;
    app.stop().await;
    app.start().await;
    assert_eq!(queue(&app, "notify_client").await["paused"], true);
    let began = Instant::now();
    let resumed = act(&app, "notify_client", "resume").await;
    assert_eq!((&resumed["paused"], &resumed["paused_at"]), (&json!(false), &Value::Null));
    wait_until("all are told", BOUND, async || app.sandbox.client().deliveries().len() >= 10).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    act(&app, "notify_client", "resume").await;
    app.settle_by_webhook(&ids).await;
    drop(other);

    let audited: Vec<Value> = audit(&app).await;
    let line = |action: &str| {
        json!({ "operator": "operator", "action": action, "queue": "notify_client",
            "note": "maintenance" })
    };
    assert_eq!(audited, [line("resume_queue"), line("pause_queue")]);
}

/// The other process learns of a pause within two seconds, also of one written by SQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_for_a_process_at_once() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).spawn().await;
    let worker = world.process(Role::Worker).set("QUARTET_HTTP__PUBLIC_URL", app.url());
    let _worker = worker.spawn().await;
    let told = app.client().accept().await;
    app.wait_told(told, BOUND).await;
    let pause =
        "INSERT INTO queue_pauses (queue, paused_by) VALUES ('create_at_third_party', 'sql')";
    sqlx::query(pause).execute(&app.pool).await.unwrap();
    let id = app.client().accept().await;
    wait_until("the other jobs of it have run", BOUND, async || {
        app.sandbox.client().deliveries_of(id).len() == 1
    })
    .await;
    assert_eq!(app.sandbox.third_party().creates_of(id), 0);
    act(&app, "create_at_third_party", "resume").await;
    app.wait_told(id, BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_queues_and_bodies_are_named() {
    let app = spawn_api().await;
    let answer = app.operator().post("/v1/operator/queues/notify/pause", &nothing()).await;
    let problem = answer.expect_problem(404);
    assert!(problem["detail"].as_str().unwrap().contains("notify_client"), "{problem}");
    let path = "/v1/operator/queues/notify_client/pause";
    let answer = app.operator().post(path, &json!({ "note": "x".repeat(1001), "why": 1 })).await;
    answer.expect_problem(422);
    assert_eq!(answer.faults(), ["/note", "/why"]);
    let answer = post_as(&app, &"n".repeat(101), path, &nothing()).await;
    answer.expect_problem(422);
    assert_eq!(answer.faults(), ["Operator-Name"]);
    assert_eq!(queue(&app, "notify_client").await["paused"], false);
    app.client().post(path, &nothing()).await.expect_problem(403);
    app.anonymous().get("/v1/operator/queues").await.expect_problem(401);
    // No body at all is no note.
    let answer = app.operator().send(reqwest::Method::POST, path, &[], "").await;
    assert_eq!(answer.expect(200)["paused"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circuit_is_shown() {
    let app = spawn_api().await;
    let answer = app.operator().get("/v1/operator/circuit").await;
    assert_eq!(answer.expect(200)["state"], "closed");
    let open = "UPDATE circuits SET opened_at = now(), open_until = now() + interval '1 min',
        open_for = 60, reason = 'no answer', trips = 3";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    let answer = app.operator().get("/v1/operator/circuit").await;
    let circuit = answer.expect(200);
    assert_eq!((&circuit["state"], &circuit["trips"]), (&json!("open"), &json!(3)));
    assert_eq!(circuit["reason"], "no answer");
}

/// A transaction that could not be polled, or not be created, because of a pause is not given up
/// because of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_does_not_count_towards_the_deadline() {
    let app = quiet_app()
        .await
        .set("QUARTET_POLL__FIRST", "50ms")
        .set("QUARTET_POLL__DEADLINE", "2s")
        .set("QUARTET_POLL__MAX_DELAY", "100ms")
        .spawn()
        .await;
    for paused in ["update_status", "create_at_third_party"] {
        act(&app, paused, "pause").await;
        let id = app.client().accept().await;
        app.wait_notified(id, 1).await;
        // As if the pause had begun, and the transaction been accepted, an hour ago.
        let aged = "WITH paused AS (
                UPDATE queue_pauses SET paused_at = paused_at - interval '1 hour'
            )
            UPDATE transactions SET created_at = created_at - interval '1 hour' WHERE id = $1";
        sqlx::query(aged).bind(id).execute(&app.pool).await.unwrap();
        if paused == "create_at_third_party" {
            let polls = app.sandbox.third_party().lookups_of(id);
            wait_until("it is polled meanwhile", BOUND, async || {
                app.sandbox.third_party().lookups_of(id) > polls + 3
            })
            .await;
        }
        assert!(app.operator().open_dead_letters(id).await.is_empty(), "{paused}");
        act(&app, paused, "resume").await;
        wait_until("it is polled more than once", BOUND, async || {
            app.sandbox.third_party().lookups_of(id) > 3
        })
        .await;
        assert!(app.operator().open_dead_letters(id).await.is_empty(), "{paused}");
        // But the deadline holds again from then on.
        assert_eq!(app.wait_dead_letter(id).await["kind"], "deadline");
        app.settle_by_webhook(&[id]).await;
    }
}
