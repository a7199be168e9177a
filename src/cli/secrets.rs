//! `quartet secrets`: the master keys that seal clients' signing secrets.

use clap::Subcommand;
use serde_json::json;

use super::{CliError, connect, operator::operator};
use crate::{
    config::Config,
    operations::secrets::{self, Seals},
    secrets::MasterKeys,
    store::{Database, audit::Actor},
};

#[derive(Debug, Subcommand)]
pub(super) enum SecretsCommand {
    /// Print a new master key for QUARTET_SECRETS__MASTER_KEY
    GenerateKey,
    /// Show how the stored signing secrets are sealed; fails where one cannot be opened
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Seal all signing secrets with the first master key; fails where one cannot be opened
    Reseal {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(
    load: impl FnOnce() -> Result<Config, CliError>,
    command: SecretsCommand,
) -> Result<(), CliError> {
    let json = match command {
        SecretsCommand::GenerateKey => {
            println!("{}", MasterKeys::generate());
            return Ok(());
        }
        SecretsCommand::Status { json } | SecretsCommand::Reseal { json } => json,
    };
    let config = load()?;
    let keys = &config.secrets.master_keys;
    if keys.is_empty() {
        let missing = "QUARTET_SECRETS__MASTER_KEY is not set; `quartet secrets generate-key` prints \
            a key for a new installation";
        return Err(CliError::Failed(missing.to_owned()));
    }
    let pool = connect(&config).await?;
    let (sealed, seals) = match command {
        SecretsCommand::Reseal { .. } => {
            let operator = operator(&config);
            let actor = Actor { operator: &operator, note: None };
            let (sealed, seals) = secrets::reseal(&pool, keys, actor).await?;
            (Some(sealed), seals)
        }
        _ => (None, secrets::seals(&pool, keys).await?),
    };
    show(keys, sealed, &seals, json);
    close(pool, &seals).await
}

fn show(keys: &MasterKeys, sealed: Option<usize>, seals: &Seals, json: bool) {
    let Seals { plain, current, older, unreadable } = seals;
    if json {
        let unreadable: Vec<_> = unreadable
            .iter()
            .map(|(client, error)| json!({ "client": client, "reason": error.to_string() }))
            .collect();
        let status = json!({
            "key_ids": keys.ids().collect::<Vec<_>>(), "resealed": sealed, "plain": plain,
            "current": current, "older": older, "unreadable": unreadable,
        });
        println!("{status}");
        return;
    }
    for (index, id) in keys.ids().enumerate() {
        let seals = if index == 0 { ", which seals" } else { "" };
        println!("Master key {id}{seals}");
    }
    if let Some(sealed) = sealed {
        println!("Sealed with the first key:      {sealed}");
    }
    println!("Sealed with the first key:      {current}");
    println!("Sealed with another of these:   {older}");
    println!("Not sealed:                     {plain}");
    println!("Cannot be opened:               {}", unreadable.len());
    for (client, error) in unreadable {
        println!("  {client}: {error}");
    }
}

async fn close(pool: Database, seals: &Seals) -> Result<(), CliError> {
    pool.close().await;
    if seals.unreadable.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed("not all signing secrets can be opened with these master keys".to_owned()))
}

/// Says that a secret is about to be stored in plain, where there is no key.
pub(super) fn warn_of_plain(keys: &MasterKeys) {
    if keys.is_empty() {
        eprintln!(
            "warning: QUARTET_SECRETS__MASTER_KEY is not set: the signing secret is stored in plain"
        );
    }
}
