//! Job 1: create_transaction writes a missing transaction from its own payload.

use quartet::config::Role;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestApp,
    jobs::{BOUND, quiet_app},
    spawn_api, spawn_app, transaction, wait_until,
};

const JOB: &str = "create_transaction";

async fn execute(app: &TestApp, statement: &'static str, id: Uuid) {
    let done = sqlx::query(statement).bind(id.to_string()).execute(&app.pool).await.unwrap();
    assert!(done.rows_affected() > 0, "{statement}");
}

/// As after a restore: the jobs are there, the transaction is not. Its evidence goes with it.
async fn lose(app: &TestApp, id: Uuid) {
    execute(app, "DELETE FROM transactions WHERE id::text = $1", id).await;
    app.client().get_transaction(id).await.expect_problem(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_transaction_is_written_from_the_payload() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    lose(&app, id).await;
    let worker = app.sibling().role(Role::Worker).spawn().await;
    wait_until("it is there again", BOUND, async || {
        app.client().get_transaction(id).await.status == 200
    })
    .await;
    let found = app.wait_told(id, BOUND).await;
    let posted = transaction(id);
    for field in ["id", "amount", "currency", "reference", "metadata"] {
        assert_eq!(found[field], posted[field]);
    }
    assert_eq!((&found["status"], &found["version"]), (&"completed".into(), &2.into()));
    worker.rest(&[id]).await;
    assert_eq!(accepted(&app, id).await, [JOB]);
    // The same content again is a repeat, not another transaction.
    app.client().post_transaction(&posted).await.expect(200);
    for queue in ["create_at_third_party", "update_status", "notify_client", JOB] {
        assert_eq!(app.job(queue, id).await.status, "Done", "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_jobs_wait_for_a_missing_transaction_without_giving_it_up() {
    let app = quiet_app().await.role(Role::Api).spawn().await;
    let id = app.client().accept().await;
    lose(&app, id).await;
    let put_off = "UPDATE apalis.jobs SET run_at = 'infinity'
        WHERE job_type = 'create_transaction' AND idempotency_key = $1";
    execute(&app, put_off, id).await;
    let worker = app.sibling().role(Role::Worker).spawn().await;
    // As often as it would have tries: waiting costs none of them.
    wait_until("create_at_third_party has waited five times", BOUND, async || {
        app.snoozes("waits", "create_at_third_party", id).await >= 5
    })
    .await;
    assert_eq!(app.job("create_at_third_party", id).await.attempts, 0);
    assert_eq!(
        app.sandbox.third_party().calls_of(id),
        [],
        "nothing is asked about what is not here"
    );
    let due = "UPDATE apalis.jobs SET run_at = now()
        WHERE job_type = 'create_transaction' AND idempotency_key = $1";
    execute(&app, due, id).await;
    wait_until("it is created at the third party", BOUND, async || {
        let transaction = app.client().get_transaction(id).await;
        assert_ne!(transaction.body["status"], "failed", "it was given up without a create");
        app.sandbox.third_party().creates_of(id) == 1
    })
    .await;
    app.settle_by_webhook(&[id]).await;
    worker.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_is_no_error_and_changes_nothing() {
    let app = spawn_app().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    let before = (whole(&app, id).await, app.client().event_kinds(id).await);
    let again = "UPDATE apalis.jobs SET status = 'Pending', attempts = 0, run_at = now()
        WHERE job_type = 'create_transaction' AND idempotency_key = $1";
    execute(&app, again, id).await;
    let job = app.wait_job(JOB, id, "Done").await;
    assert_eq!(job.attempts, 1);
    app.rest(&[id]).await;
    assert_eq!((whole(&app, id).await, app.client().event_kinds(id).await), before);
}

/// Who wrote the evidence that it was accepted.
async fn accepted(app: &TestApp, id: Uuid) -> Vec<String> {
    let query = "SELECT source FROM transaction_events WHERE transaction_id = $1
        AND kind = 'accepted' ORDER BY id";
    sqlx::query_scalar(query).bind(id).fetch_all(&app.pool).await.unwrap()
}

/// The transaction's row, with the mark of its last writer.
async fn whole(app: &TestApp, id: Uuid) -> Value {
    let query = "SELECT to_jsonb(t) || jsonb_build_object('xmin', xmin::text)
        FROM transactions t WHERE id = $1";
    sqlx::query_scalar(query).bind(id).fetch_one(&app.pool).await.unwrap()
}
