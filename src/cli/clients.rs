//! `quartet clients`: the client registry.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::json;
use url::Url;

use super::{
    CliError, connect,
    operator::operator,
    secrets::warn_of_plain,
    table::{Table, lines, time},
};
use crate::{
    config::{self, Config},
    http::middleware::auth,
    operations::{
        clients::{self, NewClient},
        secrets,
    },
    secrets::{MasterKeys, hash_token},
    signature::Secret,
    store::{self, Database, audit::Actor},
};

#[derive(Debug, Subcommand)]
pub(super) enum ClientsCommand {
    /// Register a client; its API key and signing secret are printed only now
    Add {
        /// Unique name, 1 to 100 characters
        name: String,
        /// Where it is notified of its transactions
        #[arg(long)]
        callback_url: String,
        /// Secret that signs its notifications, whsec_…, which other users of this machine may see
        /// in the list of processes; default: a new one
        #[arg(long)]
        signing_secret: Option<Secret>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the clients
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace a client's API key; the new one is printed only now
    RotateKey {
        /// The client's name
        name: String,
        /// How long the old key is still accepted, such as 24h; by default it is refused at once,
        /// and so is every older one
        #[arg(long, default_value = "0s", value_parser = config::duration)]
        overlap: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the secret that signs a client's notifications; the new one is printed only now
    RotateSecret {
        /// The client's name
        name: String,
        /// How long the old secret signs as well, such as 24h; by default it ends at once, and so
        /// does every older one
        #[arg(long, default_value = "0s", value_parser = config::duration)]
        overlap: Duration,
        /// The new secret, whsec_…, which other users of this machine may see in the list of
        /// processes; default: a new one
        #[arg(long)]
        signing_secret: Option<Secret>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a client's API key from now on; what was accepted still runs to its end
    Disable {
        /// The client's name
        name: String,
    },
}

pub(super) async fn run(config: &Config, command: ClientsCommand) -> Result<(), CliError> {
    let pool = connect(config).await?;
    let operator = operator(config);
    let actor = Actor { operator: &operator, note: None };
    match command {
        ClientsCommand::Add { name, callback_url, signing_secret, json } => {
            let callback_url = checked_url(config, &callback_url)?;
            let keys = &config.secrets.master_keys;
            warn_of_plain(keys);
            let secret = signing_secret.unwrap_or_else(Secret::generate);
            let new = Addition { name: &name, callback_url: &callback_url, secret, json };
            add(&pool, keys, new, actor).await
        }
        ClientsCommand::List { json } => list(&pool, json).await,
        ClientsCommand::RotateKey { name, overlap, json } => {
            let key = auth::generate_api_key();
            let hash = hash_token(&key);
            let rotated = clients::rotate_key(&pool, &name, &hash, overlap, actor).await?;
            let old_until = rotated.ok_or_else(|| unknown(&name))?;
            let old_until = (!overlap.is_zero()).then_some(old_until);
            if json {
                let rotated = json!({ "name": name, "api_key": key, "old_key_until": old_until });
                println!("{rotated}");
                return Ok(());
            }
            println!("API key (shown once): {key}");
            match old_until {
                Some(until) => println!("The old one is accepted until {}.", time(until)),
                None => println!("Every older one is refused from now on."),
            }
            Ok(())
        }
        ClientsCommand::RotateSecret { name, overlap, signing_secret, json } => {
            let keys = &config.secrets.master_keys;
            warn_of_plain(keys);
            let secret = signing_secret.unwrap_or_else(Secret::generate);
            let rotated =
                secrets::rotate_secret(&pool, keys, &name, &secret, overlap, actor).await?;
            let old_until = rotated.ok_or_else(|| unknown(&name))?;
            let old_until = (!overlap.is_zero()).then_some(old_until);
            let secret = secret.reveal();
            if json {
                let rotated = json!({ "name": name, "signing_secret": secret, "old_secret_until": old_until });
                println!("{rotated}");
                return Ok(());
            }
            println!("Signing secret (shown once): {secret}");
            match old_until {
                Some(until) => println!("The old one signs as well until {}.", time(until)),
                None => println!("No older one signs any more."),
            }
            Ok(())
        }
        ClientsCommand::Disable { name } => {
            if !clients::disable(&pool, &name, actor).await? {
                return Err(unknown(&name));
            }
            println!("{name} is disabled.");
            Ok(())
        }
    }
}

/// A callback URL that may be called, as far as that can be judged without its name's addresses.
fn checked_url(config: &Config, text: &str) -> Result<Url, CliError> {
    let failed = |error: String| CliError::Failed(format!("--callback-url: {text:?} {error}"));
    let url = config::http_url(text).map_err(failed)?;
    config.notify.egress.check_url(&url).map_err(|refusal| failed(refusal.to_string()))?;
    Ok(url)
}

/// A client to register, and how that is printed.
struct Addition<'a> {
    name: &'a str,
    callback_url: &'a Url,
    secret: Secret,
    json: bool,
}

async fn add(
    pool: &Database,
    keys: &MasterKeys,
    addition: Addition<'_>,
    actor: Actor<'_>,
) -> Result<(), CliError> {
    let Addition { name, callback_url, secret, json } = addition;
    let key = auth::generate_api_key();
    let new =
        NewClient { name, api_key_hash: &hash_token(&key), callback_url, signing_secret: &secret };
    let id = clients::add(pool, keys, new, actor).await?;
    let secret = secret.reveal();
    if json {
        let client = json!({
            "id": id, "name": name, "callback_url": callback_url.as_str(),
            "api_key": key, "signing_secret": secret,
        });
        println!("{client}");
    } else {
        println!("Client {name} is registered. Both are shown once:");
        println!("API key:        {key}");
        println!("Signing secret: {secret}");
    }
    Ok(())
}

async fn list(pool: &Database, json: bool) -> Result<(), CliError> {
    let clients = store::clients::list(pool).await?;
    if json {
        let clients: Vec<_> = clients
            .iter()
            .map(|client| {
                json!({
                    "id": client.id, "name": client.name, "callback_url": client.callback_url,
                    "created_at": client.created_at, "disabled_at": client.disabled_at,
                    "old_key_until": client.old_key_until,
                    "old_secret_until": client.old_secret_until,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&clients)?);
        return Ok(());
    }
    let mut table = Table::new(["name", "callback URL", "since"]).unbroken(&[2]);
    for client in clients {
        let said = |what: &str, at: Option<DateTime<Utc>>| {
            at.map(|at| format!("{what} {}", time(at))).unwrap_or_default()
        };
        table.add_row([
            client.name,
            client.callback_url,
            lines([
                format!("created {}", time(client.created_at)),
                said("disabled", client.disabled_at),
                said("old key until", client.old_key_until),
                said("old secret until", client.old_secret_until),
            ]),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn unknown(name: &str) -> CliError {
    CliError::Failed(format!("there is no client named {name}"))
}
