//! How soon after an accept the third party is asked, at 100 accepts a second: by the process that
//! accepted, and by another one, which learns of the jobs from the database.

use std::time::Duration;

use crate::{
    bench::{Bench, Run},
    clock::{millis_between, now},
    error::BenchError,
    quantiles::Quantiles,
    section::{Section, Target, Unit},
    stubs::Ending,
};

const DRAIN: Duration = Duration::from_secs(60);
const RATE: f64 = 100.0;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "Accept to the third party's first lookup, 100 accepts a second";
    let mut section = Section::new("pick-up", title);
    let elapsed = bench.pick(Duration::from_secs(4), Duration::from_secs(1));
    let mut same = bench.run("bench_pick_up_same", Ending::Answer, "all").await?;
    let mut other = bench.run("bench_pick_up_other", Ending::Answer, "api").await?;
    other.add("worker").await?;
    for _ in 0..bench.extent.repeats {
        measure(&mut same, "same process", elapsed, &mut section).await?;
        measure(&mut other, "other process", elapsed, &mut section).await?;
    }
    for (name, p50, p99) in [("same process", 0.6, 2.0), ("other process", 5.0, 12.0)] {
        section.target(&format!("{name}, after the answer, p50"), Target::AtMost(p50));
        section.target(&format!("{name}, after the answer, p99"), Target::AtMost(p99));
    }
    for mut run in [same, other] {
        run.check(&mut section).await?;
        run.stop().await?;
    }
    Ok(section)
}

async fn measure(
    run: &mut Run,
    name: &str,
    elapsed: Duration,
    section: &mut Section,
) -> Result<(), BenchError> {
    let start = now();
    run.load().open(RATE, elapsed).await?;
    run.wait_told(DRAIN).await?;
    let records = run.stubs.ledger.records_since(start);
    // Negative where the lookup arrives before the answer.
    let after_answer = records
        .iter()
        .map(|(_, record)| millis_between(record.answered, record.lookups[0].arrived));
    let after_post = records
        .iter()
        .map(|(_, record)| millis_between(record.intended, record.lookups[0].arrived));
    let values = [
        ("after the answer", Quantiles::new(after_answer.collect())),
        ("after the post", Quantiles::new(after_post.collect())),
    ];
    for (since, values) in values {
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
            let name = format!("{name}, {since}, {quantile}");
            section.sample(&name, Unit::Millis, values.at(share));
        }
    }
    Ok(())
}
