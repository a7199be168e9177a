//! Other job queues on Postgres, by the programs in `benches/peers`, each a process of its own.
//!
//! What they need is installed first: `npm ci` for those on Node, and, where that is asked for
//! because it takes minutes, `cargo build`. A peer that cannot be installed or run is left out, and
//! the report says why.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

const NPM_BOUND: Duration = Duration::from_secs(60);
const BUILD_BOUND: Duration = Duration::from_secs(15 * 60);
const RUN_BOUND: Duration = Duration::from_secs(90);
/// Node programs, beside their `package.json`.
const NODE: [&str; 2] = ["graphile-worker", "pg-boss"];
/// Rust programs: name, directory, and what cargo builds in it.
const RUST: [(&str, &str, &str); 2] = [
    ("graphile_worker", "graphile_worker_rs", "graphile_worker_bench"),
    ("awa", "awa", "awa_bench"),
];

/// Why a peer was not measured.
#[derive(Debug, Clone)]
pub struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "not measured: {}", self.0)
    }
}

/// A queue to compare with.
pub struct Peer {
    pub name: &'static str,
    /// The program and its arguments.
    command: Vec<OsString>,
}

/// The line that a peer's program prints.
#[derive(Debug, Deserialize)]
pub struct Line {
    pub name: String,
    pub version: String,
    pub drain_jobs_per_s: f64,
    pub pickup_p50_ms: f64,
    pub pickup_p95_ms: f64,
    pub pickup_p99_ms: f64,
    pub pickup_from_call_p50_ms: f64,
    pub pickup_from_call_p99_ms: f64,
}

/// How much a peer has to do.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    pub drain_jobs: u32,
    pub pick_up_jobs: usize,
    pub pick_up_rate: u32,
}

/// Installs all peers; `build` those that have to be compiled, too.
pub async fn prepare(build: bool) -> Vec<(&'static str, Result<Peer, Missing>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let node = directory.join("node");
    let installed = install_node(&node).await;
    let mut peers: Vec<_> = NODE
        .into_iter()
        .map(|name| {
            let script = node.join(name).with_extension("js");
            let command = vec!["node".into(), script.into()];
            (name, installed.clone().map(|()| Peer { name, command }))
        })
        .collect();
    for (name, source, program) in RUST {
        let peer = if build {
            let program = build_rust(&directory.join(source), program).await;
            program.map(|program| Peer { name, command: vec![program.into()] })
        } else {
            Err(Missing("it takes minutes to build; --peers does".to_owned()))
        };
        peers.push((name, peer));
    }
    peers
}

async fn install_node(directory: &Path) -> Result<(), Missing> {
    let mut npm = Command::new("npm");
    npm.current_dir(directory).args(["ci", "--prefer-offline", "--no-audit", "--no-fund"]);
    output(npm, "npm ci", NPM_BOUND).await.map(drop)
}

async fn build_rust(directory: &Path, program: &str) -> Result<PathBuf, Missing> {
    let target = directory.join("target");
    // Set by cargo for what it runs.
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(directory).args(["build", "--release", "--locked", "--target-dir"]);
    cargo.arg(&target);
    output(cargo, "cargo build", BUILD_BOUND).await?;
    Ok(target.join("release").join(program))
}

impl Peer {
    /// Measures it on an empty database.
    pub async fn measure(&self, url: &str, amount: Amount) -> Result<Line, Missing> {
        let mut program = Command::new(&self.command[0]);
        program
            .args(&self.command[1..])
            .env("DATABASE_URL", url)
            .env("DRAIN_JOBS", amount.drain_jobs.to_string())
            .env("PICK_UP_JOBS", amount.pick_up_jobs.to_string())
            .env("PICK_UP_RATE", amount.pick_up_rate.to_string());
        let text = output(program, self.name, RUN_BOUND).await?;
        let last = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(last)
            .map_err(|error| Missing(format!("{} printed {last:?}: {error}", self.name)))
    }
}

/// Runs a command to its end; what it printed.
async fn output(mut command: Command, what: &str, bound: Duration) -> Result<String, Missing> {
    let ended = timeout(bound, command.kill_on_drop(true).output()).await;
    let output = match ended {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Missing(format!("{what} could not be started: {error}"))),
        Err(_) => return Err(Missing(format!("{what} took longer than {} s", bound.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let reason = errors.lines().find(|line| line.to_lowercase().contains("error"));
    let reason = reason.or(errors.lines().next_back()).unwrap_or_default().trim();
    Err(Missing(format!("{what} ended with {}: {reason}", output.status)))
}
