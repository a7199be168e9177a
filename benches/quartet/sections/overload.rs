//! More accepts than Quartet can carry to their end: what becomes of those that are taken, and how
//! the others are refused.

use std::time::Duration;

use crate::{
    bench::{Bench, Run},
    error::BenchError,
    load::Offered,
    quantiles::Quantiles,
    section::{Section, Target, Unit},
    sections::e2e,
    stubs::Ending,
};

/// Connections of the open loop: so many that they do not bound it.
const CLIENTS: usize = 512;
/// For how long more is offered than can be taken: with `--full`, by default, with `--quick`.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(20);
const QUICK: Duration = Duration::from_secs(2);
const DRAIN: Duration = Duration::from_secs(600);
const NORMAL: f64 = 0.5;
const OVERLOAD: f64 = 2.0;

const NORMAL_P99: &str = "50 % of the maximum: accepted, p99";
const OVERLOAD_P99: &str = "200 % of the maximum: accepted, p99";
const FIRST_MEMORY: &str = "200 % of the maximum: peak memory of Quartet, first tenth";
const REST_MEMORY: &str = "200 % of the maximum: peak memory of Quartet, the rest";

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let elapsed = if bench.extent.full { LONG } else { bench.pick(SHORT, QUICK) };
    let title = format!(
        "Twice as many accepts as are carried to their end, for {} s (`serve --role all`, open loop, \
         {CLIENTS} connections)",
        elapsed.as_secs()
    );
    let mut section = Section::new("overload", title);
    let maximum = e2e::maximum(bench).await?;
    section.sample("maximum, accepted and told", Unit::PerSecond, maximum);
    let mut run = bench.run("bench_overload", Ending::Answer, "all").await?;
    let normal = offer(&mut run, maximum * NORMAL, elapsed / 3).await?;
    run.wait_told(DRAIN).await?;
    let over = offer(&mut run, maximum * OVERLOAD, elapsed).await?;
    section.sample(FIRST_MEMORY, Unit::Megabytes, over.first_memory_mb);
    section.sample(REST_MEMORY, Unit::Megabytes, over.rest_memory_mb);
    sample(&mut section, "50 % of the maximum", &normal);
    sample(&mut section, "200 % of the maximum", &over);
    let normal = section.figure(NORMAL_P99).map(|figure| figure.samples.clone());
    section.peer(OVERLOAD_P99, "50 % load", &normal.unwrap_or_default());
    section.target(OVERLOAD_P99, Target::AtMostTimesPeer(3.0));
    let memory = section.figure(FIRST_MEMORY).map(|figure| figure.samples.clone());
    section.peer(REST_MEMORY, "the first tenth", &memory.unwrap_or_default());
    section.notes.push(
        "What is accepted beyond what the workers do in the same time ends afterwards; the \
         invariants are checked then"
            .to_owned(),
    );
    run.wait_told(DRAIN).await?;
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}

/// What was offered at one rate.
struct Part {
    offered: Offered,
    /// Transactions of which the client heard the end meanwhile.
    told: usize,
    /// Peaks in the first tenth of the time, and later.
    first_memory_mb: f64,
    rest_memory_mb: f64,
}

async fn offer(run: &mut Run, rate: f64, elapsed: Duration) -> Result<Part, BenchError> {
    let began = run.begin().await?;
    let load = run.load();
    let first_memory = async {
        tokio::time::sleep(elapsed / 10).await;
        run.take_peak_memory_mb()
    };
    let (offered, first_memory_mb) =
        tokio::try_join!(load.offer(rate, elapsed, CLIENTS), first_memory)?;
    let measured = run.end(&began).await?;
    let rest_memory_mb = measured.peak_memory_mb;
    Ok(Part { offered, told: measured.told, first_memory_mb, rest_memory_mb })
}

fn sample(section: &mut Section, name: &str, part: &Part) {
    let Offered { accepted, refused, took } = &part.offered;
    let seconds = took.as_secs_f64();
    let (some, others) = (accepted.len() as f64, refused.len() as f64);
    section.sample(&format!("{name}: offered"), Unit::PerSecond, (some + others) / seconds);
    section.sample(&format!("{name}: accepted"), Unit::PerSecond, some / seconds);
    let told = part.told as f64;
    section.sample(&format!("{name}: ended meanwhile"), Unit::PerSecond, told / seconds);
    section.sample_latency(&format!("{name}: accepted"), &Quantiles::of_nanos(accepted));
    section.sample(&format!("{name}: refused"), Unit::Percent, others / (some + others) * 100.0);
    if !refused.is_empty() {
        section.sample_latency(&format!("{name}: refused"), &Quantiles::of_nanos(refused));
    }
}
