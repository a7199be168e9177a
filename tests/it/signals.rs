//! Commands that have nothing to give back end at a signal, with the exit code of a shell. As
//! process 1 of a container they would never end without a handler of their own.

use std::{
    fs,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    command::{QUARTET, command},
    wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
/// A command that blocks its thread until standard input ends.
const READS: [&str; 3] = ["sign-webhook", "--secret", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];

/// Whether a process has this signal in a set of its status: `SigCgt`, those that it handles, or
/// `SigIgn`, those that it ignores.
fn has(process: &str, set: &str, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(":"));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask & (1 << (signal as i32 - 1)) != 0
}

/// Whether the tests run under `nohup`, and their processes ignore SIGHUP as they do.
pub(crate) fn is_nohup() -> bool {
    has("self", "SigIgn", Signal::SIGHUP)
}

/// Starts a command with a standard input that does not end, and waits until it handles SIGTERM.
async fn start(mut command: Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let id = child.id().to_string();
    wait_until("it handles SIGTERM", BOUND, async || {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        has(&id, "SigCgt", Signal::SIGTERM)
    })
    .await;
    child
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

async fn ended(mut child: Child) -> ExitStatus {
    wait_until("it ends", BOUND, async || child.try_wait().unwrap().is_some()).await;
    child.wait().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_reads_ends_at_each_signal() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        if signal == Signal::SIGHUP && is_nohup() {
            continue;
        }
        let child = start(command(QUARTET.as_ref(), &READS, &[])).await;
        send(&child, signal);
        assert_eq!(ended(child).await.code(), Some(code), "{signal}");
    }
}

/// As `nohup` starts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_that_is_ignored_from_the_start_ends_nothing() {
    let script = ["-c", "trap '' HUP; exec \"$0\" \"$@\"", QUARTET];
    let child = start(command("sh".as_ref(), &[&script[..], &READS].concat(), &[])).await;
    send(&child, Signal::SIGHUP);
    send(&child, Signal::SIGTERM);
    assert_eq!(ended(child).await.code(), Some(143));
}
