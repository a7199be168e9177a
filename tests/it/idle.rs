//! An idle process: it costs the database little, and finds what falls due at once.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use quartet::{
    config::Role,
    sandbox::{CreateStep, Profile, SandboxConfig},
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    World, job_rows::wait_job, postgres::own_server, spawn_api, transaction, wait_for, wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
/// Statements per second of an idle process.
const STATEMENTS: f64 = 50.0;
const WATCHED: Duration = Duration::from_secs(4);
/// How late half of the due jobs may begin; the next regular look is a second away.
const PICK_UP: Duration = Duration::from_millis(100);
/// How late each of them may begin, on a machine that does other things too.
const WORST_PICK_UP: Duration = Duration::from_secs(2);
/// Between heartbeats of a worker that has just started.
const HEARTBEAT: &str = "20s";

/// Transactions that have ended in this database. Backends report theirs with a delay of up to a
/// second, which both readings have.
async fn ended(pool: &PgPool) -> i64 {
    let query = "SELECT xact_commit + xact_rollback FROM pg_stat_database
        WHERE datname = current_database()";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_asks_the_database_seldom() {
    let postgres = own_server().await;
    let profile = Profile::faultless();
    let sandbox = SandboxConfig { profile, ..SandboxConfig::default() };
    let world = World::on_database(&postgres.url("postgres"), sandbox).await;
    // The defaults that matter here, not those of tests.
    let process = world
        .process(Role::All)
        .set("QUARTET_WORKER__HEARTBEAT", "5s")
        .set("QUARTET_WORKER__DEAD_AFTER", "15s");
    let process = process.spawn().await;
    let id = process.client().accept().await;
    wait_until("one transaction has ended", BOUND, async || {
        process.client().get_transaction(id).await.body["notified_version"] == 2
    })
    .await;

    let (began, before) = (Instant::now(), ended(&world.pool).await);
    wait_until("it was watched", BOUND, async || began.elapsed() >= WATCHED).await;
    let rate = (ended(&world.pool).await - before) as f64 / began.elapsed().as_secs_f64();
    println!("statements of an idle process: {rate:.1}/s");
    assert!(rate < STATEMENTS, "{rate:.1} statements per second");
    assert!(rate > 1.0, "the statistics say nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_made_due_from_outside_is_picked_up_at_once() {
    const ROUNDS: usize = 40;
    let world = World::new().await;
    let app = world.app().role(Role::Api).spawn().await;
    let process = world
        .process(Role::Worker)
        .set("QUARTET_HTTP__PUBLIC_URL", app.url())
        .set("QUARTET_POLL__FIRST", "1h")
        .set("QUARTET_POLL__DEADLINE", "2h");
    let _process = process.spawn().await;
    // Parked notifications of settled transactions.
    let mut ids = Vec::new();
    for _ in 0..ROUNDS {
        ids.push(app.client().accept().await);
    }
    for id in &ids {
        app.wait_told(*id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    let client = app.sandbox.client();
    let mut late = Vec::new();
    for id in &ids {
        let told = client.deliveries_of(*id).len();
        let due = "UPDATE apalis.jobs SET status = 'Pending', attempts = 0, run_at = now()
            WHERE idempotency_key = $1 AND job_type = 'notify_client'";
        let due = sqlx::query(due).bind(id.to_string());
        let began = Instant::now();
        assert_eq!(due.execute(&app.pool).await.unwrap().rows_affected(), 1);
        wait_until("it is notified", BOUND, async || client.deliveries_of(*id).len() > told).await;
        let delivery = client.deliveries_of(*id).last().unwrap().at;
        late.push(delivery.saturating_duration_since(began));
    }
    late.sort();
    let (p50, p95) = (late[ROUNDS / 2], late[ROUNDS * 95 / 100 - 1]);
    println!("made due from outside to the call: p50 {p50:?}, p95 {p95:?}, worst {late:?}");
    assert!(p50 < PICK_UP, "p50 {p50:?}");
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&ids).await;
}

/// An idle worker of a queue whose only job falls due after its start; returns how late the third
/// party heard of it.
async fn start_and_wait() -> Duration {
    let mut waits = 4;
    loop {
        if let Some(late) = start_before_due(waits).await {
            return late;
        }
        // The machine is busy: the start took longer.
        waits *= 2;
    }
}

/// `None` where the start took longer than these seconds, after which the job is due.
async fn start_before_due(waits: u32) -> Option<Duration> {
    let api = spawn_api().await;
    let id = Uuid::now_v7();
    api.sandbox.third_party().script_creates_for(id, vec![CreateStep::created()]);
    api.client().post_transaction(&transaction(id)).await.expect(202);
    // Everything waits but the create, which falls due.
    let park = "UPDATE apalis.jobs SET run_at = CASE
            WHEN job_type = 'create_at_third_party' THEN now() + $2 * interval '1 s'
            ELSE now() + interval '1 hour'
        END
        WHERE idempotency_key = $1";
    let park = sqlx::query(park).bind(id.to_string()).bind(f64::from(waits));
    park.execute(&api.pool).await.unwrap();
    let query = "SELECT run_at FROM apalis.jobs
        WHERE idempotency_key = $1 AND job_type = 'create_at_third_party'";
    let due: DateTime<Utc> =
        sqlx::query_scalar(query).bind(id.to_string()).fetch_one(&api.pool).await.unwrap();
    // A stall would last until a heartbeat.
    let _worker = api
        .sibling()
        .role(Role::Worker)
        .set("QUARTET_WORKER__HEARTBEAT", HEARTBEAT)
        .set("QUARTET_WORKER__DEAD_AFTER", "60s")
        .spawn()
        .await;
    if Utc::now() >= due {
        return None;
    }
    wait_job(&api.pool, id, "create_at_third_party", "Done", BOUND).await;
    let call = wait_for("it is looked up", BOUND, async || {
        api.sandbox.third_party().calls_of(id).first().cloned()
    })
    .await;
    Some((call.time - due).to_std().expect("not before it is due"))
}

/// apalis can stop polling after a start until its next heartbeat; this must not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_start_the_next_due_job_is_picked_up_at_once() {
    // More by hand.
    let starts = std::env::var("STARTS").map_or(10, |starts| starts.parse().unwrap());
    let mut late = Vec::new();
    let mut left = starts;
    while left > 0 {
        let batch = left.min(5);
        late.extend(join_all((0..batch).map(|_| start_and_wait())).await);
        left -= batch;
    }
    late.sort();
    println!(
        "{starts} starts, due to the call: p50 {:?}, worst {:?}",
        late[starts / 2],
        late[starts - 1]
    );
    assert!(late[starts / 2] < PICK_UP && late[starts - 1] < WORST_PICK_UP, "{late:?}");
}
