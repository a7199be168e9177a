//! Creates without an answer that are stored late, besides the one that was answered: what ended here is looked
//! at again for as long as that is possible.

use quartet::sandbox::{CreateStep, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{conflicts, wait_lookups};
use crate::support::{
    TestApp,
    jobs::{BOUND, quiet_app},
    wait_until,
};

/// A transaction whose first create got a 504 and whose second one was declined at once. Sweeps come every
/// 100 ms.
async fn declined_at_the_second_create() -> (TestApp, Uuid) {
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "100ms");
    let app = app.set("QUARTET_RECONCILE__INTERVAL", "100ms").spawn().await;
    let id = Uuid::now_v7();
    let creates =
        vec![CreateStep::gateway_timeout_lost(), CreateStep::created_final(Status::Declined)];
    app.sandbox.third_party().script_creates_for(id, creates);
    app.accept_as(id).await;
    assert_eq!(app.wait_told(id, BOUND).await["status"], "declined");
    app.wait_at_rest(BOUND).await;
    app.make_task_due("reconcile").await;
    (app, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declined_and_is_completed_by_a_create_stored_late_is_one_conflict() {
    let (app, id) = declined_at_the_second_create().await;
    // The same on both sides: nothing to say.
    wait_lookups(&app, id, 2).await;
    assert_eq!(conflicts(&app, id).await, [] as [Value; 0]);
    // The first create is stored as well, and ends otherwise.
    app.sandbox.third_party().set_status(id, Status::Completed);
    wait_until("the contradiction is in front of an operator", BOUND, async || {
        conflicts(&app, id).await.len() == 1
    })
    .await;
    let detail = &conflicts(&app, id).await[0]["detail"];
    assert_eq!((&detail["status"], &detail["reported"]), (&json!("declined"), &json!("completed")));
    assert_eq!(app.client().get_transaction(id).await.body["status"], "declined");
    wait_lookups(&app, id, 2).await;
    assert_eq!(conflicts(&app, id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_created_with_an_answer_is_not_looked_at_again() {
    let app = quiet_app().await.set("QUARTET_RECONCILE__INTERVAL", "100ms").spawn().await;
    let id = Uuid::now_v7();
    let creates = vec![CreateStep::created_final(Status::Completed)];
    app.sandbox.third_party().script_creates_for(id, creates);
    app.accept_as(id).await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    let lookups = app.sandbox.third_party().lookups_of(id);
    app.make_task_due("reconcile").await;
    for _ in 0..2 {
        let since = app.task("reconcile").await.finished_at;
        app.wait_task("reconcile", since).await;
    }
    assert_eq!(app.sandbox.third_party().lookups_of(id), lookups);
}
