//! `quartet demo`: sends transactions through everything, shows how they go, and sums up.
//!
//! A transaction has ended when its client was notified of its final status, or when an operator
//! has to decide it. Anything else is lost, and the demo fails.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CliError, report,
    stack::{Stack, StackOptions},
};
use crate::{
    domain::{JobKind, ThirdPartyName},
    sandbox::{Interface, SandboxConfig},
    store::{
        Database,
        summary::{self, Progress},
    },
};

/// Posts under way at once.
const POSTS_AT_ONCE: usize = 16;
/// Pause before a post that was answered 503 is sent again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What `demo` and `dev` stand on.
pub(super) const WHAT_IT_USES: &str = "\
It uses:
  PostgreSQL's programs (initdb, postgres), 14 to 18: those in PG_BIN_DIR, else the newest that it
  finds on PATH and where packages install them; where there are none it downloads 18. It starts a
  server of its own on 127.0.0.1, in a temporary directory unless --data-dir says otherwise, and
  stops it at the end.

  DATABASE_URL only with --use-database-url: without that flag it refuses to run where one is set.

  The settings of `quartet serve` (QUARTET_..., --config FILE), such as QUARTET_HTTP__LISTEN and
  QUARTET_LOG, but no real third party and no real client: it starts simulated ones.";
/// How often the live view is drawn.
const REFRESH: Duration = Duration::from_millis(200);
/// Added to the longest that a transaction may take, for a slow machine.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How `demo` runs.
#[derive(Debug, Args)]
#[command(after_help = WHAT_IT_USES)]
pub(super) struct DemoArgs {
    /// How many transactions to send
    #[arg(long, default_value_t = 100)]
    transactions: usize,
    /// Divides the simulated peers' delays and Quartet's schedules
    #[arg(long, default_value_t = 30.0)]
    speed: f64,
    /// Seed of the simulated peers' faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send them to a simulated third party of this profile, with made-up secrets; default:
    /// Quartet's own contract
    #[arg(long, value_name = "NAME")]
    profile: Option<Interface>,
    /// Migrate the database of DATABASE_URL and write the made-up transactions into it, instead of
    /// starting a Postgres for them
    #[arg(long)]
    use_database_url: bool,
}

pub(super) async fn run(
    file: Option<PathBuf>,
    args: DemoArgs,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let use_database_url = args.use_database_url;
    let sandbox = SandboxConfig {
        speed: args.speed,
        seed: args.seed,
        interface: args.profile.unwrap_or_default(),
        ..SandboxConfig::default()
    };
    let has_profile = args.profile.is_some();
    let defaults = vec![
        ("QUARTET_HTTP__LISTEN", "127.0.0.1:0".to_owned()),
        // The live view is drawn on the same terminal.
        ("QUARTET_LOG", "error".to_owned()),
    ];
    let options =
        StackOptions { file, sandbox, has_profile, data_dir: None, use_database_url, defaults };
    let stack = Stack::start(options, stop.clone()).await?;
    let result = tokio::select! {
        result = send_through(&stack, args.transactions) => result,
        () = stop.cancelled() => Err(CliError::Failed("interrupted".to_owned())),
        () = stack.ended() => Err(CliError::Failed("Quartet ended before its time".to_owned())),
    };
    stack.stop().await?;
    result
}

async fn send_through(stack: &Stack, transactions: usize) -> Result<(), CliError> {
    let began = Instant::now();
    let pool = super::connect(&stack.config).await?;
    let ids = post(stack, transactions).await?;
    let accepted_in = began.elapsed();
    let progress = watch(stack, &pool, &ids).await?;
    let lost =
        report::print(&stack.sandbox, &pool, &ids, &progress, accepted_in, began.elapsed()).await?;
    pool.close().await;
    if lost > 0 {
        return Err(CliError::Failed(format!("{lost} transactions were lost or doubled")));
    }
    Ok(())
}

