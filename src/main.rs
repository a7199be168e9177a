//! Parses the command line, runs the command, and reports what went wrong.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use quartet::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause: &dyn Error = &error;
            while let Some(source) = cause.source() {
                eprintln!("  because: {source}");
                cause = source;
            }
            ExitCode::FAILURE
        }
    }
}
