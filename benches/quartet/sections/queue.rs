//! The queue alone, with jobs that do nothing: draining what waits, and picking up what comes;
//! against plain SQL on the same rows, and against other queues on the same Postgres.

use std::collections::BTreeMap;

use crate::{
    bench::Bench,
    error::BenchError,
    peers::{self, Amount, Line, Peer},
    plain_sql, queue,
    section::{Section, Target, Unit},
};

const DRAIN: &str = "drain";
const PLAIN_SQL: &str = "plain SQL, claim and done by 500, 4 connections";
const PICK_UP: &str = "pick-up after the enqueueing call";
const PICK_UP_CALL: &str = "pick-up with the enqueueing call";
/// What a peer's drain may be, of Quartet's.
const PEERS_DRAINS: [(&str, f64); 2] = [("graphile-worker", 1.0), ("awa", 0.4)];
const SQL_BATCH: i64 = 500;
const SQL_CONNECTIONS: usize = 4;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let mut section = Section::new(
        "queue",
        "The queue alone, jobs that do nothing; pick-up at 100 jobs a second",
    );
    let amount = bench.pick(
        Amount { drain_jobs: 20_000, pick_up_jobs: 300, pick_up_rate: 100 },
        Amount { drain_jobs: 1_000, pick_up_jobs: 20, pick_up_rate: 100 },
    );
    let mut peers = Vec::new();
    if !bench.extent.quick {
        for (name, peer) in peers::prepare(bench.extent.peers).await {
            match peer {
                Ok(peer) => peers.push(peer),
                Err(missing) => section.notes.push(format!("{name}: {missing}")),
            }
        }
    }
    let mut lines: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for _ in 0..bench.extent.repeats {
        measure_sql(bench, amount, &mut section).await?;
        measure_quartet(bench, amount, &mut section).await?;
        for peer in &peers {
            match measure_peer(bench, peer, amount).await? {
                Ok(line) => {
                    let name = format!("{} {}", line.name, line.version);
                    lines.entry(name).or_default().push(line);
                }
                Err(missing) => section.notes.push(format!("{}: {missing}", peer.name)),
            }
        }
    }
    compare(&mut section, &lines);
    Ok(section)
}

async fn measure_sql(
    bench: &Bench,
    amount: Amount,
    section: &mut Section,
) -> Result<(), BenchError> {
    let database = bench.server.database("bench_queue_sql").await?;
    let jobs = amount.drain_jobs;
    let elapsed = plain_sql::drain(database.url(), jobs, SQL_BATCH, SQL_CONNECTIONS).await?;
    section.sample(PLAIN_SQL, Unit::PerSecond, f64::from(jobs) / elapsed.as_secs_f64());
    database.discard().await
}

async fn measure_quartet(
    bench: &Bench,
    amount: Amount,
    section: &mut Section,
) -> Result<(), BenchError> {
    let database = bench.server.database("bench_queue").await?;
    let jobs = amount.drain_jobs;
    let drained = queue::drain(database.url(), bench.server.postmaster, jobs).await?;
    section.sample(DRAIN, Unit::PerSecond, f64::from(jobs) / drained.elapsed.as_secs_f64());
    let cpu = [("Quartet", drained.cpu.quartet), ("Postgres", drained.cpu.postgres)];
    for (whose, seconds) in cpu {
        let name = format!("{DRAIN}: CPU of {whose} per job");
        section.sample(&name, Unit::Micros, seconds * 1e6 / f64::from(jobs));
    }
    section.violations.extend(drained.violations);
    database.discard().await?;

    let database = bench.server.database("bench_queue_pick_up").await?;
    let picked_up =
        queue::pick_up(database.url(), amount.pick_up_jobs, amount.pick_up_rate).await?;
    section.sample_latency(PICK_UP, &picked_up.from_return);
    section.sample_latency(PICK_UP_CALL, &picked_up.from_call);
    database.discard().await
}

async fn measure_peer(
    bench: &Bench,
    peer: &Peer,
    amount: Amount,
) -> Result<Result<Line, peers::Missing>, BenchError> {
    let mut database = bench.server.database("bench_queue_peer").await?;
    database.checkpoint().await?;
    let line = peer.measure(database.url(), amount).await;
    database.discard().await?;
    Ok(line)
}

/// What a peer measured: figure of Quartet's, quantile, unit, value.
fn values(line: &Line) -> [(&'static str, &'static str, Unit, f64); 6] {
    [
        (DRAIN, "", Unit::PerSecond, line.drain_jobs_per_s),
        (PICK_UP, ", p50", Unit::Millis, line.pickup_p50_ms),
        (PICK_UP, ", p95", Unit::Millis, line.pickup_p95_ms),
        (PICK_UP, ", p99", Unit::Millis, line.pickup_p99_ms),
        (PICK_UP_CALL, ", p50", Unit::Millis, line.pickup_from_call_p50_ms),
        (PICK_UP_CALL, ", p99", Unit::Millis, line.pickup_from_call_p99_ms),
    ]
}

/// Figures of the peers, each beside Quartet's.
fn compare(section: &mut Section, lines: &BTreeMap<String, Vec<Line>>) {
    let limit = section.samples(PLAIN_SQL);
    section.peer(DRAIN, "plain SQL", &limit);
    for (peer, lines) in lines {
        for (figure, quantile, unit, value) in lines.iter().flat_map(values) {
            let name = format!("{figure}, {peer}{quantile}");
            section.sample(&name, unit, value);
            let own = section.samples(&format!("{figure}{quantile}"));
            section.peer(&name, "Quartet", &own);
        }
        let own = PEERS_DRAINS.into_iter().find(|(name, _)| peer.starts_with(&format!("{name} ")));
        if let Some((_, most)) = own {
            section.target(&format!("{DRAIN}, {peer}"), Target::AtMostTimesPeer(most));
        }
        let ratio = section.figure(&format!("{DRAIN}, {peer}")).and_then(|figure| figure.ratio());
        if let Some(ratio) = ratio.filter(|ratio| *ratio > 0.0) {
            section.notes.push(format!("{DRAIN}: Quartet = {:.2} × {peer}", 1.0 / ratio));
        }
    }
}