/// Posts new transactions through the API; returns their ids.
pub(super) async fn post(stack: &Stack, transactions: usize) -> Result<Vec<Uuid>, CliError> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let url = format!("http://{}/v1/transactions", stack.address);
    wait_ready(&http, stack).await?;
    let metadata = stack.sandbox.config().interface.metadata();
    stream::iter(0..transactions)
        .map(|number| {
            let (http, url, api_key) = (&http, &url, &stack.api_key);
            async move {
                // Some third parties take no other version; it costs the database more.
                let id = if stack.has_profile { Uuid::new_v4() } else { Uuid::now_v7() };
                let mut body = json!({
                    "id": id, "amount": 100 + number, "currency": "EUR",
                    "reference": format!("Demo {number}"),
                });
                for (name, value) in metadata {
                    body["metadata"][name] = (*value).into();
                }
                send_until_answered(|| http.post(url).bearer_auth(api_key).json(&body)).await?;
                Ok::<_, CliError>(id)
            }
        })
        .buffer_unordered(POSTS_AT_ONCE)
        .try_collect()
        .await
}

/// Posts as a client should: a 503 is not final, and the same post is sent again after a while.
async fn send_until_answered(
    request: impl Fn() -> reqwest::RequestBuilder,
) -> Result<(), CliError> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        let sent = request().send().await?;
        if sent.status() != StatusCode::SERVICE_UNAVAILABLE || Instant::now() > deadline {
            sent.error_for_status()?;
            return Ok(());
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn wait_ready(http: &reqwest::Client, stack: &Stack) -> Result<(), CliError> {
    let url = format!("http://{}/health/ready", stack.address);
    let deadline = Instant::now() + MAX_WAIT;
    while !http.get(&url).send().await?.status().is_success() {
        if Instant::now() > deadline {
            return Err(CliError::Failed("Quartet did not become ready".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Shows how the transactions go until each has ended, or until none can be under way any more.
async fn watch(stack: &Stack, pool: &Database, ids: &[Uuid]) -> Result<Progress, CliError> {
    let keys: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let view = View::new(ids.len());
    let deadline = Instant::now() + longest_life(stack) + MAX_WAIT;
    loop {
        let progress = summary::progress(pool, ids).await?;
        view.draw(&progress, &summary::job_counts(pool, &keys).await?);
        if usize::try_from(progress.ended) == Ok(ids.len()) || Instant::now() > deadline {
            view.finish();
            return Ok(progress);
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// The longest that the schedules let a transaction take.
fn longest_life(stack: &Stack) -> Duration {
    let third_party = &stack.config.third_party;
    let one_try = third_party.lookup_timeout + third_party.timeout + third_party.create_backoff;
    let create = one_try * (third_party.create_retries + 2);
    create.max(stack.config.poll_deadline(&ThirdPartyName::default()))
}

/// The live view: a bar for the transactions and a line for each kind of job.
struct View {
    total: u64,
    transactions: ProgressBar,
    jobs: Vec<(JobKind, ProgressBar)>,
}

impl View {
    fn new(total: usize) -> Self {
        let total = total as u64;
        let bars = MultiProgress::new();
        let bar = |prefix: &'static str| {
            let bar = bars.add(ProgressBar::new(total));
            // The templates are constants that indicatif accepts; a plain bar would do as well.
            let style = ProgressStyle::with_template("{prefix:>22} {bar:24} {pos:>5}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(prefix);
            bar
        };
        let transactions = bar("transactions ended");
        let jobs = JobKind::ALL.iter().map(|kind| (*kind, bar(kind.as_str()))).collect();
        Self { total, transactions, jobs }
    }

    fn draw(&self, progress: &Progress, counts: &[summary::JobCount]) {
        self.transactions.set_position(u64::try_from(progress.ended).unwrap_or_default());
        self.transactions.set_message(format!(
            "pending {} · completed {} · declined {} · failed {}",
            progress.pending, progress.completed, progress.declined, progress.failed
        ));
        for (kind, bar) in &self.jobs {
            let count = |status: &str| {
                let of = |count: &&summary::JobCount| {
                    count.queue == kind.as_str() && count.status == status
                };
                counts.iter().find(of).map_or(0, |count| count.count)
            };
            let (done, failed) = (count("Done"), count("Failed"));
            bar.set_position(u64::try_from(done + failed).unwrap_or_default().min(self.total));
            bar.set_message(format!(
                "waiting {} · running {} · done {done} · failed {failed}",
                count("Pending"),
                count("Running"),
            ));
        }
    }

    /// Leaves the last state on the screen, above the summary.
    fn finish(&self) {
        self.transactions.abandon();
        for (_, bar) in &self.jobs {
            bar.abandon();
        }
    }
}
