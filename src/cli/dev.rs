//! `quartet dev`: the demo's stack, kept up for trying things out.

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CliError,
    demo::{self, WHAT_IT_USES},
    output,
    stack::{Stack, StackOptions},
};
use crate::sandbox::SandboxConfig;

/// How `dev` runs.
#[derive(Debug, Args)]
#[command(after_help = WHAT_IT_USES)]
pub(super) struct DevArgs {
    /// Divides the simulated peers' delays and Quartet's schedules
    #[arg(long, default_value_t = 10.0)]
    speed: f64,
    /// Keep the database in this directory; default: a temporary one
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Sample transactions to send
    #[arg(long, default_value_t = 5)]
    transactions: usize,
    /// Migrate the database of DATABASE_URL and write the made-up transactions into it, instead of
    /// starting a Postgres for them
    #[arg(long, conflicts_with = "data_dir")]
    use_database_url: bool,
}

pub(super) async fn run(
    file: Option<PathBuf>,
    args: DevArgs,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let sandbox = SandboxConfig { speed: args.speed, ..SandboxConfig::default() };
    // The banner is to stay where it is read; the simulated peers' faults are many lines.
    let defaults = vec![("QUARTET_LOG", "error".to_owned())];
    let DevArgs { data_dir, use_database_url, .. } = args;
    let options =
        StackOptions { file, sandbox, has_profile: false, data_dir, use_database_url, defaults };
    let stack = Stack::start(options, stop.clone()).await?;
    let ids = tokio::select! {
        ids = demo::post(&stack, args.transactions) => Some(ids),
        () = stop.cancelled() => None,
        () = stack.ended() => None,
    };
    match ids.transpose() {
        Ok(Some(ids)) => {
            println!("{}", banner(&stack, &ids));
            // Nobody can use it without its keys.
            if !output::has_failed() {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = stack.ended() => {}
                }
            }
            stack.stop().await
        }
        Ok(None) => stack.stop().await,
        Err(error) => {
            // Why it ended, where it has, says more than that it does not answer.
            stack.stop().await?;
            Err(error)
        }
    }
}

/// All that there is to know, in one piece.
fn banner(stack: &Stack, ids: &[Uuid]) -> String {
    let url = format!("http://{}", stack.address);
    let secret = stack.sandbox.config().webhook_secret.reveal();
    let mut lines = vec![
        format!("API and Swagger UI:  {url}/docs"),
        format!("Operators' console:  {url}/console"),
        format!("API key (client):    {}", stack.api_key),
        format!("Operator token:      {}", stack.operator_token),
    ];
    lines.extend(stack.master_key.iter().map(|key| format!("Master key:          {key}")));
    lines.extend([
        format!("Webhook secret:      {secret}"),
        format!("Third party, client: {}/stats", stack.sandbox.base_url()),
        format!("Database:            {}", stack.database_url),
    ]);
    let sample = |id: &Uuid| format!("Sample transaction:  {url}/v1/transactions/{id}");
    lines.extend(ids.iter().map(sample));
    let variables = [
        ("QUARTET", url.as_str()),
        ("KEY", &stack.api_key),
        ("SECRET", &secret),
        ("OPERATOR", &format!("Authorization: Bearer {}", stack.operator_token)),
        ("DATABASE", &stack.database_url),
        // For a first transaction of one's own.
        ("ID", &Uuid::now_v7().to_string()),
    ];
    let variables = variables.map(|(name, value)| format!("{name}={}", quoted(value)));
    lines.extend([
        String::new(),
        "The same for another shell, to be pasted:".to_owned(),
        variables.join(" "),
        String::new(),
        "Nothing but errors is logged; with QUARTET_LOG=info more is.".to_owned(),
        "Ctrl-C ends it.".to_owned(),
    ]);
    lines.join("\n")
}

/// As every shell reads it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
