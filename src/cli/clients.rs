//! `quartet clients`: the client registry.

use clap::Subcommand;
use comfy_table::Table;
use serde_json::json;
use sqlx::PgPool;

use super::{CliError, connect};
use crate::{
    config::{self, Config},
    http::auth,
    signature::Secret,
    store::{self, clients::NewClient},
};

/// The constraint that keeps names unique.
const NAME_TAKEN: &str = "clients_name_key";

#[derive(Debug, Subcommand)]
pub(super) enum ClientsCommand {
    /// Register a client; its API key and signing secret are shown once
    Add {
        /// Unique name, 1 to 100 characters
        name: String,
        /// Where it is told about its transactions
        #[arg(long)]
        callback_url: String,
        /// Secret that signs what it is told, whsec_…; default: a new one
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
    /// Replace a client's API key; the new one is shown once
    RotateKey {
        /// The client's name
        name: String,
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
    let pool = connect(config)?;
    match command {
        ClientsCommand::Add { name, callback_url, signing_secret, json } => {
            add(&pool, &name, &callback_url, signing_secret, json).await
        }
        ClientsCommand::List { json } => list(&pool, json).await,
        ClientsCommand::RotateKey { name, json } => {
            let key = auth::generate_api_key();
            let hash = auth::hash_api_key(&key);
            if !store::clients::rotate_key(&pool, &name, &hash).await? {
                return Err(unknown(&name));
            }
            if json {
                println!("{}", json!({ "name": name, "api_key": key }));
            } else {
                println!("API key (shown once): {key}");
            }
            Ok(())
        }
        ClientsCommand::Disable { name } => {
            if !store::clients::disable(&pool, &name).await? {
                return Err(unknown(&name));
            }
            println!("{name} is disabled.");
            Ok(())
        }
    }
}

async fn add(
    pool: &PgPool,
    name: &str,
    callback_url: &str,
    signing_secret: Option<Secret>,
    json: bool,
) -> Result<(), CliError> {
    let callback_url = config::http_url(callback_url)
        .map_err(|error| CliError::Failed(format!("--callback-url: {error}")))?;
    if name.is_empty() || name.chars().count() > 100 {
        return Err(CliError::Failed("a name has 1 to 100 characters".to_owned()));
    }
    let secret = signing_secret.unwrap_or_else(Secret::generate).reveal();
    let key = auth::generate_api_key();
    let new = NewClient {
        name,
        api_key_hash: &auth::hash_api_key(&key),
        callback_url: callback_url.as_str(),
        signing_secret: &secret,
    };
    let client = store::clients::add(pool, &new).await.map_err(|error| {
        if error.constraint() == Some(NAME_TAKEN) {
            CliError::Failed(format!("there is a client named {name} already"))
        } else {
            error.into()
        }
    })?;
    if json {
        let client = json!({
            "id": client.id, "name": name, "callback_url": callback_url.as_str(),
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

async fn list(pool: &PgPool, json: bool) -> Result<(), CliError> {
    let clients = store::clients::list(pool).await?;
    if json {
        let clients: Vec<_> = clients
            .iter()
            .map(|client| {
                json!({
                    "id": client.id, "name": client.name, "callback_url": client.callback_url,
                    "created_at": client.created_at, "disabled_at": client.disabled_at,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&clients)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.set_header(["name", "callback URL", "created", "disabled"]);
    for client in clients {
        let disabled = client.disabled_at.map(|at| at.to_rfc3339()).unwrap_or_default();
        table.add_row([client.name, client.callback_url, client.created_at.to_rfc3339(), disabled]);
    }
    println!("{table}");
    Ok(())
}

fn unknown(name: &str) -> CliError {
    CliError::Failed(format!("there is no client named {name}"))
}
