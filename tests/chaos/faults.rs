//! Doing what the plan says, and healing it.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use quartet::sandbox::{CreateStep, Reaction};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::{
    cluster::Cluster,
    link::Link,
    load::Poster,
    plan::{AHEAD, Action, Fault, NODES, Node, Peer, Plan, RESTORING, Silence, Way},
    restore::restore,
    support::{faketime, process::Process},
};

/// How long a process may take to end after SIGTERM: its grace, giving its jobs back, and some more
/// for a database that is away.
const END: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(20);
/// `Retry-After` of a third party that is busy, in seconds.
const RETRY_AFTER: u64 = 1;

/// Carries the whole plan out; returns when everything is healed, with what went wrong beside it.
/// What a restore loses is posted again by `poster`.
pub async fn carry_out(cluster: Arc<Cluster>, poster: &Poster, plan: &Plan) -> Vec<String> {
    let start = Instant::now();
    let mut faults = JoinSet::new();
    for fault in plan.faults.iter().copied() {
        let (cluster, poster) = (cluster.clone(), poster.clone());
        faults.spawn(async move {
            tokio::time::sleep_until((start + fault.at).into()).await;
            one(&cluster, &poster, fault).await
        });
    }
    let mut complaints = Vec::new();
    while let Some(done) = faults.join_next().await {
        complaints.extend(done.expect("a fault is carried out"));
    }
    // Also without faults the load goes on until then.
    tokio::time::sleep_until((start + plan.length).into()).await;
    complaints
}

async fn one(
    cluster: &Cluster,
    poster: &Poster,
    Fault { lasts, action, .. }: Fault,
) -> Option<String> {
    match action {
        // The process is locked until the fault is over: one that takes longer than was planned
        // delays the next one on the same process.
        Action::Kill(node) => {
            let mut process = cluster.processes[node.0].lock().await;
            let complaint = unexpected_end(&mut process, node);
            process.kill_9();
            tokio::time::sleep(lasts).await;
            process.relaunch();
            complaint
        }
        Action::Freeze(node) => {
            let mut process = cluster.processes[node.0].lock().await;
            let complaint = unexpected_end(&mut process, node);
            if complaint.is_none() {
                process.signal(Signal::SIGSTOP);
                tokio::time::sleep(lasts).await;
                process.signal(Signal::SIGCONT);
            }
            complaint
        }
        Action::Replace(node) => {
            let mut process = cluster.processes[node.0].lock().await;
            let complaint = terminate(&mut process, node).await;
            tokio::time::sleep(lasts).await;
            process.relaunch();
            complaint
        }
        Action::CrashDatabase => {
            let mut postgres = cluster.postgres.lock().await;
            postgres.crash().await.expect("Postgres crashes");
            tokio::time::sleep(lasts).await;
            postgres.resume().await.expect("Postgres recovers");
            None
        }
        Action::Crowd(node) => {
            crowd(cluster, node, lasts).await;
            None
        }
        Action::Network(way, trouble) => {
            cluster.links(way).for_each(|link| link.spoil(trouble));
            tokio::time::sleep(lasts).await;
            cluster.links(way).for_each(Link::heal);
            None
        }
        Action::Busy(code) => {
            let third_party = cluster.world.sandbox.third_party();
            let step = CreateStep::new(Reaction::retry_after(code, RETRY_AFTER));
            third_party.set_create_default(step);
            tokio::time::sleep(lasts).await;
            third_party.set_create_default(None);
            None
        }
        Action::Refuse(creates) => {
            let steps = vec![CreateStep::rejected(422); creates];
            cluster.world.sandbox.third_party().script_creates(steps);
            None
        }
        Action::Client(silence) => {
            let client = cluster.world.sandbox.client();
            client.set_default(match silence {
                Silence::Refuses => Reaction::status_code(503),
                Silence::Hangs => Reaction::Hang,
                Silence::Resets => Reaction::Reset,
            });
            tokio::time::sleep(lasts).await;
            client.set_default(None);
            None
        }
        Action::Skew(peer, seconds) => {
            let sandbox = &cluster.world.sandbox;
            let set = |seconds| match peer {
                Peer::ThirdParty => sandbox.third_party().set_clock_skew_seconds(seconds),
                Peer::Client => sandbox.client().set_clock_skew_seconds(seconds),
            };
            set(seconds);
            tokio::time::sleep(lasts).await;
            set(0);
            None
        }
        Action::WrongClock(node) => {
            let mut process = cluster.processes[node.0].lock().await;
            let complaint = unexpected_end(&mut process, node);
            if let Some(library) = faketime::library() {
                process.relaunch_with(&faketime::environment(library, AHEAD));
                tokio::time::sleep(lasts).await;
                process.relaunch();
            }
            complaint
        }
        Action::HoldSnapshot => {
            hold_snapshot(cluster, lasts).await;
            None
        }
        Action::Restore => {
            let replace_at = Instant::now() + lasts - RESTORING;
            restore(cluster, poster, replace_at.into()).await;
            None
        }
    }
}

