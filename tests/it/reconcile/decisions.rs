//! What an operator decided while a create was, or may have been, under way.

use quartet::{config::Role, sandbox::Status};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{conflicts, finding, item, open_finding, sweep};
use crate::support::{TestApp, jobs::BOUND, spawn_api, wait_until};

/// A transaction of 30 days ago whose create got no answer, and which an operator gave `status`.
async fn decided(app: &TestApp, status: &str) -> Uuid {
    let id = app.stuck().await;
    let age = "UPDATE transactions SET created_at = created_at - interval '30 days' WHERE id = $1";
    sqlx::query(age).bind(id).execute(&app.pool).await.unwrap();
    let ambiguous = "INSERT INTO transaction_events (transaction_id, kind, source)
        VALUES ($1, 'create_ambiguous', 'create_at_third_party')";
    sqlx::query(ambiguous).bind(id).execute(&app.pool).await.unwrap();
    // That was as long ago: it is not stored late any more.
    let forget = "DELETE FROM ambiguous_creates WHERE transaction_id = $1";
    sqlx::query(forget).bind(id).execute(&app.pool).await.unwrap();
    let letter = app.wait_dead_letter(id).await;
    close(app, &letter, "resolve", &json!({ "status": status, "note": "no sign of it" })).await;
    assert_eq!(app.client().get_transaction(id).await.body["settled_by"], "operator");
    id
}

async fn close(app: &TestApp, letter: &Value, action: &str, body: &Value) {
    let id = letter["id"].as_str().unwrap();
    app.operator().act_on_dead_letter(id, action, body).await.expect(200);
}

/// A periodic sweep, which looks at everything that it may; and others for those that it left
/// because their client was being told in that moment.
async fn sweep_when_due(app: &TestApp) {
    let due = "UPDATE reconcile_findings SET next_check_at = now()";
    sqlx::query(due).execute(&app.pool).await.unwrap();
    wait_until("a sweep has left none", BOUND, async || {
        let since = app.task("reconcile").await.finished_at;
        app.make_task_due("reconcile").await;
        // One that starts asks at once.
        let mut worker = app.sibling().role(Role::Worker).spawn().await;
        let task = app.wait_task("reconcile", since).await;
        worker.stop().await;
        task.last_result.unwrap()["skipped"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_third_party_shows_otherwise_is_a_conflict_once() {
    let app = spawn_api().await;
    let (failed, declined) = (decided(&app, "failed").await, decided(&app, "declined").await);
    let under_way = decided(&app, "declined").await;
    let (confirmed, absent) = (decided(&app, "declined").await, decided(&app, "failed").await);
    let third_party = app.sandbox.third_party();
    third_party.store(failed, Status::Completed);
    third_party.store(declined, Status::Completed);
    third_party.store(under_way, Status::Pending);
    third_party.store(confirmed, Status::Declined);

    sweep_when_due(&app).await;
    for id in [confirmed, absent] {
        let finding = finding(&app.pool, id).await.expect("it was looked up");
        assert_eq!((finding.finding.as_str(), finding.closed_at.is_some()), ("agreed", true));
        assert_eq!(conflicts(&app, id).await, [] as [Value; 0]);
    }
    let shown = [
        (failed, "failed", "completed"),
        (declined, "declined", "completed"),
        (under_way, "declined", "pending"),
    ];
    for (id, ours, theirs) in shown {
        let letters = conflicts(&app, id).await;
        assert_eq!(letters.len(), 1, "{ours}, {theirs} there: {letters:?}");
        let detail = &letters[0]["detail"];
        assert_eq!((&detail["status"], &detail["reported"]), (&json!(ours), &json!(theirs)));
        open_finding(&app, id, "status_differs").await;
        assert_eq!(app.client().get_transaction(id).await.body["status"], ours);
    }

    // Looked at again, and once the operator has stood by it: nothing new.
    sweep_when_due(&app).await;
    for id in [failed, declined, under_way] {
        let letters = conflicts(&app, id).await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        close(&app, &letters[0], "discard", &json!({ "note": "known" })).await;
    }
    sweep_when_due(&app).await;
    for id in [failed, declined, under_way] {
        assert_eq!(conflicts(&app, id).await.len(), 1);
        assert!(finding(&app.pool, id).await.unwrap().closed_at.is_some());
    }
    // Another report is another matter.
    third_party.set_status(under_way, Status::Completed);
    sweep_when_due(&app).await;
    assert_eq!(conflicts(&app, under_way).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_decided_lately_and_with_a_sign_of_a_create_is_swept() {
    let app = spawn_api().await;
    let (old, unsent) = (decided(&app, "declined").await, decided(&app, "declined").await);
    let age = "UPDATE transactions SET settled_at = settled_at - interval '9 days' WHERE id = $1";
    sqlx::query(age).bind(old).execute(&app.pool).await.unwrap();
    let forget = "DELETE FROM transaction_events WHERE transaction_id = $1 AND kind LIKE 'create%'";
    sqlx::query(forget).bind(unsent).execute(&app.pool).await.unwrap();
    sweep_when_due(&app).await;
    for id in [old, unsent] {
        assert_eq!(app.sandbox.third_party().lookups_of(id), 0);
    }
    // On demand by when it began.
    assert_eq!(sweep(&app).await["candidates"], 0);
    let recent = "UPDATE transactions SET created_at = now() WHERE id = $1";
    sqlx::query(recent).bind(unsent).execute(&app.pool).await.unwrap();
    assert_eq!(item(&sweep(&app).await, unsent), ["declined", "absent", "agreed", "noted"]);
}
