//! Jobs that cannot be run: they end in front of an operator, and nobody else waits for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quartet::{
    config::Role,
    jobs::JobDefinition,
    sandbox::{CreateStep, SendWebhook, Status},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{TestApp, World, job_rows::wait_job, spawn_api, transaction, wait_for};

const BOUND: Duration = Duration::from_secs(20);
/// Others are told their end this soon, though poison is in their queue.
const UNDELAYED: Duration = Duration::from_millis(1_500);

async fn execute(app: &TestApp, statement: &'static str, id: Uuid) {
    let done = sqlx::query(statement).bind(id.to_string()).execute(&app.pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{statement}");
}

/// The only dead letter about a transaction, once it is there.
async fn dead_letter(app: &TestApp, id: Uuid) -> Value {
    wait_for("there is a dead letter", BOUND, async || {
        let list = app.operator().list_dead_letters(&format!("transaction_id={id}")).await;
        let letters = list.expect(200)["items"].as_array().unwrap().clone();
        assert!(letters.len() < 2, "{letters:#?}");
        letters.first().cloned()
    })
    .await
}

/// Asserts that transactions accepted now run to their end without delay.
async fn assert_others_run(app: &TestApp) -> Vec<Uuid> {
    let (mut ids, mut worst) = (Vec::new(), Duration::ZERO);
    for _ in 0..10 {
        let began = Instant::now();
        let id = app.client().accept().await;
        app.wait_told(id, BOUND).await;
        worst = worst.max(began.elapsed());
        ids.push(id);
    }
    println!("accept to the client's final update beside poison, worst of 10: {worst:?}");
    assert!(worst < UNDELAYED, "delayed by poison: {worst:?}");
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_decoded_is_poison_at_its_first_run() {
    let app = spawn_api().await;
    let broken = [
        "UPDATE apalis.jobs SET job = '\\xff00'
         WHERE idempotency_key = $1 AND job_type = 'create_at_third_party'",
        "UPDATE apalis.jobs SET job = '{\"transaction_id\": \"00000000-0000-0000-0000-000000000000\"}'
         WHERE idempotency_key = $1 AND job_type = 'notify_client'",
        "UPDATE apalis.jobs SET id = 'no ulid''; --' || E'\\n'
         WHERE idempotency_key = $1 AND job_type = 'update_status'",
        "UPDATE apalis.jobs SET job = ''
         WHERE idempotency_key = $1 AND job_type = 'create_transaction'",
    ];
    let mut ids = Vec::new();
    for statement in broken {
        let id = app.client().accept().await;
        execute(&app, statement, id).await;
        ids.push(id);
    }
    // Else a webhook ends its polls before they begin.
    let polled = ids[2];
    app.sandbox.third_party().script_creates_for(polled, vec![CreateStep::created()]);
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for id in &ids {
        let letter = dead_letter(&app, *id).await;
        assert_eq!(letter["kind"], "poison", "{letter:#}");
        assert!(!letter["attempts"][0]["error"].as_str().unwrap().is_empty(), "{letter:#}");
    }
    let (status, answer) = app.send_webhook(SendWebhook::new(polled, "completed")).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("settled")));
    ids.extend(assert_others_run(&app).await);
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&ids).await;
}

/// Makes `queue` end in another way for one transaction.
fn breaking(
    queue: &'static str,
    id: Uuid,
    timeout: Duration,
    behave: impl Fn() -> bool + Send + Sync + Clone + 'static,
) -> impl Fn(JobDefinition) -> JobDefinition {
    move |mut definition| {
        if definition.queue == queue {
            let (handler, behave) = (definition.handler.clone(), behave.clone());
            definition.timeout = timeout;
            definition.handler = Arc::new(move |context, job| {
                if job.transaction_id() != id {
                    return handler(context, job);
                }
                let behave = behave.clone();
                Box::pin(async move {
                    if behave() {
                        std::future::pending::<()>().await;
                    }
                    unreachable!("it panics or hangs");
                })
            });
        }
        definition
    }
}

