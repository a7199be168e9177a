//! Accepting in a process whose workers are busy with what was accepted before.

use std::time::Duration;

use crate::{
    bench::Bench,
    error::BenchError,
    load::{SENT_AGAIN, Until},
    quantiles::Quantiles,
    section::{Section, Target, Unit},
    stubs::Ending,
};

const CONNECTIONS: [usize; 2] = [32, 128];
const DRAIN: Duration = Duration::from_secs(120);
/// Before the figure, so that the workers are busy when it begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "Accept while the workers of the same process are busy (`serve --role all`)";
    let mut section = Section::new("accept-busy", title);
    let elapsed = bench.pick(Duration::from_secs(3), Duration::from_millis(300));
    for _ in 0..bench.extent.repeats {
        for connections in bench.pick(&CONNECTIONS[..], &CONNECTIONS[..1]).iter().copied() {
            let mut run = bench.run("bench_accept_busy", Ending::Answer, "all").await?;
            run.load().closed(connections, &Until::elapsed(WARM_UP)).await?;
            let began = run.begin().await?;
            let accepted = run.load().closed(connections, &Until::elapsed(elapsed)).await?;
            let measured = run.end(&began).await?;
            let name = format!("{connections} connections");
            section.sample(&name, Unit::PerSecond, accepted.rate());
            section.sample_latency(&name, &Quantiles::of_nanos(&accepted.latencies));
            let refused = format!("{name}: refused");
            section.sample(&refused, Unit::Count, measured.refusals as f64);
            section.target(&refused, Target::AtMost(0.0));
            section.sample(&format!("{name}: ended meanwhile"), Unit::PerSecond, measured.rate());
            // What was accepted meanwhile belongs to it, to its end.
            run.wait_told(DRAIN).await?;
            let measured = run.end(&began).await?;
            measured.cpu.sample_each(&mut section, &name, measured.told);
            run.check(&mut section).await?;
            run.stop().await?;
        }
    }
    section.target("32 connections, p99", Target::AtMost(40.0));
    section.notes.push(SENT_AGAIN.to_owned());
    Ok(section)
}
