//! The rescue of many jobs: in batches of bounded size, by several processes at once, from workers
//! that cannot come back meanwhile.

use std::time::{Duration, Instant};

use quartet::config::Role;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    TestApp,
    job_rows::{die, event_times, job_row, lease_to, park_all_but, wait_job, workers},
    line::Line,
    spawn_api, wait_until,
};

const BOUND: Duration = Duration::from_secs(60);
const CREATE: &str = "create_at_third_party";
const NOTIFY: &str = "notify_client";
const HEARTBEAT: Duration = Duration::from_secs(1);
const DEAD_AFTER: Duration = Duration::from_secs(3);
/// What a loaded machine may add.
const NOISE: Duration = Duration::from_secs(10);

/// Creates that each dead worker held, and jobs that lost their last attempt.
const EACH: usize = 1_000;
const DEAD: usize = 3;
const USED_UP: i64 = 40;

/// Copies an accepted transaction with its jobs until there are [`EACH`] for each dead worker.
async fn multiply(pool: &PgPool, first: Uuid) {
    let copy = format!(
        "CREATE TEMPORARY TABLE copies AS
            SELECT n, gen_random_uuid() AS id FROM generate_series(2, {all}) AS n;
        INSERT INTO transactions (id, client_id, content_hash, amount, currency)
            SELECT copies.id, client_id, content_hash, amount, currency
            FROM transactions, copies WHERE transactions.id = '{first}';
        INSERT INTO apalis.jobs (id, job_type, job, max_attempts, run_at, idempotency_key, status)
            SELECT lpad(n || substr(md5(job_type), 1, 8), 26, '0'), job_type, job, max_attempts,
                run_at, copies.id::text, 'Pending'
            FROM apalis.jobs, copies WHERE idempotency_key = '{first}'",
        all = EACH * DEAD,
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(copy)).execute(pool).await.unwrap();
}

