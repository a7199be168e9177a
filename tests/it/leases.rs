//! Leases: who is rescued and when, what a rescue does, and what a worker that lost its lease can
//! still do, which is nothing.

use std::time::{Duration, Instant};

use quartet::{
    config::Role,
    sandbox::{CallKind, CreateStep, Status},
    store::{jobs::leases, scrape},
};
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    job_rows::{die, event_times, job_row, lease_to, park_all_but, wait_job, workers},
    postgres::own_server,
    spawn_api, transaction, wait_until,
};

const BOUND: Duration = Duration::from_secs(15);
const CREATE: &str = "create_at_third_party";
/// The settings of tests, and what a loaded machine may add.
const DEAD_AFTER: Duration = Duration::from_millis(600);
const HEARTBEAT: Duration = Duration::from_millis(200);
const NOISE: Duration = Duration::from_millis(500);

/// An API with one accepted transaction of which only the job of `queue` is not parked; that one
/// is leased to a worker named `gone`.
async fn leased_to_gone(queue: &str) -> (TestApp, Uuid) {
    let api = spawn_api().await;
    let id = api.client().accept().await;
    park_all_but(&api.pool, id, Some(queue)).await;
    lease_to(&api.pool, "gone", id, queue).await;
    (api, id)
}

/// Waits until the worker of a queue was renewed `times` more.
async fn wait_renewals(app: &TestApp, queue: &str, times: u32) {
    let query = "SELECT max(last_seen)::text FROM apalis.workers
        WHERE worker_type = $1 AND id <> 'gone'";
    let mut last: Option<String> = None;
    let mut renewals = 0;
    wait_until("the worker is renewed", BOUND, async || {
        let seen: Option<String> =
            sqlx::query_scalar(query).bind(queue).fetch_one(&app.pool).await.unwrap();
        if seen != last {
            (last, renewals) = (seen, renewals + 1);
        }
        renewals > times
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_of_a_dead_worker_is_rescued_in_time_and_that_of_a_living_one_is_not() {
    let (api, id) = leased_to_gone("notify_client").await;
    let _worker = api.sibling().role(Role::Worker).spawn().await;
    // Several chances to take it, and nobody does.
    wait_renewals(&api, "notify_client", 5).await;
    let row = job_row(&api.pool, id, "notify_client").await;
    assert_eq!(row.lock_by.as_deref(), Some("gone"));

    die(&api.pool, "gone").await;
    let died = Instant::now();
    wait_until("the job is rescued", BOUND, async || {
        job_row(&api.pool, id, "notify_client").await.lock_by.as_deref() != Some("gone")
    })
    .await;
    let after = died.elapsed();
    println!("rescued {after:?} after the last sign of life");
    assert!(after >= DEAD_AFTER, "rescued too early: {after:?}");
    assert!(after < DEAD_AFTER + HEARTBEAT + NOISE, "rescued too late: {after:?}");
    // The lost lease and the successful run.
    let row = wait_job(&api.pool, id, "notify_client", "Done", BOUND).await;
    assert_eq!(row.attempts, 2);
    assert!(workers(&api.pool, "notify_client", "gone").await.is_empty());

    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}

/// As a worker looks that was killed before the database's clock was set back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_of_a_worker_that_was_seen_hours_ahead_is_rescued() {
    let (api, id) = leased_to_gone("notify_client").await;
    let alive = async || {
        let alive = leases::count_alive(&api.pool, DEAD_AFTER).await.unwrap();
        let scraped = scrape::workers_alive(&api.pool, DEAD_AFTER).await.unwrap();
        let scraped = scraped.into_iter().map(|(_, workers)| workers).sum::<i64>();
        assert_eq!(alive.iter().map(|queue| queue.workers).sum::<i64>(), scraped);
        scraped
    };
    assert_eq!(alive().await, 1);
    let ahead = "UPDATE apalis.workers SET last_seen = now() + interval '6 hours'";
    sqlx::query(ahead).execute(&api.pool).await.unwrap();
    assert_eq!(alive().await, 0);

    let _worker = api.sibling().role(Role::Worker).spawn().await;
    let row = wait_job(&api.pool, id, "notify_client", "Done", BOUND).await;
    assert_eq!(row.attempts, 2, "the lost lease and the run");
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}

/// The same of one that lives: it has the time to renew itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_worker_that_was_seen_hours_ahead_keeps_its_jobs() {
    let (api, id) = leased_to_gone("notify_client").await;
    let worker = api.sibling().role(Role::Worker).set("QUARTET_WORKER__DEAD_AFTER", "10s");
    let _worker = worker.spawn().await;
    let ahead = "UPDATE apalis.workers SET last_seen = now() + interval '6 hours'";
    sqlx::query(ahead).execute(&api.pool).await.unwrap();
    wait_until("it counts as seen now", BOUND, async || {
        let seen = "SELECT last_seen < now() + interval '1 hour' FROM apalis.workers
            WHERE id = 'gone'";
        sqlx::query_scalar::<_, bool>(seen).fetch_one(&api.pool).await.unwrap()
    })
    .await;
    // Its own sign of life.
    let renew = "UPDATE apalis.workers SET last_seen = now() + interval '1 minute'
        WHERE id = 'gone' AND dead_at IS NULL";
    let renewed = sqlx::query(renew).execute(&api.pool).await.unwrap().rows_affected();
    assert_eq!(renewed, 1, "it was not taken for dead");
    wait_renewals(&api, "notify_client", 5).await;
    let row = job_row(&api.pool, id, "notify_client").await;
    assert_eq!(row.lock_by.as_deref(), Some("gone"));
}

/// Rescues a create, and returns when each call arrived after the rescue.
async fn rescue_create(stored: bool) -> (TestApp, Uuid) {
    let (api, id) = leased_to_gone(CREATE).await;
    if stored {
        api.sandbox.third_party().store(id, Status::Pending);
    }
    die(&api.pool, "gone").await;
    let backoff = Duration::from_secs(1);
    let mut worker = api
        .sibling()
        .role(Role::Worker)
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "1s")
        .spawn()
        .await;
    wait_until("the create is rescued", BOUND, async || {
        job_row(&api.pool, id, CREATE).await.status == "Pending"
    })
    .await;
    let row = job_row(&api.pool, id, CREATE).await;
    let rescued = event_times(&api.pool, id, "create_ambiguous").await;
    assert_eq!((row.attempts, rescued.len()), (1, 1));
    let waits = (row.run_at - rescued[0]).to_std().unwrap();
    assert!(waits.abs_diff(backoff) < Duration::from_millis(100), "it waits {waits:?}");

    wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    let calls = api.sandbox.third_party().calls_of(id);
    assert_eq!(calls[0].kind, CallKind::Lookup, "the next run looks up first");
    assert!(calls[0].time >= row.run_at, "it waited for the backoff");

    api.sandbox.third_party().set_status(id, Status::Completed);
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
    worker.stop().await;
    (api, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescued_create_that_went_through_is_found_and_not_repeated() {
    let (api, id) = rescue_create(true).await;
    assert_eq!(api.sandbox.third_party().creates_of(id), 0);
    assert_eq!(event_times(&api.pool, id, "found_at_third_party").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescued_create_that_was_lost_is_made_again_after_a_lookup() {
    let (api, id) = rescue_create(false).await;
    assert_eq!(api.sandbox.third_party().creates_of(id), 1);
    assert_eq!(event_times(&api.pool, id, "created_at_third_party").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_loses_its_last_attempt_is_poison_and_can_be_replayed() {
    let (api, id) = leased_to_gone("notify_client").await;
    sqlx::query("UPDATE apalis.jobs SET attempts = max_attempts - 1 WHERE lock_by = 'gone'")
        .execute(&api.pool)
        .await
        .unwrap();
    die(&api.pool, "gone").await;
    let _worker = api.sibling().role(Role::Worker).spawn().await;
    let row = wait_job(&api.pool, id, "notify_client", "Failed", BOUND).await;
    assert_eq!(row.attempts, row.max_attempts);

    let letters = api.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!(letter["kind"], "poison");
    assert_eq!(letter["queue"], "notify_client");
    let attempts = letter["attempts"].as_array().unwrap();
    let error = attempts.last().unwrap()["error"].as_str().unwrap();
    assert!(error.contains("worker gone"), "{error}");

    let letter = letter["id"].as_str().unwrap();
    let note = serde_json::json!({ "note": "the worker was killed by hand" });
    api.operator().act_on_dead_letter(letter, "replay", &note).await.expect(200);
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}

/// 201 with status `pending` after a while; nothing is stored.
fn slow_answer(delay: Duration) -> CreateStep {
    CreateStep { store: None, ..CreateStep::created().delay(delay) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_rescued_without_knowing_writes_nothing() {
    let api = spawn_api().await;
    let id = api.client().accept().await;
    park_all_but(&api.pool, id, Some(CREATE)).await;
    let third_party = api.sandbox.third_party();
    let answers = vec![
        slow_answer(Duration::from_millis(2_500)),
        CreateStep::created_final(Status::Completed),
    ];
    third_party.script_creates_for(id, answers);
    // It looks around too seldom to learn in time what the other one makes of it.
    let stale = api
        .sibling()
        .role(Role::Worker)
        .set("QUARTET_WORKER__HEARTBEAT", "1h")
        .set("QUARTET_WORKER__DEAD_AFTER", "2h")
        .set("QUARTET_WORKER__POLL_INTERVAL", "1h")
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "10s");
    let _stale = stale.spawn().await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;
    let before = job_row(&api.pool, id, CREATE).await;

    let _rescuer = api.sibling().role(Role::Worker).spawn().await;
    let done = wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    assert_eq!(done.attempts, 2, "the lost lease and the run of the new owner");
    let (calls, row) = (third_party.calls_of(id), job_row(&api.pool, id, CREATE).await);
    let first = calls.iter().find(|call| call.kind == CallKind::Create).unwrap();
    assert_eq!(first.answered, None, "the new owner was done before the stale worker's answer");
    assert!(before.lock_by.is_some());

    wait_until("the stale worker gets its answer", BOUND, async || {
        let calls = third_party.calls_of(id);
        calls.iter().all(|call| call.answered.is_some())
    })
    .await;
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    assert_eq!(job_row(&api.pool, id, CREATE).await, row);
    assert_eq!(event_times(&api.pool, id, "created_at_third_party").await.len(), 1);
    api.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_claims_its_own_job_again_is_fenced_from_its_earlier_run() {
    let api = spawn_api().await;
    let id = api.client().accept().await;
    park_all_but(&api.pool, id, Some(CREATE)).await;
    let third_party = api.sandbox.third_party();
    // The first run's answer comes while the second run, of the same worker, waits for its own.
    let answers = vec![
        slow_answer(Duration::from_millis(1_000)),
        CreateStep::created_final(Status::Completed).delay(Duration::from_millis(2_000)),
    ];
    third_party.script_creates_for(id, answers);
    let worker = api.sibling().role(Role::Worker).set("QUARTET_THIRD_PARTY__TIMEOUT", "10s");
    let _worker = worker.spawn().await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;
    let first = job_row(&api.pool, id, CREATE).await;
    sqlx::query(
        "UPDATE apalis.jobs SET status = 'Pending', lock_by = NULL, lock_at = NULL, run_at = now()
         WHERE id = $1",
    )
    .bind(&first.id)
    .execute(&api.pool)
    .await
    .unwrap();
    wait_until("it is claimed again", BOUND, async || third_party.creates_of(id) == 2).await;
    let second = job_row(&api.pool, id, CREATE).await;
    assert_eq!(second.lock_by, first.lock_by, "the same worker");
    assert!(second.lock_at > first.lock_at);

    let answered = |nth: usize| {
        let calls = third_party.calls_of(id);
        let mut creates = calls.iter().filter(|call| call.kind == CallKind::Create);
        creates.nth(nth).unwrap().answered.is_some()
    };
    wait_until("the first run gets its answer", BOUND, async || answered(0)).await;
    let row = wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    assert!(answered(1), "the second run ended the job");
    assert_eq!(row.attempts, 1);
    assert_eq!(event_times(&api.pool, id, "created_at_third_party").await.len(), 1);
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_longer_than_dead_after_costs_no_worker_its_jobs() {
    let mut postgres = own_server().await;
    let world = World::on_database(&postgres.url("postgres"), Default::default()).await;
    let third_party = world.sandbox.third_party();
    third_party.set_create_default(
        CreateStep::created_final(Status::Completed).delay(Duration::from_secs(4)),
    );
    let app = world.app().set("QUARTET_THIRD_PARTY__TIMEOUT", "20s").spawn().await;
    let other = app.sibling().role(Role::Worker).set("QUARTET_THIRD_PARTY__TIMEOUT", "20s");
    let _other = other.spawn().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(app.client().accept().await);
    }
    wait_until("all creates are under way", BOUND, async || {
        ids.iter().all(|id| third_party.creates_of(*id) == 1)
    })
    .await;

    postgres.crash().await.unwrap();
    let away = Instant::now();
    wait_until("the leases are stale", BOUND, async || away.elapsed() > 3 * DEAD_AFTER).await;
    postgres.resume().await.unwrap();

    for id in &ids {
        app.wait_told(*id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    for id in &ids {
        assert!(event_times(&app.pool, *id, "create_ambiguous").await.is_empty(), "{id}");
        for queue in [CREATE, "update_status", "notify_client", "create_transaction"] {
            let row = job_row(&app.pool, *id, queue).await;
            // A settlement ends the polls without an attempt.
            assert!(row.status == "Done" && row.attempts <= 1, "{queue}: {row:?}");
        }
        assert_eq!(third_party.creates_of(*id), 1);
    }
    app.assert_invariants(&ids).await;
}

/// Renewals that fail for long, while everything else works, cost nobody a job: whoever judges
/// others has renewed itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_that_fail_for_a_while_end_no_worker() {
    let app = World::new().await.app().set("QUARTET_THIRD_PARTY__TIMEOUT", "20s").spawn().await;
    let third_party = app.sandbox.third_party();
    let id = Uuid::now_v7();
    let slow = CreateStep::created_final(Status::Completed).delay(Duration::from_secs(4));
    third_party.script_creates_for(id, vec![slow]);
    app.client().post_transaction(&transaction(id)).await.expect(202);
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;
    let before = job_row(&app.pool, id, CREATE).await;
    let refuse = "
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '57P03'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON apalis.workers
            FOR EACH STATEMENT EXECUTE FUNCTION refuse();";
    sqlx::raw_sql(refuse).execute(&app.pool).await.unwrap();
    let began = Instant::now();
    let mut ids = vec![id];
    while began.elapsed() < 3 * DEAD_AFTER {
        ids.push(app.client().accept().await);
        wait_job(&app.pool, ids[ids.len() - 1], "create_transaction", "Done", BOUND).await;
    }
    sqlx::raw_sql("DROP TRIGGER refuse ON apalis.workers").execute(&app.pool).await.unwrap();
    wait_renewals(&app, CREATE, 3).await;
    assert_eq!(job_row(&app.pool, id, CREATE).await, before, "the same lease");

    for id in &ids {
        app.wait_told(*id, BOUND).await;
        assert!(event_times(&app.pool, *id, "create_ambiguous").await.is_empty(), "{id}");
    }
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&ids).await;
}
