//! The reconciliation sweep: what it settles, what it records, and that it hammers nobody.

mod command;
mod decisions;
mod late;

use std::time::Duration;

use chrono::{DateTime, Utc};
use quartet::{
    config::Role,
    sandbox::{CreateStep, LookupStep, Status},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    command::{Ended, run},
    jobs::{BOUND, quiet_app},
    spawn_api, transaction, wait_until,
};

/// `quartet reconcile` with these arguments.
async fn reconcile(world: &World, args: &[&str]) -> Ended {
    run(&[&["reconcile"], args].concat(), &world.settings(), "").await
}

/// One sweep over everything open; returns its report.
async fn sweep(world: &World) -> Value {
    reconcile(world, &["--since", "2h", "--json"]).await.expect_json()
}

/// What a report says about a transaction: here, there, finding, action.
fn item(report: &Value, id: Uuid) -> [&str; 4] {
    let items = report["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["transaction_id"] == id.to_string());
    let item = item.unwrap_or_else(|| panic!("{id} is not in {report}"));
    ["ours", "theirs", "finding", "action"].map(|field| item[field].as_str().unwrap())
}

#[derive(Debug, sqlx::FromRow)]
struct Finding {
    finding: String,
    detail: Value,
    first_found_at: DateTime<Utc>,
    checks: i32,
    closed_at: Option<DateTime<Utc>>,
    /// From the last check to the next.
    gap: f64,
}

async fn finding(pool: &PgPool, id: Uuid) -> Option<Finding> {
    let query = "SELECT finding, detail, first_found_at, checks, closed_at,
            extract(epoch FROM next_check_at - last_checked_at)::float8 AS gap
        FROM reconcile_findings WHERE transaction_id = $1";
    sqlx::query_as(query).bind(id).fetch_optional(pool).await.unwrap()
}

/// The finding of this kind, open.
async fn open_finding(app: &TestApp, id: Uuid, kind: &str) -> Finding {
    let finding = finding(&app.pool, id).await.expect("there is a finding");
    assert_eq!((finding.finding.as_str(), finding.closed_at), (kind, None), "{finding:?}");
    finding
}

/// A transaction that failed because its only create got a 504 and is not there; workers run.
async fn failed_by_ambiguous_create() -> (TestApp, Uuid) {
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__CREATE_RETRIES", "0");
    let app = app.set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "100ms");
    let app = app.set("QUARTET_RECONCILE__INTERVAL", "100ms").spawn().await;
    let id = Uuid::now_v7();
    app.sandbox.third_party().script_creates_for(id, vec![CreateStep::gateway_timeout_lost()]);
    app.accept_as(id).await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    // From here on every 100 ms.
    app.make_task_due("reconcile").await;
    (app, id)
}

async fn conflicts(app: &TestApp, id: Uuid) -> Vec<Value> {
    let list = format!("kind=status_conflict&transaction_id={id}");
    app.operator().list_dead_letters(&list).await.expect(200)["items"].as_array().unwrap().clone()
}

