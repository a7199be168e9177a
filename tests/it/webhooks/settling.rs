//! Settling by webhook is one SQL transaction with all that follows from it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use quartet::{
    config::Role,
    sandbox::{CreateStep, SendWebhook},
};

use crate::support::{World, contents::writers, spawn_api};

const BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_ends_update_status_and_makes_notify_client_due_in_one_sql_transaction() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    app.send_webhook(SendWebhook::new(id, "completed").webhook_id("evt_1")).await;

    let written = writers(&app.pool, id).await;
    let writer = |what: &str| &written.iter().find(|(name, _)| name == what).unwrap().1;
    let settling = writer("transaction");
    let webhook = "SELECT xmin::text FROM webhook_deliveries WHERE webhook_id = 'evt_1'";
    let webhook: String = sqlx::query_scalar(webhook).fetch_one(&app.pool).await.unwrap();
    for by in [
        &webhook,
        writer("update_status"),
        writer("notify_client"),
        writer("webhook"),
        writer("settled"),
    ] {
        assert_eq!(by, settling, "{written:?}");
    }
    for what in ["accepted", "create_transaction", "create_at_third_party"] {
        assert_ne!(writer(what), settling, "{what} was not touched");
    }

    let jobs = r#"
        SELECT job_type, j.status, run_at = settled_at, attempts
        FROM apalis.jobs j JOIN transactions t ON t.id::text = idempotency_key
        WHERE t.id = $1 AND job_type IN ('update_status', 'notify_client')
        ORDER BY job_type
    "#;
    let jobs: Vec<(String, String, bool, i32)> =
        sqlx::query_as(jobs).bind(id).fetch_all(&app.pool).await.unwrap();
    assert_eq!(
        jobs,
        [
            ("notify_client".to_owned(), "Pending".to_owned(), true, 0),
            ("update_status".to_owned(), "Done".to_owned(), false, 0),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_comes_first_ends_polling_before_it_starts() {
    let world = World::new().await;
    let api = world.app().role(Role::Api).spawn().await;
    let id = api.client().accept().await;
    api.send_webhook(SendWebhook::new(id, "declined")).await;
    let third_party = world.sandbox.third_party();
    third_party.set_create_default(CreateStep::created());
    let worker = api.sibling().role(Role::Worker).spawn().await;
    assert_eq!(api.wait_told(id, BOUND).await["status"], "declined");
    api.wait_at_rest(BOUND).await;
    // create_at_third_party may look it up once.
    assert!(third_party.lookups_of(id) <= 1, "{:?}", third_party.calls_of(id));
    let told = worker.sandbox.client().deliveries_of(id);
    let versions: Vec<i64> = told.iter().map(|delivery| delivery.version).collect();
    assert_eq!(versions, [2], "the client hears no `pending` any more");
    api.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_is_told_by_a_signed_callback_with_the_versions_id() {
    let world = World::new().await;
    let app = world.app().spawn().await;
    let id = app.client().accept().await;
    let transaction = app.wait_told(id, BOUND).await;
    let told = world.sandbox.client().last_acknowledged(id).unwrap();
    assert!(told.signature_valid);
    assert_eq!(told.webhook_id, format!("{id}_2"));
    assert_eq!((told.status.as_str(), told.version), ("completed", 2));
    let settled_at = transaction["settled_at"].as_str().unwrap();
    assert_eq!(told.occurred_at, settled_at.parse::<DateTime<Utc>>().unwrap());
}
