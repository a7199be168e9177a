//! Load for a longer time: whether it gets slower, and what it leaves in the database.

use std::time::Duration;

use super::e2e;
use crate::{
    bench::{Began, Bench, Measured, Run},
    clock::{Moment, millis_between, nanos, now},
    database::TableSize,
    error::BenchError,
    load::SENT_AGAIN,
    number::{grouped, number},
    quantiles::Quantiles,
    section::{Section, Table, Target, Unit},
    stubs::{Ending, Record},
    usage::{Cpu, cpu_of},
};

const DRAIN: Duration = Duration::from_secs(120);
/// Of the maximum.
const LOAD: f64 = 0.7;
const PARTS: u32 = 10;
const FIRST: &str = "accept to notified, first tenth, p99";
const LAST: &str = "accept to notified, last tenth, p99";
const WORST: &str = "accept to notified, worst tenth, p99";
const ALL: &str = "all of it";
const HEADS: [&str; 7] = [
    "tenth",
    "accepted",
    "refused",
    "post to its answer, p50 / p99",
    "accept to notified, p50 / p99",
    "dead rows: jobs, transactions",
    "CPU a transaction: Postgres, Quartet",
];

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let lasts = bench.soak_lasts;
    let title = format!(
        "{} s at 70 % of the maximum (open loop, third party answers)",
        number(lasts.as_secs_f64())
    );
    let mut section = Section::new("soak", title);
    let rate = e2e::maximum(bench).await? * LOAD;
    let mut run = bench.run("bench_soak", Ending::Answer, "all").await?;
    let expected = rate * lasts.as_secs_f64();
    run.stubs.ledger.reserve(expected as usize);
    let load = run.load();
    let began = run.begin().await?;
    let start = now();
    let (_, parts) =
        tokio::try_join!(load.open(rate, lasts), watch(&mut run, &began, lasts / PARTS))?;
    run.wait_told(DRAIN).await?;
    let measured = run.end(&began).await?;
    section.sample("offered", Unit::PerSecond, rate);
    section.sample("ended", Unit::PerSecond, measured.rate());
    section.sample("refused", Unit::Count, measured.refusals as f64);
    section.target("refused", Target::AtMost(0.0));

    let records: Vec<Record> =
        run.stubs.ledger.records_since(start).into_iter().map(|(_, record)| record).collect();
    let latencies = tenths(&records, lasts / PARTS);
    let p99 = |latencies: &Latencies| latencies.notified.at(0.99);
    if let [first, .., last] = &latencies[..] {
        section.sample(FIRST, Unit::Millis, p99(first));
        section.sample(LAST, Unit::Millis, p99(last));
        let worst = latencies.iter().map(p99).fold(0.0, f64::max);
        section.sample(WORST, Unit::Millis, worst);
    }
    let first = section.samples(FIRST);
    section.peer(LAST, "the first tenth", &first);
    section.target(LAST, Target::AtMostTimesPeer(1.5));
    section.target(WORST, Target::AtMost(150.0));
    measured.sample_cost(&mut section, ALL);
    section.target(&cpu_of(ALL, "Postgres"), Target::AtMost(400.0));
    section.target(&cpu_of(ALL, "Quartet"), Target::AtMost(200.0));
    for table in run.database.tables().await? {
        let name = &table.name;
        let per = 1.0 / records.len().max(1) as f64;
        let bytes = format!("{name}: table per transaction");
        section.sample(&bytes, Unit::Bytes, table.table_bytes * per);
        let bytes = format!("{name}: indexes per transaction");
        section.sample(&bytes, Unit::Bytes, table.index_bytes * per);
    }
    let rows = parts.iter().zip(&latencies).enumerate();
    let rows = rows.map(|(index, (part, latencies))| row(index + 1, part, latencies)).collect();
    section.tables.push(Table { heads: HEADS.map(str::to_owned).into(), rows });
    section.notes.push(SENT_AGAIN.to_owned());
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}

/// What was found at the end of one tenth.
struct Part {
    refusals: usize,
    ended: usize,
    cpu: Cpu,
    tables: Vec<TableSize>,
}

/// Looks at the database and the processes at the end of each tenth of the load.
async fn watch(run: &mut Run, began: &Began, each: Duration) -> Result<Vec<Part>, BenchError> {
    let (mut refusals, mut ended, mut cpu) = (0, 0, Cpu::default());
    let mut ticks = tokio::time::interval(each);
    // The first one is at once.
    ticks.tick().await;
    let mut parts = Vec::new();
    for part in 1..=PARTS {
        ticks.tick().await;
        let measured: Measured = run.end(began).await?;
        let tables = run.database.tables().await?;
        if each > Duration::from_secs(10) {
            println!(
                "  {part}/{PARTS}: {} ended, {} refused",
                grouped(measured.told as f64),
                grouped(measured.refusals as f64)
            );
        }
        parts.push(Part {
            refusals: measured.refusals - refusals,
            ended: measured.told - ended,
            cpu: measured.cpu.since(cpu),
            tables,
        });
        (refusals, ended, cpu) = (measured.refusals, measured.told, measured.cpu);
    }
    Ok(parts)
}

/// Latencies of what was to be posted in one tenth, in milliseconds.
struct Latencies {
    answered: Quantiles,
    notified: Quantiles,
}

fn tenths(records: &[Record], each: Duration) -> Vec<Latencies> {
    // The connections are opened before the first is sent.
    let Some(start) = records.first().map(|record| record.intended) else { return Vec::new() };
    let within = |part: u32, to: fn(&Record) -> Moment| {
        let (from, until) = (start + nanos(each * part), start + nanos(each * (part + 1)));
        let records = records.iter().filter(|record| (from..until).contains(&record.intended));
        Quantiles::new(records.map(|record| millis_between(record.intended, to(record))).collect())
    };
    let each = (0..PARTS).map(|part| Latencies {
        answered: within(part, |record| record.answered),
        notified: within(part, |record| record.told_final),
    });
    each.collect()
}

fn row(number_of: usize, part: &Part, latencies: &Latencies) -> Vec<String> {
    let pair = |latency: &Quantiles| {
        format!("{} / {} ms", number(latency.at(0.5)), number(latency.at(0.99)))
    };
    let dead = |name: &str| {
        let table = part.tables.iter().find(|table| table.name == name);
        grouped(table.map_or(0.0, |table| table.dead_rows))
    };
    let cpu = part.cpu.each(part.ended);
    vec![
        number_of.to_string(),
        grouped(latencies.answered.count() as f64),
        grouped(part.refusals as f64),
        pair(&latencies.answered),
        pair(&latencies.notified),
        format!("{}, {}", dead("jobs"), dead("transactions")),
        format!("{:.0}, {:.0} µs", cpu.postgres * 1e6, cpu.quartet * 1e6),
    ]
}
