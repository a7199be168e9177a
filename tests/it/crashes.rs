//! Crashes: real processes, killed with `kill -9` or frozen at the worst moments.

use std::{
    collections::HashSet,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use quartet::{
    config::Role,
    sandbox::{Call, CallKind, CreateStep, LookupStep, Reaction, Status},
};
use reqwest::Method;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use uuid::Uuid;

use crate::support::{
    TestApp,
    job_rows::{event_times, job_row, wait_job, workers},
    process::Process,
    spawn_api, transaction, wait_for, wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
const CREATE: &str = "create_at_third_party";
const CREATE_BACKOFF: Duration = Duration::from_millis(1_000);
/// The settings of tests, and what a loaded machine may add.
const DEAD_AFTER: Duration = Duration::from_millis(600);
const HEARTBEAT: Duration = Duration::from_millis(200);
const NOISE: Duration = Duration::from_millis(700);
/// The evidence is written a moment after the job's `run_at` was set.
const CLOCKS: Duration = Duration::from_millis(50);

async fn post(api: &TestApp, id: Uuid) {
    api.client().post_transaction(&transaction(id)).await.expect(202);
}

fn creates(api: &TestApp, id: Uuid) -> Vec<Call> {
    let calls = api.sandbox.third_party().calls_of(id);
    calls.into_iter().filter(|call| call.kind == CallKind::Create).collect()
}

fn elapsed(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// Waits for the rescue of the create of `id`, which must come in time after `died`.
async fn wait_rescued(api: &TestApp, id: Uuid, died: DateTime<Utc>) -> DateTime<Utc> {
    let rescued = wait_for("the create is rescued", BOUND, async || {
        event_times(&api.pool, id, "create_ambiguous").await.first().copied()
    })
    .await;
    let after = elapsed(died, rescued);
    println!("rescued {after:?} after the crash");
    assert!(after < DEAD_AFTER + HEARTBEAT + NOISE, "rescued too late: {after:?}");
    rescued
}

async fn end(api: &TestApp, ids: &[Uuid]) {
    for id in ids {
        api.wait_told(*id, BOUND).await;
    }
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(ids).await;
}

/// Kills a worker in the middle of a create; returns when the create was rescued.
async fn kill_mid_create(stored: Option<Status>) -> (TestApp, Uuid, DateTime<Utc>, Process) {
    let api = spawn_api().await;
    let id = Uuid::now_v7();
    let third_party = api.sandbox.third_party();
    let steps = vec![CreateStep::hang(stored), CreateStep::created_final(Status::Completed)];
    third_party.script_creates_for(id, steps);
    let mut victim = api.patient_process(Role::Worker).spawn().await;
    post(&api, id).await;
    wait_until("the create is under way", BOUND, async || creates(&api, id).len() == 1).await;
    let other = api.patient_process(Role::Worker).spawn().await;
    victim.kill_9();
    let rescued = wait_rescued(&api, id, Utc::now()).await;
    let row = job_row(&api.pool, id, CREATE).await;
    assert_eq!((row.status.as_str(), row.attempts), ("Pending", 1));
    (api, id, rescued, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_mid_create_that_went_through_creates_nothing_twice() {
    let (api, id, rescued, _other) = kill_mid_create(Some(Status::Pending)).await;
    wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    let found = event_times(&api.pool, id, "found_at_third_party").await;
    let waited = elapsed(rescued, found[0]);
    assert!(waited >= CREATE_BACKOFF - CLOCKS, "the rescued create waited only {waited:?}");
    api.sandbox.third_party().set_status(id, Status::Completed);
    end(&api, &[id]).await;
    assert_eq!(creates(&api, id).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_mid_create_that_was_lost_creates_it_after_a_lookup() {
    let (api, id, rescued, _other) = kill_mid_create(None).await;
    end(&api, &[id]).await;
    let creates = creates(&api, id);
    assert_eq!(creates.len(), 2);
    let waited = elapsed(rescued, creates[1].time);
    assert!(waited >= CREATE_BACKOFF - CLOCKS, "the rescued create waited only {waited:?}");
    let calls = api.sandbox.third_party().calls_of(id);
    let mut lookups = calls.iter().filter(|call| call.kind == CallKind::Lookup);
    let found = lookups.rfind(|call| call.at < creates[1].at).unwrap();
    assert!(
        elapsed(rescued, found.time) >= CREATE_BACKOFF - CLOCKS,
        "no lookup between the backoff and the second create: {calls:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_mid_notify_has_the_notification_delivered_by_another() {
    let api = spawn_api().await;
    let id = Uuid::now_v7();
    let third_party = api.sandbox.third_party();
    third_party.script_creates_for(id, vec![CreateStep::created()]);
    api.sandbox.client().script_for(id, vec![Reaction::Hang]);
    let mut victim = api.patient_process(Role::Worker).spawn().await;
    post(&api, id).await;
    let deliveries = || api.sandbox.client().deliveries_of(id);
    wait_until("the client is being told", BOUND, async || deliveries().len() == 1).await;
    let other = api.patient_process(Role::Worker).spawn().await;
    victim.kill_9();
    let killed = Instant::now();
    wait_until("the client is told again", BOUND, async || deliveries().len() > 1).await;
    println!("notified again {:?} after the crash", killed.elapsed());
    assert!(deliveries()[1].is_acknowledged() || deliveries()[1].answered_status.is_none());
    third_party.set_status(id, Status::Declined);
    end(&api, &[id]).await;
    let versions: Vec<i64> = deliveries().iter().map(|delivery| delivery.version).collect();
    assert!(versions.is_sorted(), "{versions:?}");
    assert_eq!(versions.last(), Some(&2));
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_killed_while_it_accepts_loses_nothing_that_it_answered() {
    let worker = spawn_api().await;
    let mut api = worker.process(Role::Api).spawn().await;
    let accepted = Arc::new(Mutex::new(HashSet::new()));
    let mut unanswered = HashSet::new();
    let posts: Vec<_> = (0..8)
        .map(|_| {
            let (client, accepted) = (api.client(), accepted.clone());
            tokio::spawn(async move {
                loop {
                    let id = Uuid::now_v7();
                    let json = [("content-type", "application/json")];
                    let body = transaction(id).to_string();
                    let sent = client.try_send(Method::POST, "/v1/transactions", &json, body);
                    match sent.await {
                        Ok(answer) => {
                            answer.expect(202);
                            accepted.lock().unwrap().insert(id);
                        }
                        Err(_) => return id,
                    }
                }
            })
        })
        .collect();
    wait_until("many are accepted", BOUND, async || accepted.lock().unwrap().len() >= 150).await;
    api.kill_9();
    for post in posts {
        unanswered.insert(post.await.unwrap());
    }

    let accepted: Vec<Uuid> = accepted.lock().unwrap().iter().copied().collect();
    let kept = "SELECT count(*) FROM transactions WHERE id = ANY ($1)";
    let kept: i64 = sqlx::query_scalar(kept).bind(&accepted).fetch_one(&worker.pool).await.unwrap();
    assert_eq!(kept as usize, accepted.len());

    // Whoever got no answer asks again, and gets one either way.
    let api = api.restart().await;
    for id in &unanswered {
        let again = api.client().post_transaction(&transaction(*id)).await;
        assert!(matches!(again.status, 200 | 202), "{}", again.text);
    }
    let jobs = worker.sibling().role(Role::Worker).set("QUARTET_HTTP__PUBLIC_URL", api.url());
    let jobs = jobs.spawn().await;
    let all: Vec<Uuid> = accepted.into_iter().chain(unanswered).collect();
    end(&worker, &all).await;
    drop(jobs);
}

/// The name of the process's worker for creates.
async fn wait_worker(api: &TestApp, process: &Process) -> String {
    let named = format!("{CREATE}-{}-", process.id());
    wait_for("the worker is registered", BOUND, async || {
        workers(&api.pool, CREATE, &named).await.pop()
    })
    .await
}

/// Freezes `process` until another worker has rescued and finished the create of `id`.
async fn freeze_until_created_by_another(api: &TestApp, process: &Process, id: Uuid) -> Process {
    // At once: a start takes its time on a busy machine.
    process.signal(Signal::SIGSTOP);
    let other = api.patient_process(Role::Worker).spawn().await;
    wait_rescued(api, id, Utc::now()).await;
    wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    process.signal(Signal::SIGCONT);
    other
}

/// After it was frozen, `process` works on under new names, also alone.
async fn works_again(api: &TestApp, process: &Process, before: &str, mut other: Process) {
    wait_until("the thawed worker has a new name", BOUND, async || {
        wait_worker(api, process).await != before
    })
    .await;
    assert!(other.terminate(BOUND).await.success());
    let next = api.client().accept().await;
    end(api, &[next]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_mid_create_writes_nothing_when_it_thaws() {
    let api = spawn_api().await;
    let id = Uuid::now_v7();
    let slow = CreateStep {
        store: None,
        ..CreateStep::created().delay(DEAD_AFTER + CREATE_BACKOFF - HEARTBEAT)
    };
    let steps = vec![slow, CreateStep::created_final(Status::Completed)];
    api.sandbox.third_party().script_creates_for(id, steps);
    let process = api.patient_process(Role::Worker).spawn().await;
    let before = wait_worker(&api, &process).await;
    post(&api, id).await;
    wait_until("the create is under way", BOUND, async || creates(&api, id).len() == 1).await;

    let other = freeze_until_created_by_another(&api, &process, id).await;
    let row = job_row(&api.pool, id, CREATE).await;
    works_again(&api, &process, &before, other).await;
    assert!(creates(&api, id)[0].answered.is_some(), "the frozen worker was answered");
    assert_eq!(job_row(&api.pool, id, CREATE).await, row);
    assert_eq!(event_times(&api.pool, id, "created_at_third_party").await.len(), 1);
    assert_eq!(creates(&api, id).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_between_lookup_and_create_does_not_create_when_it_thaws() {
    let api = spawn_api().await;
    let id = Uuid::now_v7();
    let third_party = api.sandbox.third_party();
    // The first lookup is the create's: polling begins later. It answers 'absent' to a worker that
    // is frozen by then.
    let answer = LookupStep::not_found().delay(DEAD_AFTER);
    third_party.script_lookups_for(id, vec![answer]);
    third_party.script_creates_for(id, vec![CreateStep::created_final(Status::Completed)]);
    let process = api.patient_process(Role::Worker).spawn().await;
    let before = wait_worker(&api, &process).await;
    post(&api, id).await;
    wait_until("it is looked up", BOUND, async || third_party.lookups_of(id) == 1).await;

    let other = freeze_until_created_by_another(&api, &process, id).await;
    works_again(&api, &process, &before, other).await;
    assert_eq!(creates(&api, id).len(), 1, "the thawed worker created it again");
}

/// A server whose queue of connections is full: the next one opens once some are taken out of it.
async fn full_server() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = socket.listen(0).unwrap();
    let address = server.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(opened) = timeout(HEARTBEAT, TcpStream::connect(address)).await {
        queue.push(opened.unwrap());
    }
    (server, queue)
}

/// Whether a connection to this port of localhost is being opened.
fn is_being_opened(port: u16) -> bool {
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let (server, syn_sent) = (format!("0100007F:{port:04X}"), "02");
    sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|socket| {
        socket.get(2).is_some_and(|peer| *peer == server) && socket.get(3) == Some(&syn_sent)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_while_it_connects_tells_the_client_nothing_old_when_it_thaws() {
    let api = spawn_api().await;
    let (server, queue) = full_server().await;
    let address = server.local_addr().unwrap();
    let callback = api.sandbox.callback_url();
    let process = api.patient_process(Role::Worker).spawn().await;
    let before = wait_worker(&api, &process).await;
    // A start sets the default client's.
    api.set_callback_url(&format!("http://{address}/")).await;
    let id = api.client().accept().await;
    wait_until("the worker connects to the client", BOUND, async || {
        is_being_opened(address.port())
    })
    .await;

    process.signal(Signal::SIGSTOP);
    api.set_callback_url(&callback).await;
    let other = api.patient_process(Role::Worker).spawn().await;
    api.wait_told(id, BOUND).await;
    for _ in &queue {
        server.accept().await.unwrap();
    }
    // The system opens it, whether or not the process runs.
    let (mut stale, _) = timeout(BOUND, server.accept()).await.unwrap().unwrap();
    process.signal(Signal::SIGCONT);
    let mut first = [0];
    let sent = timeout(BOUND, stale.read(&mut first)).await.expect("it goes on").unwrap();
    assert_eq!(sent, 0, "the thawed worker told what it knew before");
    end(&api, &[id]).await;
    works_again(&api, &process, &before, other).await;
}
