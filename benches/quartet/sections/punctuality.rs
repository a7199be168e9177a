//! How late what is due comes: the first poll (accept + 200 ms), the second one (10 ms after the
//! end of the first), and the first notification (accept + 200 ms). The third party says `pending`
//! until the third poll.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{e2e, latency::half_load};
use crate::{
    bench::{Bench, Run},
    clock::{Moment, millis_between, now},
    error::BenchError,
    quantiles::Quantiles,
    section::{Section, Target, Unit},
    seed,
    stubs::{Ending, Record},
};

/// Half of the maximum is half of what is done with this ending.
const ENDING: Ending = Ending::Poll { pending_polls: 2 };
const DRAIN: Duration = Duration::from_secs(60);
/// `POLL__FIRST` and `NOTIFY__FIRST`, by default.
const FIRST_MS: f64 = 200.0;
/// `POLL__SECOND`, by default.
const SECOND_MS: f64 = 10.0;

/// By how many milliseconds something came late, for a transaction that was accepted then.
type Late<'a> = &'a dyn Fn(&Record, Moment) -> f64;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "How late polls and notifications come, third party pending until the third poll";
    let mut section = Section::new("punctuality", title);
    let half = e2e::maximum_with(bench, ENDING).await? / 2.0;
    let elapsed = bench.pick(Duration::from_secs(5), Duration::from_secs(1));
    let mut run = bench.run("bench_punctuality", ENDING, "all").await?;
    for _ in 0..bench.extent.repeats {
        for (rate, name) in [(10.0, "10/s".to_owned()), (half, half_load())] {
            let start = now();
            run.load().open(rate, elapsed).await?;
            run.wait_told(DRAIN).await?;
            sample(&run, start, &name, &mut section).await?;
        }
    }
    for (rate, most) in [("10/s".to_owned(), 4.0), (half_load(), 10.0)] {
        section.target(&format!("{rate}: first poll late, p99"), Target::AtMost(most));
        section.target(&format!("{rate}: second poll late, p99"), Target::AtMost(10.0));
    }
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}

async fn sample(
    run: &Run,
    start: Moment,
    rate: &str,
    section: &mut Section,
) -> Result<(), BenchError> {
    let accepted_at: HashMap<Uuid, Moment> =
        seed::accepted_at(&run.database).await?.into_iter().collect();
    let records = run.stubs.ledger.records_since(start);
    // The lookup before the create comes first; where it came late, a poll may have overtaken it,
    // and counts as late as it is.
    let first = |record: &Record, accepted: Moment| {
        millis_between(accepted, record.lookups[1].arrived) - FIRST_MS
    };
    let second = |record: &Record, _: Moment| {
        millis_between(record.lookups[1].answered, record.lookups[2].arrived) - SECOND_MS
    };
    let notified =
        |record: &Record, accepted: Moment| millis_between(accepted, record.told_first) - FIRST_MS;
    let late: [(&str, Late<'_>); 3] =
        [("first poll", &first), ("second poll", &second), ("first notification", &notified)];
    for (what, late) in late {
        let values = records.iter().filter_map(|(id, record)| {
            let accepted = accepted_at.get(id)?;
            Some(late(record, *accepted))
        });
        let values = Quantiles::new(values.collect());
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
            let name = format!("{rate}: {what} late, {quantile}");
            section.sample(&name, Unit::Millis, values.at(share));
        }
    }
    Ok(())
}