fn unexpected_end(process: &mut Process, node: Node) -> Option<String> {
    let status = process.ended()?;
    Some(format!("process: {node} ended by itself ({status})"))
}

/// SIGTERM; complains where the process does not end well and in time.
async fn terminate(process: &mut Process, node: Node) -> Option<String> {
    if let Some(complaint) = unexpected_end(process, node) {
        return Some(complaint);
    }
    process.signal(Signal::SIGTERM);
    let began = Instant::now();
    loop {
        match process.ended() {
            Some(status) if status.success() => return None,
            Some(status) => return Some(format!("process: {node} ended with {status} on SIGTERM")),
            None if began.elapsed() > END => {
                process.kill_9();
                return Some(format!("process: {node} did not end within {END:?} of SIGTERM"));
            }
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// Takes every connection that Postgres has left, for `lasts`. Those of `node` break meanwhile, so
/// that it finds none when it needs new ones.
async fn crowd(cluster: &Cluster, node: Node, lasts: Duration) {
    let until = Instant::now() + lasts;
    let mut held = Vec::new();
    let mut broke = false;
    while Instant::now() < until {
        let connect = PgConnection::connect(cluster.world.database_url());
        match tokio::time::timeout(lasts, connect).await {
            Ok(Ok(connection)) => held.push(connection),
            _ if !broke => {
                broke = true;
                cluster.links(Way::Database(node)).for_each(Link::break_connections);
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Keeps a snapshot of the database for `lasts`; a new one where Postgres has lost it.
async fn hold_snapshot(cluster: &Cluster, lasts: Duration) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        let snapshot = keep_snapshot(cluster.world.database_url());
        // It has ended by itself only where Postgres crashed or has no connection left.
        if tokio::time::timeout_at(until.into(), snapshot).await.is_ok() {
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn keep_snapshot(database_url: &str) -> Result<Infallible, sqlx::Error> {
    let mut session = PgConnection::connect(database_url).await?;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM transactions";
    sqlx::raw_sql(begin).execute(&mut session).await?;
    loop {
        tokio::time::sleep(10 * POLL).await;
        sqlx::raw_sql("SELECT 1").execute(&mut session).await?;
    }
}

/// What processes say that they should never say, and how often a lease was rescued.
pub fn read_logs(cluster: &Cluster) -> (Vec<String>, usize) {
    let (mut complaints, mut rescued) = (Vec::new(), 0);
    for node in (0..NODES.len()).map(Node) {
        let log = cluster.log(node);
        for line in log.lines() {
            if line.contains("panicked") || line.contains("the outcome cannot be written") {
                complaints.push(format!("process: {node} says: {line}"));
            }
            rescued += usize::from(line.contains("lease lost: worker "));
        }
    }
    (complaints, rescued)
}
