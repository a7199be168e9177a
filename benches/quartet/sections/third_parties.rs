//! One third party beside another one, which answers or hangs.

use std::{fs, path::Path, time::Duration};

use super::e2e;
use crate::{
    bench::{Bench, Run},
    clock::{millis_between, now},
    error::{BenchError, Doing},
    load::{Load, SENT_AGAIN},
    quantiles::Quantiles,
    section::{Section, Target},
    serve::Serve,
    stubs::{Ending, Stubs},
    wait::wait_until,
};

/// The other third party. It has this name in the posts, and its settings in a file of this name.
const SECOND: &str = "second";
const DRAIN: Duration = Duration::from_secs(120);
/// Of the maximum, to the first third party.
const LOAD: f64 = 0.25;
/// Transactions a second to the other one: in 20 s more than the slots that it may have.
const SECOND_RATE: f64 = 50.0;
const ANSWERS: &str = "beside one that answers";
const HANGS: &str = "beside one that hangs";

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "Accept to the client's final update beside another third party (open loop)";
    let mut section = Section::new("third-parties", title);
    let rate = e2e::maximum(bench).await? * LOAD;
    let elapsed = bench.pick(Duration::from_secs(20), Duration::from_secs(1));
    // The files are there while the program runs: it looks whether they change.
    let directory = tempfile::tempdir().doing("create a directory for third parties")?;
    let mut run = start(bench, directory.path()).await?;
    for repeat in 0..bench.extent.repeats {
        let mut cases = [(ANSWERS, false), (HANGS, true)];
        // The tables grow: each comes first as often as the other.
        cases.rotate_left(repeat % 2);
        for (name, hangs) in cases {
            run.database.checkpoint().await?;
            run.stubs.hang_second(hangs);
            let notified = notified_after(&run, rate, elapsed).await?;
            section.sample_latency(name, &notified);
            run.stubs.hang_second(false);
            run.wait_told(DRAIN).await?;
        }
    }
    let answers = section.samples(&format!("{ANSWERS}, p99"));
    let hangs = format!("{HANGS}, p99");
    section.peer(&hangs, ANSWERS, &answers);
    section.target(&hangs, Target::AtMostTimesPeer(1.1));
    section.notes.push(format!(
        "{rate:.0} transactions a second to the first third party, {SECOND_RATE} to the other one"
    ));
    section.notes.push(SENT_AGAIN.to_owned());
    run.check(&mut section).await?;
    run.stop().await?;
    Ok(section)
}

/// A run in which the client may use both third parties. The other one is described in `directory`.
async fn start(bench: &Bench, directory: &Path) -> Result<Run, BenchError> {
    let database = bench.server.database("bench_third_parties").await?;
    let stubs = Stubs::start(Ending::Answer.into()).await?;
    describe_second(directory, &stubs).doing("write the file of a third party")?;
    let settings = [
        ("QUARTET_THIRD_PARTIES__DIRECTORY", &*directory.display().to_string()),
        ("QUARTET_DEFAULT_CLIENT__THIRD_PARTY", "third-party"),
        // Nothing but its share of the slots keeps it from the others.
        ("QUARTET_CIRCUIT__MIN_CALLS", "1000000000"),
        ("QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES", SECOND),
    ];
    let serve = Serve::start(&database, &stubs, "all", &settings).await?;
    Ok(Run { postmaster: bench.server.postmaster, database, stubs, serves: vec![serve] })
}

/// Writes the settings of the other third party: what it let hang is created soon afterwards.
fn describe_second(directory: &Path, stubs: &Stubs) -> std::io::Result<()> {
    let secrets = directory.join(SECOND);
    fs::create_dir(&secrets)?;
    fs::write(secrets.join("webhook"), stubs.secret.reveal())?;
    let url = stubs.second_base_url();
    let settings = format!(
        "base_url = '{url}'\ncreate_backoff = '1s'\ncreate_retries = 1000\n\
        secrets_directory = '{SECOND}'\n"
    );
    fs::write(directory.join(format!("{SECOND}.toml")), settings)
}

/// From the intended accept to the client's final update, in milliseconds, of what went to the
/// first third party while posts went to both.
async fn notified_after(run: &Run, rate: f64, elapsed: Duration) -> Result<Quantiles, BenchError> {
    let start = now();
    let first = run.load();
    let second = Load { third_party: Some(SECOND), ..run.load() };
    tokio::try_join!(first.open(rate, elapsed), second.open(SECOND_RATE, elapsed))?;
    let of_first = || {
        let records = run.stubs.ledger.records_since(start).into_iter();
        records.map(|(_, record)| record).filter(|record| record.third_party.is_none())
    };
    wait_until("the client hears the end of what the first third party has", DRAIN, async || {
        Ok(of_first().all(|record| record.told_final > 0))
    })
    .await?;
    let latencies = of_first().map(|record| millis_between(record.intended, record.told_final));
    Ok(Quantiles::new(latencies.collect()))
}
