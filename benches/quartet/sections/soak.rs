//! Load for a longer time: whether it gets slower, and what it leaves in the database.

use std::time::Duration;

use super::e2e;
use crate::{
    bench::Bench,
    clock::millis_between,
    error::BenchError,
    quantiles::Quantiles,
    section::{Section, Unit},
    stubs::Ending,
};

const DRAIN: Duration = Duration::from_secs(120);
/// Of the maximum.
const LOAD: f64 = 0.7;
const FIRST: &str = "accept to told, first tenth, p99";
const LAST: &str = "accept to told, last tenth, p99";

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let seconds = match (bench.extent.full, bench.extent.quick) {
        (true, _) => 600,
        (_, true) => 2,
        _ => 60,
    };
    let title = format!("{seconds} s at 70 % of the maximum (open loop, third party answers)");
    let mut section = Section::new("soak", title);
    let rate = e2e::maximum(bench).await? * LOAD;
    let mut run = bench.run("bench_soak", Ending::Answer, "all").await?;
    let began = run.begin().await?;
    run.load().open(rate, Duration::from_secs(seconds)).await?;
    run.wait_told(DRAIN).await?;
    let measured = run.end(&began).await?;
    section.sample("offered", Unit::PerSecond, rate);
    section.sample("ended", Unit::PerSecond, measured.rate());
    let records = run.stubs.ledger.records_since(0);
    let tenth = records.len().div_ceil(10).max(1);
    let latencies: Vec<f64> = records
        .chunks(tenth)
        .map(|part| {
            let latency =
                part.iter().map(|(_, record)| millis_between(record.intended, record.told_final));
            Quantiles::new(latency.collect()).at(0.99)
        })
        .collect();
    if let [first, .., last] = latencies[..] {
        section.sample(FIRST, Unit::Millis, first);
        section.sample(LAST, Unit::Millis, last);
    }
    let each: Vec<String> = latencies.iter().map(|latency| format!("{latency:.0}")).collect();
    section.notes.push(format!("Accept to told, p99 of each tenth in ms: {}", each.join(", ")));
    let first = section.figure(FIRST).map(|figure| figure.samples.clone()).unwrap_or_default();
    section.peer(LAST, "the first tenth", &first);
    measured.sample_cost(&mut section, "all of it");
    for table in run.database.tables().await? {
        let name = &table.name;
        section.sample(&format!("{name}: dead rows"), Unit::Count, table.dead_rows);
        let per = 1.0 / records.len() as f64;
        let name = format!("{name}: table per transaction");
        section.sample(&name, Unit::Bytes, table.table_bytes * per);
        let name = format!("{}: indexes per transaction", table.name);
        section.sample(&name, Unit::Bytes, table.index_bytes * per);
    }
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}
