//! `quartet sign-webhook`: makes the three headers that a webhook needs.

use std::io::Read;

use chrono::Utc;
use clap::Args;
use ulid::Ulid;

use super::CliError;
use crate::{
    config::Config,
    signature::{self, Secret},
};

/// How to sign.
#[derive(Debug, Args)]
pub(super) struct SignWebhookArgs {
    /// The webhook-id; default: a new one
    #[arg(long)]
    webhook_id: Option<String>,
    /// The webhook-timestamp in Unix seconds; default: now
    #[arg(long)]
    timestamp: Option<i64>,
    /// The secret, whsec_…; default: the first of QUARTET_WEBHOOK__SECRETS
    #[arg(long)]
    secret: Option<Secret>,
}

pub(super) fn run(config: &Config, args: SignWebhookArgs) -> Result<(), CliError> {
    let secret = args.secret.or_else(|| config.webhook.secrets.first().cloned());
    let secret = secret.ok_or_else(|| {
        CliError::Failed("set QUARTET_WEBHOOK__SECRETS or pass --secret".to_owned())
    })?;
    let mut body = Vec::new();
    std::io::stdin().read_to_end(&mut body)?;
    let id = args.webhook_id.unwrap_or_else(|| format!("msg_{}", Ulid::generate()));
    let timestamp = args.timestamp.unwrap_or_else(|| Utc::now().timestamp());
    println!("{}: {id}", signature::ID_HEADER);
    println!("{}: {timestamp}", signature::TIMESTAMP_HEADER);
    println!(
        "{}: {}",
        signature::SIGNATURE_HEADER,
        signature::sign(&secret, &id, timestamp, &body)
    );
    Ok(())
}
