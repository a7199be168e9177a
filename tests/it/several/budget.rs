//! A budget of calls a second holds for all processes together, as their third party counts.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use quartet::config::Role;
use uuid::Uuid;

use super::{BOUND, Ledger, Several, post, wait_status};
use crate::{
    profiled::peer::{Asked, Peer},
    support::{
        World, exposition::Exposition, process::Process, transaction, wait_for, wait_until,
        world::add_client,
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MAX_CALLS: usize = 50;
/// A machine that gave us no time for this long delivers at once what was sent one by one.
const STALL: Duration = Duration::from_millis(50);
/// How long after such a stall what it has held up may still arrive.
const AFTER_STALL: Duration = Duration::from_millis(200);
/// Hundreds of calls at this pace, also on a machine that does much else.
const ALL_ENDED: Duration = Duration::from_secs(90);

/// A third party of Quartet's own contract that keeps when it was asked, and where most transactions
/// end at once.
struct Counting {
    peer: Peer,
    arrivals: Arc<Mutex<Vec<(Instant, Asked)>>>,
    stalls: Arc<Stalls>,
}

/// When this process had no time to see what arrives.
#[derive(Default)]
struct Stalls {
    ended: AtomicBool,
    seen: Mutex<Vec<(Instant, Instant)>>,
}

impl Stalls {
    fn watch() -> Arc<Self> {
        let stalls = Arc::<Self>::default();
        let watched = stalls.clone();
        thread::spawn(move || {
            let mut last = Instant::now();
            while !watched.ended.load(Ordering::Relaxed) {
                thread::sleep(STALL / 10);
                let now = Instant::now();
                if now - last > STALL {
                    watched.seen.lock().unwrap().push((last, now));
                }
                last = now;
            }
        });
        stalls
    }

    fn within(&self, from: Instant, to: Instant) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter().any(|(began, ended)| *began <= to && *ended + AFTER_STALL >= from)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stalls.ended.store(true, Ordering::Relaxed);
    }
}

impl Counting {
    async fn start() -> Self {
        let (ledger, arrivals) = (Ledger::default(), Arc::<Mutex<Vec<_>>>::default());
        let seen = arrivals.clone();
        let peer = Peer::start(move |asked| {
            let mut seen = seen.lock().unwrap();
            seen.push((Instant::now(), asked.clone()));
            if asked.method == "POST" {
                // Every tenth one is polled.
                let id: Uuid = asked.json()["id"].as_str().unwrap().parse().unwrap();
                let status = if seen.len() % 10 == 0 { "pending" } else { "completed" };
                ledger.set(id, status);
                let answer = ledger.answer(asked);
                ledger.set(id, "completed");
                return answer;
            }
            ledger.answer(asked)
        })
        .await;
        Self { peer, arrivals, stalls: Stalls::watch() }
    }

    fn count(&self, method: &str) -> usize {
        let arrivals = self.arrivals.lock().unwrap();
        arrivals.iter().filter(|(_, asked)| asked.method == method).count()
    }

    /// Asserts that no second had more calls than the budget allows, and that no id was posted
    /// twice; returns how many calls a second there were until the last post.
    fn assert_kept(&self) -> f64 {
        let arrivals = self.arrivals.lock().unwrap();
        let mut times: Vec<Instant> = arrivals.iter().map(|(at, _)| *at).collect();
        times.sort();
        let (mut kept, mut stalled) = (0, 0);
        for window in times.windows(MAX_CALLS + 1) {
            let (first, last) = (window[0], window[MAX_CALLS]);
            if last - first >= SECOND {
                kept += 1;
            } else {
                let took = last - first;
                assert!(self.stalls.within(first, last), "{} calls within {took:?}", MAX_CALLS + 1);
                stalled += 1;
            }
        }
        assert!(kept > 4 * stalled, "{kept} seconds were seen, {stalled} not");
        let posts: Vec<&(Instant, Asked)> =
            arrivals.iter().filter(|(_, asked)| asked.method == "POST").collect();
        let mut ids: Vec<String> = posts.iter().map(|(_, asked)| asked.text()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), posts.len(), "one was posted twice");
        let last = posts.iter().map(|(at, _)| *at).max().unwrap();
        let until = times.iter().filter(|at| **at <= last).count();
        until as f64 / (last - times[0]).as_secs_f64()
    }
}

/// Processes of one database that call it. One that is silent for `dead_after` counts as dead.
async fn processes(
    world: &World,
    counting: &Counting,
    count: usize,
    dead_after: &str,
) -> Vec<Process> {
    let launched = (0..count).map(|_| {
        world
            .process(Role::All)
            .set("QUARTET_THIRD_PARTY__BASE_URL", counting.peer.url())
            .set("QUARTET_THIRD_PARTY__MAX_CALLS_PER_SECOND", MAX_CALLS)
            .set("QUARTET_THIRD_PARTY__TIMEOUT", "5s")
            .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "5s")
            .set("QUARTET_DATABASE__MAX_CONNECTIONS", 12)
            .set("QUARTET_WORKER__HEARTBEAT", "1s")
            .set("QUARTET_WORKER__DEAD_AFTER", dead_after)
            .set("QUARTET_POLL__FIRST", "8s")
            .set("QUARTET_POLL__DEADLINE", "60s")
            .spawn()
    });
    join_all(launched).await
}

