//! `quartet reconcile`: the reconciliation sweep on demand, under the lease of the periodic one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{CliError, connect_many, operator::operator, table::Table};
use crate::{
    config::Config,
    domain::{Finding, MaintenanceTask},
    maintenance::{
        reconcile::{self, Report, Request},
        run::MaintenanceContext,
        scheduler::{hold, holder_name},
    },
    outbound::ThirdPartyClient,
    store::{
        self, Database, StoreError,
        audit::{self, Actor, OperatorAction},
        maintenance::{self, Occasion, RunEnd},
        reconcile::{Action, Checked},
    },
};

const TASK: MaintenanceTask = MaintenanceTask::Reconcile;
/// Most transactions of one call.
const MAX_FINDINGS: i64 = 100_000;
/// How long a sweep that is under way is waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How `reconcile` runs.
#[derive(Debug, Args)]
pub(super) struct ReconcileArgs {
    /// Look at what began since then: a duration such as 24h, or a time (RFC 3339)
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse_since)]
    since: Since,
    /// Maximum number to look up, longest-waiting first
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_FINDINGS,
        value_parser = clap::value_parser!(i64).range(1..=MAX_FINDINGS))]
    limit: i64,
    /// Write nothing; show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// When what is looked at began.
#[derive(Debug, Clone, Copy)]
enum Since {
    Time(DateTime<Utc>),
    /// This long ago by the database's clock.
    Ago(TimeDelta),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::Time(time.to_utc()));
    }
    let duration = humantime::parse_duration(text)
        .map_err(|_| "must be a duration such as 24h, or a time such as 2026-11-24T09:00:00Z")?;
    let ago = TimeDelta::from_std(duration).ok();
    // The database's clock is not known yet, and no year ahead of this one.
    let ago = ago.filter(|ago| Utc::now().checked_sub_signed(*ago).is_some());
    ago.map(Since::Ago).ok_or_else(|| "is too long ago".to_owned())
}

pub(super) async fn run(
    config: &Config,
    args: ReconcileArgs,
    stop: CancellationToken,
) -> Result<(), CliError> {
    if config.third_party.base_url.is_none() {
        let message = "QUARTET_THIRD_PARTY__BASE_URL is not set";
        return Err(CliError::Failed(message.to_owned()));
    }
    let context = MaintenanceContext {
        // One connection to work with, one to renew the lease.
        pool: connect_many(config, 2).await?,
        config: config.clone(),
        third_party: ThirdPartyClient::new(&config.third_party, &config.dns, String::new())?,
        stopping: stop,
    };
    let MaintenanceContext { pool, stopping, .. } = &context;
    let since = match args.since {
        Since::Time(time) => time,
        Since::Ago(ago) => {
            store::now(pool).await?.checked_sub_signed(ago).unwrap_or(DateTime::UNIX_EPOCH)
        }
    };
    let request = Request { since: Some(since), dry_run: args.dry_run, limit: args.limit };

    let holder = format!("command line {}", holder_name());
    let lease = config.worker.dead_after;
    let occasion = if args.dry_run { Occasion::DryRun } else { Occasion::OnDemand };
    acquire(pool, &holder, lease, occasion, stopping).await?;
    let bar = progress_bar();
    let progress = |report: &Report| {
        bar.set_length(report.candidates as u64);
        bar.set_position(report.checked.len() as u64);
    };
    let mut report = Report::default();
    let work = async {
        // Within the work: where it fails, the lease is given back.
        if !args.dry_run {
            record(pool, &request, &operator(config)).await?;
        }
        reconcile::sweep(&context, &request, &mut report, progress).await
    };
    let swept = hold(pool, TASK, &holder, lease, stopping, work).await;
    bar.finish_and_clear();
    let swept = swept.and_then(|swept| Ok(swept?));

    let released = if args.dry_run {
        maintenance::release_dry_run(pool, TASK, &holder).await
    } else {
        let end = RunEnd {
            result: swept.is_ok().then(|| report.summary()),
            error: swept.as_ref().err().map(ToString::to_string),
            due_in: None,
        };
        maintenance::release(pool, TASK, &holder, &end).await
    };
    // What was done is printed, whatever followed.
    print(&report, since, &args)?;
    swept?;
    released?;
    // A script must not take a part for the whole.
    report.shortfall().map_or(Ok(()), |shortfall| Err(CliError::Failed(shortfall)))
}

/// Records in the audit that somebody has asked for a sweep.
async fn record(pool: &Database, request: &Request, operator: &str) -> Result<(), StoreError> {
    let actor = Actor { operator, note: None };
    let detail = Map::from_iter([
        ("since".to_owned(), request.since.map(|since| since.to_rfc3339()).into()),
        ("limit".to_owned(), request.limit.into()),
    ]);
    audit::record_begin(pool, actor, OperatorAction::Reconcile, detail).await
}

/// Takes the lease, or says who has it.
async fn acquire(
    pool: &Database,
    holder: &str,
    lease: Duration,
    occasion: Occasion,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let deadline = Instant::now() + MAX_WAIT;
    while !maintenance::acquire(pool, TASK, holder, lease, occasion).await? {
        if let Some((other, until)) = maintenance::holder(pool, TASK).await?
            && Instant::now() > deadline
        {
            return Err(CliError::Failed(format!(
                "a sweep is under way: {other} holds it until {} or longer",
                until.to_rfc3339()
            )));
        }
        tokio::select! {
            () = stop.cancelled() => return Err(CliError::Failed("interrupted".to_owned())),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
    Ok(())
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The template is a constant that indicatif accepts; a plain bar would do as well.
    let style = ProgressStyle::with_template("looking up {bar:32} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn print(report: &Report, since: DateTime<Utc>, args: &ReconcileArgs) -> Result<(), CliError> {
    if args.json {
        let mut output = report.summary();
        output["since"] = json!(since);
        output["dry_run"] = args.dry_run.into();
        output["items"] = report.checked.iter().map(to_json).collect();
        println!("{}", serde_json::to_string_pretty(&output)?);
        return Ok(());
    }
    let mut table =
        Table::new(["transaction", "here", "there", "finding", "action"]).unbroken(&[0]);
    for checked in &report.checked {
        table.add_row([
            checked.transaction_id.to_string(),
            ours(checked).to_owned(),
            checked.theirs().to_owned(),
            checked.finding.to_string(),
            checked.action.to_string(),
        ]);
    }
    println!("{table}");
    let differ =
        |checked: &&Checked| checked.action == Action::Noted && checked.finding != Finding::Agreed;
    println!(
        "{} of {} looked up, {} settled, {} conflicts opened, {} other differences.{}",
        report.checked.len(),
        report.candidates,
        report.count(Action::Settled),
        report.count(Action::ConflictOpened),
        report.checked.iter().filter(differ).count(),
        if args.dry_run { " Nothing was written (--dry-run)." } else { "" },
    );
    Ok(())
}

fn ours(checked: &Checked) -> &'static str {
    checked.ours.map_or("absent", |status| status.as_str())
}

fn to_json(checked: &Checked) -> Value {
    json!({
        "transaction_id": checked.transaction_id,
        "ours": ours(checked),
        "theirs": checked.theirs(),
        "finding": checked.finding.as_str(),
        "action": checked.action.as_str(),
    })
}
