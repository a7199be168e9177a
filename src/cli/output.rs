//! What commands write to standard output and standard error.
//!
//! A reader may go away (`quartet audit | head`), and a disk may be full. The command still does
//! what it was asked for: the first failure is kept, nothing more is written, and [`check`] reports
//! it at the end. It is no error that a reader went away, unless what it did not read is printed
//! only once ([`check_secret`]).

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    sync::OnceLock,
};

use super::CliError;
use crate::domain::visible;

/// Why standard output could not be written.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output, at once.
pub(super) fn print(text: Arguments<'_>, end: &str) {
    if has_failed() {
        return;
    }
    let text = text.to_string();
    let mut stdout = io::stdout().lock();
    if let Err(error) = write!(stdout, "{}{end}", visible(&text)).and_then(|()| stdout.flush()) {
        // Another thread's failure may be there already.
        let _ = FAILURE.set(error);
    }
}

/// Writes a line to standard error. There is nowhere to report that this failed.
pub(super) fn print_error(text: Arguments<'_>) {
    let text = text.to_string();
    let _ = writeln!(io::stderr(), "{}", visible(&text));
}

/// Whether standard output could not be written.
pub(super) fn has_failed() -> bool {
    FAILURE.get().is_some()
}

/// An error where standard output could not be written, though it is still open.
pub(super) fn check() -> Result<(), CliError> {
    match FAILURE.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

/// An error where standard output could not be written, after a secret that is printed only once.
/// `done` says what was done all the same, `remedy` how to get another secret.
pub(super) fn check_secret(done: String, remedy: String) -> Result<(), CliError> {
    match FAILURE.get() {
        Some(error) => Err(CliError::SecretNotPrinted { done, remedy, error }),
        None => Ok(()),
    }
}