/// Registers workers that are no processes, and leases all creates to them, in equal parts; and
/// some notifications without attempts left to the first one.
async fn lease_all(pool: &PgPool) {
    let leased = format!(
        "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
        SELECT 'gone-' || n, '{CREATE}', 'quartet', '', now() + interval '1 minute', now()
        FROM generate_series(0, {last}) AS n;
        UPDATE apalis.jobs SET run_at = now() + interval '1 hour' WHERE status = 'Pending';
        UPDATE apalis.jobs
        SET status = 'Running', lock_at = now(), lock_by = 'gone-' || numbered.n % {DEAD}
        FROM (SELECT id, row_number() OVER () AS n FROM apalis.jobs WHERE job_type = '{CREATE}')
            AS numbered
        WHERE jobs.id = numbered.id;
        UPDATE apalis.jobs
        SET status = 'Running', lock_at = now(), lock_by = 'gone-0', attempts = max_attempts - 1
        WHERE id IN (SELECT id FROM apalis.jobs WHERE job_type = '{NOTIFY}' LIMIT {USED_UP})",
        last = DEAD - 1,
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(leased)).execute(pool).await.unwrap();
}

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// A worker process at the end of a line of 2 ms.
async fn rescuer(api: &TestApp) -> TestApp {
    let line = Line::to(api.database_url()).await;
    line.set_delay(Duration::from_millis(2));
    api.sibling()
        .role(Role::Worker)
        .set("DATABASE_URL", line.url())
        .set("QUARTET_WORKER__HEARTBEAT", "1s")
        .set("QUARTET_WORKER__DEAD_AFTER", "3s")
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "1h")
        .spawn()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_creates_are_rescued_in_time_by_several_over_a_long_line() {
    let api = spawn_api().await;
    let first = api.client().accept().await;
    multiply(&api.pool, first).await;
    lease_all(&api.pool).await;
    let rescuers = [rescuer(&api).await, rescuer(&api).await];
    wait_until("both are registered", BOUND, async || {
        workers(&api.pool, CREATE, &format!("{CREATE}-")).await.len() == rescuers.len()
    })
    .await;
    let living = workers(&api.pool, CREATE, &format!("{CREATE}-")).await;

    for n in 0..DEAD {
        die(&api.pool, &format!("gone-{n}")).await;
    }
    let died = Instant::now();
    let left = "SELECT count(*) FROM apalis.jobs WHERE lock_by LIKE 'gone-%'";
    wait_until("all are rescued", BOUND, async || count(&api.pool, left).await == 0).await;
    let after = died.elapsed();
    println!("{} creates rescued {after:?} after the last sign of life", EACH * DEAD);
    assert!(after < DEAD_AFTER + 2 * HEARTBEAT + NOISE, "rescued too late: {after:?}");
    let removed = "SELECT count(*) FROM apalis.workers WHERE id LIKE 'gone-%'";
    wait_until("they are removed", BOUND, async || count(&api.pool, removed).await == 0).await;

    let creates = (EACH * DEAD) as i64;
    let ambiguous = "SELECT count(*) FROM transaction_events WHERE kind = 'create_ambiguous'";
    let of_each = "SELECT count(DISTINCT transaction_id) FROM transaction_events
        WHERE kind = 'create_ambiguous'";
    assert_eq!(count(&api.pool, ambiguous).await, creates, "one for each create");
    assert_eq!(count(&api.pool, of_each).await, creates);
    let postponed = "SELECT count(*) FROM apalis.jobs
        WHERE job_type = 'create_at_third_party' AND status = 'Pending' AND attempts = 1
            AND run_at > now() + interval '50 min'";
    assert_eq!(count(&api.pool, postponed).await, creates, "each waits for the backoff");

    let poison = "SELECT count(*) FROM failed_jobs
        WHERE kind = 'poison' AND state = 'open' AND queue = 'notify_client'
            AND reason LIKE '%attempts are used up%' AND job ->> 'status' = 'Failed'
            AND attempts -> -1 ->> 'error' LIKE 'lease lost: worker gone-0 %'";
    let opened = "SELECT count(*) FROM transaction_events WHERE kind = 'dead_letter_opened'";
    assert_eq!(count(&api.pool, poison).await, USED_UP);
    assert_eq!(count(&api.pool, opened).await, USED_UP);
    let after = workers(&api.pool, CREATE, &format!("{CREATE}-")).await;
    assert_eq!(after, living, "those who rescued kept their own leases");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_under_way_when_its_worker_is_marked_dead_is_rescued_too() {
    let api = spawn_api().await;
    let (first, second) = (api.client().accept().await, api.client().accept().await);
    for id in [first, second] {
        park_all_but(&api.pool, id, Some(NOTIFY)).await;
    }
    lease_to(&api.pool, "gone", first, NOTIFY).await;
    let mut claim = api.pool.begin().await.unwrap();
    let lease = "UPDATE apalis.jobs SET status = 'Running', lock_by = 'gone', lock_at = now()
        WHERE idempotency_key = $1 AND job_type = 'notify_client'";
    sqlx::query(lease).bind(second.to_string()).execute(&mut *claim).await.unwrap();
    die(&api.pool, "gone").await;
    let _worker = api.sibling().role(Role::Worker).spawn().await;
    wait_until("what is committed is rescued", BOUND, async || {
        job_row(&api.pool, first, NOTIFY).await.lock_by.as_deref() != Some("gone")
    })
    .await;
    assert_eq!(workers(&api.pool, NOTIFY, "gone").await, ["gone"], "it has a claim under way");
    // It does not come back.
    let renew = "UPDATE apalis.workers SET last_seen = now() + interval '1 hour' WHERE id = 'gone'";
    let renewed = sqlx::query(renew).execute(&api.pool).await.unwrap().rows_affected();
    assert_eq!(renewed, 0, "a dead worker was renewed");

    claim.commit().await.unwrap();
    wait_until("the worker is gone for good", BOUND, async || {
        workers(&api.pool, NOTIFY, "gone").await.is_empty()
    })
    .await;
    for id in [first, second] {
        let row = wait_job(&api.pool, id, NOTIFY, "Done", BOUND).await;
        assert!(row.attempts >= 2, "the lost lease and the run: {row:?}");
        park_all_but(&api.pool, id, None).await;
        api.wait_told(id, BOUND).await;
    }
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_marked_dead_claims_nothing() {
    let api = spawn_api().await;
    // It learns of its death late.
    let slow = api
        .sibling()
        .role(Role::Worker)
        .set("QUARTET_WORKER__HEARTBEAT", "3s")
        .set("QUARTET_WORKER__DEAD_AFTER", "1h");
    let _worker = slow.spawn().await;
    let queue = format!("{CREATE}-");
    wait_until("it is registered", BOUND, async || {
        !workers(&api.pool, CREATE, &queue).await.is_empty()
    })
    .await;
    let before = workers(&api.pool, CREATE, &queue).await;
    let mark = "UPDATE apalis.workers SET dead_at = now()";
    sqlx::query(mark).execute(&api.pool).await.unwrap();
    let id = api.client().accept().await;
    api.wait_told(id, BOUND).await;
    wait_until("the worker has a new name", BOUND, async || {
        let now = workers(&api.pool, CREATE, &queue).await;
        !now.is_empty() && now.iter().all(|name| !before.contains(name))
    })
    .await;
    api.wait_at_rest(BOUND).await;
    // Claimed by the dead one it would have been rescued.
    assert!(event_times(&api.pool, id, "create_ambiguous").await.is_empty());
    assert_eq!(job_row(&api.pool, id, CREATE).await.attempts, 1);
    api.assert_invariants(&[id]).await;
}
