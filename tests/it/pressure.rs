//! A session that holds a snapshot, as a dump or a report does, costs nothing: neither vacuum nor a
//! scan may remove what is dead meanwhile, so that nothing may walk it. And a database that is slow
//! is given no more to do than otherwise.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use quartet::sandbox::{CreateStep, Status};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::{TestApp, World, jobs::patient, spawn_app, wait_until};

const BOUND: Duration = Duration::from_secs(60);
/// Transactions of one measurement.
const POSTS: usize = 25;

/// Leaves so many dead entries for each queue in the index of the due jobs, as jobs do that were
/// due in the last minutes: written and removed in one SQL transaction, so that no worker sees
/// them.
async fn leave_dead_entries(world: &World, entries: i32) {
    let mut session = PgConnection::connect(world.database_url()).await.unwrap();
    // As what Quartet writes itself: nothing is announced.
    sqlx::raw_sql("SET application_name = 'quartet'").execute(&mut session).await.unwrap();
    let mut tx = session.begin().await.unwrap();
    let insert = "INSERT INTO apalis.jobs (id, job_type, job, max_attempts, run_at, idempotency_key)
        SELECT '01' || lpad(queue.place::text || lpad(n::text, 8, '0'), 24, '0'), queue.name, '{}', 5,
            now() - interval '1 minute' - n * interval '10 ms', 'dead ' || n
        FROM generate_series(1, $1) AS n, unnest(ARRAY['create_transaction',
            'create_at_third_party', 'update_status', 'notify_client'])
            WITH ORDINALITY AS queue (name, place)";
    sqlx::query(insert).bind(entries).execute(&mut *tx).await.unwrap();
    let remove = "DELETE FROM apalis.jobs WHERE idempotency_key LIKE 'dead %'";
    sqlx::query(remove).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// A session that holds a snapshot until it is dropped.
async fn hold_snapshot(world: &World) -> PgConnection {
    let mut session = PgConnection::connect(world.database_url()).await.unwrap();
    let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM transactions";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    session
}

/// Posts one after the other, so that a busy machine makes each slower but none wait for another;
/// returns the ids, and from accept to the client's acknowledgement of the end, the median and the
/// longest.
async fn post_each(app: &TestApp) -> (Vec<Uuid>, Duration, Duration) {
    let client = app.client();
    let mut ids = Vec::new();
    for _ in 0..POSTS {
        let id = client.accept().await;
        app.wait_told(id, BOUND).await;
        ids.push(id);
    }
    let keys: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let took = "SELECT extract(epoch FROM done_at - created_at)::float8
        FROM transactions JOIN apalis.jobs ON idempotency_key = transactions.id::text
        WHERE job_type = 'notify_client' AND idempotency_key = ANY ($1) ORDER BY 1";
    let took = sqlx::query_scalar::<_, f64>(took).bind(&keys).fetch_all(&app.pool).await.unwrap();
    assert_eq!(took.len(), POSTS, "each has told its client");
    let [median, longest] = [POSTS / 2, POSTS - 1].map(|at| Duration::from_secs_f64(took[at]));
    (ids, median, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_snapshot_costs_transactions_no_time() {
    let app = patient(World::new().await.app()).spawn().await;
    // The first ones open connections and prepare statements.
    let warm = app.client().accept().await;
    app.wait_told(warm, BOUND).await;
    let (before, median_before, longest_before) = post_each(&app).await;

    let snapshot = hold_snapshot(&app).await;
    leave_dead_entries(&app, 50_000).await;
    let (after, median, longest) = post_each(&app).await;
    println!(
        "median {median_before:?} then {median:?}, longest {longest_before:?} then {longest:?}"
    );
    // A claim that walks the entries takes several times as long as a whole transaction should.
    let most = 3 * median_before.max(Duration::from_millis(50));
    assert!(median <= most, "median {median_before:?} without the snapshot, {median:?} with it");
    let most = 10 * longest_before.max(Duration::from_millis(150));
    assert!(
        longest <= most,
        "longest {longest_before:?} without the snapshot, {longest:?} with it"
    );
    drop(snapshot);

    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[&[warm], &before[..], &after[..]].concat()).await;
}

/// How many pages a statement touches.
async fn pages(world: &World, statement: &'static str) -> i64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}");
    let plan: Value =
        sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_one(&world.pool).await.unwrap();
    let plan = &plan[0]["Plan"];
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

/// The lowest of the floors.
async fn floor(world: &World) -> DateTime<Utc> {
    // Infinite until they have been moved for the first time.
    let floor = "SELECT GREATEST(min(floor), '1970-01-01') FROM operator.floors";
    sqlx::query_scalar(floor).fetch_one(&world.pool).await.unwrap()
}

const QUEUES: &str = "SELECT * FROM operator.queues";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queues_are_counted_without_walking_what_is_dead() {
    let app = spawn_app().await;
    let path = "/v1/operator/queues/notify_client/pause";
    app.operator().post(path, &json!({ "note": "jobs stay due" })).await.expect(200);
    let _snapshot = hold_snapshot(&app).await;
    leave_dead_entries(&app, 10_000).await;
    // The worker process moves the floors past what is dead.
    let dead_until = Utc::now() - chrono::Duration::seconds(60);
    wait_until("the floors are past what is dead", BOUND, async || floor(&app).await > dead_until)
        .await;
    let touched = pages(&app, QUEUES).await;
    assert!(touched < 500, "{touched} pages for the figures of four queues");

    // What somebody else writes below the floors counts at once, and still does when they have
    // been looked after.
    let id = app.client().accept().await;
    // Settling makes the notification due now.
    wait_until("it is settled", BOUND, async || {
        app.client().get_transaction(id).await.body["status"] == "completed"
    })
    .await;
    let overdue = "UPDATE apalis.jobs SET run_at = now() - interval '2 hours'
        WHERE job_type = 'notify_client' AND idempotency_key = $1";
    sqlx::query(overdue).bind(id.to_string()).execute(&app.pool).await.unwrap();
    assert_eq!(overdue_figures(&app).await, (1, true));
    wait_until("the floors have been moved", BOUND, async || {
        let resets = "SELECT count(*) FROM queue_floor_resets";
        sqlx::query_scalar::<_, i64>(resets).fetch_one(&app.pool).await.unwrap() == 0
    })
    .await;
    assert_eq!(overdue_figures(&app).await, (1, true));
    let due = app.operator().get("/v1/operator/jobs?queue=notify_client&state=due").await;
    assert_eq!(due.expect(200)["items"][0]["transaction_id"], id.to_string());
}

/// How many notifications are due, and whether the oldest has been for two hours.
async fn overdue_figures(app: &TestApp) -> (i64, bool) {
    let queues = app.operator().get("/v1/operator/queues").await;
    let queues = queues.expect(200)["items"].as_array().unwrap();
    let notify = queues.iter().find(|queue| queue["queue"] == "notify_client").unwrap();
    let age = notify["oldest_due_age_ms"].as_i64().unwrap_or_default();
    (notify["due"].as_i64().unwrap(), age >= 7_200_000)
}

/// While outcomes wait for longer than the first poll and the first notification are away, these
/// are not claimed for transactions that have ended but for their outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_database_is_not_given_more_to_do() {
    const EVERY: Duration = Duration::from_millis(20);
    // The first ones are late before it is known how long they take.
    const LASTS: Duration = Duration::from_secs(10);

    let world = World::new().await;
    let ends = CreateStep::created_final(Status::Completed);
    world.sandbox.third_party().set_create_default(ends);
    let app = world
        .app()
        .set("QUARTET_POLL__FIRST", "200ms")
        .set("QUARTET_NOTIFY__FIRST", "200ms")
        .spawn()
        .await;
    let mut session = PgConnection::connect(world.database_url()).await.unwrap();
    // The outcomes of creates and of notifications change it; accepts do not.
    let slow_outcomes = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.15); RETURN NULL; END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON transactions
            FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow_outcomes).execute(&mut session).await.unwrap();

    let (client, mut ticks) = (app.client(), tokio::time::interval(EVERY));
    let (mut ids, start) = (Vec::new(), Instant::now());
    while start.elapsed() < LASTS {
        ticks.tick().await;
        ids.push(client.accept().await);
    }
    for id in &ids {
        app.wait_told(*id, BOUND).await;
    }
    let late = ids.split_off(ids.len() / 2);
    // Each is looked up once before it is created, and its client hears of the end.
    let needed: usize = late
        .iter()
        .map(|id| {
            let heard = world.sandbox.client().deliveries_of(*id).len();
            world.sandbox.third_party().lookups_of(*id) - 1 + heard - 1
        })
        .sum();
    assert!(needed * 10 < late.len(), "{needed} calls in vain for {} transactions", late.len());
}
