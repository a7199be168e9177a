//! Quartet under faults: several real processes on a real Postgres, and everything goes wrong.
//!
//! `just chaos --seed 7 --minutes 2` draws a schedule of faults from the seed ([`plan`]), starts
//! five processes of the built program with a spoilable network between them ([`cluster`]), posts
//! transactions steadily ([`load`]) while the faults are carried out ([`faults`]), heals
//! everything, waits until nothing is under way, and checks every invariant ([`verdict`]). The same
//! seed and length give the same faults at the same times; what they hit differs from run to run.
//!
//! It ends with one line of figures and success, or with the seed, the schedule and the violations
//! and failure. Logs, the accepted ids and the evidence are in `target/tmp/chaos-SEED`. Everything
//! runs on loopback and is bounded in time. Without arguments it is short: `cargo test` runs it.

// The harness holds connections of its own, which nobody cancels.
#![allow(clippy::disallowed_methods)]

mod cluster;
mod faults;
mod link;
mod load;
mod other;
mod plan;
mod restore;
mod verdict;
mod witness;

/// What the tests stand on; some of it only they use.
#[allow(dead_code)]
#[path = "../it/support"]
mod support {
    pub mod app;
    pub mod client;
    pub mod faketime;
    pub mod invariant_queries;
    pub mod invariants;
    pub mod ports;
    pub mod postgres;
    pub mod process;
    pub mod wait;
    pub mod world;

    pub use self::{
        client::{Answer, Client},
        wait::{wait_for, wait_until},
        world::World,
    };
}

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;

use crate::{
    cluster::Cluster,
    load::Load,
    plan::{APIS, Plan},
    verdict::{Verdict, judge},
};

/// Breaks everything around Quartet, and checks that nothing is lost, doubled or stuck.
#[derive(Parser)]
struct Options {
    /// Seed of the schedule, the load and the simulated peers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long faults happen; then everything is healed and comes to rest
    #[arg(long, default_value_t = 0.25)]
    minutes: f64,
    /// Transactions posted each second
    #[arg(long, default_value_t = 15.0)]
    rate: f64,
    /// Prints the schedule and does nothing
    #[arg(long)]
    plan: bool,
    /// Names of tests, as `cargo test NAME` gives them to each test program
    #[arg(hide = true)]
    names: Vec<String>,
    #[arg(long, hide = true)]
    nocapture: bool,
}

/// Longest schedule, in minutes.
const LONGEST: f64 = 24.0 * 60.0;

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.names.is_empty() && !options.names.iter().any(|name| "chaos".contains(name)) {
        println!("chaos: left out, not among the named tests");
        return ExitCode::SUCCESS;
    }
    let within = options.minutes > 0.0 && options.minutes <= LONGEST;
    if !within || !(0.1..=10_000.0).contains(&options.rate) {
        eprintln!("error: --minutes is above 0 and at most {LONGEST}, --rate from 0.1 to 10000");
        return ExitCode::FAILURE;
    }
    let plan = Plan::draw(options.seed, Duration::from_secs_f64(options.minutes * 60.0));
    if options.plan {
        print!("{plan}");
        println!("schedule {}", plan.digest());
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(&options, plan))
}

async fn run(options: &Options, plan: Plan) -> ExitCode {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", plan.seed));
    // What an earlier run with this seed left.
    fs::remove_dir_all(&directory).ok();
    fs::create_dir_all(&directory).expect("a directory for the logs");
    fs::write(directory.join("plan.txt"), plan.to_string()).expect("the schedule is kept");
    // Known also where the harness itself fails.
    let seed = plan.seed;
    println!(
        "chaos: seed {seed}, {} min, {} faults, schedule {}",
        options.minutes,
        plan.faults.len(),
        plan.digest()
    );

    if support::faketime::library().is_none() {
        println!("chaos: faketime is not installed, so that the processes' clocks stay right");
    }
    let cluster = Arc::new(Cluster::start(seed, &directory).await);
    let apis: Vec<_> = APIS.iter().map(|node| cluster.addresses[node.0]).collect();
    let accepted = File::create(directory.join("accepted.txt")).expect("the accepted are kept");
    let load = Load::start(seed, options.rate, &apis, accepted, cluster.other.metadata());
    let mut complaints = faults::carry_out(cluster.clone(), load.poster(), &plan).await;
    complaints.extend(cluster.wait_ready().await);
    let book = load.end().await;
    let Verdict { violations, figures, evidence } = judge(&cluster, &book, complaints).await;

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &plan.faults {
        *counts.entry(fault.action.counted_as()).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "chaos: seed {seed}, {} min, schedule {}: {}; {figures}",
        options.minutes,
        plan.digest(),
        counts.join(", "),
    );
    if violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    fs::write(directory.join("evidence.txt"), evidence).expect("the evidence is kept");
    eprintln!("{plan}");
    eprintln!("chaos: VIOLATED with seed {seed} ({} violations):", violations.len());
    for violation in &violations {
        eprintln!("  {violation}");
    }
    eprintln!("logs and evidence: {}", directory.display());
    eprintln!(
        "again: just chaos --seed {seed} --minutes {} --rate {}",
        options.minutes, options.rate
    );
    ExitCode::FAILURE
}
