//! Graceful shutdown of real processes: what is under way ends within the grace or is given back.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use chrono::Utc;
use nix::sys::signal::Signal;
use quartet::{
    config::Role,
    sandbox::{CreateStep, Reaction, Status},
};
use uuid::Uuid;

use crate::{
    signals::is_nohup,
    support::{
        TestApp, World,
        job_rows::{event_times, job_row},
        process::ProcessBuilder,
        spawn_api, transaction, wait_until,
        world::API_KEY,
    },
};

const BOUND: Duration = Duration::from_secs(20);
const CREATE: &str = "create_at_third_party";
/// What a process that has nothing to wait for may take to end.
const AT_ONCE: Duration = Duration::from_secs(2);

fn worker(api: &TestApp, grace: &str) -> ProcessBuilder {
    api.process(Role::Worker)
        .set("QUARTET_HTTP__PUBLIC_URL", api.url())
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "60s")
        .set("QUARTET_NOTIFY__TIMEOUT", "60s")
        .set("QUARTET_WORKER__SHUTDOWN_GRACE", grace)
}

async fn post(api: &TestApp, id: Uuid) {
    api.client().post_transaction(&transaction(id)).await.expect(202);
}

/// Runs what is left, and checks it.
async fn end(api: &TestApp, ids: &[Uuid]) {
    let worker = api.sibling().role(Role::Worker).spawn().await;
    for id in ids {
        api.wait_told(*id, BOUND).await;
    }
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(ids).await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_flight_ends_within_the_grace() {
    let api = spawn_api().await;
    let third_party = api.sandbox.third_party();
    let id = Uuid::now_v7();
    let step = CreateStep::created().delay(Duration::from_millis(1_500));
    third_party.script_creates_for(id, vec![step]);
    let mut process = worker(&api, "20s").spawn().await;
    post(&api, id).await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;

    assert_eq!(process.terminate(BOUND).await.code(), Some(0));
    let row = job_row(&api.pool, id, CREATE).await;
    assert_eq!((row.status.as_str(), row.attempts), ("Done", 1));
    assert_eq!(event_times(&api.pool, id, "created_at_third_party").await.len(), 1);
    let workers = "SELECT count(*) FROM apalis.workers";
    assert_eq!(sqlx::query_scalar::<_, i64>(workers).fetch_one(&api.pool).await.unwrap(), 0);
    third_party.set_status(id, Status::Completed);
    end(&api, &[id]).await;
    assert_eq!(third_party.creates_of(id), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_beyond_the_grace_are_given_back_and_cost_no_attempt() {
    let api = spawn_api().await;
    let (third_party, client) = (api.sandbox.third_party(), api.sandbox.client());
    let id = Uuid::now_v7();
    third_party.script_creates_for(id, vec![CreateStep::hang(Some(Status::Pending))]);
    client.script_for(id, vec![Reaction::Hang]);
    let process = worker(&api, "500ms").set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "2s");
    let mut process = process.spawn().await;
    post(&api, id).await;
    wait_until("both calls are under way", BOUND, async || {
        third_party.creates_of(id) == 1 && client.deliveries_of(id).len() == 1
    })
    .await;
    let notify = job_row(&api.pool, id, "notify_client").await;

    let began = Instant::now();
    assert_eq!(process.terminate(BOUND).await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_millis(500) + AT_ONCE, "{:?}", began.elapsed());
    let row = job_row(&api.pool, id, CREATE).await;
    assert_eq!((row.status.as_str(), row.attempts, &row.lock_by), ("Pending", 0, &None));
    let released = event_times(&api.pool, id, "create_ambiguous").await;
    assert_eq!(released.len(), 1);
    let waits = (row.run_at - released[0]).to_std().unwrap();
    assert!(waits.abs_diff(Duration::from_secs(2)) < Duration::from_millis(100), "{waits:?}");
    let row = job_row(&api.pool, id, "notify_client").await;
    assert_eq!((row.status.as_str(), row.attempts), ("Pending", 0));
    assert!(row.run_at >= notify.run_at && row.run_at <= Utc::now(), "due when it is given back");
    let row = job_row(&api.pool, id, "update_status").await;
    assert_eq!((row.status.as_str(), row.attempts), ("Pending", 0));

    third_party.set_status(id, Status::Declined);
    end(&api, &[id]).await;
    assert_eq!(third_party.creates_of(id), 1);
}

/// A terminal that is closed sends it, and sends it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_gives_jobs_back_as_a_termination_does() {
    if is_nohup() {
        return;
    }
    let api = spawn_api().await;
    let third_party = api.sandbox.third_party();
    let id = Uuid::now_v7();
    third_party.script_creates_for(id, vec![CreateStep::hang(Some(Status::Completed))]);
    let process = worker(&api, "500ms").set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "2s");
    let mut process = process.spawn().await;
    post(&api, id).await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;

    let address = process.url().trim_start_matches("http://").to_owned();
    process.signal(Signal::SIGHUP);
    wait_until("it is stopping", BOUND, async || TcpStream::connect(&address).is_err()).await;
    process.signal(Signal::SIGHUP);
    assert_eq!(process.wait_ended(BOUND).await.code(), Some(0));
    let row = job_row(&api.pool, id, CREATE).await;
    assert_eq!((row.status.as_str(), row.attempts, &row.lock_by), ("Pending", 0, &None));
    end(&api, &[id]).await;
    assert_eq!(third_party.creates_of(id), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_sleeps_in_its_handler_is_given_back_at_once() {
    let api = spawn_api().await;
    let id = Uuid::now_v7();
    api.sandbox.third_party().script_creates_for(id, vec![CreateStep::created()]);
    // Each gap is slept in the handler, so that it would take the whole grace.
    let process = worker(&api, "60s")
        .set("QUARTET_POLL__SECOND", "950ms")
        .set("QUARTET_POLL__MAX_DELAY", "950ms")
        .set("QUARTET_POLL__DEADLINE", "1h");
    let mut process = process.spawn().await;
    post(&api, id).await;
    wait_until("it is told and polled", BOUND, async || {
        api.sandbox.third_party().lookups_of(id) >= 2
            && job_row(&api.pool, id, "notify_client").await.status == "Done"
    })
    .await;
    assert_eq!(job_row(&api.pool, id, "update_status").await.status, "Running");

    let began = Instant::now();
    assert_eq!(process.terminate(BOUND).await.code(), Some(0));
    let took = began.elapsed();
    println!("SIGTERM to exit with a sleeping poll: {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
    let row = job_row(&api.pool, id, "update_status").await;
    assert_eq!((row.status.as_str(), row.attempts), ("Pending", 0));
    assert!(row.run_at <= Utc::now() + Duration::from_secs(1), "its schedule goes on");

    api.sandbox.third_party().set_status(id, Status::Completed);
    end(&api, &[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_is_answered() {
    let world = World::new().await;
    let mut process = world.process(Role::Api).spawn().await;
    let id = Uuid::now_v7();
    let body = transaction(id).to_string();
    let (begin, rest) = body.split_at(10);
    let address = process.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let head = format!(
        "POST /v1/transactions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {API_KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    write!(stream, "{head}{begin}").unwrap();
    // Whoever came later was answered: the request has begun.
    for _ in 0..10 {
        process.client().get_transaction(id).await.expect_problem(404);
    }
    process.signal(Signal::SIGTERM);
    wait_until("nobody else is let in", BOUND, async || TcpStream::connect(&address).is_err())
        .await;
    stream.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert_eq!(process.wait_ended(BOUND).await.code(), Some(0));
    let kept = "SELECT count(*) FROM transactions WHERE id = $1";
    let kept: i64 = sqlx::query_scalar(kept).bind(id).fetch_one(&world.pool).await.unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let api = spawn_api().await;
    let third_party = api.sandbox.third_party();
    let id = Uuid::now_v7();
    third_party.script_creates_for(id, vec![CreateStep::hang(Some(Status::Completed))]);
    let mut process = worker(&api, "60s").spawn().await;
    post(&api, id).await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;
    let address = process.url().trim_start_matches("http://").to_owned();
    process.signal(Signal::SIGTERM);
    wait_until("it is stopping", BOUND, async || TcpStream::connect(&address).is_err()).await;

    let began = Instant::now();
    let status = process.terminate(BOUND).await;
    assert!(!status.success(), "it did not finish: {status}");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    // As after a crash: rescued.
    end(&api, &[id]).await;
    assert_eq!(event_times(&api.pool, id, "create_ambiguous").await.len(), 1);
    assert_eq!(third_party.creates_of(id), 1);
}