async fn runs_out(timeout: Duration, behave: fn() -> bool, error: &str) {
    let id = Uuid::now_v7();
    let app = World::new().await.app().set("QUARTET_NOTIFY__MAX_ATTEMPTS", "3");
    let app = app.map_definitions(breaking("notify_client", id, timeout, behave)).spawn().await;
    app.client().post_transaction(&transaction(id)).await.expect(202);
    let mut ids = assert_others_run(&app).await;

    let letter = dead_letter(&app, id).await;
    assert_eq!(letter["kind"], "exhausted", "{letter:#}");
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{letter:#}");
    for attempt in attempts {
        assert!(attempt["error"].as_str().unwrap().contains(error), "{letter:#}");
    }
    ids.push(id);
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_each_time_uses_its_attempts_up() {
    // A panic takes a while where it prints where it was.
    runs_out(BOUND, || panic!("on purpose"), "on purpose").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_each_time_uses_its_attempts_up() {
    runs_out(Duration::from_millis(300), || true, "did not end within 300ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_whose_handler_panics_may_have_gone_through() {
    let id = Uuid::now_v7();
    let app = World::new().await.app().set("QUARTET_THIRD_PARTY__CREATE_RETRIES", "0");
    let panics = breaking("create_at_third_party", id, Duration::from_secs(5), || panic!("boom"));
    let app = app.map_definitions(panics).spawn().await;
    app.client().post_transaction(&transaction(id)).await.expect(202);
    let letter = dead_letter(&app, id).await;
    assert_eq!(letter["queue"], "create_at_third_party");
    assert_eq!(letter["attempts"].as_array().unwrap().len(), 2, "the try and the last lookup");
    let kinds = app.client().event_kinds(id).await;
    assert!(kinds.iter().any(|kind| kind == "create_ambiguous"), "{kinds:?}");
    // Nobody knows: it stays pending until somebody does.
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    app.sandbox.third_party().store(id, Status::Completed);
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_metadata_and_times_break_nothing() {
    let app = spawn_api().await;
    let strange = [
        "UPDATE apalis.jobs SET metadata = hstore(ARRAY['polls', 'many', 'poll_since', 'once'])
         WHERE idempotency_key = $1 AND job_type = 'update_status'",
        "UPDATE apalis.jobs SET metadata = hstore(ARRAY['polls', '99999999999', 'poll_since', NULL])
         WHERE idempotency_key = $1 AND job_type = 'update_status'",
        "UPDATE apalis.jobs SET metadata = hstore('polls', '-1')
         WHERE idempotency_key = $1 AND job_type = 'update_status'",
        "UPDATE apalis.jobs SET last_result = '{\"errors\": []}', metadata = NULL
         WHERE idempotency_key = $1 AND job_type = 'update_status'",
        "UPDATE apalis.jobs SET run_at = '-infinity'
         WHERE idempotency_key = $1 AND job_type = 'create_at_third_party'",
        "UPDATE apalis.jobs SET run_at = '-infinity'
         WHERE idempotency_key = $1 AND job_type = 'notify_client'",
    ];
    let mut ids = Vec::new();
    for statement in strange {
        let id = app.client().accept().await;
        execute(&app, statement, id).await;
        ids.push(id);
    }
    // It never falls due by itself.
    let never = app.client().accept().await;
    let park = "UPDATE apalis.jobs SET run_at = 'infinity'
        WHERE idempotency_key = $1 AND job_type = 'create_transaction'";
    execute(&app, park, never).await;

    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for id in ids.iter().chain([&never]) {
        app.wait_told(*id, BOUND).await;
    }
    ids.extend(assert_others_run(&app).await);
    let query = "SELECT status FROM apalis.jobs WHERE run_at = 'infinity'";
    let status: String = sqlx::query_scalar(query).fetch_one(&app.pool).await.unwrap();
    assert_eq!(status, "Pending");

    let release = "UPDATE apalis.jobs SET run_at = now()
        WHERE idempotency_key = $1 AND job_type = 'create_transaction'";
    execute(&app, release, never).await;
    wait_job(&app.pool, never, "create_transaction", "Done", BOUND).await;
    ids.push(never);
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&ids).await;
}
