//! `quartet clients`: the client registry.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::json;
use url::Url;

use super::{
    CliError, connect,
    operator::operator,
    output,
    secrets::warn_of_plain,
    table::{Table, lines, time},
};
use crate::{
    config::{self, Config},
    domain::{ClientThirdParties, ThirdPartyName},
    http::middleware::auth,
    operations::{
        clients::{self, NewClient, ThirdPartiesChange, ThirdPartiesChanged},
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
        #[command(flatten)]
        third_parties: ThirdPartyArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change the third parties that a client may use; what is not given stays as it is
    #[command(group = clap::ArgGroup::new("change")
        .args(["third_party", "allowed", "allow_none"]).required(true).multiple(true))]
    SetThirdParties {
        /// The client's name
        name: String,
        #[command(flatten)]
        third_parties: ThirdPartyArgs,
        /// Allow it none besides its default
        #[arg(long, conflicts_with = "allowed")]
        allow_none: bool,
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

/// The third parties that a client may use.
#[derive(Debug, Args)]
pub(super) struct ThirdPartyArgs {
    /// Where its transactions are created that name no third party; a new client's are by default
    /// created at the one without a name, third-party
    #[arg(long, value_name = "NAME", value_parser = ThirdPartyName::parse)]
    third_party: Option<ThirdPartyName>,
    /// Another one that they may name, in place of those that they may name now; can be given
    /// several times
    #[arg(long = "allow", value_name = "NAME", value_parser = ThirdPartyName::parse)]
    allowed: Vec<ThirdPartyName>,
}

impl ThirdPartyArgs {
    /// Those of a new client.
    fn of_new(self, config: &Config) -> ClientThirdParties {
        let Self { third_party: default, allowed } = self;
        let third_parties = ClientThirdParties { default: default.unwrap_or_default(), allowed };
        warn_of_unknown(config, third_parties.all());
        third_parties
    }

    /// What changes of those of a client that is registered.
    fn change(self, config: &Config, allow_none: bool) -> ThirdPartiesChange {
        let Self { third_party: default, allowed } = self;
        warn_of_unknown(config, default.iter().chain(&allowed));
        let is_changed = allow_none || !allowed.is_empty();
        ThirdPartiesChange { default, allowed: is_changed.then_some(allowed) }
    }
}

/// Warns of those that this configuration does not know: a slip is found out sooner.
fn warn_of_unknown<'a>(config: &Config, names: impl Iterator<Item = &'a ThirdPartyName>) {
    let is_known =
        |name: &ThirdPartyName| config.all_third_parties().any(|(known, _)| known == *name);
    for name in names.filter(|name| !is_known(name)) {
        eprintln!("warning: no third party {name} is configured here");
    }
}

/// Warns where the client is that of the settings, which the next start writes again.
fn warn_of_settings(config: &Config, name: &str, what_to_do: &str) {
    if config.default_client.as_ref().is_some_and(|client| client.name == name) {
        eprintln!(
            "warning: each start of a process sets {name} up from the settings: {what_to_do}"
        );
    }
}

