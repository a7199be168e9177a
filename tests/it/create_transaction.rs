//! Job 1: create_transaction writes a missing transaction from its own payload; a process with
//! workers completes it in the accept's own statement.

use quartet::config::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    metrics::scrape,
    support::{
        TestApp,
        jobs::{BOUND, quiet_app},
        spawn_api, spawn_app, transaction, wait_until,
    },
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

/// The job's row, with the mark of its last writer, and that of the transaction's row.
async fn row(app: &TestApp, id: Uuid) -> (Value, String) {
    let query = "SELECT to_jsonb(j) || jsonb_build_object('xmin', j.xmin::text), t.xmin::text
        FROM apalis.jobs j JOIN transactions t ON t.id::text = idempotency_key
        WHERE t.id = $1 AND job_type = 'create_transaction'";
    sqlx::query_as(query).bind(id).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_workers_completes_it_with_the_accept() {
    let app = quiet_app().await.spawn().await;
    let id = app.client().accept().await;
    let (job, accepted_by) = row(&app, id).await;
    assert_eq!(job["xmin"], json!(accepted_by), "one SQL transaction");
    for (column, value) in [
        ("status", json!("Done")),
        ("attempts", json!(1)),
        ("last_result", json!({ "Ok": null })),
        ("lock_by", Value::Null),
    ] {
        assert_eq!(job[column], value, "{column}: {job}");
    }
    assert!(job["done_at"].is_string(), "{job}");
    let path = format!("/v1/operator/jobs/{}", job["id"].as_str().unwrap());
    let shown = app.operator().get(&path).await.expect(200).clone();
    assert_eq!((&shown["state"], &shown["attempts"]), (&json!("done"), &json!(1)));
    // As often as an operator wants it to run again.
    app.operator().post(&format!("{path}/retry"), &json!({})).await.expect(200);
    app.wait_job(JOB, id, "Done").await;
    app.settle_by_webhook(&[id]).await;
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_while_its_queue_is_paused_and_runs_once_that_is_resumed() {
    let app = quiet_app().await.spawn().await;
    let queue = "/v1/operator/queues/create_transaction";
    app.operator().post(&format!("{queue}/pause"), &json!({})).await.expect(200);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = app.client().accept().await;
        // Nothing else waits for it.
        app.wait_job("create_at_third_party", id, "Done").await;
        let (job, _) = row(&app, id).await;
        assert_eq!((&job["status"], &job["attempts"]), (&json!("Pending"), &json!(0)), "{job}");
        ids.push(id);
    }
    app.operator().post(&format!("{queue}/resume"), &json!({})).await.expect(200);
    for id in &ids {
        assert_eq!(app.wait_job(JOB, *id, "Done").await.attempts, 1);
    }
    app.settle_by_webhook(&ids).await;
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_process_without_workers_it_waits_for_one() {
    let api = quiet_app().await.role(Role::Api).spawn().await;
    let id = api.client().accept().await;
    assert_eq!(row(&api, id).await.0["status"], "Pending");
    let worker = api.sibling().role(Role::Worker).spawn().await;
    assert_eq!(api.wait_job(JOB, id, "Done").await.attempts, 1);
    api.settle_by_webhook(&[id]).await;
    worker.rest(&[id]).await;
}

/// The commit of an accept takes a second.
const SLOW: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON transactions
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_run_is_counted_also_where_the_client_has_hung_up() {
    let app = quiet_app().await.spawn().await;
    sqlx::raw_sql(SLOW).execute(&app.pool).await.unwrap();
    let id = Uuid::now_v7();
    let (client, body) = (app.client(), transaction(id));
    let commits = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let commits = wait_until("the commit is under way", BOUND, async || {
        sqlx::query_scalar::<_, i64>(commits).fetch_one(&app.pool).await.unwrap() > 0
    });
    tokio::select! {
        _ = client.post_transaction(&body) => panic!("answered before the commit"),
        () = commits => {}
    }
    let labels = [("queue", JOB), ("outcome", "done")];
    wait_until("it is counted", BOUND, async || {
        scrape(&app).await.value("quartet_job_runs_total", &labels) == Some(1.0)
    })
    .await;
    app.wait_job("create_at_third_party", id, "Done").await;
    app.settle_by_webhook(&[id]).await;
    app.rest(&[id]).await;
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
