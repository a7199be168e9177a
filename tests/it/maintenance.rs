//! The periodic tasks: one process at a time runs one, and another takes over where it is gone.

use std::time::Duration;

use nix::sys::signal::Signal;
use quartet::{
    config::Role,
    sandbox::{LookupStep, Status},
};
use uuid::Uuid;

use crate::support::{TestApp, jobs::BOUND, spawn_api, wait_until};

/// An app without workers, and transactions for the sweep, which the third party has as completed.
async fn with_stuck(count: usize) -> (TestApp, Vec<Uuid>) {
    let app = spawn_api().await;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = app.stuck().await;
        app.sandbox.third_party().store(id, Status::Completed);
        ids.push(id);
    }
    (app, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_processes_runs_a_task() {
    let (app, ids) = with_stuck(20).await;
    app.make_task_due("reconcile").await;
    // Slow enough that the others would begin meanwhile.
    let worker = || app.sibling().role(Role::Worker).set("QUARTET_RECONCILE__RATE", "40");
    let (_one, _other, _third) = tokio::join!(worker().spawn(), worker().spawn(), worker().spawn());
    let task = app.wait_task("reconcile", None).await;
    assert_eq!(task.last_result.unwrap()["settled"], 20);
    for id in &ids {
        assert_eq!(app.sandbox.third_party().lookups_of(*id), 1, "looked up by one process, once");
    }
    assert!(task.due_in > 200.0, "due again after the interval: {}", task.due_in);
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_replaced_when_its_lease_ends() {
    let (app, ids) = with_stuck(1).await;
    app.sandbox.third_party().script_lookups_for(ids[0], vec![LookupStep::hang()]);
    app.make_task_due("reconcile").await;
    let worker = || {
        app.process(Role::Worker)
            .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "60s")
            .set("QUARTET_WORKER__DEAD_AFTER", "1500ms")
    };
    let mut holder = worker().spawn().await;
    wait_until("the holder looks it up", BOUND, async || {
        app.sandbox.third_party().lookups_of(ids[0]) == 1
    })
    .await;
    let held_by = app.task("reconcile").await.held_by.unwrap();
    assert!(held_by.starts_with(&format!("{}-", holder.id())), "{held_by}");
    // As long as it lives nobody else gets it, however long it takes.
    let _other = worker().spawn().await;
    let started_at = app.task("reconcile").await.started_at;
    wait_until("its lease was renewed", BOUND, async || {
        let since = "SELECT now() - started_at > interval '2 s' FROM maintenance_tasks
            WHERE name = 'reconcile'";
        sqlx::query_scalar::<_, bool>(since).fetch_one(&app.pool).await.unwrap()
    })
    .await;
    let task = app.task("reconcile").await;
    assert_eq!((task.held_by.as_ref(), task.started_at), (Some(&held_by), started_at));

    holder.kill_9();
    let task = app.wait_task("reconcile", None).await;
    assert_eq!(task.last_result.unwrap()["settled"], 1);
    assert_eq!(app.sandbox.third_party().lookups_of(ids[0]), 2);
    app.rest(&ids).await;
}

/// As a holder leaves it that was killed before the database's clock was set back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ends_hours_ahead_holds_nobody_up() {
    let (app, ids) = with_stuck(1).await;
    let hold = "UPDATE maintenance_tasks
        SET held_by = 'gone', held_until = now() + interval '6 hours', due_at = now()";
    sqlx::query(hold).execute(&app.pool).await.unwrap();
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    let task = app.wait_task("reconcile", None).await;
    assert_eq!(task.last_result.unwrap()["settled"], 1);
    app.wait_task("retention", None).await;
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_holder_that_was_replaced_stops() {
    let (app, ids) = with_stuck(3).await;
    for id in &ids {
        app.sandbox.third_party().script_lookups_for(*id, vec![LookupStep::hang()]);
    }
    app.make_task_due("reconcile").await;
    let worker = || {
        app.process(Role::Worker)
            .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "60s")
            .set("QUARTET_WORKER__DEAD_AFTER", "1s")
    };
    let holder = worker().spawn().await;
    wait_until("the holder looks all up", BOUND, async || {
        ids.iter().all(|id| app.sandbox.third_party().lookups_of(*id) == 1)
    })
    .await;
    holder.signal(Signal::SIGSTOP);
    let _other = worker().spawn().await;
    let task = app.wait_task("reconcile", None).await;
    holder.signal(Signal::SIGCONT);
    wait_until("the frozen one knows", BOUND, async || holder.output().contains("lease was lost"))
        .await;
    let after = app.task("reconcile").await;
    assert_eq!(after.finished_at, task.finished_at, "it wrote nothing");
    assert_eq!(after.last_error, None);
    assert!(after.due_in > 200.0, "{after:?}");
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_gives_its_task_back() {
    let (app, ids) = with_stuck(1).await;
    app.sandbox.third_party().script_lookups_for(ids[0], vec![LookupStep::hang()]);
    app.make_task_due("reconcile").await;
    let worker = app.sibling().role(Role::Worker);
    let mut worker = worker.set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "60s").spawn().await;
    wait_until("it looks it up", BOUND, async || app.sandbox.third_party().lookups_of(ids[0]) == 1)
        .await;
    worker.stop().await;
    let task = app.task("reconcile").await;
    assert_eq!((&task.held_by, &task.last_error), (&None, &None), "{task:?}");
    assert!(task.due_in <= 0.0, "another process may go on at once: {}", task.due_in);
    let _next = app.sibling().role(Role::Worker).spawn().await;
    app.wait_task("reconcile", task.finished_at).await;
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_kept_and_the_task_runs_again() {
    let (app, ids) = with_stuck(1).await;
    let rename = "ALTER TABLE reconcile_findings RENAME TO out_of_the_way";
    sqlx::query(rename).execute(&app.pool).await.unwrap();
    app.make_task_due("reconcile").await;
    let worker = app.sibling().role(Role::Worker).set("QUARTET_RECONCILE__INTERVAL", "200ms");
    let _worker = worker.spawn().await;
    let task = app.wait_task("reconcile", None).await;
    let error = task.last_error.unwrap();
    assert!(error.contains("reconcile_findings"), "{error}");
    assert_eq!(task.last_result, None);

    let rename = "ALTER TABLE out_of_the_way RENAME TO reconcile_findings";
    sqlx::query(rename).execute(&app.pool).await.unwrap();
    wait_until("a later run goes well", BOUND, async || {
        app.task("reconcile").await.last_error.is_none()
    })
    .await;
    app.wait_told(ids[0], Duration::from_secs(10)).await;
    app.rest(&ids).await;
}
