//! PostgreSQL's own load generator, as the limit: the accept statement without a server before it.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use quartet::dev::postgres::Search;
use tokio::process::Command;
use url::Url;

use crate::{
    database::Database,
    error::{BenchError, Doing},
    quantiles::Quantiles,
};

const SCRIPT: &str = include_str!("accept.sql");
/// The client that the script's transactions belong to.
const CLIENT: &str = "INSERT INTO clients (id, name, api_key_hash, callback_url, signing_secret)
    VALUES ('00000000-0000-0000-0000-000000000001', 'pgbench', sha256('pgbench'),
        'http://127.0.0.1/', 'none')";

/// A found pgbench, and a database for it.
pub struct Pgbench {
    program: PathBuf,
    directory: tempfile::TempDir,
    database: Database,
    /// Where the script's counter goes on.
    next: u64,
}

/// What one run measured.
pub struct Measured {
    /// Statements per second.
    pub rate: f64,
    /// Latencies in milliseconds.
    pub latency: Quantiles,
}

impl Pgbench {
    /// Beside the server's binaries, or in `PATH`. `None` where there is none.
    pub fn find() -> Option<PathBuf> {
        let beside = Search::from_environment(None, None).find();
        let beside = beside.ok().map(|installation| installation.bin_dir);
        let path = env::var_os("PATH").unwrap_or_default();
        let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        beside
            .into_iter()
            .chain(env::split_paths(&path))
            .chain(packaged.map(|version| version.path().join("bin")))
            .map(|directory| directory.join("pgbench"))
            .find(|program| program.is_file())
    }

    /// Prepares a database of its own.
    pub async fn new(program: &Path, database: Database) -> Result<Self, BenchError> {
        sqlx::raw_sql(CLIENT).execute(&database.pool).await?;
        let directory = tempfile::tempdir().doing("create a directory for pgbench")?;
        let script = directory.path().join("accept.sql");
        fs::write(script, SCRIPT).doing("write pgbench's script")?;
        Ok(Self { program: program.to_owned(), directory, database, next: 0 })
    }

    /// Runs the statement with `clients` for `elapsed`.
    pub async fn run(&mut self, clients: usize, elapsed: Duration) -> Result<Measured, BenchError> {
        self.database.checkpoint().await?;
        let url = Url::parse(self.database.url())
            .map_err(|_| BenchError::Unreadable { what: "database URL", text: String::new() })?;
        let seconds = elapsed.as_secs().max(1);
        let output = Command::new(&self.program)
            .current_dir(self.directory.path())
            .env("PGPASSWORD", url.password().unwrap_or_default())
            // As Quartet's own connections: what others write is announced by a trigger.
            .env("PGAPPNAME", "quartet")
            .args(["-n", "-M", "prepared", "-f", "accept.sql", "-l", "--log-prefix=latency"])
            .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
            .args(["-T", &seconds.to_string(), "-D", &format!("n={}", self.next)])
            .args(["-h", url.host_str().unwrap_or_default(), "-U", url.username()])
            .args(["-p", &url.port().unwrap_or_default().to_string()])
            .arg(url.path().trim_start_matches('/'))
            .kill_on_drop(true)
            .output()
            .await
            .doing("run pgbench")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(BenchError::Pgbench { status: output.status, output: text + &errors });
        }
        let rate = text.lines().find_map(|line| {
            line.strip_prefix("tps = ")?.split_whitespace().next()?.parse::<f64>().ok()
        });
        let Some(rate) = rate else {
            return Err(BenchError::Pgbench { status: ExitStatus::from_raw(0), output: text });
        };
        let latency = self.latencies()?;
        // No client got further than all of them together.
        self.next += latency.count() as u64 + 1;
        Ok(Measured { rate, latency })
    }

    /// Reads and removes the logs of the last run.
    fn latencies(&self) -> Result<Quantiles, BenchError> {
        let mut latencies = Vec::new();
        let files = fs::read_dir(self.directory.path()).doing("list pgbench's logs")?;
        for file in files.flatten().filter(|file| {
            file.file_name().to_str().is_some_and(|name| name.starts_with("latency"))
        }) {
            let log = fs::read_to_string(file.path()).doing("read pgbench's log")?;
            // Client, transaction, microseconds, …
            latencies
                .extend(log.lines().filter_map(|line| {
                    Some(line.split(' ').nth(2)?.parse::<f64>().ok()? / 1000.0)
                }));
            fs::remove_file(file.path()).doing("remove pgbench's log")?;
        }
        Ok(Quantiles::new(latencies))
    }

    /// Gives its database up.
    pub async fn discard(self) -> Result<(), BenchError> {
        self.database.discard().await
    }
}
