//! Parses the command line, runs the command, and reports what went wrong.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use mimalloc::MiMalloc;
use quartet::cli::Cli;

/// Under load the system's allocator took a sixth of the process's time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::read().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere to report that this failed.
            let _ = writeln!(io::stderr(), "{}", error.report());
            ExitCode::FAILURE
        }
    }
}
