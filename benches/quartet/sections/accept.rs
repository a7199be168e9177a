//! Accepting with the workers elsewhere: `serve --role api`, against pgbench with the same rows.

use std::time::Duration;

use crate::{
    bench::{Bench, Run},
    error::BenchError,
    invariants,
    load::{SENT_AGAIN, Until},
    pgbench::Pgbench,
    quantiles::Quantiles,
    section::{Plot, Section, Series, Spread, Target, Unit},
    stubs::Ending,
};

const CONNECTIONS: [usize; 5] = [1, 8, 32, 128, 512];
/// Where only correctness is looked at.
const QUICK_CONNECTIONS: [usize; 3] = [1, 8, 128];
const PGBENCH_CLIENTS: [usize; 5] = [1, 8, 16, 32, 64];
const PGBENCH: &str = "pgbench's best";
/// Shares of the greatest rate that the plot shows.
const PLOTTED: [f64; 7] = [0.02, 0.15, 0.3, 0.5, 0.65, 0.8, 0.9];
const PGBENCH_ONE: &str = "pgbench, 1 client";
/// Before each figure: plans are made, connections and pages are warm.
const WARM_UP: Duration = Duration::from_millis(300);

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let mut section = Section::new("accept", "Accept, workers off (`serve --role api`)");
    let elapsed = bench.pick(Duration::from_secs(2), Duration::from_millis(300));
    let mut pgbench = match Pgbench::find() {
        Some(program) => {
            Some(Pgbench::new(&program, bench.server.database("bench_pgbench").await?).await?)
        }
        None => {
            section.notes.push("pgbench was not found: no ratios".to_owned());
            None
        }
    };
    section.notes.push(SENT_AGAIN.to_owned());
    let mut run = bench.run("bench_accept", Ending::Never, "api").await?;
    let mut limits = Vec::new();
    let connections = bench.pick(&CONNECTIONS[..], &QUICK_CONNECTIONS[..]);
    for _ in 0..bench.extent.repeats {
        if let Some(pgbench) = &mut pgbench {
            let clients = bench.pick(&PGBENCH_CLIENTS[..], &[1]);
            limits.push(limit(pgbench, clients, &mut section).await?);
        }
        for connections in connections.iter().copied() {
            run.load().closed(connections, &Until::elapsed(WARM_UP)).await?;
            let began = run.begin().await?;
            let accepted = run.load().closed(connections, &Until::elapsed(elapsed)).await?;
            let measured = run.end(&began).await?;
            let name = connected(connections);
            section.sample(&name, Unit::PerSecond, accepted.rate());
            section.sample_latency(&name, &Quantiles::of_nanos(&accepted.latencies));
            let refused = format!("{name}: refused");
            section.sample(&refused, Unit::Count, measured.refusals as f64);
            section.target(&refused, Target::AtMost(0.0));
            measured.cpu.sample_each(&mut section, &name, accepted.latencies.len());
        }
    }
    for connections in CONNECTIONS {
        let name = connected(connections);
        section.peer(&name, PGBENCH, &limits);
        if connections >= 32 {
            section.target(&name, Target::TimesPeer(2.0));
        }
    }
    let one = "pgbench, 1 client, p50";
    if let Some(samples) = section.figure(one).map(|figure| figure.samples.clone()) {
        section.peer("1 connection, p50", PGBENCH_ONE, &samples);
        section.target("1 connection, p50", Target::AbovePeer(1.0));
    }
    section.target("32 connections, p99", Target::AtMost(15.0));
    section.target("128 connections, p99", Target::AtMost(25.0));
    section
        .notes
        .push("pgbench sends the accept statement, one transaction a statement".to_owned());
    section.plots.push(plot(bench, &mut run, &section).await?);
    let violations = invariants::check_accepted(&run.database, &run.stubs.ledger).await?;
    section.violations.extend(violations);
    run.stop().await?;
    if let Some(pgbench) = pgbench {
        pgbench.discard().await?;
    }
    Ok(section)
}

fn connected(connections: usize) -> String {
    format!("{connections} connection{}", if connections == 1 { "" } else { "s" })
}

/// Latency over the offered rate, up to near the most that was measured.
async fn plot(bench: &Bench, run: &mut Run, section: &Section) -> Result<Plot, BenchError> {
    let rates = CONNECTIONS.iter().filter_map(|connections| {
        let name = connected(*connections);
        section.figures.iter().find(|figure| figure.name == name)
    });
    let most = rates.map(|figure| Spread::of(&figure.samples).median).fold(0.0, f64::max);
    let mut points = Vec::new();
    for share in bench.pick(&PLOTTED[..], &[]) {
        run.database.checkpoint().await?;
        let accepted = run.load().open(most * share, Duration::from_secs(2)).await?;
        points.push((most * share, Quantiles::of_nanos(&accepted.latencies)));
    }
    let series = [("p50", 0.5), ("p99", 0.99)].map(|(name, share)| Series {
        name: name.to_owned(),
        points: points.iter().map(|(rate, latency)| (*rate, latency.at(share))).collect(),
    });
    Ok(Plot {
        file: "accept-latency",
        title: "Accept: from the intended moment to the answer".to_owned(),
        x: "accepts per second, offered".to_owned(),
        y: "milliseconds".to_owned(),
        series: series.into(),
    })
}

/// The best rate of pgbench over all numbers of clients.
async fn limit(
    pgbench: &mut Pgbench,
    clients: &[usize],
    section: &mut Section,
) -> Result<f64, BenchError> {
    let mut best = 0.0_f64;
    for clients in clients.iter().copied() {
        let measured = pgbench.run(clients, Duration::from_secs(2)).await?;
        let name = format!("pgbench, {clients} client{}", if clients == 1 { "" } else { "s" });
        section.sample(&name, Unit::PerSecond, measured.rate);
        if clients == 1 {
            section.sample(&format!("{name}, p50"), Unit::Millis, measured.latency.at(0.5));
        }
        best = best.max(measured.rate);
    }
    Ok(best)
}
