//! A standby that was stopped and whose replication slot was forgotten.
//!
//! A real one: a base backup, started with `hot_standby_feedback`, and stopped once the primary's
//! slot shows what the standby's sessions might still see.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    error::{BenchError, Doing},
    usage,
    wait::wait_until,
};

const SLOT: &str = "forgotten_standby";
/// For the standby to start, and to end.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The slot that is left. It keeps all WAL from then on, beside the dead rows.
pub struct AbandonedSlot {
    url: String,
}

impl AbandonedSlot {
    /// Makes a standby of the server at `url`, and leaves its slot behind.
    pub async fn leave(postmaster: u32, url: &str) -> Result<Self, BenchError> {
        let slot = Self { url: url.to_owned() };
        let programs = usage::program_directory(postmaster)?;
        let account = usage::account(postmaster)?;
        let directory = directory_of(account).doing("create a directory for the standby")?;
        let data = directory.path().join("data");
        let output = program(&programs.join("pg_basebackup"), account)
            .args(["--dbname", url, "--create-slot", "--slot", SLOT, "--write-recovery-conf"])
            .args(["--checkpoint", "fast", "--no-sync", "--pgdata"])
            .arg(&data)
            .output()
            .await
            .doing("run pg_basebackup")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let name = "pg_basebackup";
            return Err(BenchError::Program { name, status: output.status, output: text });
        }
        let mut standby = start(&programs, account, &data)?;
        let mut session = PgConnection::connect(url).await?;
        wait_until("the standby reports what it may see", MAX_WAIT, async || {
            let seen = "SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = $1";
            Ok(sqlx::query_scalar(seen).bind(SLOT).fetch_one(&mut session).await?)
        })
        .await?;
        end(&mut standby).await?;
        wait_until("the standby has left its slot", MAX_WAIT, async || {
            let left = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1";
            Ok(sqlx::query_scalar(left).bind(SLOT).fetch_one(&mut session).await?)
        })
        .await?;
        session.close().await?;
        Ok(slot)
    }

    /// Drops the slot.
    pub async fn drop_slot(self) -> Result<(), BenchError> {
        let mut session = PgConnection::connect(&self.url).await?;
        let drop = "SELECT pg_drop_replication_slot($1)";
        sqlx::query(drop).bind(SLOT).execute(&mut session).await?;
        Ok(session.close().await?)
    }
}

/// A directory that the server's account may enter, and nobody else.
fn directory_of((user, group): (u32, u32)) -> std::io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("quartet-standby-").tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700))?;
    chown(directory.path(), Some(user), Some(group))?;
    Ok(directory)
}

fn program(path: &Path, (user, group): (u32, u32)) -> Command {
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // A server refuses to run as root; where the embedded one gave root up, so does this.
    if nix::unistd::geteuid().is_root() {
        command.uid(user).gid(group);
    }
    command
}

fn start(programs: &Path, account: (u32, u32), data: &PathBuf) -> Result<Child, BenchError> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
    let port = port.doing("find a free port")?.port();
    program(&programs.join("postgres"), account)
        .arg("-D")
        .arg(data)
        .args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories=", "-c", "max_connections=300"])
        .args(["-c", "hot_standby_feedback=on", "-c", "wal_receiver_status_interval=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing("start a standby")
}

async fn end(standby: &mut Child) -> Result<(), BenchError> {
    let pid = standby.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        // A fast shutdown.
        let sent = kill(Pid::from_raw(pid), Signal::SIGINT).map_err(std::io::Error::from);
        sent.doing("stop the standby")?;
    }
    wait_until("the standby ends", MAX_WAIT, async || {
        Ok(standby.try_wait().doing("look after the standby")?.is_some())
    })
    .await
}
