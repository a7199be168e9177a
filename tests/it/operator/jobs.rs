//! Jobs over HTTP: list in each state's order, read, retry, cancel.

use quartet::sandbox::{CreateStep, LookupStep, Reaction};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, audit, job, nothing, post_as};
use crate::support::{
    TestApp, command, contents, job_rows, jobs::quiet_app, spawn_api, wait_until,
};

async fn list(app: &TestApp, query: &str) -> Vec<Value> {
    let answer = app.operator().get(&format!("/v1/operator/jobs?{query}")).await;
    answer.expect(200)["items"].as_array().unwrap().clone()
}

async fn act(app: &TestApp, job: &Value, action: &str) -> crate::support::Answer {
    let path = format!("/v1/operator/jobs/{}/{action}", job["id"].as_str().unwrap());
    app.operator().post(&path, &json!({ "note": "looked at it" })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_jobs_filters_orders_and_pages() {
    let app = spawn_api().await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(app.client().accept().await);
    }
    // Nothing becomes due meanwhile.
    let later = "UPDATE apalis.jobs SET run_at = now() + interval '1 h'
        WHERE job_type = 'update_status'";
    sqlx::query(later).execute(&app.pool).await.unwrap();
    // Each transaction's notification in another state, in mixed order of time.
    let set = "UPDATE apalis.jobs
        SET status = $2, run_at = now() + make_interval(mins => $3),
            done_at = CASE WHEN $2 <> 'Pending' THEN now() + make_interval(mins => $3) END
        WHERE idempotency_key = $1 AND job_type = 'notify_client'";
    for (id, status, minutes) in [
        (ids[0], "Pending", -1),
        (ids[1], "Pending", -5),
        (ids[2], "Pending", 10),
        (ids[3], "Failed", -7),
        (ids[4], "Failed", -2),
        (ids[5], "Killed", -3),
    ] {
        let set = sqlx::query(set).bind(id.to_string()).bind(status).bind(minutes);
        set.execute(&app.pool).await.unwrap();
    }
    let expected = |ids: &[Uuid]| ids.iter().map(|id| json!(id)).collect::<Vec<_>>();
    for (state, order) in [
        ("due", vec![ids[1], ids[0]]),
        ("scheduled", vec![ids[2]]),
        ("failed", vec![ids[4], ids[3]]),
        ("cancelled", vec![ids[5]]),
        ("running", vec![]),
        ("done", vec![]),
    ] {
        let jobs = list(&app, &format!("queue=notify_client&state={state}")).await;
        let found: Vec<Value> = jobs.iter().map(|job| job["transaction_id"].clone()).collect();
        assert_eq!(found, expected(&order), "{state}");
        assert!(jobs.iter().all(|job| job["state"] == state), "{jobs:?}");
    }
    let mut newest = ids.clone();
    newest.reverse();
    let all = list(&app, "queue=notify_client").await;
    let found: Vec<Value> = all.iter().map(|job| job["transaction_id"].clone()).collect();
    assert_eq!(found, expected(&newest));
    assert_eq!(list(&app, &format!("transaction_id={}", ids[0])).await.len(), 4);
    assert_eq!(list(&app, &format!("transaction_id={}&state=due", ids[0])).await.len(), 3);

    // Page by page it is the same as in one.
    for query in ["", "state=due", "state=failed", "state=scheduled", "queue=update_status"] {
        let whole = list(&app, &format!("{query}&limit=200")).await;
        assert!(!whole.is_empty(), "{query}");
        let (mut paged, mut next) = (Vec::new(), format!("{query}&limit=2"));
        loop {
            let answer = app.operator().get(&format!("/v1/operator/jobs?{next}")).await;
            paged.extend(answer.expect(200)["items"].as_array().unwrap().clone());
            assert!(paged.len() <= whole.len(), "{query}: pages overlap");
            let Some(cursor) = answer.body["next_cursor"].as_str() else { break };
            next = format!("{query}&limit=2&cursor={cursor}");
        }
        let id = |job: &Value| job["id"].clone();
        let ids = |jobs: &[Value]| jobs.iter().map(id).collect::<Vec<_>>();
        assert_eq!(ids(&paged), ids(&whole), "{query}");
    }

    for (query, parameter) in [
        ("queue=notify", "queue"),
        ("state=waiting", "state"),
        ("transaction_id=7", "transaction_id"),
        ("cursor=abc", "cursor"),
        ("limit=0", "limit"),
        ("status=due", "status"),
    ] {
        let answer = app.operator().get(&format!("/v1/operator/jobs?{query}")).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [parameter], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_job_shows_the_lease_and_strange_rows_hide_nothing() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    job_rows::park_all_but(&app.pool, id, Some("create_transaction")).await;
    job_rows::lease_to(&app.pool, "worker-1", id, "update_status").await;
    let shown = job(&app, id, "update_status").await;
    assert_eq!(
        (&shown["state"], &shown["lease"]["worker"]),
        (&json!("running"), &json!("worker-1"))
    );
    assert!(shown["lease"]["until"].is_string() && shown["lease"]["since"].is_string(), "{shown}");
    let path = format!("/v1/operator/jobs/{}", shown["id"].as_str().unwrap());
    assert_eq!(*app.operator().get(&path).await.expect(200), shown);
    assert_eq!(list(&app, "state=running").await, [shown]);
    app.operator().get("/v1/operator/jobs/none").await.expect_problem(404);

    let strange = "INSERT INTO apalis.jobs (id, job_type, job, run_at, idempotency_key) VALUES
        ('not a ulid', 'notify_client', '\\xff00', 'infinity', 'no uuid'),
        ('zzz', 'update_status', '{}', '-infinity', NULL)";
    sqlx::query(strange).execute(&app.pool).await.unwrap();
    let jobs = list(&app, "").await;
    assert_eq!(jobs.len(), 6);
    assert!(jobs.iter().any(|job| job["id"] == "not a ulid" && job["transaction_id"].is_null()));
    assert_eq!(list(&app, "state=scheduled&limit=200").await.last().unwrap()["id"], "not a ulid");
    assert_eq!(list(&app, "state=due").await[0]["id"], "zzz");
    app.operator().get("/v1/operator/queues").await.expect(200);

    // Also page by page, each once.
    for (state, count) in [("due", 2), ("scheduled", 3)] {
        let (mut seen, mut query) = (Vec::new(), format!("state={state}&limit=1"));
        for _ in 0..count {
            let answer = app.operator().get(&format!("/v1/operator/jobs?{query}")).await;
            seen.push(answer.expect(200)["items"][0]["id"].as_str().unwrap().to_owned());
            let cursor = answer.body["next_cursor"].as_str().unwrap_or_default();
            query = format!("state={state}&limit=1&cursor={cursor}");
        }
        assert!(query.ends_with("cursor="), "{state}: {query}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "{state}: {seen:?}");
    }
    for path in ["/v1/operator/jobs/%00", "/v1/operator/jobs/a%00b"] {
        app.operator().get(path).await.expect_problem(404);
        app.operator().post(&format!("{path}/retry"), &nothing()).await.expect_problem(404);
        app.operator().post(&format!("{path}/cancel"), &nothing()).await.expect_problem(404);
    }
}

/// A third party whose lookups are not offered would have it twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_is_done_is_not_made_again() {
    let app =
        quiet_app().await.set("QUARTET_POLL__FIRST", "30s").set("QUARTET_POLL__DEADLINE", "60s");
    let app = app.spawn().await;
    app.sandbox.third_party().set_lookup_default(LookupStep::status_code(405));
    let id = app.client().accept().await;
    app.wait_job("create_at_third_party", id, "Done").await;
    let before = contents(&app.pool).await;
    let done = job(&app, id, "create_at_third_party").await;
    let answer = act(&app, &done, "retry").await;
    let problem = answer.expect_problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("done already"), "{problem}");
    app.wait_notified(id, 1).await;
    assert_eq!(app.sandbox.third_party().creates_of(id), 1);
    assert!(contents(&app.pool).await.len() >= before.len());
}

/// What was cancelled was the news of an earlier status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_status_reaches_the_client_of_a_cancelled_notification() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__FIRST", "1h");
    let app =
        app.set("QUARTET_POLL__FIRST", "30s").set("QUARTET_POLL__DEADLINE", "60s").spawn().await;
    let id = app.client().accept().await;
    let notify = job(&app, id, "notify_client").await;
    act(&app, &notify, "cancel").await.expect(200);
    app.settle_by_webhook(&[id]).await;
    assert_eq!(app.told(id), [("completed".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_job_makes_a_waiting_job_due_and_keeps_its_attempts() {
    let app =
        quiet_app().await.set("QUARTET_NOTIFY__BASE", "1h").set("QUARTET_NOTIFY__MAX_DELAY", "1h");
    let app = app.spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, vec![Reaction::status_code(500)]);
    app.accept_as(id).await;
    wait_until("the first notification failed", BOUND, async || {
        job(&app, id, "notify_client").await["attempts"] == 1
    })
    .await;
    let waiting = job(&app, id, "notify_client").await;
    assert_eq!(waiting["state"], "scheduled");
    assert!(waiting["last_error"].as_str().unwrap().contains("500"), "{waiting}");
    let retried = act(&app, &waiting, "retry").await;
    assert_eq!(retried.expect(200)["attempts"], 1);
    app.wait_notified(id, 1).await;
    app.settle_by_webhook(&[id]).await;
    let audited = audit(&app).await;
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0]["job_id"], waiting["id"]);
    assert_eq!(
        (&audited[0]["action"], &audited[0]["note"]),
        (&json!("retry_job"), &json!("looked at it"))
    );
    let events = app.client().event_kinds(id).await;
    assert!(events.contains(&"operator".to_owned()), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_job_replays_the_dead_letter_of_a_stopped_job() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1).spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, vec![Reaction::status_code(500)]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    let stopped = job(&app, id, "notify_client").await;
    assert_eq!((&stopped["state"], &stopped["id"]), (&json!("failed"), &letter["job_id"]));
    act(&app, &stopped, "retry").await.expect(200);
    app.wait_notified(id, 1).await;
    let closed = app.dead_letter(&letter).await;
    assert_eq!((&closed["state"], &closed["note"]), (&json!("replayed"), &json!("looked at it")));
    assert_eq!(audit(&app).await[0]["dead_letter_id"], letter["id"]);
    app.settle_by_webhook(&[id]).await;

    // A done one runs once more: the client is told again.
    let done = job(&app, id, "notify_client").await;
    assert_eq!(done["state"], "done");
    let told = app.told(id).len();
    act(&app, &done, "retry").await.expect(200);
    wait_until("it is told again", BOUND, async || app.told(id).len() == told + 1).await;
    app.rest(&[id]).await;
}

/// A create that may have gone through is not tried sooner for an operator's impatience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_job_waits_for_the_backoff_of_an_ambiguous_create() {
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "10m").spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.third_party().script_creates_for(id, vec![CreateStep::gateway_timeout_lost()]);
    app.accept_as(id).await;
    wait_until("the create was ambiguous", BOUND, async || {
        job(&app, id, "create_at_third_party").await["attempts"] == 1
    })
    .await;
    let waiting = job(&app, id, "create_at_third_party").await;
    let calls = app.call_kinds(id).len();
    let retried = act(&app, &waiting, "retry").await;
    let run_at = |job: &Value| -> chrono::DateTime<chrono::Utc> {
        job["run_at"].as_str().unwrap().parse().unwrap()
    };
    let moved = run_at(retried.expect(200)) - run_at(&waiting);
    assert!(moved.abs() < chrono::Duration::seconds(5), "{moved}");
    assert_eq!(retried.body["state"], "scheduled");
    // The same holds for a job that ended: cancelled, and then retried.
    act(&app, &waiting, "cancel").await.expect(200);
    let retried = act(&app, &waiting, "retry").await;
    assert_eq!(retried.expect(200)["state"], "scheduled");
    assert!(run_at(&retried.body) > chrono::Utc::now() + chrono::Duration::minutes(8));
    // On the command line too, where that backoff is in no setting.
    act(&app, &waiting, "cancel").await.expect(200);
    let settings = [("DATABASE_URL".to_owned(), app.database_url().to_owned())];
    let job_id = waiting["id"].as_str().unwrap();
    let retried = command::run(&["jobs", "retry", job_id, "--json"], &settings, "").await;
    let retried = retried.expect_json();
    assert!(run_at(&retried) > chrono::Utc::now() + chrono::Duration::minutes(8), "{retried}");
    let creates = |kinds: &[quartet::sandbox::CallKind]| {
        kinds.iter().filter(|kind| **kind == quartet::sandbox::CallKind::Create).count()
    };
    assert_eq!(creates(&app.call_kinds(id)), 1, "{calls} calls before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_job_ends_a_waiting_job_and_a_webhook_still_settles() {
    let app =
        quiet_app().await.set("QUARTET_POLL__FIRST", "30s").set("QUARTET_POLL__DEADLINE", "60s");
    let app = app.spawn().await;
    let id = app.client().accept().await;
    app.wait_notified(id, 1).await;
    let poll = job(&app, id, "update_status").await;
    let cancelled = act(&app, &poll, "cancel").await;
    assert_eq!(cancelled.expect(200)["state"], "cancelled");
    assert!(cancelled.body["done_at"].is_string());
    act(&app, &poll, "cancel").await.expect_problem(409);
    app.settle_by_webhook(&[id]).await;
    assert_eq!(job(&app, id, "update_status").await["state"], "cancelled");
    assert_eq!(audit(&app).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_is_left_alone() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    job_rows::lease_to(&app.pool, "worker-1", id, "notify_client").await;
    let running = job(&app, id, "notify_client").await;
    let before = contents(&app.pool).await;
    for action in ["retry", "cancel"] {
        let answer = act(&app, &running, action).await;
        let problem = answer.expect_problem(409);
        assert!(problem["detail"].as_str().unwrap().contains("running"), "{problem}");
    }
    for path in ["/v1/operator/jobs/none/retry", "/v1/operator/jobs/none/cancel"] {
        post_as(&app, "", path, &nothing()).await.expect_problem(404);
    }
    assert_eq!(contents(&app.pool).await, before);
}