pub(super) async fn run(config: &Config, command: ClientsCommand) -> Result<(), CliError> {
    let pool = connect(config).await?;
    let operator = operator(config);
    let actor = Actor { operator: &operator, note: None };
    match command {
        ClientsCommand::Add { name, callback_url, signing_secret, third_parties, json } => {
            let callback_url = checked_url(config, &callback_url)?;
            let keys = &config.secrets.master_keys;
            warn_of_plain(keys);
            let secret = signing_secret.unwrap_or_else(Secret::generate);
            let third_parties = third_parties.of_new(config);
            let callback_url = &callback_url;
            let new = Addition { name: &name, callback_url, secret, third_parties, json };
            add(&pool, keys, new, actor).await
        }
        ClientsCommand::SetThirdParties { name, third_parties, allow_none } => {
            let change = third_parties.change(config, allow_none);
            let changed = clients::set_third_parties(&pool, &name, &change, actor).await?;
            let ThirdPartiesChanged { before, after } = changed.ok_or_else(|| unknown(&name))?;
            println!("Before, {name} might use {}.", listed(&before));
            println!("Now {name} may use {}.", listed(&after));
            Ok(())
        }
        ClientsCommand::List { json } => list(&pool, json).await,
        ClientsCommand::RotateKey { name, overlap, json } => {
            let key = auth::generate_api_key();
            let hash = hash_token(&key);
            let rotated = clients::rotate_key(&pool, &name, &hash, overlap, actor).await?;
            let old_until = rotated.ok_or_else(|| unknown(&name))?;
            let what_to_do = "change QUARTET_DEFAULT_CLIENT__API_KEY to the new key as well";
            warn_of_settings(config, &name, what_to_do);
            let old_until = (!overlap.is_zero()).then_some(old_until);
            if json {
                let rotated = json!({ "name": name, "api_key": key, "old_key_until": old_until });
                println!("{rotated}");
            } else {
                println!("API key (shown once): {key}");
                match old_until {
                    Some(until) => println!("The old one is accepted until {}.", time(until)),
                    None => println!("Every older one is refused from now on."),
                }
            }
            output::check_secret(
                format!("the API key of {name} is replaced"),
                format!("run `quartet clients rotate-key {name:?}` again for another key"),
            )
        }
        ClientsCommand::RotateSecret { name, overlap, signing_secret, json } => {
            let keys = &config.secrets.master_keys;
            warn_of_plain(keys);
            let secret = signing_secret.unwrap_or_else(Secret::generate);
            let rotated =
                secrets::rotate_secret(&pool, keys, &name, &secret, overlap, actor).await?;
            let old_until = rotated.ok_or_else(|| unknown(&name))?;
            let what_to_do = "change QUARTET_DEFAULT_CLIENT__SIGNING_SECRET to the new one as well";
            warn_of_settings(config, &name, what_to_do);
            let old_until = (!overlap.is_zero()).then_some(old_until);
            let secret = secret.reveal();
            if json {
                let rotated = json!({ "name": name, "signing_secret": secret, "old_secret_until": old_until });
                println!("{rotated}");
            } else {
                println!("Signing secret (shown once): {secret}");
                match old_until {
                    Some(until) => println!("The old one signs as well until {}.", time(until)),
                    None => println!("No older one signs any more."),
                }
            }
            output::check_secret(
                format!("the signing secret of {name} is replaced"),
                format!("run `quartet clients rotate-secret {name:?}` again for another secret"),
            )
        }
        ClientsCommand::Disable { name } => {
            if !clients::disable(&pool, &name, actor).await? {
                return Err(unknown(&name));
            }
            println!("{name} is disabled.");
            let what_to_do = "take QUARTET_DEFAULT_CLIENT__… away as well, as a key in them that \
                              is not its present one enables it again";
            warn_of_settings(config, &name, what_to_do);
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
    third_parties: ClientThirdParties,
    json: bool,
}

/// `a (default), b`.
fn listed(third_parties: &ClientThirdParties) -> String {
    let others = third_parties.all().skip(1).map(ToString::to_string);
    let default = format!("{} (default)", third_parties.default);
    std::iter::once(default).chain(others).collect::<Vec<_>>().join(", ")
}

async fn add(
    pool: &Database,
    keys: &MasterKeys,
    addition: Addition<'_>,
    actor: Actor<'_>,
) -> Result<(), CliError> {
    let Addition { name, callback_url, secret, third_parties, json } = addition;
    let key = auth::generate_api_key();
    let new = NewClient {
        name,
        api_key_hash: &hash_token(&key),
        callback_url,
        signing_secret: &secret,
        third_parties: &third_parties,
    };
    let id = clients::add(pool, keys, new, actor).await?;
    let secret = secret.reveal();
    if json {
        let client = json!({
            "id": id, "name": name, "callback_url": callback_url.as_str(),
            "api_key": key, "signing_secret": secret,
            "third_party": third_parties.default, "other_third_parties": third_parties.allowed,
        });
        println!("{client}");
    } else {
        println!("Client {name} is registered. Both are shown once:");
        println!("API key:        {key}");
        println!("Signing secret: {secret}");
    }
    output::check_secret(
        format!("client {name} is registered"),
        format!(
            "run `quartet clients rotate-key {name:?}` for a new API key and `quartet clients \
             rotate-secret {name:?}` for a new signing secret"
        ),
    )
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
                    "third_party": client.third_party,
                    "other_third_parties": client.other_third_parties,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&clients)?);
        return Ok(());
    }
    let mut table = Table::new(["name", "callback URL", "third parties", "since"]).unbroken(&[3]);
    for client in clients {
        let third_parties =
            ClientThirdParties::stored(client.third_party, client.other_third_parties);
        let said = |what: &str, at: Option<DateTime<Utc>>| {
            at.map(|at| format!("{what} {}", time(at))).unwrap_or_default()
        };
        table.add_row([
            client.name,
            client.callback_url,
            listed(&third_parties),
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
