//! The clock of a process may be wrong: the database's decides.

use std::time::Duration;

use quartet::{
    config::Role,
    sandbox::{CreateStep, SendWebhook, Status},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestApp, World, exposition::Exposition, faketime, job_rows, process::Process,
    spawn_api_at_rest, transaction, wait_for, wait_until,
};

const BOUND: Duration = Duration::from_secs(30);

/// A process of all roles whose clock is off by this.
async fn process_off_by(world: &World, offset: &str, deadline: &str) -> Process {
    let library = faketime::library().expect("this test needs faketime: `apt install faketime`");
    let process = world.process(Role::All).set("QUARTET_POLL__DEADLINE", deadline);
    let environment = faketime::environment(library, offset);
    let process = environment
        .into_iter()
        .fold(process, |process, (variable, value)| process.set(variable, value));
    process.spawn().await
}

/// What the process says about its clock: in readiness, in the metric and, once, in the log.
async fn assert_known(process: &Process, minutes_ahead: f64, words: &str) {
    let ready = process.anonymous().get("/health/ready").await;
    let detail = ready.expect(200)["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains(words), "{detail}");
    assert_eq!(ready.body["status"], "ok");
    let metrics = process.anonymous().get("/metrics").await;
    let skew = Exposition::read(&metrics.text).value("quartet_clock_skew_seconds", &[]).unwrap();
    assert!((skew - minutes_ahead * 60.0).abs() < 5.0, "{skew}");
    assert_eq!(process.output().matches(words).count(), 1, "{}", process.output());
}

/// A pending transaction that has been polled several times.
async fn polled(world: &World, process: &Process) -> Uuid {
    let third_party = world.sandbox.third_party();
    let id = Uuid::now_v7();
    third_party.script_creates_for(id, vec![CreateStep::created()]);
    process.client().post_transaction(&transaction(id)).await.expect(202);
    wait_until("it was polled", BOUND, async || third_party.lookups_of(id) >= 4).await;
    id
}

/// Sends a webhook whose sender's clock is off by so many seconds; returns the answer's code.
async fn send_webhook(world: &World, process: &Process, id: Uuid, seconds: i64) -> u16 {
    let url = format!("{}/v1/webhooks/third-party", process.url());
    let webhook = SendWebhook::new(id, "completed").url(url).timestamp_offset_seconds(seconds);
    world.sandbox.third_party().send_webhook(webhook).await.unwrap().0
}

/// A transaction settled by a webhook of the right time, of which the client hears.
async fn settles(world: &World, process: &Process, id: Uuid) {
    assert_eq!(send_webhook(world, process, id, 0).await, 200);
    wait_until("the client hears the end", BOUND, async || {
        let last = world.sandbox.client().last_acknowledged(id);
        last.is_some_and(|delivery| delivery.status == Status::Completed.as_str())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_20_minutes_ahead_goes_by_the_databases_clock() {
    let world = World::new().await;
    let process = process_off_by(&world, "+20m", "60s").await;
    assert_known(&process, 20.0, "ahead of the database's").await;

    let id = polled(&world, &process).await;
    assert!(process.operator().open_dead_letters(id).await.is_empty(), "no deadline has passed");
    // The time of the wrong clock is as wrong as any other.
    assert_eq!(send_webhook(&world, &process, id, 20 * 60).await, 401);
    settles(&world, &process, id).await;
    let deliveries = world.sandbox.client().deliveries_of(id);
    assert!(deliveries.iter().all(|delivery| delivery.is_acknowledged()), "{deliveries:?}");
    world.wait_at_rest(BOUND).await;
    world.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_20_minutes_behind_still_has_deadlines() {
    let world = World::new().await;
    let process = process_off_by(&world, "-20m", "3s").await;
    assert_known(&process, -20.0, "behind the database's").await;

    let id = polled(&world, &process).await;
    let letter = wait_for("the deadline passes", BOUND, async || {
        process.operator().open_dead_letters(id).await.pop()
    })
    .await;
    assert_eq!(letter["kind"], "deadline", "{letter}");
    assert_eq!(send_webhook(&world, &process, id, -20 * 60).await, 401);
    settles(&world, &process, id).await;
    world.wait_at_rest(BOUND).await;
    world.assert_invariants(&[id]).await;
}

/// The time from which a replayed deadline counts is the database's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_two_days_behind_polls_again_after_a_replay() {
    let world = World::new().await;
    let process = process_off_by(&world, "-2d", "3s").await;
    let id = polled(&world, &process).await;
    let letter = wait_for("the deadline passes", BOUND, async || {
        process.operator().open_dead_letters(id).await.pop()
    })
    .await;
    assert_eq!(letter["kind"], "deadline", "{letter}");

    let third_party = world.sandbox.third_party();
    let before = third_party.lookups_of(id);
    let letter = letter["id"].as_str().unwrap();
    let note = json!({ "note": "once more" });
    process.operator().act_on_dead_letter(letter, "replay", &note).await.expect(200);
    wait_until("it is polled again", BOUND, async || third_party.lookups_of(id) >= before + 3)
        .await;
    settles(&world, &process, id).await;
    world.wait_at_rest(BOUND).await;
    world.assert_invariants(&[id]).await;
}

/// What operators see of the creates: how many are due and run, and which.
async fn creates(app: &TestApp) -> (i64, i64, bool, Vec<Value>) {
    let figures = "SELECT due, running, oldest_due_age IS NOT NULL FROM operator.queues
        WHERE queue = 'create_at_third_party'";
    let (due, running, has_age): (i64, i64, bool) =
        sqlx::query_as(figures).fetch_one(&app.pool).await.unwrap();
    let mut listed = Vec::new();
    for state in ["due", "running"] {
        let path = format!("/v1/operator/jobs?queue=create_at_third_party&state={state}");
        let answer = app.operator().get(&path).await;
        let items = answer.expect(200)["items"].as_array().unwrap();
        listed.extend(items.iter().map(|item| item["transaction_id"].clone()));
    }
    (due, running, has_age, listed)
}

/// As a failover to a server whose clock is an hour behind leaves them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floors_ahead_of_a_clock_that_was_set_back_hide_no_job_and_are_moved_again() {
    let app = spawn_api_at_rest().await;
    let (due, running) = (app.client().accept().await, app.client().accept().await);
    job_rows::lease_to(&app.pool, "worker-1", running, "create_at_third_party").await;
    let expected = (1, 1, true, vec![json!(due), json!(running)]);
    assert_eq!(creates(&app).await, expected);

    let set_back = "UPDATE queue_floors SET floor = now() + interval '1 hour',
            swept_to = now() + interval '1 hour', swept_at = now() + interval '1 hour',
            advanced_at = now() + interval '1 hour';
        DELETE FROM queue_floor_resets;";
    sqlx::raw_sql(set_back).execute(&app.pool).await.unwrap();
    assert_eq!(creates(&app).await, expected);

    sqlx::query("SELECT quartet_advance_floors()").execute(&app.pool).await.unwrap();
    let ahead = "SELECT name FROM queue_floors WHERE floor > now() OR advanced_at > now()";
    let ahead: Vec<String> = sqlx::query_scalar(ahead).fetch_all(&app.pool).await.unwrap();
    assert_eq!(ahead, [""; 0]);
    let moved = "SELECT count(*) FROM queue_floors WHERE isfinite(floor)";
    let moved: i64 = sqlx::query_scalar(moved).fetch_one(&app.pool).await.unwrap();
    assert_eq!(moved, 5);
    assert_eq!(creates(&app).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_the_right_time_says_so() {
    let world = World::new().await;
    for role in [Role::Api, Role::Worker] {
        let app = world.app().role(role).spawn().await;
        let ready = app.anonymous().get("/health/ready").await;
        assert_eq!(ready.expect(200), &serde_json::json!({ "status": "ok" }));
        let metrics = app.anonymous().get("/metrics").await;
        let skew =
            Exposition::read(&metrics.text).value("quartet_clock_skew_seconds", &[]).unwrap();
        assert!(skew.abs() < 5.0, "{skew}");
    }
}
