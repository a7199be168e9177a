//! Retention: it removes what has ended and is old, and nothing else; and what was pruned behaves
//! to clients and to the third party as before.

use std::time::Duration;

use quartet::{
    config::{Config, Role},
    jobs,
    sandbox::{SendWebhook, Status},
    store::{self, transactions},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    aged::OLD,
    jobs::{BOUND, quiet_app},
    wait_until,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A process that removes nothing by itself, and transactions that have ended just now.
async fn with_ended(count: usize) -> (TestApp, Vec<Uuid>) {
    let app = quiet_app().await.spawn().await;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(app.client().accept().await);
    }
    for id in &ids {
        app.send_webhook(SendWebhook::new(*id, "completed")).await;
    }
    for id in &ids {
        app.wait_told(*id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    (app, ids)
}

/// Has the running process do one run; returns what it removed.
async fn prune(app: &TestApp) -> Value {
    let before = app.task("retention").await.finished_at;
    app.make_task_due("retention").await;
    let worker = app.sibling().role(Role::Worker).set("QUARTET_RETENTION__INTERVAL", "1h");
    let mut worker = worker.spawn().await;
    let task = app.wait_task("retention", before).await;
    worker.stop().await;
    assert_eq!(task.last_error, None);
    task.last_result.unwrap()
}

/// Of `ids` those that have no job rows, and are marked so.
async fn pruned(pool: &PgPool, ids: &[Uuid]) -> Vec<Uuid> {
    let query = "SELECT id FROM transactions
        WHERE id = ANY ($1) AND pruned_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM apalis.jobs WHERE idempotency_key = transactions.id::text)
        ORDER BY id";
    sqlx::query_scalar(query).bind(ids).fetch_all(pool).await.unwrap()
}

async fn execute(app: &TestApp, query: &'static str, id: Uuid) {
    let done = sqlx::query(query).bind(id).execute(&app.pool).await.unwrap();
    assert!(done.rows_affected() > 0, "{query}");
}

/// One transaction whose job rows were removed.
async fn with_pruned() -> (TestApp, Uuid) {
    let (app, ids) = with_ended(1).await;
    app.make_older(ids[0], OLD).await;
    assert_eq!(prune(&app).await["transactions"], 1);
    assert_eq!(pruned(&app.pool, &ids).await, ids);
    (app, ids[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_what_has_ended_and_is_old_loses_its_job_rows() {
    let (app, ids) = with_ended(8).await;
    let [ended, cancelled, recent, told_late, letter, waiting, reopened, untouched] = ids[..]
    else {
        unreachable!()
    };
    for id in [ended, cancelled, told_late, letter, waiting, reopened] {
        app.make_older(id, OLD).await;
    }
    // Settled 8 days ago, its client told yesterday: its last job has not been done for 7 days.
    execute(
        &app,
        "UPDATE apalis.jobs SET done_at = now() - interval '1 day'
        WHERE idempotency_key = $1::uuid::text AND job_type = 'notify_client'",
        told_late,
    )
    .await;
    execute(
        &app,
        "UPDATE apalis.jobs SET status = 'Killed'
        WHERE idempotency_key = $1::uuid::text AND job_type = 'notify_client'",
        cancelled,
    )
    .await;
    execute(
        &app,
        "INSERT INTO failed_jobs (kind, cause, transaction_id, reason)
        VALUES ('status_conflict', 'test', $1, 'test')",
        letter,
    )
    .await;
    execute(
        &app,
        "UPDATE apalis.jobs SET status = 'Pending', run_at = now() + interval '1 day',
            done_at = NULL
        WHERE idempotency_key = $1::uuid::text AND job_type = 'notify_client'",
        waiting,
    )
    .await;
    // Settled anew by an operator, yesterday.
    execute(
        &app,
        "UPDATE transactions SET settled_at = now() - interval '1 day' WHERE id = $1",
        reopened,
    )
    .await;
    let pending = app.client().accept().await;
    app.wait_notified(pending, 1).await;
    execute(
        &app,
        "UPDATE apalis.jobs SET status = 'Killed', done_at = now(), lock_by = NULL,
            lock_at = NULL
        WHERE idempotency_key = $1::uuid::text AND job_type = 'update_status'",
        pending,
    )
    .await;
    app.make_older(pending, OLD).await;
    app.make_older(recent, 6 * DAY).await;

    let removed = prune(&app).await;
    assert_eq!(removed["transactions"], 2, "{removed}");
    let mut expected = [ended, cancelled];
    expected.sort();
    let mut all = ids.clone();
    all.push(pending);
    assert_eq!(pruned(&app.pool, &all).await, expected);
    let jobs = "SELECT count(*) FROM apalis.jobs";
    let jobs: i64 = sqlx::query_scalar(jobs).fetch_one(&app.pool).await.unwrap();
    assert_eq!(jobs, 7 * 4, "everybody else has all four");
    for id in [ended, untouched] {
        let kinds = app.client().event_kinds(id).await;
        assert!(kinds.contains(&"settled".to_owned()), "evidence stays: {kinds:?}");
    }

    // What keeps a row may end; then it is no exception any more.
    execute(
        &app,
        "UPDATE failed_jobs SET state = 'discarded', closed_at = now(), closed_by = 'test'
        WHERE transaction_id = $1",
        letter,
    )
    .await;
    assert_eq!(prune(&app).await["transactions"], 1);
    assert_eq!(pruned(&app.pool, &[letter]).await, [letter]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pruned_transaction_answers_as_before() {
    let (app, id) = with_pruned().await;
    let transaction = app.client().get_transaction(id).await.expect(200).clone();
    assert_eq!((&transaction["status"], &transaction["version"]), (&json!("completed"), &json!(2)));
    let listed =
        app.client().list_transactions("status=completed").await.expect(200)["items"].clone();
    assert_eq!(listed, json!([transaction]));
    let again = app.post_again(id).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.expect(200), &transaction);
    app.post_other(id).await.expect_problem(409);
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.first().map(String::as_str), Some("accepted"));
    let explained = app.operator().get(&format!("/v1/operator/transactions/{id}/explain")).await;
    assert_eq!(explained.expect(200)["jobs"], json!([]));
    assert!(explained.text.contains("finished"), "{}", explained.text);

    // A late webhook: equal, and contradicting.
    let (_, equal) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(equal, json!({ "outcome": "unchanged", "duplicate": false }));
    let (_, other) = app.send_webhook(SendWebhook::new(id, "declined")).await;
    assert_eq!(other["outcome"], "conflict");
    let letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["kind"], "status_conflict");
    assert_eq!(app.client().get_transaction(id).await.expect(200), &transaction);
    assert_eq!(pruned(&app.pool, &[id]).await, [id], "no job row has come back");
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_still_resolve_a_conflict_with_another_status() {
    let (app, id) = with_pruned().await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    let letter = app.wait_dead_letter(id).await;
    let resolve = json!({ "status": "declined", "note": "the third party is right" });
    let letter_id = letter["id"].as_str().unwrap();
    app.operator().act_on_dead_letter(letter_id, "resolve", &resolve).await.expect(200);
    app.wait_notified(id, 3).await;
    assert_eq!(app.told(id).last(), Some(&("declined".to_owned(), 3)));
    assert_eq!(pruned(&app.pool, &[id]).await, [] as [Uuid; 0], "its four rows are back");
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restoring_writes_the_four_rows_once_and_the_client_can_be_told() {
    let (app, id) = with_pruned().await;
    let plan = jobs::plan(&Config::load(app.settings(), None).unwrap());
    let restore = async || {
        let mut tx = app.pool.begin().await.unwrap();
        let transaction = transactions::lock(&mut tx, id).await.unwrap().unwrap();
        let restored = store::jobs::restore(&mut tx, &transaction, &plan).await.unwrap();
        tx.commit().await.unwrap();
        restored
    };
    assert_eq!(restore().await, 4);
    assert_eq!(restore().await, 0, "again: nothing is missing");
    // Where single rows are missing, as after a partial import.
    execute(
        &app,
        "DELETE FROM apalis.jobs
        WHERE idempotency_key = $1::uuid::text AND job_type = 'create_transaction'",
        id,
    )
    .await;
    assert_eq!(restore().await, 1);
    let rows = "SELECT job_type || ' ' || status || ' ' || convert_from(job, 'UTF8')
        FROM apalis.jobs WHERE idempotency_key = $1 ORDER BY job_type";
    let rows: Vec<String> =
        sqlx::query_scalar(rows).bind(id.to_string()).fetch_all(&app.pool).await.unwrap();
    let refer = format!(r#"{{"transaction_id":"{id}"}}"#);
    assert_eq!(rows[0], format!("create_at_third_party Done {refer}"));
    assert!(rows[1].starts_with(r#"create_transaction Done {"id":"#), "{}", rows[1]);
    assert!(rows[1].contains(r#""reference":"Invoice 2026-117""#), "{}", rows[1]);
    assert_eq!(rows[2], format!("notify_client Done {refer}"));
    assert_eq!(pruned(&app.pool, &[id]).await, [] as [Uuid; 0]);
    app.rest(&[id]).await;

    // As when an operator resolves a conflict with a status.
    let wake = "UPDATE apalis.jobs SET status = 'Pending', run_at = now(), done_at = NULL,
            last_result = NULL
        WHERE job_type = 'notify_client' AND idempotency_key = $1::uuid::text";
    let told = app.told(id).len();
    execute(&app, wake, id).await;
    wait_until("the client is told again", BOUND, async || app.told(id).len() > told).await;
    app.rest(&[id]).await;
    // Done just now: its age counts from here.
    assert_eq!(prune(&app).await["transactions"], 0);
    app.make_older(id, OLD).await;
    assert_eq!(prune(&app).await["transactions"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_webhooks_and_closed_dead_letters_go_by_their_own_ages() {
    let (app, ids) = with_ended(3).await;
    let [old, middle, open] = ids[..] else { unreachable!() };
    let letter = "INSERT INTO failed_jobs
            (kind, cause, transaction_id, reason, state, closed_at, closed_by)
        VALUES ('status_conflict', 'test:' || $1::uuid, $1, 'test', 'resolved', now(), 'test')";
    let finding =
        "INSERT INTO reconcile_findings (transaction_id, finding, next_check_at, closed_at)
        VALUES ($1, 'late', now(), now() - interval '91 days')";
    for id in ids.iter().copied() {
        execute(&app, letter, id).await;
    }
    execute(&app, finding, old).await;
    // This one keeps everything: it is not at its end.
    execute(
        &app,
        "INSERT INTO failed_jobs (kind, cause, transaction_id, reason)
        VALUES ('status_conflict', 'open', $1, 'test')",
        open,
    )
    .await;
    let webhook_ids = |id| {
        let query = "SELECT webhook_id FROM webhook_deliveries WHERE transaction_id = $1";
        sqlx::query_scalar::<_, String>(query).bind(id).fetch_all(&app.pool)
    };
    let webhook_id = webhook_ids(old).await.unwrap().remove(0);
    app.make_older(old, 91 * DAY).await;
    app.make_older(middle, 29 * DAY).await;
    app.make_older(open, 91 * DAY).await;

    let evidence = app.client().event_kinds(old).await.len();
    assert!(evidence >= 4, "{evidence}");
    let removed = prune(&app).await;
    let expected = json!({
        "transactions": 2, "evidence": evidence, "dead_letters": 1, "webhooks": 2, "findings": 1,
        "sent_creates": 0,
    });
    assert_eq!(removed, expected);
    let count = async |query: &'static str, id: Uuid| -> i64 {
        sqlx::query_scalar(query).bind(id).fetch_one(&app.pool).await.unwrap()
    };
    let letters =
        "SELECT count(*) FROM failed_jobs WHERE transaction_id = $1 AND state = 'resolved'";
    assert_eq!(count(letters, old).await, 0);
    assert_eq!(count(letters, middle).await, 1, "not old enough");
    assert_eq!(count(letters, open).await, 1, "its transaction has its job rows");
    assert_eq!(app.client().event_kinds(old).await, [] as [&str; 0]);
    assert!(!app.client().event_kinds(middle).await.is_empty());
    assert!(!app.client().event_kinds(open).await.is_empty());
    assert!(webhook_ids(old).await.unwrap().is_empty());
    assert_eq!(webhook_ids(middle).await.unwrap().len(), 1);
    app.client().get_transaction(old).await.expect(200);
    app.post_again(old).await.expect(200);
    app.rest(&ids).await;

    // Its webhook-id is forgotten: it is taken as new, and is no news.
    let repeat = SendWebhook::new(old, "completed").webhook_id(&webhook_id);
    let (_, answer) = app.send_webhook(repeat).await;
    assert_eq!(answer, json!({ "outcome": "unchanged", "duplicate": false }));
    assert_eq!(app.client().event_kinds(old).await, ["webhook"]);
    assert_eq!(app.client().get_transaction(old).await.body["version"], 2);
}

/// Transactions that ended 30 days ago, written by SQL.
async fn fill(pool: &PgPool, count: i32) {
    let fill = "
        WITH old AS (
            INSERT INTO transactions (id, client_id, content_hash, status, version,
                notified_version, settled_at, settled_by, created_at)
            SELECT gen_random_uuid(), clients.id, sha256('x'), 'completed', 2, 2,
                now() - interval '30 days', 'webhook', now() - interval '30 days'
            FROM clients, generate_series(1, $1)
            RETURNING id
        ), numbered AS (SELECT id, row_number() OVER () AS n FROM old)
        INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, done_at,
            idempotency_key)
        SELECT '01ARZ3NDEKTSV4RRFF' || position || 'Q' || lpad(n::text, 6, '0'), kind, '{}', 'Done',
            1, 5, now() - interval '30 days', now() - interval '30 days', numbered.id::text
        FROM numbered, unnest(ARRAY['create_transaction', 'create_at_third_party', 'update_status',
            'notify_client']) WITH ORDINALITY AS job (kind, position)";
    sqlx::query(fill).bind(count).execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_removed_in_batches_while_work_goes_on() {
    const OLD_ONES: i32 = 2_000;
    let world = World::new().await;
    world
        .sandbox
        .third_party()
        .set_create_default(quartet::sandbox::CreateStep::created_final(Status::Completed));
    let app = world.app().role(Role::Api).spawn().await;
    fill(&app.pool, OLD_ONES).await;
    app.make_task_due("retention").await;
    // A lease that a busy machine does not lose: what is counted here is one run.
    let worker = app.sibling().role(Role::Worker).set("QUARTET_WORKER__DEAD_AFTER", "10s");
    let _worker = worker.spawn().await;
    // Accepting goes on until the last batch is gone.
    let mut ids = Vec::new();
    let task = loop {
        ids.push(app.client().accept().await);
        let task = app.task("retention").await;
        if task.finished_at.is_some() {
            break task;
        }
        assert!(ids.len() < 5_000, "retention comes to its end: {task:?}");
    };
    assert_eq!(task.last_result.unwrap()["transactions"], OLD_ONES);
    let left = "SELECT count(*) FROM apalis.jobs WHERE job = '{}'";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&app.pool).await.unwrap(), 0);
    for id in &ids {
        app.wait_told(*id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    let jobs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM apalis.jobs").fetch_one(&app.pool).await.unwrap();
    assert_eq!(jobs, 4 * ids.len() as i64, "what has just ended stays");
}
