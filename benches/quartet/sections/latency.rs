//! From accept to the client's final update, at rates that do not depend on the answers.

use std::time::Duration;

use super::e2e;
use crate::{
    bench::{Bench, Run},
    clock::{millis_between, now},
    error::BenchError,
    quantiles::Quantiles,
    section::{Plot, Section, Series, Target},
    stubs::Ending,
};

const DRAIN: Duration = Duration::from_secs(60);
/// Shares of the maximum that only the plot shows.
const PLOTTED: [f64; 4] = [0.25, 0.7, 0.8, 0.9];

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "Accept to the client's final update, third party answers at once (open loop)";
    let mut section = Section::new("latency", title);
    let maximum = e2e::maximum(bench).await?;
    let half = maximum / 2.0;
    let rates = [(10.0, "10/s".to_owned()), (100.0, "100/s".to_owned()), (half, half_load())];
    let elapsed = bench.pick(Duration::from_secs(5), Duration::from_secs(1));
    let mut points: Vec<(f64, Quantiles)> = Vec::new();
    let mut run = bench.run("bench_latency", Ending::Answer, "all").await?;
    for repeat in 0..bench.extent.repeats {
        for (rate, name) in &rates {
            let latency = told_after(&mut run, *rate, elapsed).await?;
            section.sample_latency(name, &latency);
            if repeat == 0 {
                points.push((*rate, latency));
            }
        }
    }
    for share in bench.pick(&PLOTTED[..], &[]) {
        let rate = maximum * share;
        points.push((rate, told_after(&mut run, rate, Duration::from_secs(4)).await?));
    }
    section.target("100/s, p50", Target::AtMost(25.0));
    section.target("100/s, p99", Target::AtMost(80.0));
    section.notes.push(format!("50 % of the maximum is {half:.0} transactions a second"));
    points.sort_by(|left, right| left.0.total_cmp(&right.0));
    let series = [("p50", 0.5), ("p99", 0.99)].map(|(name, share)| Series {
        name: name.to_owned(),
        points: points.iter().map(|(rate, latency)| (*rate, latency.at(share))).collect(),
    });
    section.plots.push(Plot {
        file: "time-to-final",
        title: "From accept to the client's final update".to_owned(),
        x: "transactions per second, offered".to_owned(),
        y: "milliseconds".to_owned(),
        series: series.into(),
    });
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}

/// How half of the maximum is called in figures.
pub fn half_load() -> String {
    "50 % of the maximum".to_owned()
}

/// From the intended accept to the client's final update, in milliseconds.
async fn told_after(run: &mut Run, rate: f64, elapsed: Duration) -> Result<Quantiles, BenchError> {
    let start = now();
    run.load().open(rate, elapsed).await?;
    run.wait_told(DRAIN).await?;
    let records = run.stubs.ledger.records_since(start).into_iter();
    let latencies = records.map(|(_, record)| millis_between(record.intended, record.told_final));
    Ok(Quantiles::new(latencies.collect()))
}
