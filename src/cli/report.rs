//! The summary at the end of `quartet demo`.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use super::{CliError, table::Table};
use crate::{
    domain::{JobKind, SettledBy},
    sandbox::Sandbox,
    store::{
        Database,
        summary::{self, Count, Progress, Settled},
    },
};

/// Prints the summary; returns how many transactions were lost or doubled.
pub(super) async fn print(
    sandbox: &Sandbox,
    pool: &Database,
    ids: &[Uuid],
    progress: &Progress,
    accepted_in: Duration,
    ended_in: Duration,
) -> Result<u64, CliError> {
    let keys: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let settled = summary::settled(pool, ids).await?;
    let evidence = summary::evidence_counts(pool, ids).await?;
    let dead_letters = summary::dead_letter_counts(pool, ids).await?;
    let jobs: i64 = summary::job_counts(pool, &keys).await?.iter().map(|count| count.count).sum();

    let stats = sandbox.stats();
    let accepted = ids.len() as u64;
    let stored = progress.pending + progress.completed + progress.declined + progress.failed;
    let lost = accepted.saturating_sub(u64::try_from(progress.ended).unwrap_or_default());
    let missing_jobs = (accepted * JobKind::ALL.len() as u64).abs_diff(jobs.unsigned_abs());
    let third_party = &stats.third_party;

    let mut table = Table::new(["", "result"]).unbroken(&[0]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("third party", sandbox.config().interface.name().to_owned());
    row("accepted", format!("{accepted} in {:.1} s, {stored} stored", accepted_in.as_secs_f64()));
    row("ended", format!("{} in {:.1} s", progress.ended, ended_in.as_secs_f64()));
    row(
        "statuses",
        format!(
            "completed {} · declined {} · failed {} · pending {}",
            progress.completed, progress.declined, progress.failed, progress.pending
        ),
    );
    row("time to final", time_to_final(&settled));
    row("settled by", shares(&settled));
    row(
        "third party calls",
        format!("{} creates · {} lookups", third_party.creates_received, third_party.lookups),
    );
    row(
        "third party faults",
        format!(
            "{} timeouts (504), {} of them stored · {} webhooks lost, {} refused",
            third_party.gateway_timeouts,
            third_party.gateway_timeouts_stored,
            third_party.webhooks_lost,
            third_party.webhooks_refused
        ),
    );
    row(
        "retries",
        format!(
            "{} creates · {} notifications",
            third_party.creates_received.saturating_sub(accepted),
            count(&evidence, "client_refused")
        ),
    );
    row(
        "client",
        format!(
            "{} notified of the end · {} callbacks · {} version regressions",
            stats.client.ids_notified_finally,
            stats.client.callbacks_received,
            stats.client.version_regressions
        ),
    );
    row("job rows", format!("{jobs}, four for each transaction: {}", missing_jobs == 0));
    row("dead letters", list(&dead_letters));
    row("double creates", third_party.double_creates.to_string());
    row("lost", lost.to_string());
    println!("{table}");
    println!("{lost} lost, {} doubled", third_party.double_creates);
    let wrong = third_party.double_creates + stats.client.version_regressions;
    Ok(lost + missing_jobs + wrong)
}

fn time_to_final(settled: &[Settled]) -> String {
    let mut seconds: Vec<f64> = settled.iter().map(|settled| settled.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let percentile = |share: f64| {
        let rank = (share * seconds.len() as f64).ceil() as usize;
        seconds.get(rank.saturating_sub(1)).copied()
    };
    match (percentile(0.5), percentile(0.95), percentile(0.99)) {
        (Some(p50), Some(p95), Some(p99)) => {
            format!("p50 {p50:.2} s · p95 {p95:.2} s · p99 {p99:.2} s")
        }
        _ => "nothing was settled".to_owned(),
    }
}

fn shares(settled: &[Settled]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in settled {
        *counts.entry(&one.settled_by).or_default() += 1;
    }
    SettledBy::ALL
        .iter()
        .filter_map(|by| {
            let count = counts.get(by.as_str())?;
            let share = 100.0 * *count as f64 / settled.len() as f64;
            Some(format!("{by} {count} ({share:.0} %)"))
        })
        .collect::<Vec<_>>()
        .join(" · ")
}

fn list(counts: &[Count]) -> String {
    if counts.is_empty() {
        return "0".to_owned();
    }
    counts
        .iter()
        .map(|count| format!("{} {}", count.name, count.count))
        .collect::<Vec<_>>()
        .join(" · ")
}

fn count(counts: &[Count], name: &str) -> i64 {
    counts.iter().find(|count| count.name == name).map_or(0, |count| count.count)
}
