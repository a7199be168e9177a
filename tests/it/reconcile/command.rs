//! `quartet reconcile`: what it prints, and that a part is not taken for the whole.

use chrono::Utc;
use quartet::sandbox::{LookupStep, Reaction, Status};
use serde_json::{Value, json};

use super::{finding, item, open_finding, reconcile, sweep};
use crate::support::{World, contents, spawn_api};

/// A sweep that did not come to its end; returns its report all the same.
async fn part_of_sweep(world: &World) -> Value {
    let ended = reconcile(world, &["--since", "2h", "--json"]).await;
    ended.expect_failure();
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_writes_nothing_and_says_what_would_be_done() {
    let app = spawn_api().await;
    let (settled, missing) = (app.stuck().await, app.stuck().await);
    app.sandbox.third_party().store(settled, Status::Completed);
    let before = contents(&app.pool).await;
    let since = app.task("reconcile").await;
    let dry = reconcile(&app, &["--since", "2h", "--dry-run", "--json"]).await.expect_json();
    assert_eq!(contents(&app.pool).await, before);
    assert_eq!(dry["dry_run"], true);
    let task = app.task("reconcile").await;
    assert_eq!((task.held_by, task.started_at, task.finished_at), (None, None, None));
    assert!((task.due_in - since.due_in).abs() < 60.0, "{} {}", task.due_in, since.due_in);
    let real = sweep(&app).await;
    for id in [settled, missing] {
        assert_eq!(item(&dry, id), item(&real, id));
    }
    assert_eq!(item(&real, settled), ["pending", "completed", "agreed", "settled"]);
    assert_ne!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_a_table_and_takes_the_same_lease() {
    let app = spawn_api().await;
    let id = app.stuck().await;
    app.sandbox.third_party().store(id, Status::Declined);
    let dry = reconcile(&app, &["--since", "2h", "--dry-run"]).await;
    let text = dry.expect();
    for word in [&id.to_string(), "pending", "declined", "settled", "--dry-run"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    // Only what began since then; a time works as well as a duration.
    let now = Utc::now().to_rfc3339();
    let none = reconcile(&app, &["--since", &now, "--json"]).await.expect_json();
    assert_eq!(none["candidates"], 0, "{none}");
    let wrong = reconcile(&app, &["--since", "yesterday"]).await;
    assert!(wrong.expect_failure().contains("24h"), "{wrong:?}");

    let hold =
        "UPDATE maintenance_tasks SET held_by = 'process 7', held_until = now() + interval '1 min'
        WHERE name = 'reconcile'";
    sqlx::query(hold).execute(&app.pool).await.unwrap();
    let held = reconcile(&app, &["--since", "2h"]).await;
    assert!(held.expect_failure().contains("process 7"), "{held:?}");
    let ended = "UPDATE maintenance_tasks SET held_until = now() WHERE name = 'reconcile'";
    sqlx::query(ended).execute(&app.pool).await.unwrap();
    let text = reconcile(&app, &["--since", "2h"]).await;
    assert!(text.expect().contains("1 settled"), "{text:?}");
    let task = app.task("reconcile").await;
    assert_eq!((task.held_by, task.last_result.unwrap()["settled"].clone()), (None, json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_postpones_itself_while_the_third_party_is_not_to_be_asked() {
    let app = spawn_api().await;
    let id = app.stuck().await;
    let open = "UPDATE circuits SET opened_at = now(), open_until = now() + interval '1 hour',
            open_for = 3600, reason = 'test', trips = trips + 1";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    let report = part_of_sweep(&app).await;
    assert!(report["postponed"].as_str().unwrap().contains("circuit"), "{report}");
    assert_eq!(app.sandbox.third_party().lookups_of(id), 0);
    let close = "UPDATE circuits SET opened_at = NULL, open_until = NULL, open_for = NULL";
    sqlx::query(close).execute(&app.pool).await.unwrap();

    // It asks for patience: nothing more is asked of it, and nothing was learnt.
    let other = app.stuck().await;
    let busy = || vec![LookupStep::React(Reaction::retry_after(429, 900))];
    app.sandbox.third_party().script_lookups_for(id, busy());
    app.sandbox.third_party().script_lookups_for(other, busy());
    let report = part_of_sweep(&app).await;
    assert_eq!((&report["candidates"], &report["looked_up"]), (&json!(2), &json!(1)), "{report}");
    assert!(report["postponed"].as_str().unwrap().contains("patience"), "{report}");
    let asked = report["items"][0]["transaction_id"].as_str().unwrap().parse().unwrap();
    assert!(open_finding(&app, asked, "unanswered").await.gap > 890.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_written_does_not_keep_the_others_from_their_turn() {
    let app = spawn_api().await;
    let mut ids = [app.stuck().await, app.stuck().await, app.stuck().await];
    ids.sort();
    let refuse = format!(
        "ALTER TABLE reconcile_findings ADD CONSTRAINT test CHECK (transaction_id <> '{}')",
        ids[0]
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(&app.pool).await.unwrap();
    let report = reconcile(&app, &["--since", "2h"]).await;
    assert!(report.expect_failure().contains("test"), "{report:?}");
    // What was done is told before the error.
    for id in &ids[1..] {
        assert!(report.stdout.contains(&id.to_string()), "{report:?}");
    }
    assert!(finding(&app.pool, ids[0]).await.is_none());
    for id in &ids[1..] {
        open_finding(&app, *id, "missing_there").await;
    }
    assert!(app.task("reconcile").await.last_error.is_some());
    // A dry run that fails leaves nothing there either.
    let task = app.task("reconcile").await;
    reconcile(&app, &["--since", "2h", "--dry-run"]).await.expect_failure();
    let after = app.task("reconcile").await;
    assert_eq!((after.finished_at, after.last_error), (task.finished_at, task.last_error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_its_limit_it_says_that_there_are_more() {
    let app = spawn_api().await;
    let (one, other) = (app.stuck().await, app.stuck().await);
    let ended = reconcile(&app, &["--since", "2h", "--limit", "1"]).await;
    assert!(ended.expect_failure().contains("there are more"), "{ended:?}");
    assert!(ended.stdout.contains("1 of 1 looked up"), "{ended:?}");
    // The next one takes the other first.
    reconcile(&app, &["--since", "2h", "--limit", "1"]).await.expect_failure();
    for id in [one, other] {
        open_finding(&app, id, "missing_there").await;
    }
    reconcile(&app, &["--since", "2h", "--limit", "2"]).await.expect();
}
