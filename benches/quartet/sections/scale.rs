//! Whole transactions beside much that is there already: finished jobs, transactions that wait for
//! a poll; and many creates in flight at a slow third party.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use super::e2e;
use crate::{
    bench::{Bench, Run},
    clock::now,
    error::BenchError,
    invariants,
    number::number,
    section::{Section, Target, Unit},
    seed,
    stubs::{Ending, Script},
};

const UNDER_WAY: usize = 2_000;
const ALONE: &str = "nothing but the load";
const WAITING: i64 = 100_000;
/// Of the rates: this section takes longest.
const MOST_REPEATS: usize = 2;
const JOBS: i64 = 4;
/// The slow third party: how long a create takes, and how many are sent to it at once.
const CREATE_TAKES: Duration = Duration::from_secs(5);
const IN_FLIGHT: u64 = 10_000;
/// Open files that are needed for other things than creates in flight.
const OTHER_FILES: u64 = 1_500;
const SLOW_DRAIN: Duration = Duration::from_secs(90);
/// When the polls of those begin: after the answers, so that they do not drown what is measured.
const FIRST_POLL_SECS: f64 = 100.0;

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let mut section = Section::new("scale", "End to end beside much that is there (`--role all`)");
    let mut finished = vec![bench.pick(1_000_000, 4_000)];
    if bench.extent.full {
        finished.push(10_000_000);
    }
    let mut runs = vec![(ALONE.to_owned(), prepare(bench, "bench_alone", Seed::Nothing).await?)];
    for jobs in finished {
        let name = format!("beside {} finished jobs", number(jobs as f64));
        let run = prepare(bench, &format!("bench_{jobs}"), Seed::Finished(jobs / JOBS)).await?;
        runs.push((name, run));
    }
    let waiting = bench.pick(WAITING, 1_000);
    let name = format!("beside {} that wait for a poll", number(waiting as f64));
    runs.push((name, prepare(bench, "bench_waiting", Seed::Polled(waiting)).await?));

    for _ in 0..bench.extent.repeats.min(MOST_REPEATS) {
        for (name, run) in &mut runs {
            let measured = e2e::drive(bench, run, UNDER_WAY, Duration::from_secs(4)).await?;
            section.sample(name, Unit::PerSecond, measured.rate());
            measured.cpu.sample_each(&mut section, name, measured.told);
        }
    }
    let alone = section.figure(ALONE).map(|figure| figure.samples.clone()).unwrap_or_default();
    for (name, run) in runs {
        if name != ALONE {
            section.peer(&name, ALONE, &alone);
        }
        let checked = invariants::check_beside_others(&run.database, &run.stubs.ledger).await?;
        section.violations.extend(checked);
        run.stop().await?;
    }
    in_flight(bench, &mut section).await?;
    Ok(section)
}

enum Seed {
    Nothing,
    Finished(i64),
    Polled(i64),
}

async fn prepare(bench: &Bench, name: &str, seed: Seed) -> Result<Run, BenchError> {
    // The process first: it registers the client that the rows belong to.
    let run = bench.run(name, Ending::Answer, "all").await?;
    match seed {
        Seed::Nothing => {}
        Seed::Finished(transactions) => seed::finished(&run.database, transactions).await?,
        Seed::Polled(transactions) => seed::polled(&run.database, transactions).await?,
    }
    Ok(run)
}

/// Many creates at once at a third party that takes long.
async fn in_flight(bench: &Bench, section: &mut Section) -> Result<(), BenchError> {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let possible = files.saturating_sub(OTHER_FILES);
    let wanted = bench.pick(IN_FLIGHT, 200);
    let creates = wanted.min(possible);
    if creates < wanted {
        section.notes.push(format!("{creates} creates in flight: no more open files are allowed"));
    }
    let settings = [
        ("QUARTET_WORKER__CONCURRENCY", "12000"),
        ("QUARTET_THIRD_PARTY__MAX_IN_FLIGHT", "12000"),
        // All lookups come at once, and this machine answers them.
        ("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "60s"),
        ("QUARTET_THIRD_PARTY__TIMEOUT", "90s"),
    ];
    let database = bench.server.database("bench_in_flight").await?;
    let create_takes = bench.pick(CREATE_TAKES, Duration::from_millis(500));
    // The lookups before them take their time: without waiting for each other, fewer would be in
    // flight at once.
    let together = usize::try_from(creates).unwrap_or_default();
    let script = Script { ending: Ending::Answer, create_takes, together };
    let mut run = bench.run_on(database, script, "all", &settings).await?;
    let began = run.begin().await?;
    let last = i64::try_from(creates).unwrap_or(i64::MAX);
    let ids = seed::accepted(&run.database, 1..=last, FIRST_POLL_SECS).await?;
    let accepted = now();
    for id in ids {
        run.stubs.ledger.accepted(id, None, accepted, accepted);
    }
    run.wait_told(SLOW_DRAIN).await?;
    let measured = run.end(&began).await?;
    let name = "third party that takes 5 s";
    let most = run.stubs.ledger.most_creates_in_flight();
    section.sample(&format!("{name}: most creates in flight"), Unit::Count, most as f64);
    let memory = format!("{name}: peak memory of Quartet");
    section.sample(&memory, Unit::Megabytes, measured.peak_memory_mb);
    section.target(&memory, Target::AtMost(300.0));
    let took = measured.elapsed.as_secs_f64();
    section.sample(&format!("{name}: until all have ended"), Unit::Seconds, took);
    run.check(section).await?;
    run.stop().await
}
