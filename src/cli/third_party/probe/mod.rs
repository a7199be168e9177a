//! `quartet third-party probe`: tries a profile against the real third party.
//!
//! Without `--live` it looks up an id that cannot exist, four times: as it should be, with two
//! wrong paths and with a wrong key. Only the first may read as an absence, because Quartet creates
//! on an absence. With `--live` it makes one small transaction, and finds out what no document says:
//! whether the same id doubles it, and how long it takes to show.

mod consent;
mod live;
mod lookups;
mod report;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use chrono::Utc;
use clap::Args;
use uuid::Uuid;

use self::{report::Report, webhook::Listener};
use super::CliError;
use crate::{
    cli::connect,
    config::{self, Config},
    domain::{Content, Subject, with_causes},
    operations::probes,
    outbound::{probe::is_this_machine, profile::probe::Probe},
    profiles::{Cases, Profile},
};

const PROFILE: &str = "QUARTET_THIRD_PARTY__PROFILE";
/// What the names of settings begin with that a probe goes by.
const USED: [&str; 4] =
    ["QUARTET_THIRD_PARTY__", "QUARTET_DNS__", "DATABASE_URL", "QUARTET_DATABASE__"];

/// What is tried.
#[derive(Debug, Args)]
pub(in crate::cli) struct ProbeArgs {
    /// The name of a profile that comes with the program, or a file, FILE.toml
    #[arg(value_name = "PROFILE-OR-FILE")]
    profile: String,
    /// Look up this transaction too, which the third party has
    #[arg(long, value_name = "ID", value_parser = crate::cli::args::transaction_id)]
    known: Option<Uuid>,
    /// The third party's id of that transaction, where lookups go by it
    #[arg(long, value_name = "ID", requires = "known")]
    known_provider_id: Option<String>,
    /// Create one transaction, look it up, repeat it, and wait for its webhook
    #[arg(long)]
    live: bool,
    /// Do not ask before it is created
    #[arg(long, requires = "live")]
    yes: bool,
    /// Create it although this is no third party's sandbox, as far as its address says
    #[arg(long, requires = "live")]
    i_know_this_moves_money: bool,
    /// The amount in minor units; once it is sent with one more
    #[arg(long, value_name = "AMOUNT", default_value_t = 1, requires = "live")]
    amount: u32,
    /// The currency; default: that of the profile's recorded cases
    #[arg(long, value_name = "CODE", requires = "live")]
    currency: Option<String>,
    /// What the profile reads of the metadata, such as who is paid
    #[arg(long, value_name = "NAME=VALUE", requires = "live", value_parser = entry)]
    metadata: Vec<(String, String)>,
    /// Where to listen for the webhook
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", requires = "live")]
    listen: SocketAddr,
    /// The URL at which the third party reaches that address, or its dashboard's entry; without it
    /// the webhook is awaited from third parties on this machine alone
    #[arg(long, value_name = "URL", requires = "live")]
    webhook_url: Option<String>,
    /// How long to wait until the transaction shows, and then for its webhook
    #[arg(long, value_name = "DURATION", default_value = "3m", requires = "live",
        value_parser = config::duration)]
    wait: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn entry(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn run(file: Option<PathBuf>, args: ProbeArgs) -> Result<(), CliError> {
    let (_, cases) = super::load(&args.profile)?;
    // What else a server would need may be missing.
    let is_used = |name: &str| USED.iter().any(|start| name.starts_with(start)) && name != PROFILE;
    let environment = config::environment().filter(|(name, _)| is_used(name));
    let environment = environment.chain([(PROFILE.to_owned(), args.profile.clone())]);
    let config = Config::load(environment, file.as_deref())?;
    let Some(base_url) = config.third_party.base_url.as_ref().map(|url| url.as_str().to_owned())
    else {
        let text = "QUARTET_THIRD_PARTY__BASE_URL is not set: the address to probe";
        return Err(CliError::Failed(text.to_owned()));
    };
    let (mut content, mut listener) = (None, None);
    if args.live {
        let profile = config.third_party.profile.as_ref();
        let keys = profile.map(|profile| profile.profile.metadata_keys()).unwrap_or_default();
        content = Some(sample(&args, &cases, keys, &base_url)?);
        consent::ask(&args, &config, &base_url)?;
        let url = args.webhook_url.as_deref();
        let receiver = profile.and_then(|profile| {
            profile.profile.webhook()?.receiver(&profile.values.get().vars).ok()
        });
        let ok = receiver.map(|receiver| receiver.answers.ok);
        listener = Some(Listener::bind(args.listen, url, &base_url, ok).await?);
    }
    let webhook_url = listener.as_ref().and_then(Listener::url).unwrap_or_default();
    let probe = Probe::new(&config.third_party, &config.dns, webhook_url.to_owned())?;
    // The environment above has one.
    let Some(probe) = probe else { return Ok(()) };
    let mut report = Report::new(probe.profile().name(), &base_url);

    let is_usable = lookups::check(&probe, &base_url, &args, &mut report).await;
    if let (true, Some(content), Some(listener)) = (is_usable, content, listener) {
        let live = live::Live::new(&probe, content, &args, &config, listener);
        live.check(&mut report).await;
    }
    report.print(args.json)?;
    // A simulation answers as the profile says because it is made from it.
    if report.has_passed() && !is_this_machine(&base_url) {
        record(&config, probe.profile(), args.live).await;
    }
    report.result()
}

/// Records the pass, for `quartet serve`. The probe has passed all the same where that fails.
async fn record(config: &Config, profile: &Profile, is_live: bool) {
    if config.database.url.is_none() {
        eprintln!("DATABASE_URL is not set: `quartet serve` does not learn that this probe passed");
        return;
    }
    let recorded = async {
        let pool = connect(config).await?;
        probes::record(&pool, &profile.hash(), profile.name(), is_live)
            .await
            .map_err(CliError::from)
    };
    if let Err(error) = recorded.await {
        let error = with_causes(&error);
        eprintln!("`quartet serve` does not learn that this probe passed: {error}");
    }
}

/// What is created.
fn sample(
    args: &ProbeArgs,
    cases: &Cases,
    keys: BTreeSet<String>,
    base_url: &str,
) -> Result<Content, CliError> {
    let given: BTreeMap<String, String> = args.metadata.iter().cloned().collect();
    // The recorded ones may be somebody's number.
    let mut metadata = match is_this_machine(base_url) {
        true => cases.sample_metadata().clone(),
        false => BTreeMap::new(),
    };
    metadata.extend(given);
    let missing = keys.into_iter().filter(|key| !metadata.contains_key(key));
    let missing: Vec<String> = missing.map(|key| format!("--metadata {key}=…")).collect();
    if !missing.is_empty() {
        let missing = missing.join(" ");
        return Err(CliError::Failed(format!("the profile reads metadata: add {missing}")));
    }
    Ok(Content {
        amount: Some(args.amount.into()),
        currency: Some(args.currency.clone().unwrap_or_else(|| cases.sample_currency().to_owned())),
        reference: Some("Quartet probe".to_owned()),
        metadata: Some(metadata).filter(|metadata| !metadata.is_empty()),
    })
}

/// A transaction that was never accepted.
fn subject(content: Content, provider_id: Option<String>) -> Subject {
    Subject { content, provider_id, created_at: Utc::now(), since_create: None }
}
