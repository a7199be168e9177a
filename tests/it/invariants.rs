//! The invariant checker itself: a transaction that ran well has no violation, and each way of
//! breaking it is reported.

use std::time::Duration;

use chrono::Utc;
use quartet::{
    sandbox::{CreateStep, Status},
    signature,
};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::support::{
    TestApp,
    invariants::{self, Expected},
    spawn_app,
};

const BOUND: Duration = Duration::from_secs(10);

/// An app at rest with one transaction that ran to its end.
async fn at_rest() -> (TestApp, Uuid) {
    let mut app = spawn_app().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    app.stop().await;
    (app, id)
}

async fn check(app: &TestApp, accepted: &[Uuid]) -> Vec<String> {
    invariants::check(&app.pool, &app.sandbox, &Expected::new(accepted)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_ran_well_violates_nothing() {
    let (app, id) = at_rest().await;
    assert_eq!(check(&app, &[id]).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_break_the_database_is_reported() {
    let (app, id) = at_rest().await;
    // Each statement breaks the database; what the schema itself would refuse, it lets pass first.
    let cases = [
        (
            "1: not exactly the four jobs",
            "DELETE FROM apalis.jobs WHERE job_type = 'notify_client'",
        ),
        ("1: not exactly the four jobs", "UPDATE transactions SET pruned_at = now()"),
        (
            "1: not exactly the four jobs",
            "UPDATE transactions SET pruned_at = now();
             DELETE FROM apalis.jobs WHERE job_type <> 'notify_client'",
        ),
        (
            "1: a job without its transaction",
            "UPDATE apalis.jobs SET idempotency_key = gen_random_uuid()::text
             WHERE job_type = 'create_transaction'",
        ),
        (
            "2: settled more than once",
            "INSERT INTO transaction_events (transaction_id, kind, source, detail)
             SELECT transaction_id, kind, source, detail FROM transaction_events
             WHERE kind = 'settled'",
        ),
        ("2: the version is not", "UPDATE transactions SET version = 3, notified_version = 3"),
        (
            "2: the status is not what",
            "UPDATE transactions SET status = 'declined', settled_by = 'operator'",
        ),
        (
            "2: settled_at or settled_by",
            "ALTER TABLE transactions DROP CONSTRAINT transactions_settled_by_with_settled_at;
             UPDATE transactions SET settled_by = NULL",
        ),
        (
            "2: pending, and nothing",
            "DELETE FROM transaction_events WHERE kind = 'settled';
             UPDATE transactions SET status = 'pending', version = 1, notified_version = 1,
                 settled_at = NULL, settled_by = NULL",
        ),
        (
            "3: ID has version 2, but notified_version 1",
            "UPDATE transactions SET notified_version = 1",
        ),
        (
            "3: ID has version 3, the client heard 2",
            "INSERT INTO transaction_events (transaction_id, kind, source, detail)
             SELECT id, 'settled', 'operator',
                 '{\"status\": \"declined\", \"version\": 3, \"settled_by\": \"operator\"}'
             FROM transactions;
             UPDATE transactions SET version = 3, status = 'declined', settled_by = 'operator'",
        ),
        (
            "3: ID has notified_version 3, but the client heard 2",
            "UPDATE transactions SET version = 3, notified_version = 3",
        ),
        (
            "5: leased under a worker that is gone",
            "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen)
             VALUES ('stale', 'notify_client', 'quartet', '', now() - interval '1 s');
             UPDATE apalis.jobs SET status = 'Running', lock_by = 'stale', lock_at = now()
             WHERE job_type = 'notify_client'",
        ),
        (
            "5: leased under a worker that is gone: notify_client ID by vanished",
            "ALTER TABLE apalis.jobs DROP CONSTRAINT fk_worker_lock_by;
             UPDATE apalis.jobs SET status = 'Running', lock_by = 'vanished', lock_at = now()
             WHERE job_type = 'notify_client'",
        ),
        (
            "5: a job stopped without a dead letter",
            "UPDATE apalis.jobs SET status = 'Failed' WHERE job_type = 'notify_client'",
        ),
        ("5: more attempts than allowed", "UPDATE apalis.jobs SET attempts = max_attempts + 1"),
        (
            "5: waiting although",
            "UPDATE apalis.jobs SET status = 'Pending', attempts = max_attempts",
        ),
        ("6: ID was answered 2xx and is gone", "DELETE FROM apalis.jobs; DELETE FROM transactions"),
        (
            "dead letters: two open ones for one cause",
            "DROP INDEX failed_jobs_one_open_per_cause;
             INSERT INTO failed_jobs (kind, cause, reason)
             SELECT 'deadline', 'same', 'x' FROM generate_series(1, 2)",
        ),
        (
            "dead letters: two open ones for one job",
            "INSERT INTO failed_jobs (kind, cause, reason, job_id, queue, job)
             SELECT 'deadline', 'cause ' || n, 'x', 'same', 'update_status', '{}'
             FROM generate_series(1, 2) AS n",
        ),
    ];
    // One connection: what the checker reads is inside the transaction that is rolled back.
    let pool = PgPoolOptions::new().max_connections(1).connect(app.database_url()).await.unwrap();
    for (sentence, statement) in cases {
        let sentence = sentence.replace("ID", &id.to_string());
        sqlx::raw_sql("BEGIN").execute(&pool).await.unwrap();
        sqlx::raw_sql(statement).execute(&pool).await.unwrap();
        let found = invariants::check(&pool, &app.sandbox, &Expected::new(&[id])).await;
        sqlx::raw_sql("ROLLBACK").execute(&pool).await.unwrap();
        assert!(
            found.iter().any(|violation| violation.starts_with(&sentence)),
            "{sentence:?} is not among {found:#?}"
        );
    }
    assert_eq!(check(&app, &[id]).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pruned_transaction_violates_nothing() {
    let (app, id) = at_rest().await;
    for prune in [
        "DELETE FROM apalis.jobs; UPDATE transactions SET pruned_at = now()",
        "DELETE FROM transaction_events; UPDATE transactions SET evidence_pruned_at = now()",
    ] {
        sqlx::raw_sql(prune).execute(&app.pool).await.unwrap();
        assert_eq!(check(&app, &[id]).await, Vec::<String>::new(), "{prune}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_of_what_a_lookup_shows_is_reported() {
    let (app, id) = at_rest().await;
    let url = format!("{}/transaction", app.sandbox.base_url());
    let create = json!({ "id": id, "webhookUrl": app.webhook_url() });
    app.sandbox
        .third_party()
        .script_creates_for(id, vec![CreateStep::created_final(Status::Completed)]);
    reqwest::Client::new().post(url).json(&create).send().await.unwrap();
    let found = check(&app, &[id]).await;
    for sentence in [
        format!("4: {id} was created although a lookup shows it"),
        format!("4: {id} was stored over itself"),
    ] {
        assert!(found.contains(&sentence), "{sentence:?} is not among {found:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hears_an_older_version_is_reported() {
    let (app, id) = at_rest().await;
    let body = json!({ "id": id, "status": "pending", "version": 1, "occurred_at": Utc::now() });
    let body = body.to_string();
    let now = Utc::now().timestamp();
    let signature =
        signature::sign(&app.sandbox.config().client_secret, "late", now, body.as_bytes());
    let put = reqwest::Client::new()
        .put(app.sandbox.callback_url())
        .header(signature::ID_HEADER, "late")
        .header(signature::TIMESTAMP_HEADER, now)
        .header(signature::SIGNATURE_HEADER, signature)
        .body(body);
    put.send().await.unwrap().error_for_status().unwrap();
    let found = check(&app, &[id]).await;
    let sentence = format!("3: {id} went down to an older version");
    assert!(found.contains(&sentence), "{sentence:?} is not among {found:#?}");
}
