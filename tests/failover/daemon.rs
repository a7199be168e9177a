//! A program that runs beside the test: a log of its own, another user where this one is root, and
//! an end, whatever becomes of the test.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};

use crate::process::{end_with_parent, last_lines, send_signal, wait_for_exit};

const MAX_WAIT: Duration = Duration::from_secs(10);

/// The unprivileged user that Postgres, which refuses root, and all beside it runs as: `None` for
/// this one.
pub fn account() -> Option<User> {
    let names = ["postgres", "nobody"].into_iter().filter(|_| Uid::effective().is_root());
    names.filter_map(|name| User::from_name(name).unwrap()).next()
}

/// A running program; ended when dropped.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, which writes into `dir/name.log`. `orphaned` is sent to it when the test
    /// itself is killed.
    pub fn start(name: &str, dir: &Path, mut command: Command, orphaned: Signal) -> Self {
        let log = dir.join(format!("{name}.log"));
        let output: File = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            // Ctrl-C ends the test, and the test ends it.
            .process_group(0);
        end_with_parent(&mut command, orphaned);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// The same, as the unprivileged user.
    pub fn start_unprivileged(name: &str, dir: &Path, mut command: Command) -> Self {
        if let Some(user) = account() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        // Neither this user's settings for Postgres nor its Python are meant for them.
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").current_dir(dir);
        // On SIGTERM Patroni takes its Postgres along.
        Self::start(name, dir, command, Signal::SIGTERM)
    }

    pub fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Panics if it ended by itself.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended ({status})", self.name);
        }
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill_9(&mut self) {
        send_signal(&self.child, Signal::SIGKILL);
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may be frozen.
        send_signal(&self.child, Signal::SIGCONT);
        send_signal(&self.child, Signal::SIGTERM);
        if !matches!(wait_for_exit(&mut self.child, MAX_WAIT), Ok(Some(_))) {
            send_signal(&self.child, Signal::SIGKILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("-- {}:\n{}", self.name, last_lines(&log));
        }
    }
}

/// The postmaster of a data directory, if it runs.
pub fn postmaster(data_dir: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let id: i32 = file.lines().next()?.trim().parse().ok()?;
    // The file outlives a postmaster that was killed, and its id may be somebody else's by now.
    let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let named = String::from_utf8_lossy(&line).contains(data_dir.to_str()?);
    named.then(|| Pid::from_raw(id))
}

/// The processes whose parent is `parent`.
pub fn children(parent: Pid) -> Vec<Pid> {
    let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // After the name, which may hold spaces: state, parent.
        let of: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (of == parent.as_raw()).then(|| Pid::from_raw(id))
    });
    ids.collect()
}

/// Sends `signal` to processes that this test started; those that are gone are no error.
pub fn signal_all(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill(*process, signal);
    }
}
