//! A steady load of 30 % of the maximum beside what ordinary life does to a database: something
//! that holds vacuum back, or reads all the time. What counts is that the last tenth is as fast as
//! without it.

use std::time::Duration;

use crate::{
    bench::{Bench, Measured},
    cell::Cell,
    clock::{Moment, millis_between, nanos, now},
    error::BenchError,
    number::number,
    pressure::Pressure,
    quantiles::Quantiles,
    section::{Section, Table, Target, Unit},
    sections::e2e,
    stubs::{Ending, Record},
};

/// Of the maximum with the same mixture of ends.
const LOAD: f64 = 0.3;
/// Connections of the open loop: so many that they do not bound it.
const CLIENTS: usize = 256;
/// Where only correctness is looked at.
const QUICK: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(120);
/// The last tenth may be this many times as slow as that beside nothing.
const MOST_SLOWER: f64 = 2.0;
const HEADS: [&str; 13] = [
    "beside",
    "ended",
    "refused",
    "accept, first tenth, p50 / p99",
    "accept, last tenth",
    "accept to notified, first tenth, p50 / p99",
    "accept to notified, last tenth",
    "p99 of the last tenth, of that of (a)",
    "dead rows: jobs, transactions",
    "not visible in jobs (pgstattuple)",
    "CPU of Postgres: of one core, a transaction",
    "CPU of Quartet",
    "CPU of load generator and stubs",
];

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let lasts = bench.pressure_lasts.unwrap_or(QUICK);
    let title = format!(
        "{} s at 30 % of the maximum beside what holds vacuum back or reads (open loop)",
        lasts.as_secs()
    );
    let mut section = Section::new("pressure", title);
    let ending = Ending::Mixed;
    let maximum = match bench.pressure_lasts {
        Some(_) => e2e::measure_maximum(bench, ending).await?,
        None => e2e::maximum_with(bench, ending).await?,
    };
    let rate = maximum * LOAD;
    section.sample("maximum with this mixture", Unit::PerSecond, maximum);
    section.sample("offered", Unit::PerSecond, rate);
    let mut rows = Vec::new();
    let mut alone = None;
    for cell in Cell::ALL {
        // Without the first there is nothing to compare with.
        let is_wanted = bench.pressure.is_empty() || bench.pressure.contains(&cell);
        if !is_wanted && cell != Cell::Nothing {
            continue;
        }
        println!("  ({}) {} …", cell.letter(), cell.name());
        let found = measure(bench, cell, rate, lasts, &mut section).await?;
        let p99 = found.notified_last.at(0.99);
        let beside_nothing = *alone.get_or_insert(p99);
        rows.push(found.row(cell, beside_nothing));
        let name = format!("({}) {}", cell.letter(), cell.name());
        let last = format!("{name}: accept to notified, last tenth, p99");
        section.sample(&last, Unit::Millis, p99);
        let refused = format!("{name}: refused");
        section.sample(&refused, Unit::Count, found.refused as f64);
        section.target(&refused, Target::AtMost(0.0));
        if cell != Cell::Nothing {
            section.peer(&last, "(a)", &[beside_nothing]);
            section.target(&last, Target::AtMostTimesPeer(MOST_SLOWER));
        }
    }
    section.tables.push(Table { heads: HEADS.map(str::to_owned).into(), rows });
    section.notes.push(
        "Of ten transactions six end by the answer, two by webhook, two by the first poll (200 ms \
         after the accept). A refused accept is not sent again. Dead rows are those at the end of \
         the load, as autovacuum counts them"
            .to_owned(),
    );
    Ok(section)
}

/// What was found in one cell.
struct Found {
    accept_first: Quantiles,
    accept_last: Quantiles,
    notified_first: Quantiles,
    notified_last: Quantiles,
    refused: usize,
    dead_jobs: f64,
    dead_transactions: f64,
    /// Row versions of the job table that no new snapshot sees.
    invisible_jobs: Option<i64>,
    measured: Measured,
}

impl Found {
    fn row(&self, cell: Cell, alone: f64) -> Vec<String> {
        let pair = |latency: &Quantiles| {
            format!("{} / {} ms", number(latency.at(0.5)), number(latency.at(0.99)))
        };
        let Measured { cpu, elapsed, told, .. } = &self.measured;
        let share = |seconds: f64| {
            let (of_core, each) = (seconds / elapsed.as_secs_f64(), seconds / *told.max(&1) as f64);
            format!("{:.0} %, {:.0} µs", of_core * 100.0, each * 1e6)
        };
        vec![
            format!("({}) {}", cell.letter(), cell.name()),
            format!("{} /s", number(self.measured.rate())),
            self.refused.to_string(),
            pair(&self.accept_first),
            pair(&self.accept_last),
            pair(&self.notified_first),
            pair(&self.notified_last),
            format!("{:.2} ×", self.notified_last.at(0.99) / alone),
            format!("{}, {}", number(self.dead_jobs), number(self.dead_transactions)),
            self.invisible_jobs.map_or_else(String::new, |rows| number(rows as f64)),
            share(cpu.postgres),
            share(cpu.quartet),
            share(cpu.bench),
        ]
    }
}

/// One cell, on a database of its own.
async fn measure(
    bench: &Bench,
    cell: Cell,
    rate: f64,
    lasts: Duration,
    section: &mut Section,
) -> Result<Found, BenchError> {
    let mut run = bench.run("bench_pressure", Ending::Mixed, "all").await?;
    let pressure = Pressure::start(cell, &run).await?;
    let began = run.begin().await?;
    let start = now();
    let offered = run.load().offer(rate, lasts, CLIENTS).await?;
    // Before anything is waited for: at that rate all but the last ones have ended.
    let measured = run.end(&began).await?;
    let tables = run.database.tables().await?;
    let dead = |name: &str| {
        tables.iter().find(|table| table.name == name).map_or(0.0, |table| table.dead_rows)
    };
    let (dead_jobs, dead_transactions) = (dead("jobs"), dead("transactions"));
    let ended = run.wait_told(DRAIN).await;
    let invisible_jobs = run.database.invisible_jobs().await;
    pressure.stop().await?;
    match ended {
        Ok(()) => run.check(section).await?,
        Err(BenchError::TimedOut { what, bound }) => section.violations.push(format!(
            "({}) {}: within {} s not: {what}",
            cell.letter(),
            cell.name(),
            bound.as_secs()
        )),
        Err(error) => return Err(error),
    }
    let tenth = nanos(lasts / 10);
    let records: Vec<Record> =
        run.stubs.ledger.records_since(start).into_iter().map(|(_, record)| record).collect();
    let latency = |from: Moment, until: Moment, to: fn(&Record) -> Moment| {
        let within = records.iter().filter(|record| (from..until).contains(&record.intended));
        // What never arrived counts as late as can be.
        let until_now = |at: Moment| if at == 0 { now() } else { at };
        let latencies = within.map(|record| millis_between(record.intended, until_now(to(record))));
        Quantiles::new(latencies.collect())
    };
    // The connections are opened before the first is sent.
    let start = records.first().map_or(start, |record| record.intended);
    let end = start + nanos(lasts);
    let answered = |record: &Record| record.answered;
    let notified = |record: &Record| record.told_final;
    let found = Found {
        accept_first: latency(start, start + tenth, answered),
        accept_last: latency(end - tenth, end, answered),
        notified_first: latency(start, start + tenth, notified),
        notified_last: latency(end - tenth, end, notified),
        refused: offered.refused.len(),
        dead_jobs,
        dead_transactions,
        invisible_jobs,
        measured,
    };
    run.stop().await?;
    Ok(found)
}
