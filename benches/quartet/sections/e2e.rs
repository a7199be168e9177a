//! Whole transactions: from accept to the client's acknowledged final status, as fast as it goes.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    bench::{Bench, Maximum, Measured, Run},
    error::BenchError,
    load::Until,
    section::{Section, Spread, Target, Unit},
    stubs::Ending,
    usage::cpu_of,
};

/// Each with how many transactions may be under way. Only Quartet bounds the rate; those that end
/// by the answer or by webhook are so few that they end within 200 ms, before a poll and a first
/// notification would be due. Those that end by the first poll, 200 ms after the accept, are as
/// many as come in that time, and more.
const VARIANTS: [(Ending, usize); 3] =
    [(Ending::Answer, 400), (Ending::Webhook, 400), (Ending::Poll { pending_polls: 0 }, 3_000)];
const CONNECTIONS: usize = 64;
const MOST_ACCEPTS: usize = 20_000;
/// How long is accepted at most; what is under way then still ends.
const ACCEPTING: Duration = Duration::from_secs(7);
const DRAIN: Duration = Duration::from_secs(120);
/// A transaction has four jobs.
const JOBS: f64 = 4.0;
/// What stands for the maximum where no figure means anything.
const QUICK_MAXIMUM: f64 = 60.0;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let mut section =
        Section::new("e2e", "End to end, accept to the client's final update (`serve --role all`)");
    for _ in 0..bench.extent.repeats {
        for (ending, under_way) in VARIANTS {
            let mut run = bench.run("bench_e2e", ending, "all").await?;
            let measured = drive(bench, &mut run, under_way, ACCEPTING).await?;
            let name = ending.name();
            section.sample(name, Unit::PerSecond, measured.rate());
            section.sample(&format!("{name}: jobs"), Unit::PerSecond, measured.rate() * JOBS);
            measured.sample_cost(&mut section, name);
            run.check(&mut section).await?;
            run.stop().await?;
        }
    }
    section.target("answer", Target::AtLeast(3_000.0));
    section.target(&cpu_of("answer", "Postgres"), Target::AtMost(280.0));
    section.target(&cpu_of("answer", "Quartet"), Target::AtMost(200.0));
    let answer = section.samples("answer");
    for other in ["webhook", "poll"] {
        section.peer(other, "answer", &answer);
        section.target(other, Target::TimesPeer(0.75));
    }
    let postgres = section.samples(&cpu_of("answer", "Postgres"));
    bench.maximum.set(Some(Maximum {
        rate: Spread::of(&answer).median,
        postgres_micros: Spread::of(&postgres).median,
    }));
    Ok(section)
}

/// Whole transactions per second where the third party answers at once.
pub async fn maximum(bench: &Bench) -> Result<f64, BenchError> {
    Ok(most(bench).await?.rate)
}

/// The same with its cost: the section's figures, or measured in short.
pub async fn most(bench: &Bench) -> Result<Maximum, BenchError> {
    if let Some(maximum) = bench.maximum.get() {
        return Ok(maximum);
    }
    let maximum = if bench.extent.quick {
        Maximum { rate: QUICK_MAXIMUM, postgres_micros: 0.0 }
    } else {
        let measured = measure_most(bench, Ending::Answer).await?;
        let postgres = measured.cpu.each(measured.told).postgres;
        Maximum { rate: measured.rate(), postgres_micros: postgres * 1e6 }
    };
    bench.maximum.set(Some(maximum));
    Ok(maximum)
}

/// Whole transactions per second with another ending, measured in short.
pub async fn maximum_with(bench: &Bench, ending: Ending) -> Result<f64, BenchError> {
    if bench.extent.quick {
        return Ok(QUICK_MAXIMUM);
    }
    measure_maximum(bench, ending).await
}

/// The same, measured also where only correctness is looked at.
pub async fn measure_maximum(bench: &Bench, ending: Ending) -> Result<f64, BenchError> {
    Ok(measure_most(bench, ending).await?.rate())
}

async fn measure_most(bench: &Bench, ending: Ending) -> Result<Measured, BenchError> {
    let mut run = bench.run("bench_maximum", ending, "all").await?;
    let under_way = VARIANTS.map(|(_, under_way)| under_way).into_iter().max().unwrap_or_default();
    let measured = drive_up_to(&mut run, MOST_ACCEPTS, under_way, ACCEPTING).await?;
    run.stop().await?;
    Ok(measured)
}

/// Accepts in a closed loop, for a number of transactions or a time, until all have ended.
pub async fn drive(
    bench: &Bench,
    run: &mut Run,
    under_way: usize,
    accepting: Duration,
) -> Result<Measured, BenchError> {
    drive_up_to(run, bench.pick(MOST_ACCEPTS, 150), under_way, accepting).await
}

async fn drive_up_to(
    run: &mut Run,
    accepts: usize,
    under_way: usize,
    accepting: Duration,
) -> Result<Measured, BenchError> {
    let window = Arc::new(Semaphore::new(under_way));
    run.stubs.ledger.set_window(Some(window.clone()));
    let until = Until { elapsed: accepting, accepts, window: Some(window) };
    let began = run.begin().await?;
    run.load().closed(CONNECTIONS, &until).await?;
    run.wait_told(DRAIN).await?;
    run.end(&began).await
}
