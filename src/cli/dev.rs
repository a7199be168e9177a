//! `quartet dev`: the demo's stack, kept up for trying things out.

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    CliError, demo,
    stack::{Stack, StackOptions},
};
use crate::sandbox::SandboxConfig;

/// How `dev` runs.
#[derive(Debug, Args)]
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
}

pub(super) async fn run(
    file: Option<PathBuf>,
    args: DevArgs,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let sandbox = SandboxConfig { speed: args.speed, ..SandboxConfig::default() };
    let options = StackOptions { file, sandbox, data_dir: args.data_dir, defaults: Vec::new() };
    let stack = Stack::start(options, stop.clone()).await?;
    let url = format!("http://{}", stack.address);
    println!("API and Swagger UI:  {url}/docs");
    println!("Operators' console:  {url}/console");
    println!("API key (client):    {}", stack.api_key);
    println!("Operator token:      {}", stack.operator_token);
    if let Some(key) = &stack.master_key {
        println!("Master key:          {key}");
    }
    println!("Webhook secret:      {}", stack.sandbox.config().webhook_secret.reveal());
    println!("Third party, client: {}/stats", stack.sandbox.base_url());
    println!("Database:            {}", stack.database_url);
    let ids = demo::post(&stack, args.transactions).await?;
    for id in &ids {
        println!("Sample transaction:  {url}/v1/transactions/{id}");
    }
    println!("Ctrl-C ends it.");
    tokio::select! {
        () = stop.cancelled() => {}
        () = stack.ended() => {}
    }
    stack.stop().await
}
