//! More accepts than Quartet can carry to their end: what becomes of those that are taken, and how
//! the others are refused.

use std::time::Duration;

use crate::{
    bench::{Bench, Measured, Run},
    error::BenchError,
    load::Offered,
    quantiles::Quantiles,
    section::{Section, Target, Unit},
    sections::e2e,
    stubs::Ending,
    usage::Cpu,
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

/// After which it is to be as fast as before.
const RECOVERY: Duration = Duration::from_secs(10);
const QUICK_RECOVERY: Duration = Duration::from_millis(500);

const BEFORE: &str = "50 % of the maximum";
const OVER: &str = "200 % of the maximum";
const AFTER: &str = "50 % again, 10 s later";
const MAXIMUM: &str = "maximum, accepted and notified";

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let elapsed = if bench.extent.full { LONG } else { bench.pick(SHORT, QUICK) };
    let title = format!(
        "Twice as many accepts as are carried to their end, for {} s (`serve --role all`, open \
         loop, {CLIENTS} connections)",
        elapsed.as_secs()
    );
    let mut section = Section::new("overload", title);
    let maximum = e2e::maximum(bench).await?;
    section.sample(MAXIMUM, Unit::PerSecond, maximum);
    let mut run = bench.run("bench_overload", Ending::Answer, "all").await?;
    let normal = offer(&mut run, maximum * NORMAL, elapsed / 3).await?;
    run.wait_told(DRAIN).await?;
    let over = offer(&mut run, maximum * OVERLOAD, elapsed).await?;
    let recovery = bench.pick(RECOVERY, QUICK_RECOVERY);
    offer(&mut run, maximum * NORMAL, recovery).await?;
    let after = offer(&mut run, maximum * NORMAL, elapsed / 3).await?;
    sample(&mut section, BEFORE, &normal);
    sample(&mut section, OVER, &over);
    sample(&mut section, AFTER, &after);
    section.peer(&format!("{OVER}: ended meanwhile"), "the maximum", &[maximum]);
    section.target(&format!("{OVER}: ended meanwhile"), Target::TimesPeer(0.95));
    section.target(&format!("{OVER}: accepted, p99"), Target::AtMost(200.0));
    let before = section.samples(&format!("{BEFORE}: accepted, p99"));
    section.peer(&format!("{AFTER}: accepted, p99"), "before", &before);
    section.target(&format!("{AFTER}: accepted, p99"), Target::AtMostTimesPeer(2.0));
    section.target(&format!("{AFTER}: refused"), Target::AtMost(0.0));
    let memory = section.samples(&first_memory(OVER));
    section.peer(&rest_memory(OVER), "the first tenth", &memory);
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

fn first_memory(name: &str) -> String {
    format!("{name}: peak memory of Quartet, first tenth")
}

fn rest_memory(name: &str) -> String {
    format!("{name}: peak memory of Quartet, the rest")
}

/// What was offered at one rate.
struct Part {
    offered: Offered,
    /// Transactions of which the client heard the end meanwhile.
    told: usize,
    /// All that was used meanwhile.
    cpu: Cpu,
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
    let Measured { told, cpu, peak_memory_mb: rest_memory_mb, .. } = measured;
    Ok(Part { offered, told, cpu, first_memory_mb, rest_memory_mb })
}

fn sample(section: &mut Section, name: &str, part: &Part) {
    let Offered { accepted, refused, took } = &part.offered;
    let seconds = took.as_secs_f64();
    let (some, others) = (accepted.len() as f64, refused.len() as f64);
    section.sample(&format!("{name}: offered"), Unit::PerSecond, (some + others) / seconds);
    section.sample(&format!("{name}: accepted"), Unit::PerSecond, some / seconds);
    let told = part.told as f64;
    section.sample(&format!("{name}: ended meanwhile"), Unit::PerSecond, told / seconds);
    part.cpu.sample_each(section, name, part.told);
    section.sample(&first_memory(name), Unit::Megabytes, part.first_memory_mb);
    section.sample(&rest_memory(name), Unit::Megabytes, part.rest_memory_mb);
    section.sample_latency(&format!("{name}: accepted"), &Quantiles::of_nanos(accepted));
    section.sample(&format!("{name}: refused"), Unit::Percent, others / (some + others) * 100.0);
    if !refused.is_empty() {
        section.sample_latency(&format!("{name}: refused"), &Quantiles::of_nanos(refused));
    }
}
