//! The signals that end a command: SIGINT, SIGTERM and SIGHUP.
//!
//! Linux drops the signals that process 1 of a container does not handle, so every command handles
//! these. A command that has work to give back or to cancel waits for the first one and ends by
//! itself; a second one ends the process at once. Any other command ends at the first one, which a
//! task of its own waits for: the command may block its thread in a read of standard input. The
//! exit code is what a shell reports: 128 plus the signal's number.

use std::{fs, future, process};

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;

/// From here on the signals no longer end the process by themselves.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// `None`: not waited for.
    hangup: Option<unix::Signal>,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        // `nohup` starts a process with this signal ignored, so that it outlives its terminal.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = (!ignores(&status, Signal::SIGHUP)).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(CliError::Signals)?,
            terminate: signal(SignalKind::terminate()).map_err(CliError::Signals)?,
            hangup: hangup.transpose().map_err(CliError::Signals)?,
        })
    }

    async fn next(&mut self) -> Signal {
        let Self { interrupt, terminate, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Signal::SIGINT,
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hangup => Signal::SIGHUP,
        }
    }

    /// Waits for the first signal; from then on another one ends the process at once.
    pub(super) async fn first(mut self) -> Signal {
        let signal = self.next().await;
        // A terminal that is closed sends several.
        self.hangup = None;
        tokio::spawn(self.end_process());
        signal
    }

    /// A token that the first signal cancels; another one ends the process at once.
    pub(super) fn into_token(self) -> CancellationToken {
        let stop = CancellationToken::new();
        let cancelled = stop.clone();
        tokio::spawn(async move {
            self.first().await;
            cancelled.cancel();
        });
        stop
    }

    /// Ends the process at the first signal.
    pub(super) async fn end_process(mut self) {
        exit(self.next().await);
    }
}

/// Ends the process as one that this signal ended.
pub(super) fn exit(signal: Signal) -> ! {
    process::exit(128 + signal as i32)
}

/// Whether a process ignores a signal, by its `/proc/…/status`, which Linux alone has.
fn ignores(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_read_from_the_status_of_the_process() {
        let status = |mask| format!("SigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\tffff\n");
        let nohup = status("0000000000001001");
        assert!(ignores(&nohup, Signal::SIGHUP) && ignores(&nohup, Signal::SIGPIPE));
        assert!(!ignores(&nohup, Signal::SIGINT));
        assert!(!ignores(&status("0000000000001000"), Signal::SIGHUP));
        assert!(!ignores("", Signal::SIGHUP));
    }
}
