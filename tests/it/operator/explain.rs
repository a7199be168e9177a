//! Explaining a transaction over HTTP, cause by cause.

use quartet::{
    config::Role,
    sandbox::{CreateStep, Reaction, SendWebhook},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, job, nothing};
use crate::support::{TestApp, job_rows, jobs::quiet_app, spawn_api, wait_until};

async fn explain(app: &TestApp, id: Uuid) -> Value {
    let path = format!("/v1/operator/transactions/{id}/explain");
    app.operator().get(&path).await.expect(200).clone()
}

#[track_caller]
fn assert_explained(explained: &Value, waits_for: &str, cause: &str, next: Option<&str>) {
    assert_eq!(explained["waits_for"], waits_for, "{explained:#}");
    assert_eq!(explained["cause"]["kind"], cause, "{explained:#}");
    assert_eq!(explained["next_action"]["queue"].as_str(), next, "{explained:#}");
    for sentence in [&explained["summary"], &explained["cause"]["detail"]] {
        assert!(sentence.as_str().unwrap().ends_with('.'), "{sentence}");
    }
}

fn detail(explained: &Value) -> &str {
    explained["cause"]["detail"].as_str().unwrap()
}

const CREATE: Option<&str> = Some("create_at_third_party");
const POLL: Option<&str> = Some("update_status");
const NOTIFY: Option<&str> = Some("notify_client");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_worker_does_is_explained() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let explained = explain(&app, id).await;
    assert_explained(&explained, "third_party", "no_worker", CREATE);
    assert_eq!(explained["jobs"].as_array().unwrap().len(), 4);
    assert_eq!(explained["evidence"][0]["kind"], "accepted");
    assert_eq!(explained["transaction"]["id"], json!(id));
    assert_eq!(explained["circuit"]["state"], "closed");

    // The pause says more than that.
    let path = "/v1/operator/queues/create_at_third_party/pause";
    app.operator().post(path, &json!({ "note": "their release" })).await.expect(200);
    let explained = explain(&app, id).await;
    assert_explained(&explained, "third_party", "paused_queue", CREATE);
    assert!(detail(&explained).contains("by operator: their release"), "{explained}");
    let path = "/v1/operator/queues/create_at_third_party/resume";
    app.operator().post(path, &nothing()).await.expect(200);

    let open = "UPDATE circuits SET opened_at = now(), open_until = now() + interval '1 hour',
        open_for = 3600, reason = 'no connection', trips = 1";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    let explained = explain(&app, id).await;
    assert_explained(&explained, "third_party", "circuit_open", CREATE);
    assert!(detail(&explained).contains("no connection"), "{explained}");
    let at: chrono::DateTime<chrono::Utc> =
        explained["next_action"]["at"].as_str().unwrap().parse().unwrap();
    assert!(at > chrono::Utc::now() + chrono::Duration::minutes(50), "{at}");
    let close = "UPDATE circuits SET opened_at = NULL, open_until = NULL, open_for = NULL";
    sqlx::query(close).execute(&app.pool).await.unwrap();

    job_rows::lease_to(&app.pool, "worker-7", id, "create_at_third_party").await;
    let explained = explain(&app, id).await;
    assert_explained(&explained, "third_party", "running", CREATE);
    assert!(detail(&explained).contains("worker-7"), "{explained}");
    assert!(detail(&explained).contains("lease holds until"), "{explained}");
    sqlx::query("UPDATE apalis.workers SET last_seen = now() - interval '1 day'")
        .execute(&app.pool)
        .await
        .unwrap();
    assert!(detail(&explain(&app, id).await).contains("lease ended"));

    let path = format!("/v1/operator/transactions/{}/explain", Uuid::now_v7());
    app.operator().get(&path).await.expect_problem(404);
    app.client().get(&path).await.expect_problem(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_is_explained_from_create_to_the_client() {
    let app = quiet_app()
        .await
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "30m")
        .set("QUARTET_POLL__FIRST", "20m")
        .set("QUARTET_POLL__DEADLINE", "40m")
        .set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1)
        .spawn()
        .await;
    let id = Uuid::now_v7();
    app.sandbox.third_party().script_creates_for(id, vec![CreateStep::gateway_timeout_lost()]);
    app.accept_as(id).await;
    app.wait_notified(id, 1).await;
    wait_until("the create was tried", BOUND, async || {
        job(&app, id, "create_at_third_party").await["attempts"] == 1
    })
    .await;
    let explained = explain(&app, id).await;
    assert_explained(&explained, "third_party", "backoff", CREATE);
    assert!(detail(&explained).contains("504"), "{explained}");
    assert!(detail(&explained).contains("1 of 5"), "{explained}");

    let created = app.client().accept().await;
    wait_until("it is created", BOUND, async || {
        job(&app, created, "create_at_third_party").await["state"] == "done"
    })
    .await;
    let explained = explain(&app, created).await;
    assert_explained(&explained, "third_party", "schedule", POLL);
    assert!(detail(&explained).contains("0 were made"), "{explained}");

    // Polling cancelled: only a webhook goes on.
    let poll = job(&app, created, "update_status").await;
    let path = format!("/v1/operator/jobs/{}/cancel", poll["id"].as_str().unwrap());
    app.operator().post(&path, &nothing()).await.expect(200);
    assert_explained(&explain(&app, created).await, "operator", "cancelled", None);

    // Settled, but the client does not want to know.
    app.wait_notified(created, 1).await;
    app.sandbox.client().script_for(created, vec![Reaction::status_code(500)]);
    app.send_webhook(SendWebhook::new(created, "completed")).await;
    let letter = app.wait_dead_letter(created).await;
    let explained = explain(&app, created).await;
    assert_explained(&explained, "operator", "dead_letter", None);
    assert!(detail(&explained).contains("exhausted"), "{explained}");
    assert_eq!(explained["dead_letters"][0]["id"], letter["id"]);

    let path = "/v1/operator/queues/notify_client/pause";
    app.operator().post(path, &nothing()).await.expect(200);
    app.replay(&letter).await;
    assert_explained(&explain(&app, created).await, "client", "paused_queue", NOTIFY);
    let path = "/v1/operator/queues/notify_client/resume";
    app.operator().post(path, &nothing()).await.expect(200);
    app.wait_told(created, BOUND).await;
    assert_explained(&explain(&app, created).await, "nothing", "finished", None);

    // Told, and yet in question.
    app.send_webhook(SendWebhook::new(created, "declined")).await;
    let explained = explain(&app, created).await;
    assert_explained(&explained, "operator", "dead_letter", None);
    assert!(detail(&explained).contains("status_conflict"), "{explained}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_job_with_living_workers_waits_for_a_free_one() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let _worker =
        app.sibling().role(Role::Worker).map_definitions(|definition| definition).spawn().await;
    app.wait_told(id, BOUND).await;
    // As if all slots were taken: due, and no claim in sight.
    let due = "WITH paused AS (
            INSERT INTO queue_pauses (queue, paused_by) VALUES ('notify_client', 'test')
        )
        UPDATE apalis.jobs SET status = 'Pending', run_at = now() - interval '1 min'
        WHERE idempotency_key = $1 AND job_type = 'notify_client'";
    sqlx::query(due).bind(id.to_string()).execute(&app.pool).await.unwrap();
    let untold = "UPDATE transactions SET notified_version = 1 WHERE id = $1";
    sqlx::query(untold).bind(id).execute(&app.pool).await.unwrap();
    assert_explained(&explain(&app, id).await, "client", "paused_queue", NOTIFY);
}
