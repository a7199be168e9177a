//! What a [`Server`](super::server::Server) does to its process: tie it to the parent's life,
//! signal it, wait for it, quote its log.
//!
//! Waiting is polling: there is one waiter, the keeper thread, and it has a deadline.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const EXIT_POLL: Duration = Duration::from_millis(5);
const TAIL_LINES: usize = 15;

/// Has the kernel send `signal` to the process when the calling thread dies, for whatever reason.
#[cfg(target_os = "linux")]
pub fn end_with_parent(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;

    use nix::errno::Errno;
    use nix::sys::prctl::set_pdeathsig;
    use nix::unistd::{getpid, getppid};

    let parent = getpid();
    let after_fork = move || {
        set_pdeathsig(signal)?;
        // The parent may have died before the request was in place.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are two
    // system calls, without allocation or locks. It runs after the change of user, which would
    // clear the request.
    unsafe { command.pre_exec(after_fork) };
}

/// Only Linux can do it; see the module's documentation.
#[cfg(not(target_os = "linux"))]
pub fn end_with_parent(_command: &mut Command, _signal: Signal) {}

/// A process that is gone already is no error.
pub fn send_signal(process: &Child, signal: Signal) {
    // An id always fits: the kernel's own type is signed. It is not reused before we waited.
    if let Ok(id) = i32::try_from(process.id())
        && let Err(error) = kill(Pid::from_raw(id), signal)
    {
        tracing::debug!(%signal, %error, "could not signal PostgreSQL");
    }
}

/// `None` when the process is still there after `patience`.
pub fn wait_for_exit(process: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        let exit = process.try_wait()?;
        if exit.is_some() || Instant::now() > deadline {
            return Ok(exit);
        }
        sleep(EXIT_POLL);
    }
}

/// The end of a log, for an error's text.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
