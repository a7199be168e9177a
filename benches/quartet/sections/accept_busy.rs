//! Accepting in a process whose workers are busy with what was accepted before.

use std::time::Duration;

use crate::{
    bench::Bench,
    error::BenchError,
    load::{SENT_AGAIN, Until},
    quantiles::Quantiles,
    section::{Section, Unit},
    stubs::Ending,
};

const CONNECTIONS: usize = 32;
const DRAIN: Duration = Duration::from_secs(120);
/// Before the figure, so that the workers are busy when it begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "Accept while the workers of the same process are busy (`serve --role all`)";
    let mut section = Section::new("accept-busy", title);
    let elapsed = bench.pick(Duration::from_secs(3), Duration::from_millis(300));
    for _ in 0..bench.extent.repeats {
        let mut run = bench.run("bench_accept_busy", Ending::Answer, "all").await?;
        run.load().closed(CONNECTIONS, &Until::elapsed(WARM_UP)).await?;
        let began = run.begin().await?;
        let accepted = run.load().closed(CONNECTIONS, &Until::elapsed(elapsed)).await?;
        let measured = run.end(&began).await?;
        section.sample("32 connections", Unit::PerSecond, accepted.rate());
        section.sample_latency("32 connections", &Quantiles::of_nanos(&accepted.latencies));
        section.sample("ended meanwhile", Unit::PerSecond, measured.rate());
        run.wait_told(DRAIN).await?;
        run.check(&mut section).await?;
        run.stop().await?;
    }
    section.notes.push(SENT_AGAIN.to_owned());
    Ok(section)
}
