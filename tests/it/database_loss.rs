//! The database goes away, comes back, crashes under load: nothing is lost, everybody waits.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::future::join_all;
use quartet::{
    config::Role,
    sandbox::{CreateStep, Profile, SandboxConfig, Status},
    signature::{self, Secret},
};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Answer, Client, World, detour::Detour, postgres::own_server, process::Process, transaction,
    wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
/// How soon somebody who asks hears that the database is away, and what a loaded machine may add.
const ANSWER: Duration = Duration::from_millis(2_000);
const NOISE: Duration = Duration::from_millis(300);
/// The longest that the CPU time of a process is watched, and its limit within that.
const WATCHED: Duration = Duration::from_secs(3);
const BUSY: f64 = 0.2;

async fn world(url: &str) -> World {
    let profile = Profile::faultless();
    World::on_database(url, SandboxConfig { profile, ..SandboxConfig::default() }).await
}

/// Posts until it is told to stop; asks again after a refusal. Returns what was answered 2xx.
async fn post_steadily(
    client: Client,
    count: Arc<Mutex<usize>>,
    stop: Arc<AtomicBool>,
) -> Vec<Uuid> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = Uuid::now_v7();
        loop {
            let began = Instant::now();
            let answer = client.post_transaction(&transaction(id)).await;
            match answer.status {
                200 | 202 => break,
                _ => {
                    answer.expect_problem(503);
                    assert!(!answer.header("retry-after").is_empty());
                    assert!(began.elapsed() < ANSWER + NOISE, "503 after {:?}", began.elapsed());
                }
            }
        }
        accepted.push(id);
        *count.lock().unwrap() += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_of_postgres_under_load_lose_nothing_that_was_answered() {
    let mut postgres = own_server().await;
    let app = world(&postgres.url("postgres")).await.app().spawn().await;
    let (count, stop) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
    let load: Vec<_> = (0..4)
        .map(|_| tokio::spawn(post_steadily(app.client(), count.clone(), stop.clone())))
        .collect();
    let reach = async |goal: usize| {
        wait_until("the load goes on", BOUND, async || *count.lock().unwrap() >= goal).await;
    };
    for goal in [70, 140] {
        reach(goal).await;
        postgres.restart_immediate().await.unwrap();
    }
    reach(200).await;
    stop.store(true, Ordering::Relaxed);
    let mut accepted = Vec::new();
    for task in load {
        accepted.extend(task.await.unwrap());
    }

    for id in &accepted {
        app.client().get_transaction(*id).await.expect(200);
        app.wait_told(*id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&accepted).await;
}

/// sqlx 0.9.0 gives a connection back inside an open transaction when a `begin` is given up before
/// its answer came. What others then write on it is answered, and gone with the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_is_given_up_leaves_no_transaction_open_for_others_to_write_in() {
    const REQUESTS: usize = 4;
    let world = World::new().await;
    // Longer than any request waits.
    let detour = Detour::late_answers(world.database_url(), "BEGIN", ANSWER + NOISE).await;
    let app = world
        .app()
        .role(Role::Api)
        .set("DATABASE_URL", detour.url())
        .without_waiting()
        .spawn()
        .await;
    let operator = app.operator();
    let action = async || {
        let id = Uuid::now_v7().to_string();
        operator.act_on_dead_letter(&id, "discard", &json!({})).await
    };
    for answer in join_all((0..REQUESTS).map(|_| action())).await {
        answer.expect_problem(503);
    }
    // What the process does by itself may begin one, too.
    assert!(detour.wrong_answers() >= REQUESTS, "each has begun");
    detour.heal();

    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    // Sooner than Postgres would end one that is left open.
    wait_until("no transaction is open", Duration::from_secs(6), async || {
        let open: i64 = sqlx::query_scalar(open).fetch_one(&app.pool).await.unwrap();
        open == 0
    })
    .await;
}

/// The claim is committed, the worker does not hear of it, and lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_is_lost_is_made_again() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).spawn().await;
    let id = app.client().accept().await;
    let detour = Detour::lost_answers(world.database_url(), "SET status = 'Running'").await;
    let worker = app.sibling().role(Role::Worker).set("DATABASE_URL", detour.url());
    let _worker = worker.without_waiting().spawn().await;
    let leased = "SELECT count(*) FROM apalis.jobs WHERE status = 'Running'";
    wait_until("answers to claims are lost", BOUND, async || {
        let leased: i64 = sqlx::query_scalar(leased).fetch_one(&app.pool).await.unwrap();
        detour.wrong_answers() > 0 && leased > 0
    })
    .await;
    detour.heal();

    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    let costs = "SELECT max(attempts) FROM apalis.jobs";
    let costs: i32 = sqlx::query_scalar(costs).fetch_one(&app.pool).await.unwrap();
    assert_eq!(costs, 1, "nobody ran it in vain");
    app.assert_invariants(&[id]).await;
}