/// Waits until the periodic sweep has looked a transaction up this many more times.
async fn wait_lookups(app: &TestApp, id: Uuid, more: usize) {
    let enough = app.sandbox.third_party().lookups_of(id) + more;
    wait_until(&format!("{id} is looked up again"), BOUND, async || {
        app.sandbox.third_party().lookups_of(id) >= enough
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pending_past_the_deadline_is_settled_by_the_sweep() {
    let app = spawn_api().await;
    let (completed, declined) = (app.stuck().await, app.stuck().await);
    let letters = [app.wait_dead_letter(completed).await, app.wait_dead_letter(declined).await];
    app.sandbox.third_party().store(completed, Status::Completed);
    app.sandbox.third_party().store(declined, Status::Declined);
    app.make_task_due("reconcile").await;
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for (id, status) in [(completed, "completed"), (declined, "declined")] {
        let transaction = app.wait_told(id, BOUND).await;
        assert_eq!(
            (&transaction["status"], &transaction["settled_by"]),
            (&json!(status), &json!("poll"))
        );
        assert_eq!(app.told(id).last(), Some(&(status.to_owned(), 2)));
        let events = app.client().list_events(id).await.body;
        let sources = |kind: &str| -> Vec<Value> {
            let events = events["items"].as_array().unwrap().iter();
            events
                .filter(|event| event["kind"] == kind)
                .map(|event| event["source"].clone())
                .collect()
        };
        assert_eq!(sources("poll_status"), ["reconcile"]);
        assert_eq!(sources("settled"), ["reconcile"]);
        assert_eq!(sources("dead_letter_closed"), ["reconcile"]);
        assert_eq!(app.job("update_status", id).await.status, "Done");
    }
    for letter in letters {
        assert_eq!(app.dead_letter(&letter).await["state"], "resolved");
    }
    let task = app.wait_task("reconcile", None).await;
    let result = task.last_result.unwrap();
    assert_eq!((&result["settled"], &result["looked_up"]), (&json!(2), &json!(2)));
    app.rest(&[completed, declined]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_one_that_exists_there_is_one_conflict() {
    let (app, id) = failed_by_ambiguous_create().await;
    // Absent there is what `failed` says: both sides agree, however often it is looked up.
    wait_lookups(&app, id, 2).await;
    assert_eq!(conflicts(&app, id).await, [] as [Value; 0]);
    app.sandbox.third_party().store(id, Status::Completed);
    wait_until("there is a conflict", BOUND, async || !conflicts(&app, id).await.is_empty()).await;
    let letters = conflicts(&app, id).await;
    let detail = &letters[0]["detail"];
    assert_eq!((&detail["status"], &detail["reported"]), (&json!("failed"), &json!("completed")));
    let transaction = app.client().get_transaction(id).await.body;
    assert_eq!((&transaction["status"], &transaction["version"]), (&json!("failed"), &json!(2)));
    open_finding(&app, id, "status_differs").await;

    // Each further sweep finds it again.
    let due = "UPDATE reconcile_findings SET next_check_at = now()";
    for _ in 0..2 {
        sqlx::query(due).execute(&app.pool).await.unwrap();
        wait_lookups(&app, id, 1).await;
    }
    assert_eq!(conflicts(&app, id).await.len(), 1);
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "found_at_third_party").count(), 1, "{kinds:?}");

    // An operator has decided: it is not opened again, and the finding is closed.
    let discard =
        "UPDATE failed_jobs SET state = 'discarded', closed_at = now(), closed_by = 'test'
        WHERE transaction_id = $1 AND kind = 'status_conflict'";
    sqlx::query(discard).bind(id).execute(&app.pool).await.unwrap();
    sqlx::query(due).execute(&app.pool).await.unwrap();
    wait_lookups(&app, id, 1).await;
    wait_until("the finding is closed", BOUND, async || {
        finding(&app.pool, id).await.unwrap().closed_at.is_some()
    })
    .await;
    assert_eq!(conflicts(&app, id).await.len(), 1);
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_is_recorded_and_closed_when_it_is_settled() {
    let app = spawn_api().await;
    let (missing, late, silent) = (app.stuck().await, app.stuck().await, app.stuck().await);
    let third_party = app.sandbox.third_party();
    third_party.store(late, Status::Pending);
    third_party.store(silent, Status::Completed);
    third_party.script_lookups_for(silent, vec![LookupStep::status_code(500); 2]);
    let stranger = Uuid::now_v7();
    third_party.store(stranger, Status::Completed);
    let webhook = quartet::sandbox::SendWebhook::new(stranger, "completed");
    assert_eq!(app.send_webhook(webhook).await.1["outcome"], "unknown_transaction");

    let report = sweep(&app).await;
    assert_eq!(report["looked_up"], 4, "{report}");
    assert_eq!(item(&report, missing), ["pending", "absent", "missing_there", "noted"]);
    assert_eq!(item(&report, late), ["pending", "pending", "late", "noted"]);
    assert_eq!(item(&report, silent), ["pending", "no answer", "unanswered", "noted"]);
    assert_eq!(item(&report, stranger), ["absent", "completed", "missing_here", "noted"]);
    let found = open_finding(&app, late, "late").await;
    assert_eq!(found.detail, json!({ "ours": "pending", "theirs": "pending" }));
    open_finding(&app, missing, "missing_there").await;
    open_finding(&app, silent, "unanswered").await;
    open_finding(&app, stranger, "missing_here").await;

    // Looked at again: the same finding since the same time, with a gap that doubles, and without
    // further evidence.
    let report = sweep(&app).await;
    assert_eq!(item(&report, silent)[2], "unanswered", "twice without an answer");
    let again = open_finding(&app, late, "late").await;
    assert_eq!((again.first_found_at, again.checks), (found.first_found_at, 2));
    assert!(
        (found.gap - 300.0).abs() < 1.0 && (again.gap - 600.0).abs() < 1.0,
        "{found:?} {again:?}"
    );
    let kinds = app.client().event_kinds(late).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "poll_status").count(), 1, "{kinds:?}");
    // No answer takes nothing away from what is known.
    third_party.script_lookups_for(late, vec![LookupStep::status_code(500)]);
    let report = sweep(&app).await;
    assert_eq!(item(&report, late)[2], "unanswered");
    open_finding(&app, late, "late").await;

    // All of it ends: by the sweep, by a webhook, and by the transaction that was unknown.
    third_party.set_status(late, Status::Declined);
    let webhook = quartet::sandbox::SendWebhook::new(missing, "completed");
    assert_eq!(app.send_webhook(webhook).await.1["outcome"], "settled");
    app.client().post_transaction(&transaction(stranger)).await.expect(202);
    let report = sweep(&app).await;
    assert_eq!(item(&report, late), ["pending", "declined", "agreed", "settled"]);
    assert_eq!(item(&report, stranger), ["pending", "completed", "agreed", "settled"]);
    assert_eq!(report["findings_closed"], 1, "the one that the webhook settled: {report}");
    for id in [missing, late, silent, stranger] {
        let finding = finding(&app.pool, id).await.unwrap();
        assert!(finding.closed_at.is_some(), "{id}: {finding:?}");
        assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    }
    assert_eq!(sweep(&app).await["looked_up"], 0);
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for id in [missing, late, silent, stranger] {
        app.wait_told(id, BOUND).await;
    }
    app.rest(&[missing, late, silent, stranger]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_come_at_a_bounded_rate() {
    const COUNT: usize = 20;
    let app = spawn_api().await;
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        let id = app.stuck().await;
        // Slower than the rate: they overlap, and still begin one after the other.
        app.sandbox
            .third_party()
            .script_lookups_for(id, vec![LookupStep::normal().delay(Duration::from_millis(200))]);
        ids.push(id);
    }
    let mut settings = app.settings();
    crate::support::world::set(&mut settings, "QUARTET_RECONCILE__RATE", "20");
    run(&["reconcile", "--since", "2h"], &settings, "").await.expect();
    let mut times: Vec<_> = ids.iter().flat_map(|id| app.calls(*id)).map(|call| call.at).collect();
    assert_eq!(times.len(), COUNT, "each is looked up once");
    times.sort();
    let took = times[COUNT - 1] - times[0];
    // Arrivals jitter; the first may be late by as much.
    let least = Duration::from_millis(50) * (COUNT as u32 - 2);
    assert!(took >= least, "{COUNT} lookups within {took:?}");
    assert!(took < Duration::from_millis(200) * COUNT as u32, "they do not wait for each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_does_not_look_again_before_its_time() {
    let app = spawn_api().await;
    let id = app.stuck().await;
    app.make_task_due("reconcile").await;
    let worker = app.sibling().role(Role::Worker);
    let _worker = worker.set("QUARTET_RECONCILE__INTERVAL", "300ms").spawn().await;
    let mut since = None;
    for _ in 0..3 {
        since = app.wait_task("reconcile", since).await.finished_at;
    }
    // 300 ms, 600 ms, 1.2 s, …: three sweeps have passed, and not each looked.
    wait_until("it was looked up several times", BOUND, async || {
        app.sandbox.third_party().lookups_of(id) >= 4
    })
    .await;
    let calls = app.calls(id);
    let gap = |nth: usize| calls[nth + 1].at - calls[nth].at;
    assert!(gap(1) >= Duration::from_millis(600), "{:?}", gap(1));
    assert!(gap(2) >= Duration::from_millis(1200), "{:?}", gap(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_holds_is_left_alone() {
    let app = spawn_api().await;
    let id = app.stuck().await;
    app.sandbox.third_party().store(id, Status::Completed);
    let mut holder = app.pool.begin().await.unwrap();
    let lock = "SELECT id FROM transactions WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(id).execute(&mut *holder).await.unwrap();
    let report = sweep(&app).await;
    assert_eq!(item(&report, id)[3], "skipped");
    holder.rollback().await.unwrap();
    assert_eq!(item(&sweep(&app).await, id)[3], "settled");
}

/// Found missing, it was there at the next look: that leaves evidence, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_finding_than_before_leaves_its_evidence() {
    let app = spawn_api().await;
    let id = app.stuck().await;
    sweep(&app).await;
    let missing = open_finding(&app, id, "missing_there").await;
    app.sandbox.third_party().store(id, Status::Pending);
    for _ in 0..2 {
        assert_eq!(item(&sweep(&app).await, id)[2], "late");
        let kinds = app.client().event_kinds(id).await;
        let polls = kinds.iter().filter(|kind| *kind == "poll_status").count();
        assert_eq!(polls, 1, "{kinds:?}");
    }
    let late = open_finding(&app, id, "late").await;
    assert!(late.first_found_at > missing.first_found_at);
}

/// After a long outage: more than one statement could close within its timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_settled_findings_are_closed_in_steps() {
    let app = spawn_api().await;
    let pending = app.stuck().await;
    let fill = "INSERT INTO reconcile_findings (transaction_id, finding, next_check_at)
        SELECT gen_random_uuid(), 'missing_here', now() FROM generate_series(1, 7000)";
    sqlx::query(fill).execute(&app.pool).await.unwrap();
    let at_once = "
        CREATE FUNCTION at_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT count(*) FROM updated) > 5000 THEN RAISE 'too many at once'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER at_once AFTER UPDATE ON reconcile_findings
            REFERENCING NEW TABLE AS updated FOR EACH STATEMENT EXECUTE FUNCTION at_once();";
    sqlx::raw_sql(at_once).execute(&app.pool).await.unwrap();
    assert_eq!(sweep(&app).await["findings_closed"], 7000);
    open_finding(&app, pending, "missing_there").await;
    assert_eq!(sweep(&app).await["findings_closed"], 0);
}
