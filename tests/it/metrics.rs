//! `GET /metrics`: what it says after work, and that it is what Prometheus reads.

use std::time::Duration;

use quartet::{
    config::Role,
    sandbox::{Profile, SandboxConfig, SendWebhook},
};
use uuid::Uuid;

use crate::support::{
    TestApp, World, exposition::Exposition, jobs::quiet_app, postgres::own_server, transaction,
    wait_until,
};

const BOUND: Duration = Duration::from_secs(20);

/// What `/metrics` says, read strictly.
pub async fn scrape(app: &TestApp) -> Exposition {
    let answer = app.anonymous().get("/metrics").await;
    answer.expect(200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    Exposition::read(&answer.text)
}

/// An app that has done some of everything.
pub async fn worked() -> (TestApp, Uuid) {
    let app = quiet_app().await.spawn().await;
    let id = Uuid::now_v7();
    app.client().post_transaction(&transaction(id)).await.expect(202);
    app.client().post_transaction(&transaction(id)).await.expect(200);
    // A webhook before it would leave nothing to create.
    app.wait_job("create_at_third_party", id, "Done").await;
    let webhook = SendWebhook::new(id, "completed").webhook_id("first");
    assert_eq!(app.send_webhook(webhook.clone()).await.0, 200);
    assert_eq!(app.send_webhook(webhook).await.0, 200);
    assert_eq!(app.send_webhook(SendWebhook::new(Uuid::now_v7(), "completed")).await.0, 200);
    assert_eq!(app.send_webhook(SendWebhook::new(id, "completed").bad_signature()).await.0, 401);
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    (app, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_what_happened() {
    let (app, id) = worked().await;
    let mut other = transaction(id);
    other["amount"] = 1.into();
    app.client().post_transaction(&other).await.expect(409);
    app.anonymous().post_transaction(&transaction(id)).await.expect(401);
    app.client().post("/v1/transactions", &serde_json::json!({})).await.expect(422);
    app.client().get("/v1/nothing").await.expect(404);

    let metrics = scrape(&app).await;
    let accepts = |result| metrics.value("quartet_accepts_total", &[("result", result)]);
    for (result, count) in [
        ("accepted", 1.0),
        ("replayed", 1.0),
        ("conflict", 1.0),
        ("invalid", 1.0),
        ("unauthorized", 1.0),
        ("unavailable", 0.0),
    ] {
        assert_eq!(accepts(result), Some(count), "{result}");
    }
    let webhooks = |outcome| metrics.value("quartet_webhooks_total", &[("outcome", outcome)]);
    for outcome in ["settled", "duplicate", "unknown_transaction", "bad_signature"] {
        assert_eq!(webhooks(outcome), Some(1.0), "{outcome}");
    }
    for queue in ["create_transaction", "create_at_third_party"] {
        let labels = [("queue", queue), ("outcome", "done")];
        assert_eq!(metrics.value("quartet_job_runs_total", &labels), Some(1.0), "{queue}");
        let runs = metrics.value("quartet_job_duration_seconds_count", &[("queue", queue)]);
        assert_eq!(runs, Some(1.0), "{queue}");
        let late = metrics.value("quartet_job_lateness_seconds_sum", &[("queue", queue)]).unwrap();
        assert!((0.0..5.0).contains(&late), "{queue} was {late} s late");
        let attempts = metrics.value("quartet_job_attempts_sum", &[("queue", queue)]);
        assert_eq!(attempts, Some(1.0), "{queue}");
    }
    let calls = |call, result| {
        metrics.value("quartet_third_party_calls_total", &[("call", call), ("result", result)])
    };
    assert_eq!(calls("create", "created"), Some(1.0));
    assert_eq!(calls("create", "ambiguous"), Some(0.0));
    assert!(calls("lookup", "absent") >= Some(1.0));
    assert_eq!(calls("create", "absent"), None, "a create is never absent");
    let told = metrics.value("quartet_notifications_total", &[("result", "delivered")]);
    assert!(told >= Some(1.0));
    assert_eq!(metrics.value("quartet_notification_duration_seconds_count", &[]), told);
    let to_final = |by| metrics.value("quartet_time_to_final_seconds_count", &[("settled_by", by)]);
    assert_eq!(to_final("webhook"), Some(1.0));
    assert_eq!(to_final("poll"), Some(0.0));
    let requests = |operation, status| {
        let labels = [("operation", operation), ("status", status)];
        metrics.value("quartet_http_requests_total", &labels)
    };
    assert_eq!(requests("create_transaction", "202"), Some(1.0));
    assert_eq!(requests("receive_third_party_webhook", "401"), Some(1.0));
    assert_eq!(requests("unknown", "404"), Some(1.0));

    assert_eq!(metrics.value("quartet_database_up", &[]), Some(1.0));
    let open = |kind| metrics.value("quartet_dead_letters_open", &[("kind", kind)]);
    assert_eq!(open("unknown_transaction"), Some(1.0));
    assert_eq!(open("poison"), Some(0.0));
    let workers = metrics.value("quartet_workers_alive", &[("queue", "notify_client")]);
    assert_eq!(workers, Some(1.0));
    let jobs = |state| metrics.value("quartet_queue_jobs", &[("state", state)]);
    for state in ["due", "scheduled", "running", "failed"] {
        assert_eq!(jobs(state), Some(0.0), "{state}");
    }
    assert_eq!(metrics.value("quartet_queue_oldest_due_age_seconds", &[]), Some(0.0));
    assert_eq!(metrics.value("quartet_queue_paused", &[]), Some(0.0));
    for (state, value) in [("closed", 1.0), ("open", 0.0), ("half_open", 0.0)] {
        assert_eq!(metrics.value("quartet_circuit_state", &[("state", state)]), Some(value));
    }
    let most = |pool| {
        let labels = [("pool", pool), ("state", "max")];
        metrics.value("quartet_database_connections", &labels)
    };
    assert_eq!((most("requests"), most("jobs"), most("leases")), (Some(2.0), Some(5.0), Some(1.0)));
    assert_eq!(most("scrapes"), Some(1.0));
    assert_eq!(metrics.value("quartet_build_info", &[("role", "all")]), Some(1.0));
    assert!(metrics.value("process_resident_memory_bytes", &[]) > Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_app_counts_for_itself_and_every_role_is_scraped() {
    let (app, _) = worked().await;
    for role in [Role::Api, Role::Worker] {
        let other = app.sibling().role(role).spawn().await;
        let metrics = scrape(&other).await;
        let accepted = metrics.value("quartet_accepts_total", &[("result", "accepted")]);
        assert_eq!(accepted, Some(0.0), "{role:?}");
        // What the database says is the same for all.
        let open = metrics.value("quartet_dead_letters_open", &[]);
        assert_eq!(open, Some(1.0), "{role:?}");
    }
    app.anonymous().send(reqwest::Method::POST, "/metrics", &[], "").await.expect_problem(405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_without_the_database_says_so_and_leaves_its_figures_out() {
    let mut server = own_server().await;
    let profile = Profile::faultless();
    let sandbox = SandboxConfig { profile, ..SandboxConfig::default() };
    let world = World::on_database(&server.url("postgres"), sandbox).await;
    let app = world.app().spawn().await;
    assert_eq!(scrape(&app).await.value("quartet_database_up", &[]), Some(1.0));
    server.crash().await.unwrap();
    let metrics = scrape(&app).await;
    assert_eq!(metrics.value("quartet_database_up", &[]), Some(0.0));
    for name in ["quartet_dead_letters_open", "quartet_workers_alive", "quartet_queue_jobs"] {
        assert_eq!(metrics.value(name, &[]), None, "{name}");
    }
    assert!(metrics.value("quartet_accepts_total", &[]).is_some(), "the counters are there");
    server.resume().await.unwrap();
    wait_until("a scrape finds the database again", BOUND, async || {
        scrape(&app).await.value("quartet_database_up", &[]) == Some(1.0)
    })
    .await;
}
