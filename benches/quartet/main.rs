//! Quartet's benchmark: the real program in processes of its own, real HTTP, a real Postgres.
//!
//! `just bench` measures everything; `--only accept,e2e` some sections, `--quick` looks at
//! correctness alone. The section `pressure` takes an hour: ten minutes in each of six cells, which
//! `--cells` chooses and `--minutes` shortens; with `--quick` two minutes where it is asked for
//! alone, and a few seconds beside the other sections. `--full` adds what takes long and the peers
//! that must be built; `--soak 60m` makes the soak an hour. Everything runs on loopback, is bounded
//! in time and ends by itself.
//!
//! The load generator and the simulated third party and client are in this process, on one thread,
//! as cheap as can be; on a machine with few cores they still take their share, which is reported.
//! Postgres is an embedded one, with `fsync` and `synchronous_commit` on.
//!
//! A complete run writes `RESULTS.md` and the plots beside this directory, after each section;
//! `--out` writes them elsewhere. A section that cannot be measured says why, the others go on, and
//! the benchmark fails.
//!
//! After each run every invariant is checked, in the database and in what the simulated peers saw;
//! a violation makes the benchmark fail. A target that is not reached does not.
//!
//! # Adding a section
//!
//! A section is one function in `sections/`, `pub async fn run(bench: &Bench) -> Result<Section,
//! BenchError>`, entered in `sections::ALL` under the name that `--only` takes. It measures
//! `bench.extent.repeats` times, gives each value to [`section::Section::sample`] (samples of the
//! same name make one figure), names peers and targets, and puts what went wrong into
//! `violations`. `bench.run(…)` gives it a database, stubs and a `quartet serve`;
//! `bench.server.database(…)` a migrated database alone.

mod bench;
mod cell;
mod clock;
mod database;
mod error;
mod http;
mod invariants;
mod life;
mod load;
mod machine;
mod number;
mod peers;
mod pgbench;
mod plain_sql;
mod plot;
mod pressure;
mod quantiles;
mod queue;
mod report;
mod section;
mod sections;
mod seed;
mod serve;
mod standby;
mod stubs;
mod usage;
mod wait;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use quartet::domain::with_causes;

use crate::{
    bench::{Bench, Extent},
    cell::Cell,
    database::Server,
    error::BenchError,
    section::Section,
};

/// How long the load lasts in each cell of the section `pressure`: measured, and with `--quick`
/// where no other section runs.
const PRESSURE: Duration = Duration::from_secs(600);
const QUICK_PRESSURE: Duration = Duration::from_secs(120);
/// The same of the section `soak`: with `--full`, by default, and with `--quick`.
const FULL_SOAK: Duration = Duration::from_secs(600);
const SOAK: Duration = Duration::from_secs(60);
const QUICK_SOAK: Duration = Duration::from_secs(2);

/// Measures Quartet.
#[derive(Parser)]
struct Options {
    /// Looks at correctness alone: everything once and short, no figure is judged or kept
    #[arg(long)]
    quick: bool,
    /// How often each figure is measured
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Sections to run, separated by commas; all by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Also what takes long: 10 million finished jobs, 10 minutes of soak, and --peers
    #[arg(long)]
    full: bool,
    /// Also peers that take minutes to build
    #[arg(long)]
    peers: bool,
    /// Cells of the section `pressure`, separated by commas, such as b,d; all by default
    #[arg(long, value_delimiter = ',')]
    cells: Vec<Cell>,
    /// Minutes of load in each cell of the section `pressure`; 10 by default
    #[arg(long)]
    minutes: Option<f64>,
    /// How long the section `soak` lasts, such as 60m; 1 minute by default, 10 with --full
    #[arg(long, value_parser = at_least_a_second)]
    soak: Option<Duration>,
    /// Where RESULTS.md and the plots are written; benches/ by default, after a complete run
    #[arg(long)]
    out: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(sections) => {
            let violations: usize = sections.iter().map(|section| section.violations.len()).sum();
            if violations == 0 {
                println!("\nAll invariants hold.");
                return ExitCode::SUCCESS;
            }
            eprintln!("\nInvariants are VIOLATED, or a section could not be measured.");
        }
        Err(error) => eprintln!("error: {}", with_causes(&error)),
    }
    ExitCode::FAILURE
}

async fn run(options: &Options) -> Result<Vec<Section>, BenchError> {
    let known = |name: &String| sections::ALL.iter().any(|(known, _)| known == name);
    if let Some(unknown) = options.only.iter().find(|name| !known(name)) {
        return Err(BenchError::UnknownSection(unknown.clone()));
    }
    let repeats = if options.quick { 1 } else { options.repeats.max(1) };
    let Options { quick, full, .. } = *options;
    let extent = Extent { quick, full, peers: options.peers || full, repeats };
    allow_open_files();
    let bench = Bench {
        extent,
        server: Server::start().await?,
        maximum: std::cell::Cell::new(None),
        pressure: options.cells.clone(),
        pressure_lasts: pressure_lasts(options),
        soak_lasts: soak_lasts(options),
    };
    let mut setting = machine::describe();
    setting.extend(bench.server.describe().await?);
    setting.push(("repeats".to_owned(), repeats.to_string()));
    setting.push(("command".to_owned(), command()));
    for (name, value) in &setting {
        println!("{name}: {value}");
    }
    let complete = options.only.is_empty() && !options.quick;
    let beside = complete.then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("benches"));
    let directory = options.out.clone().or(beside);
    let mut sections = Vec::new();
    for (name, section) in sections::ALL {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let began = Instant::now();
        let mut section = section(&bench).await.unwrap_or_else(|error| {
            let mut section = Section::new(name, format!("{name}: could not be measured"));
            section.violations.push(with_causes(&error));
            section
        });
        section.took = began.elapsed();
        report::print(&section, !options.quick);
        sections.push(section);
        if let Some(directory) = &directory {
            report::write(directory, &setting, &sections, !options.quick)?;
        }
    }
    bench.server.stop().await?;
    if let Some(directory) = directory {
        println!("\nWritten to {}", directory.display());
    }
    Ok(sections)
}

fn at_least_a_second(text: &str) -> Result<Duration, String> {
    let lasts = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if lasts < Duration::from_secs(1) { Err("less than 1s".to_owned()) } else { Ok(lasts) }
}

/// How this was started.
fn command() -> String {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let arguments: Vec<String> = arguments.collect();
    format!("just bench {}", arguments.join(" ")).trim_end().to_owned()
}

/// How long the section `soak` lasts.
fn soak_lasts(options: &Options) -> Duration {
    options.soak.unwrap_or(match (options.quick, options.full) {
        (true, _) => QUICK_SOAK,
        (_, true) => FULL_SOAK,
        _ => SOAK,
    })
}

/// How long the load lasts in each cell of the section `pressure`; `None` where it is so short that
/// no figure means anything, and nothing is measured for its sake either.
fn pressure_lasts(options: &Options) -> Option<Duration> {
    let minutes = options.minutes.map(|minutes| Duration::try_from_secs_f64(minutes * 60.0));
    match minutes {
        Some(lasts) => Some(lasts.unwrap_or(PRESSURE)),
        None if !options.quick => Some(PRESSURE),
        // Asked for by its name: short, but long enough to see dead rows pile up.
        None => (options.only == ["pressure"]).then_some(QUICK_PRESSURE),
    }
}

/// Connections are files: as many as this process, and those that it starts, may have.
fn allow_open_files() {
    // Where that fails, fewer connections are made.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
