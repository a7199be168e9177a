//! `quartet reconcile`: the reconciliation sweep on demand, under the lease of the periodic one.

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{CliError, connect_many, operator::operator, table::Table};
use crate::{
    config::Config,
    domain::{Finding, parse_duration},
    jobs,
    maintenance::{
        reconcile::{Report, Request},
        run::MaintenanceContext,
    },
    operations::{self, reconcile::Sweep},
    outbound::ThirdPartyClients,
    store::{
        self,
        audit::Actor,
        reconcile::{Action, Checked},
    },
};

/// Most transactions of one call.
const MAX_FINDINGS: i64 = 100_000;

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
    let duration = parse_duration(text)
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
    // One connection to work with, one to renew the lease.
    let pool = connect_many(config, 2).await?;
    let third_parties = ThirdPartyClients::new(
        config,
        |_| String::new(),
        |name, client| client.with_leases(jobs::call_leases(&pool, name)),
    )?;
    if third_parties.is_empty() {
        let message = "QUARTET_THIRD_PARTY__BASE_URL is not set";
        return Err(CliError::Failed(message.to_owned()));
    }
    let context =
        MaintenanceContext { pool, config: config.clone(), third_parties, stopping: stop };
    let since = match args.since {
        Since::Time(time) => time,
        Since::Ago(ago) => {
            let now = store::now(&context.pool).await?;
            now.checked_sub_signed(ago).unwrap_or(DateTime::UNIX_EPOCH)
        }
    };
    let request = Request { since: Some(since), dry_run: args.dry_run, limit: args.limit };
    let operator = operator(config);
    let actor = Actor { operator: &operator, note: None };
    let bar = progress_bar();
    let progress = |report: &Report| {
        bar.set_length(report.candidates as u64);
        bar.set_position(report.checked.len() as u64);
    };
    let swept = operations::reconcile::sweep(&context, &request, actor, progress).await;
    bar.finish_and_clear();
    let Sweep { report, ended } = swept?;
    // What was done is printed, whatever followed.
    print(&report, since, &args)?;
    ended?;
    // A script must not take a part for the whole.
    report.shortfall().map_or(Ok(()), |shortfall| Err(CliError::Failed(shortfall)))
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
