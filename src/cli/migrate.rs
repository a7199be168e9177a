//! `quartet migrate`: brings the database schema up to date.

use std::{pin::pin, time::Duration};

use super::{
    CliError, session_url,
    signals::{self, Signals},
};
use crate::{
    config::Config,
    store::{self, Target, postgres::diagnosis},
};

pub(super) async fn run(config: &Config, wait: Duration, signals: Signals) -> Result<(), CliError> {
    let url = session_url(config)?;
    let target = Target::new(url, false)?;
    let mut signal = pin!(signals.first());
    tokio::select! {
        connected = diagnosis::connect(&target) => connected?,
        signal = &mut signal => signals::exit(signal),
    }
    let report = |line: &str| eprintln!("{line}");
    let mut stopped_by = None;
    let stop = async { stopped_by = Some(signal.await) };
    let migrated = store::migrate_within(url, wait, &report, stop).await;
    if let Some(signal) = stopped_by {
        eprintln!(
            "{signal}: stopped; what was done so far stays: run `quartet migrate` again to go on"
        );
        signals::exit(signal);
    }
    migrated?;
    println!("The schema is up to date.");
    Ok(())
}
