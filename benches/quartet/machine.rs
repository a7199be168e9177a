//! What the figures were measured on.

use std::{env, fs, process::Command};

use chrono::Utc;

/// Machine, toolchain and commit, as name and value.
pub fn describe() -> Vec<(String, String)> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let model = field(&cpus, "model name").unwrap_or("unknown").to_owned();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = field(&memory, "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok())
        .map_or_else(|| "unknown".to_owned(), |kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    [
        ("date", Utc::now().format("%Y-%m-%d").to_string()),
        ("quartet", format!("{}, commit {}", env!("CARGO_PKG_VERSION"), commit())),
        ("rustc", format!("{}, {build} build", said(&rustc, &["--version"]))),
        ("CPU", format!("{cores} cores, {model}")),
        ("memory", memory),
        ("kernel", kernel.trim().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim()))
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    // The benchmark's own results are no change of what was measured.
    let changed = said("git", &["status", "--porcelain", "--", ".", ":!benches/*.svg", ":!*.md"]);
    if changed.is_empty() { commit } else { format!("{commit} with changes") }
}

/// What a program writes; empty where it is not there or fails.
fn said(program: &str, arguments: &[&str]) -> String {
    let directory = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => String::new(),
    }
}
