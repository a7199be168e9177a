//! Writes this process's share of the figures per minute ([`crate::store::minute_figures`]).
//!
//! Every few seconds what the metrics have counted since is added to the present minute, in one
//! statement; where nothing was counted nothing is written. The last addition is made at shutdown.
//! While the database is away the counts are kept for later; a crash loses the last seconds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{
        Database, StoreError,
        minute_figures::{self, Delta},
    },
    telemetry::{Metrics, metrics::Total},
};

/// How often the figures are written.
const EVERY: Duration = Duration::from_secs(5);
/// How often old rows are deleted, by each process that writes.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long a process that stops waits for the last addition.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Writes until `stop`, and then once more.
pub async fn run(pool: Database, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut writer = Writer { pool, written: metrics.totals(), metrics, pruned_at: None };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => writer.try_write().await,
            () = stop.cancelled() => break,
        }
    }
    if tokio::time::timeout(LAST_WRITE, writer.try_write()).await.is_err() {
        tracing::warn!("the last figures could not be written");
    }
}

struct Writer {
    pool: Database,
    metrics: Arc<Metrics>,
    /// What the figures hold of this process.
    written: Vec<Total>,
    pruned_at: Option<Instant>,
}

impl Writer {
    async fn try_write(&mut self) {
        if let Err(error) = self.write().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the figures could not be written yet");
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let totals = self.metrics.totals();
        let deltas = deltas(&self.written, &totals);
        if deltas.is_empty() {
            return Ok(());
        }
        minute_figures::add(&self.pool, &deltas).await?;
        self.written = totals;
        if self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            minute_figures::prune(&self.pool).await?;
            self.pruned_at = Some(Instant::now());
        }
        Ok(())
    }
}

/// What was counted between two readings of the same totals.
fn deltas(before: &[Total], now: &[Total]) -> Vec<Delta> {
    let pairs = before.iter().zip(now);
    pairs
        .filter(|(before, now)| now.count > before.count)
        .map(|(before, now)| Delta {
            figure: now.figure,
            label: now.label.clone(),
            value: i64::try_from(now.count - before.count).unwrap_or(i64::MAX),
        })
        .collect()
}
