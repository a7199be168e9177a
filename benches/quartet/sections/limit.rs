//! The upper limit of whole transactions: the same rows by plain SQL, in batches over two
//! connections, without any program; and what Quartet reaches of it.

use super::e2e;
use crate::{
    bench::Bench,
    error::BenchError,
    life::{self, BATCH, CONNECTIONS, Versions},
    number::number,
    section::{Section, Spread, Target, Unit},
    usage::{self, Cpu, cpu_of},
};

const TRANSACTIONS: usize = 20_000;
const QUICK: usize = 400;
const END_TO_END: &str = "end to end, answer";
/// What Quartet is to reach of the limit with the versions that it writes itself.
const OF_LIMIT: f64 = 0.6;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = format!(
        "Whole transactions by plain SQL, by {BATCH} over {CONNECTIONS} connections, as the limit"
    );
    let mut section = Section::new("limit", title);
    for _ in 0..bench.extent.repeats {
        for versions in Versions::ALL {
            measure(bench, versions, &mut section).await?;
        }
    }
    if !bench.extent.quick {
        compare(bench, &mut section).await?;
    }
    section.notes.push(
        "12 versions of the four job rows: each that runs is written as waiting, as running and \
         as ended. 8 versions: create_transaction is done and create_at_third_party runs when they \
         are inserted, notify_client runs when the transaction is settled. Rows are named by their \
         keys; a queue must also look for them"
            .to_owned(),
    );
    Ok(section)
}

fn name(versions: Versions) -> String {
    format!("plain SQL, {} versions of job rows", number(versions.of_jobs()))
}

async fn measure(
    bench: &Bench,
    versions: Versions,
    section: &mut Section,
) -> Result<(), BenchError> {
    let mut database = bench.server.database("bench_limit").await?;
    database.checkpoint().await?;
    let work = database.work().await?;
    let postmaster = bench.server.postmaster;
    let before = usage::of_postgres(postmaster)?;
    let transactions = bench.pick(TRANSACTIONS, QUICK);
    let (written, took) = life::live(&database, transactions, versions).await?;
    let postgres = usage::of_postgres(postmaster)? - before;
    let work = database.work().await?.since(work);
    life::check(&database, written).await?;
    let name = name(versions);
    section.sample(&name, Unit::PerSecond, written as f64 / took.as_secs_f64());
    Cpu { postgres, ..Cpu::default() }.sample_each(section, &name, written);
    work.sample_each(section, &name, written);
    let tables = database.tables().await?;
    let jobs = tables.iter().find(|table| table.name == "jobs");
    let found = jobs.map_or(0.0, |table| table.versions / written as f64);
    if (found - versions.of_jobs()).abs() > 0.01 {
        section.violations.push(format!("{name}: {found} were written for each transaction"));
    }
    database.discard().await
}

/// What Quartet reaches, beside both.
async fn compare(bench: &Bench, section: &mut Section) -> Result<(), BenchError> {
    let reached = e2e::most(bench).await?;
    section.sample(END_TO_END, Unit::PerSecond, reached.rate);
    let cpu = cpu_of(END_TO_END, "Postgres");
    section.sample(&cpu, Unit::MicrosEach, reached.postgres_micros);
    for versions in Versions::ALL {
        let name = name(versions);
        let (rates, costs) = (section.samples(&name), section.samples(&cpu_of(&name, "Postgres")));
        let (rate, cost) = (Spread::of(&rates).median, Spread::of(&costs).median);
        section.notes.push(format!(
            "{END_TO_END} = {:.2} × {name}; it costs Postgres {:.2} × as much",
            reached.rate / rate,
            reached.postgres_micros / cost
        ));
        if versions == Versions::EachStep {
            section.peer(END_TO_END, "plain SQL", &rates);
            section.target(END_TO_END, Target::TimesPeer(OF_LIMIT));
            section.peer(&cpu, "plain SQL", &costs);
        }
    }
    Ok(())
}