/// Asserts that a call which began at `began` was refused as it should be.
fn assert_refused(what: &str, began: Instant, answer: &Answer) {
    answer.expect_problem(503);
    assert!(!answer.header("retry-after").is_empty(), "{what} has no Retry-After");
    let took = began.elapsed();
    assert!(took < ANSWER + NOISE, "{what} took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_callers_hear_so_and_everything_resumes() {
    let mut postgres = own_server().await;
    // Polling outlasts the outage.
    let app = world(&postgres.url("postgres")).await.app().set("QUARTET_POLL__DEADLINE", "10m");
    let app = app.spawn().await;
    app.sandbox.third_party().set_create_default(CreateStep::created());
    let known = app.client().accept().await;
    wait_until("it is created", BOUND, async || {
        app.sandbox.third_party().status_of(known).is_some()
    })
    .await;
    postgres.crash().await.unwrap();

    // Twice: idle connections that broke, and then none.
    let (client, anonymous) = (app.client(), app.anonymous());
    let secret = &app.sandbox.config().webhook_secret;
    let new = transaction(Uuid::now_v7());
    for _ in 0..2 {
        let began = Instant::now();
        let (accept, query, ready, webhook) = tokio::join!(
            client.post_transaction(&new),
            client.get_transaction(known),
            anonymous.get("/health/ready"),
            send_webhook(&anonymous, secret, known),
        );
        for (what, answer) in
            [("accept", accept), ("a query", query), ("ready", ready), ("a webhook", webhook)]
        {
            assert_refused(what, began, &answer);
        }
        let began = Instant::now();
        anonymous.get("/health/live").await.expect(200);
        assert!(began.elapsed() < NOISE);
    }

    postgres.resume().await.unwrap();
    app.wait_ready().await;
    let after = app.client().accept().await;
    for id in [known, after] {
        app.sandbox.third_party().set_status(id, Status::Completed);
        app.wait_told(id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[known, after]).await;
}

/// A webhook as the third party sends it, with the whole answer.
pub async fn send_webhook(client: &Client, secret: &Secret, id: Uuid) -> Answer {
    let body = json!({ "id": id, "status": "completed" }).to_string();
    let (webhook_id, now) = (Uuid::now_v7().to_string(), Utc::now().timestamp());
    let signature = signature::sign(secret, &webhook_id, now, body.as_bytes());
    let now = now.to_string();
    let headers = [
        ("content-type", "application/json"),
        (signature::ID_HEADER, webhook_id.as_str()),
        (signature::TIMESTAMP_HEADER, now.as_str()),
        (signature::SIGNATURE_HEADER, signature.as_str()),
    ];
    client.send(Method::POST, "/v1/webhooks/third-party", &headers, body).await
}

/// Asserts that a process which has nothing to do but wait for its database does no more.
async fn assert_waits_calmly(process: &Process) {
    let (began, before) = (Instant::now(), process.cpu_time());
    wait_until("it was watched", BOUND, async || began.elapsed() >= WATCHED).await;
    let share = (process.cpu_time() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("CPU while the database is away: {:.1} %", share * 100.0);
    assert!(share < BUSY, "it is busy waiting: {share:.2} of a CPU");
}

async fn health(process: &Process) -> [Option<u16>; 2] {
    let mut found = [None, None];
    for (status, path) in found.iter_mut().zip(["/health/live", "/health/ready"]) {
        let answer = process.client().try_send(Method::GET, path, &[], "").await;
        *status = answer.ok().map(|answer| answer.status);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_starts_or_runs_without_its_database_waits_for_it_calmly() {
    let mut postgres = own_server().await;
    let world = world(&postgres.url("postgres")).await;
    postgres.crash().await.unwrap();
    let mut process = world.process(Role::All).launch();
    wait_until("it is live, but not ready", BOUND, async || {
        health(&process).await == [Some(200), Some(503)]
    })
    .await;
    assert_waits_calmly(&process).await;
    assert_eq!(health(&process).await, [Some(200), Some(503)]);
    postgres.resume().await.unwrap();
    process.wait_ready().await;
    let first = process.client().accept().await;

    // Its workers run now.
    postgres.crash().await.unwrap();
    wait_until("it is not ready", BOUND, async || health(&process).await == [Some(200), Some(503)])
        .await;
    assert_waits_calmly(&process).await;
    postgres.resume().await.unwrap();
    process.wait_ready().await;
    let second = process.client().accept().await;
    for id in [first, second] {
        wait_until("the client hears the end", BOUND, async || {
            let transaction = process.client().get_transaction(id).await.body;
            transaction["notified_version"] == 2
        })
        .await;
    }
    assert!(process.terminate(BOUND).await.success());
}