/// Posts this many transactions to the processes in turn.
async fn post_all(processes: &[Process], count: usize) -> Vec<Uuid> {
    let posted = (0..count).map(|nth| {
        let client = processes[nth % processes.len()].client();
        async move {
            let id = Uuid::now_v7();
            client.post_transaction(&transaction(id)).await.expect(202);
            id
        }
    });
    join_all(posted).await
}

async fn wait_all_ended(world: &World, count: usize) {
    wait_until("all transactions have ended", ALL_ENDED, async || {
        let ended = "SELECT count(*) FROM transactions
            WHERE status = 'completed' AND notified_version = version";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&world.pool).await.unwrap();
        ended == count as i64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_processes_keep_to_one_budget() {
    let (world, counting) = (World::new().await, Counting::start().await);
    let processes = processes(&world, &counting, 5, "30s").await;
    let ids = post_all(&processes, 200).await;
    wait_all_ended(&world, ids.len()).await;
    let pace = counting.assert_kept();
    assert!(pace >= MAX_CALLS as f64 * 0.4, "{pace} calls a second");
    // Calls are leased by the block. A process reports its counts to Postgres with a delay.
    let calls = counting.count("GET") + counting.count("POST");
    let leases = wait_for("leases are counted", BOUND, async || {
        let leases = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'call_budgets'";
        let leases: i64 = sqlx::query_scalar(leases).fetch_one(&world.pool).await.unwrap();
        (leases > 0).then_some(leases as usize)
    })
    .await;
    assert!(leases < calls / 2, "{leases} leases for {calls} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_stopped_or_killed_sends_nothing_beside_the_budget() {
    let (world, counting) = (World::new().await, Counting::start().await);
    let mut processes = processes(&world, &counting, 3, "4s").await;
    let ids = post_all(&processes, 120).await;
    let called = async |count: usize| {
        wait_until("calls are made", BOUND, async || counting.count("GET") >= count).await;
    };
    called(20).await;
    processes[0].signal(Signal::SIGSTOP);
    called(60).await;
    processes[0].signal(Signal::SIGCONT);
    called(80).await;
    processes[1].kill_9();
    wait_all_ended(&world, ids.len()).await;
    counting.assert_kept();
}

#[tokio::test]
async fn one_that_waits_for_the_budget_says_so_and_keeps_its_attempts() {
    let several = Several::new().await;
    several.write("acme.toml", &several.acme_settings("max_calls_per_second = 2"));
    let app = several.app().spawn().await;
    // As after a clock that was set back: it does not stop all calls for as long.
    let far = "INSERT INTO call_budgets VALUES ('acme', clock_timestamp() + interval '1 hour')";
    sqlx::query(far).execute(&app.pool).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(post(&app, "acme").await);
    }
    wait_until("acme is called", BOUND, async || {
        !several.acme.0.asked("POST", "/transaction").is_empty()
    })
    .await;
    let detail = wait_for("one waits for the budget", BOUND, async || {
        for id in &ids {
            let path = format!("/v1/operator/transactions/{id}/explain");
            let cause = app.operator().get(&path).await.expect(200)["cause"].clone();
            if cause["kind"] == "call_budget" {
                return Some(cause["detail"].as_str().unwrap().to_owned());
            }
        }
        None
    })
    .await;
    assert!(
        detail.contains("acme is called as often as its budget allows, 2 a second"),
        "{detail}"
    );
    let attempts = "SELECT max(attempts) FROM apalis.jobs
        WHERE job_type IN ('create_at_third_party', 'update_status') AND status = 'Pending'";
    let attempts: i32 = sqlx::query_scalar(attempts).fetch_one(&app.pool).await.unwrap();
    assert_eq!(attempts, 0);
    let metrics = app.anonymous().get("/metrics").await.text;
    let metrics = Exposition::read(&metrics);
    let labels = |name| [("third_party", name)];
    let postponed = "quartet_third_party_budget_postponed_total";
    assert!(metrics.value(postponed, &labels("acme")).unwrap() > 0.0);
    assert_eq!(metrics.value(postponed, &labels("third-party")), Some(0.0));
    // The others' calls do not wait for it.
    let unnamed = app.client().accept().await;
    wait_status(&app, unnamed, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backlog_of_one_client_does_not_delay_another() {
    const BACKLOG: usize = 400;

    let (world, counting) = (World::new().await, Counting::start().await);
    let processes = processes(&world, &counting, 1, "30s").await;
    let key = add_client(&world.pool, "other").await;
    let other = processes[0].client().with_key(&key);
    post_all(&processes, BACKLOG).await;
    for _ in 0..5 {
        let id = other.accept().await.to_string();
        wait_until("the other client's is created", ALL_ENDED, async || {
            let arrivals = counting.arrivals.lock().unwrap();
            arrivals.iter().any(|(_, asked)| asked.method == "POST" && asked.json()["id"] == id)
        })
        .await;
    }
    let created = counting.count("POST");
    assert!(created < BACKLOG * 3 / 4, "after {created} of the backlog");
    wait_all_ended(&world, BACKLOG + 5).await;
    counting.assert_kept();
}
