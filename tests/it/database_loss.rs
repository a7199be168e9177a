//! The database goes away, comes back, crashes under load: nothing is lost, everybody waits.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quartet::{
    config::Role,
    sandbox::{Profile, SandboxConfig, SendWebhook},
};
use reqwest::Method;
use uuid::Uuid;

use crate::support::{
    Client, TestApp, World, postgres::own_server, process::Process, transaction, wait_for,
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
async fn post_steadily(client: Client, count: Arc<Mutex<usize>>, stop: Arc<AtomicBool>) -> Vec<Uuid> {
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
        app.wait_told(*id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&accepted).await;
}

async fn assert_away(app: &TestApp, known: Uuid) {
    let refused = async |what: &str, call: &mut dyn AsyncCall| {
        let began = Instant::now();
        let (status, retry_after) = call.call().await;
        assert_eq!(status, 503, "{what}");
        assert!(!retry_after.is_empty(), "{what} has no Retry-After");
        assert!(began.elapsed() < ANSWER + NOISE, "{what}: {:?}", began.elapsed());
    };
    let _ = (refused, known);
}
