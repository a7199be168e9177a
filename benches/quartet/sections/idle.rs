//! What a process without work costs, and how soon it sees work that nobody tells it of.

use std::time::Duration;

use crate::{
    bench::Bench,
    clock::{millis_between, now},
    error::BenchError,
    quantiles::Quantiles,
    section::{Section, Target, Unit},
    seed,
    stubs::Ending,
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
/// Between two jobs: not in step with what looks for them.
const PAUSES_MS: [u64; 5] = [37, 61, 43, 79, 53];
/// When the first poll of such a transaction is due: as usual.
const FIRST_POLL_SECS: f64 = 0.2;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "An idle process (`serve --role all`), and jobs that appear by SQL alone";
    let mut section = Section::new("idle", title);
    let elapsed = bench.pick(Duration::from_secs(10), Duration::from_secs(1));
    let mut run = bench.run("bench_idle", Ending::Answer, "all").await?;
    let began = run.begin().await?;
    tokio::time::sleep(elapsed).await;
    let measured = run.end(&began).await?;
    let seconds = measured.elapsed.as_secs_f64();
    let cpu = measured.cpu.quartet / seconds * 100.0;
    section.sample("CPU of Quartet, of one core", Unit::Percent, cpu);
    let postgres = measured.cpu.postgres / seconds * 100.0;
    section.sample("CPU of Postgres, of one core", Unit::Percent, postgres);
    section.sample("statements", Unit::PerSecond, measured.work.statements / seconds);
    section.sample("memory of Quartet", Unit::Megabytes, measured.peak_memory_mb);

    let mut late = Vec::new();
    for number in 1..=bench.pick(60, 5) {
        let ids = seed::accepted(&run.database, number..=number, FIRST_POLL_SECS).await?;
        let committed = now();
        for id in &ids {
            run.stubs.ledger.accepted(*id, None, committed, committed);
        }
        let mut arrived = 0;
        wait_until("the job is picked up", BOUND, async || {
            let records = run.stubs.ledger.records_since(committed);
            arrived = records.first().map_or(0, |(_, record)| record.lookups[0].arrived);
            Ok(arrived > 0)
        })
        .await?;
        late.push(millis_between(committed, arrived));
        let pause = PAUSES_MS[number as usize % PAUSES_MS.len()];
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    section.sample_latency("pick-up of a job made due by SQL", &Quantiles::new(late));
    section.target("CPU of Quartet, of one core", Target::AtMost(1.0));
    section.target("statements", Target::AtMost(20.0));
    section.target("pick-up of a job made due by SQL, p95", Target::AtMost(20.0));
    run.wait_told(BOUND).await?;
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}
