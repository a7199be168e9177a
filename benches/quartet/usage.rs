//! CPU time and memory of processes, from `/proc` (Linux).

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use crate::{
    error::{BenchError, Doing},
    section::{Section, Unit},
};

/// CPU seconds since the processes began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub quartet: f64,
    pub postgres: f64,
    /// This process: load generator and stubs.
    pub bench: f64,
}

impl Cpu {
    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            quartet: self.quartet - earlier.quartet,
            postgres: self.postgres - earlier.postgres,
            bench: self.bench - earlier.bench,
        }
    }

    /// What one of `transactions` used.
    pub fn each(self, transactions: usize) -> Self {
        let of = |seconds: f64| seconds / transactions.max(1) as f64;
        Self { quartet: of(self.quartet), postgres: of(self.postgres), bench: of(self.bench) }
    }

    /// Samples of what one of `transactions` used: figures whose names begin with `name`.
    pub fn sample_each(self, section: &mut Section, name: &str, transactions: usize) {
        let each = self.each(transactions);
        let whose = [
            ("Quartet", each.quartet),
            ("Postgres", each.postgres),
            ("load generator and stubs", each.bench),
        ];
        // Where there is no such process, it used nothing.
        for (whose, seconds) in whose.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
            section.sample(&cpu_of(name, whose), Unit::MicrosEach, seconds * 1e6);
        }
    }
}

/// The name of the figure of [`Cpu::sample_each`].
pub fn cpu_of(name: &str, whose: &str) -> String {
    format!("{name}: CPU of {whose}")
}

/// The fields of `/proc/PID/stat` that are needed.
struct Stat {
    parent: u32,
    /// Ticks of the process, user and system.
    own: u64,
    /// The same of its children that have ended.
    ended_children: u64,
}

fn read_stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, and may hold anything.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> =
        rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
    // proc(5): field 3 is the first after the name; 4 = ppid, 14..=17 = utime, stime, cutime,
    // cstime.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    Ok(Stat {
        parent: u32::try_from(field(4)).unwrap_or_default(),
        own: field(14) + field(15),
        ended_children: field(16) + field(17),
    })
}

fn seconds(ticks: u64) -> f64 {
    // `USER_HZ`, which is 100 on every architecture that Rust has std for.
    ticks as f64 / 100.0
}

/// CPU seconds of one process.
pub fn of_process(pid: u32) -> Result<f64, BenchError> {
    let stat = read_stat(pid).doing(format!("read the CPU time of process {pid}"))?;
    Ok(seconds(stat.own))
}

/// CPU seconds of this process.
pub fn of_self() -> Result<f64, BenchError> {
    of_process(process::id())
}

/// CPU seconds of a postmaster with all its children, those that have ended included.
pub fn of_postgres(postmaster: u32) -> Result<f64, BenchError> {
    let own = read_stat(postmaster).doing("read PostgreSQL's CPU time")?;
    let mut ticks = own.own + own.ended_children;
    for entry in fs::read_dir("/proc").doing("list the processes")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // One that ended meanwhile is in the postmaster's count the next time.
        if let Some(pid) = pid
            && let Ok(stat) = read_stat(pid)
            && stat.parent == postmaster
        {
            ticks += stat.own;
        }
    }
    Ok(seconds(ticks))
}

/// The parent of a process.
pub fn parent(pid: u32) -> Result<u32, BenchError> {
    Ok(read_stat(pid).doing(format!("read the parent of process {pid}"))?.parent)
}

/// The directory of the program that a process runs.
pub fn program_directory(pid: u32) -> Result<PathBuf, BenchError> {
    let doing = || format!("read the program of process {pid}");
    let program = fs::read_link(format!("/proc/{pid}/exe")).doing(doing())?;
    program
        .parent()
        .map(Path::to_owned)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .doing(doing())
}

/// The user and the group that a process runs as.
pub fn account(pid: u32) -> Result<(u32, u32), BenchError> {
    let process = fs::metadata(format!("/proc/{pid}"));
    let process = process.doing(format!("read the account of process {pid}"))?;
    Ok((process.uid(), process.gid()))
}

/// Begins anew to look for the most memory that a process has.
pub fn reset_peak_memory(pid: u32) -> Result<(), BenchError> {
    // proc(5): 5 resets the peak resident set size.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").doing("reset the peak memory")
}

/// The most resident memory since the last reset, in MB (10^6 bytes).
pub fn peak_memory_mb(pid: u32) -> Result<f64, BenchError> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).doing("read the peak memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .map_err(|_| BenchError::Unreadable { what: "VmHWM", text: line.to_owned() })?;
    Ok(kib * 1024.0 / 1e6)
}
