//! Clients share the slots of a queue: what one has posted in a burst, or what its callback holds
//! up, leaves the others their turn. And what claims do not look at by themselves is found.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use quartet::{
    config::Role,
    sandbox::{CreateStep, Reaction, Status},
};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Client, TestApp, World, transaction, wait_until, world::add_client};

const BOUND: Duration = Duration::from_secs(120);

/// Posts `count` transactions at once.
async fn burst(client: &Client, count: usize) -> Vec<Uuid> {
    let posts = stream::iter((0..count).map(|_| client.accept()));
    posts.buffer_unordered(64).collect().await
}

/// Waits until all of `ids` are settled.
async fn wait_settled(app: &TestApp, ids: &[Uuid]) {
    wait_until("all are settled", BOUND, async || {
        let pending =
            "SELECT count(*) FROM transactions WHERE id = ANY ($1) AND status = 'pending'";
        let pending = sqlx::query_scalar::<_, i64>(pending).bind(ids);
        pending.fetch_one(&app.pool).await.unwrap() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_one_client_leaves_the_others_their_turn_at_the_third_party() {
    const SLOTS: usize = 10;
    let world = World::new().await;
    let create = CreateStep::created_final(Status::Completed).delay(Duration::from_millis(50));
    world.sandbox.third_party().set_create_default(create);
    let app = world
        .app()
        .set("QUARTET_THIRD_PARTY__MAX_IN_FLIGHT", SLOTS)
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "10s")
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "10s")
        .spawn()
        .await;
    let other = app.client().with_key(&add_client(&app.pool, "other").await);

    let burst = burst(&app.client(), 600).await;
    let mut of_other = Vec::new();
    for _ in 0..10 {
        let id = other.accept().await;
        wait_settled(&app, &[id]).await;
        of_other.push(id);
    }
    wait_settled(&app, &burst).await;

    // Counted rather than timed: how many of the burst were created while each of the others
    // waited.
    let overtaking = "
        SELECT count(*) FROM transaction_events AS event
        JOIN transactions AS of_burst ON of_burst.id = event.transaction_id
        JOIN transactions AS waited ON waited.id = $1
        WHERE event.kind = 'created_at_third_party' AND of_burst.client_id <> waited.client_id
            AND event.at > waited.created_at AND event.at < waited.settled_at";
    for id in &of_other {
        let overtaking = sqlx::query_scalar::<_, i64>(overtaking).bind(id);
        let overtaking = overtaking.fetch_one(&app.pool).await.unwrap();
        // Those that were under way, those of the slots that became free, and of those once more.
        assert!(overtaking <= 8 * SLOTS as i64, "{overtaking} of the burst came first");
    }
    app.wait_at_rest(BOUND).await;
    let accepted: Vec<Uuid> = burst.into_iter().chain(of_other).collect();
    app.assert_invariants(&accepted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_hangs_leaves_slots_to_other_clients() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created_final(Status::Completed));
    let app = world
        .app()
        .set("QUARTET_WORKER__CONCURRENCY", 20)
        // Longer than the test waits.
        .set("QUARTET_NOTIFY__TIMEOUT", "300s")
        .set("QUARTET_WORKER__SHUTDOWN_GRACE", "100ms")
        .spawn()
        .await;
    let other = app.client().with_key(&add_client(&app.pool, "other").await);
    let mut hanging = Vec::new();
    for _ in 0..100 {
        let id = Uuid::now_v7();
        app.sandbox.client().script_for(id, vec![Reaction::Hang; 3]);
        app.client().post_transaction(&transaction(id)).await.expect(202);
        hanging.push(id);
    }
    wait_settled(&app, &hanging).await;
    wait_until("as many hang as may", BOUND, async || {
        let running = "SELECT count(*) FROM apalis.jobs
            WHERE job_type = 'notify_client' AND status = 'Running'";
        sqlx::query_scalar::<_, i64>(running).fetch_one(&app.pool).await.unwrap() >= 10
    })
    .await;
    for _ in 0..20 {
        let id = other.accept().await;
        wait_until("the other client hears the end", Duration::from_secs(60), async || {
            let found = other.get_transaction(id).await.body;
            found["notified_version"] == 2 && found["status"] == "completed"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_fell_due_long_before_the_start_are_found() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created_final(Status::Completed));
    let mut app = world.app().role(Role::Api).spawn().await;
    let ids = burst(&app.client(), 1_200).await;
    // Spread over an hour, some at the beginning of time.
    let age = "UPDATE apalis.jobs SET run_at = CASE WHEN random() < 0.01 THEN '-infinity'
        ELSE now() - random() * interval '1 hour' END";
    sqlx::query(age).execute(&app.pool).await.unwrap();
    app.stop().await;

    let app = world.app().spawn().await;
    wait_settled(&app, &ids).await;
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_made_due_in_the_past_is_found() {
    let world = World::new().await;
    let app = world.app().spawn().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    for run_at in ["now()", "now() - interval '5 s'", "now() - interval '3 h'", "'-infinity'"] {
        // As an operator does it by hand who knows no better.
        let again = format!(
            "UPDATE apalis.jobs SET status = 'Pending', done_at = NULL, run_at = {run_at}
            WHERE job_type = 'notify_client'"
        );
        sqlx::query(sqlx::AssertSqlSafe(again)).execute(&app.pool).await.unwrap();
        wait_until(&format!("the job runs that is due at {run_at}"), BOUND, async || {
            let status = "SELECT status FROM apalis.jobs
                WHERE job_type = 'notify_client' AND idempotency_key = $1";
            let status = sqlx::query_scalar::<_, String>(status).bind(id.to_string());
            status.fetch_one(&app.pool).await.unwrap() == "Done"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_paused_goes_on_where_it_was() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created_final(Status::Completed));
    let app = world.app().spawn().await;
    let operator = app.operator();
    let queue = "/v1/operator/queues/create_at_third_party";
    operator.post(&format!("{queue}/pause"), &json!({})).await.expect(200);
    let ids = burst(&app.client(), 100).await;
    wait_until("all wait", BOUND, async || {
        let due = operator.get("/v1/operator/queues").await.body;
        due["items"][1]["due"] == 100
    })
    .await;
    operator.post(&format!("{queue}/resume"), &json!({})).await.expect(200);
    wait_settled(&app, &ids).await;
}
