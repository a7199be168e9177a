//! Creates without an answer that are stored late, besides the one that was answered: what ended
//! here is looked at again for as long as that is possible.

use quartet::{
    sandbox::{CreateStep, Status},
    store::reconcile::look_again,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{conflicts, wait_lookups};
use crate::support::{
    TestApp,
    jobs::{BOUND, quiet_app},
    wait_for, wait_until,
};

/// A transaction whose first create got a 504 and whose second one was declined at once. The first
/// one may be stored for `late_storing` and 3 s. Sweeps come every 100 ms once the first one is
/// due.
async fn declined_at_the_second_create(late_storing: &str) -> (TestApp, Uuid) {
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "100ms");
    let app = app.set("QUARTET_THIRD_PARTY__TIMEOUT", "3s");
    let app = app.set("QUARTET_THIRD_PARTY__LATE_STORING", late_storing);
    let app = app.set("QUARTET_RECONCILE__INTERVAL", "100ms").spawn().await;
    let id = Uuid::now_v7();
    let creates =
        vec![CreateStep::gateway_timeout_lost(), CreateStep::created_final(Status::Declined)];
    app.sandbox.third_party().script_creates_for(id, creates);
    app.accept_as(id).await;
    assert_eq!(app.wait_told(id, BOUND).await["status"], "declined");
    app.wait_at_rest(BOUND).await;
    (app, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declined_and_is_completed_by_a_create_stored_late_is_one_conflict() {
    let (app, id) = declined_at_the_second_create("120s").await;
    app.make_task_due("reconcile").await;
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
async fn what_agrees_is_looked_at_until_late_storing_is_ruled_out_and_then_no_more() {
    let (app, id) = declined_at_the_second_create("100ms").await;
    let row = note_removal(&app.pool, id).await;
    app.make_task_due("reconcile").await;
    let removed_at = wait_for("it is not looked at any more", BOUND, async || {
        let query = "SELECT extract(epoch FROM at)::float8 FROM removals";
        sqlx::query_scalar::<_, f64>(query).fetch_optional(&app.pool).await.unwrap()
    })
    .await;
    assert!(removed_at - row.ambiguous_at >= 3.1, "{removed_at} {row:?}");
    assert_eq!(ambiguous_create(&app.pool, id).await, None);
    assert_eq!(conflicts(&app, id).await, [] as [Value; 0]);
    assert_swept_without(&app, id).await;
}

/// Notes when the row of this transaction in `ambiguous_creates` is removed, in a table `removals`;
/// returns the row.
async fn note_removal(pool: &PgPool, id: Uuid) -> AmbiguousCreate {
    let note = "
        CREATE TABLE removals (at timestamptz NOT NULL);
        CREATE FUNCTION note_removal() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO removals VALUES (statement_timestamp());
            RETURN NULL;
        END $$;
        CREATE TRIGGER note_removal AFTER DELETE ON ambiguous_creates
            FOR EACH ROW EXECUTE FUNCTION note_removal();";
    sqlx::raw_sql(note).execute(pool).await.unwrap();
    ambiguous_create(pool, id).await.expect("it may be stored late")
}

/// Third parties that have it and do not know how it ends are asked ever more rarely, and the
/// answer that decides is not missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pending_there_is_looked_at_with_growing_gaps_until_it_ends() {
    let (app, id) = declined_at_the_second_create("100ms").await;
    app.sandbox.third_party().set_status(id, Status::Pending);
    app.make_task_due("reconcile").await;
    let mut put_off_until = 3.1;
    // The first look after the last moment of late storing, and two more.
    for _ in 0..3 {
        let row = wait_for("it was looked at and put off", BOUND, async || {
            let row = ambiguous_create(&app.pool, id).await.expect("it may end otherwise");
            (row.look_after() > put_off_until + 0.001).then_some(row)
        })
        .await;
        // Half of its age at that look, which was no sooner than it was put off until. To a
        // microsecond.
        assert!(row.look_after() >= put_off_until * 1.5 - 1e-5, "{put_off_until} {row:?}");
        put_off_until = row.look_after();
    }
    assert_eq!(conflicts(&app, id).await, [] as [Value; 0]);
    app.sandbox.third_party().set_status(id, Status::Completed);
    wait_until("the contradiction is in front of an operator", BOUND, async || {
        conflicts(&app, id).await.len() == 1
    })
    .await;
    wait_until("it is not looked at any more", BOUND, async || {
        ambiguous_create(&app.pool, id).await.is_none()
    })
    .await;
}

/// Times in seconds since 1970.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct AmbiguousCreate {
    ambiguous_at: f64,
    look_at: f64,
}

impl AmbiguousCreate {
    /// Seconds from the create without an answer to the next look.
    fn look_after(&self) -> f64 {
        self.look_at - self.ambiguous_at
    }
}

async fn ambiguous_create(pool: &PgPool, id: Uuid) -> Option<AmbiguousCreate> {
    let query = "SELECT extract(epoch FROM ambiguous_at)::float8 AS ambiguous_at,
            extract(epoch FROM look_at)::float8 AS look_at
        FROM ambiguous_creates WHERE transaction_id = $1";
    sqlx::query_as(query).bind(id).fetch_optional(pool).await.unwrap()
}

/// Asserts that two further sweeps do not look a transaction up.
async fn assert_swept_without(app: &TestApp, id: Uuid) {
    // One may be under way.
    app.next_sweep().await;
    let lookups = app.sandbox.third_party().lookups_of(id);
    for _ in 0..2 {
        app.next_sweep().await;
    }
    assert_eq!(app.sandbox.third_party().lookups_of(id), lookups);
}

impl TestApp {
    /// Waits until another sweep has ended.
    async fn next_sweep(&self) {
        let since = self.task("reconcile").await.finished_at;
        self.wait_task("reconcile", since).await;
    }
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
    app.make_task_due("reconcile").await;
    assert_swept_without(&app, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_has_what_it_contradicts_looked_up_again() {
    use quartet::domain::Status::{Completed, Declined, Pending};

    let app = quiet_app().await.spawn().await;
    let (ended, old) = (app.client().accept().await, app.client().accept().await);
    app.settle_by_webhook(&[ended, old]).await;
    let pending = app.client().accept().await;
    let later = "UPDATE transactions SET settled_at = settled_at - interval '11 minutes'
        WHERE id = $1";
    sqlx::query(later).bind(old).execute(&app.pool).await.unwrap();
    let noted = async |third_party: &str, hint| {
        look_again(&app.pool, third_party, &[hint]).await.unwrap();
        let delete = "DELETE FROM ambiguous_creates RETURNING transaction_id";
        sqlx::query_scalar::<_, Uuid>(delete).fetch_all(&app.pool).await.unwrap()
    };
    for (hint, is_noted) in [
        ((ended, Some(Declined)), true),
        ((ended, Some(Completed)), false),
        ((ended, None), false),
        ((old, None), true),
        ((pending, Some(Declined)), false),
        ((pending, None), false),
        ((Uuid::now_v7(), None), false),
    ] {
        let noted = noted("third-party", hint).await;
        assert_eq!(noted, if is_noted { vec![hint.0] } else { vec![] }, "{hint:?}");
    }
    assert_eq!(noted("another", (ended, Some(Declined))).await, [] as [Uuid; 0]);

    // One that is being looked up when the hint arrives is looked up again.
    let hint = [(ended, Some(Declined))];
    look_again(&app.pool, "third-party", &hint).await.unwrap();
    let before = "UPDATE ambiguous_creates
        SET ambiguous_at = now() - interval '1 hour', look_at = now() + interval '1 hour'";
    sqlx::query(before).execute(&app.pool).await.unwrap();
    look_again(&app.pool, "third-party", &hint).await.unwrap();
    let moved = "SELECT ambiguous_at > now() - interval '1 minute' AND look_at <= now()
        FROM ambiguous_creates";
    assert!(sqlx::query_scalar::<_, bool>(moved).fetch_one(&app.pool).await.unwrap());
    // What failed here is contradicted by whatever says that it is there.
    let fail = "UPDATE transactions SET status = 'failed', settled_by = 'creation_failure'
        WHERE id = $1";
    sqlx::query(fail).bind(ended).execute(&app.pool).await.unwrap();
    for said in [None, Some(Pending), Some(Completed)] {
        noted("third-party", (ended, said)).await;
        assert_eq!(noted("third-party", (ended, said)).await, [ended], "{said:?}");
    }
}
