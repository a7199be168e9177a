//! Removes rows of finished work by age, in small batches with pauses, so that running work is
//! hardly slowed down.
//!
//! First the job rows of ended transactions, then what was kept of creates, evidence, closed dead
//! letters, webhook deliveries and closed findings. What may go is decided in `store::retention`
//! and `store::sent_creates`; a run that is cut off leaves the rest for the next one.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::run::{Run, RunError};
use crate::{
    config,
    store::{
        self, Database, StoreError,
        retention::{self, Pruned},
        sent_creates,
    },
};

/// Transactions of one batch: up to four times as many job rows.
const TRANSACTIONS: i64 = 250;
/// Other rows of one batch.
const ROWS: i64 = 1_000;
/// A timestamp is compared in whole seconds, by clocks that may differ a little: a webhook's id is
/// remembered for longer than its signature can be good.
const WEBHOOK_MARGIN: Duration = Duration::from_secs(2);
/// Pause after a batch that removed something.
const PAUSE: Duration = Duration::from_millis(25);

/// What a run removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Removed {
    /// Transactions whose four job rows were removed.
    transactions: u64,
    evidence: u64,
    dead_letters: u64,
    webhooks: u64,
    findings: u64,
    /// What was kept of creates for which it is not needed any more.
    sent_creates: u64,
}

/// Removes all that is old enough, until `stopping`.
pub async fn run(
    pool: &Database,
    config: &config::Retention,
    stopping: &CancellationToken,
) -> Result<Run, RunError> {
    let mut removed = Removed::default();
    let finished = remove(pool, config, stopping, &mut removed).await?;
    if removed != Removed::default() {
        tracing::info!(?removed, "removed what is old");
    }
    let result = json!({
        "transactions": removed.transactions,
        "evidence": removed.evidence,
        "dead_letters": removed.dead_letters,
        "webhooks": removed.webhooks,
        "findings": removed.findings,
        "sent_creates": removed.sent_creates,
    });
    // Where it was stopped, another process goes on at once.
    Ok(Run { result, due_in: (!finished).then_some(Duration::ZERO) })
}

/// `false` where it was stopped.
async fn remove(
    pool: &Database,
    config: &config::Retention,
    stopping: &CancellationToken,
    removed: &mut Removed,
) -> Result<bool, StoreError> {
    let age = TimeDelta::from_std(config.jobs).unwrap_or(TimeDelta::MAX);
    let written_before = store::now(pool).await?.checked_sub_signed(age).unwrap_or_default();
    let mut after = Some(String::new());
    while let Some(start) = after {
        let walk = retention::walk(pool, written_before, &start, TRANSACTIONS).await?;
        let pruned = retention::prune_jobs(pool, &walk.transactions, config.jobs).await?;
        removed.transactions += pruned;
        if !pause(stopping, pruned).await {
            return Ok(false);
        }
        after = walk.next;
    }

    loop {
        let changed = sent_creates::prune(pool, ROWS).await?;
        removed.sent_creates += changed;
        if !pause(stopping, changed).await {
            return Ok(false);
        }
        if changed == 0 {
            break;
        }
    }

    let webhooks = config.webhooks.saturating_add(WEBHOOK_MARGIN);
    let closed = config.dead_letters;
    let evidence = |after| retention::prune_evidence(pool, config.evidence, after, TRANSACTIONS);
    let dead_letters = |after| retention::prune_dead_letters(pool, closed, after, ROWS);
    let webhooks = |after| retention::prune_webhooks(pool, webhooks, after, ROWS);
    let findings = |after| retention::prune_findings(pool, closed, after, ROWS);
    Ok(in_steps(stopping, &mut removed.evidence, evidence).await?
        && in_steps(stopping, &mut removed.dead_letters, dead_letters).await?
        && in_steps(stopping, &mut removed.webhooks, webhooks).await?
        && in_steps(stopping, &mut removed.findings, findings).await?)
}

/// Walks to the end; `false` where it was stopped.
async fn in_steps<Cursor, Step>(
    stopping: &CancellationToken,
    removed: &mut u64,
    step: impl Fn(Option<Cursor>) -> Step,
) -> Result<bool, StoreError>
where
    Step: Future<Output = Result<Pruned<Cursor>, StoreError>>,
{
    let mut after = None;
    loop {
        let pruned = step(after).await?;
        *removed += pruned.removed;
        if !pause(stopping, pruned.removed).await {
            return Ok(false);
        }
        after = pruned.next;
        if after.is_none() {
            return Ok(true);
        }
    }
}

/// Waits a little after a batch that removed something; `false` when the process stops.
async fn pause(stopping: &CancellationToken, removed: u64) -> bool {
    if removed > 0 {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    !stopping.is_cancelled()
}
