//! The part of the start that needs the database, tried until it succeeds.

use std::time::{Duration, Instant};

use super::{error::AppError, pools::target};
use crate::{
    config::Config,
    domain::{Backoff, Retries},
    http::ApiState,
    operations::{
        probes::{self, Unprobed},
        secrets,
    },
    store::{
        self, Database, StoreError,
        audit::Actor,
        clients::NewClient,
        postgres::{
            diagnosis::{self, ConnectFailure},
            requirements::{self, Purpose},
        },
    },
};

/// Waits while the database is away at the start.
const START_RETRY: Backoff =
    Backoff { base: Duration::from_millis(100), max_delay: Duration::from_secs(2) };

/// How often it is found out and logged meanwhile why it is away.
const DIAGNOSE_EVERY: Duration = Duration::from_secs(30);

/// Who changes the default client, in the audit.
const BY_CONFIGURATION: Actor<'static> = Actor { operator: "configuration", note: None };

/// The constraint that keeps API keys unique.
const KEY_TAKEN: &str = "clients_api_key_hash_key";

/// What needs the database: it and its schema are checked, secrets that an earlier release stored
/// in plain are sealed, and the default client is brought up to date.
pub(super) async fn start(state: &ApiState, config: &Config) -> Result<(), AppError> {
    let ApiState { pool, clock, .. } = state;
    let mut retries = Retries::new(START_RETRY);
    let mut diagnosed_at = None;
    loop {
        let ready = async {
            let findings = requirements::check_database(pool, Purpose::Serve).await?;
            let warnings = requirements::refuse(findings).map_err(AppError::Requirements)?;
            for warning in warnings {
                tracing::warn!(check = warning.check, "{warning}");
            }
            if !store::is_migrated(pool).await? {
                return Err(AppError::NotMigrated);
            }
            // Nothing is judged by a clock that is not known yet.
            clock.set(store::postgres::clock::read(pool).await?);
            prepare_clients(pool, config).await?;
            warn_of_unprobed(pool, config).await;
            Ok(())
        };
        match ready.await {
            Err(AppError::Store(error)) if error.met_anothers_session() => {
                return Err(AppError::SharedSessions(error));
            }
            Err(AppError::Store(error)) => {
                let is_due = |at: &Instant| at.elapsed() >= DIAGNOSE_EVERY;
                if !error.may_pass() || diagnosed_at.as_ref().is_none_or(is_due) {
                    diagnose(config, error).await?;
                    diagnosed_at = Some(Instant::now());
                }
            }
            Err(AppError::Requirements(unmet)) if unmet.may_pass() => {
                tracing::warn!("waiting for the database: {unmet}");
            }
            ended => return ended,
        }
        tokio::time::sleep(retries.next_delay(rand::random())).await;
    }
}

/// Logs why the database does not serve. Fails where that does not pass by itself: to try again
/// would be in vain, and nobody would hear of it.
async fn diagnose(config: &Config, error: StoreError) -> Result<(), AppError> {
    match diagnosis::connect(&target(&config.database)?).await {
        Err(failure) if !failure.may_pass => Err(failure.into()),
        Err(ConnectFailure { found, remedy, .. }) => {
            tracing::warn!(what_to_do = remedy, "waiting for the database: {found}");
            Ok(())
        }
        Ok(()) if error.may_pass() => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "waiting for the database");
            Ok(())
        }
        Ok(()) => Err(error.into()),
    }
}

/// Where it cannot be read which profiles passed, it says that: nothing else needs it.
async fn warn_of_unprobed(pool: &Database, config: &Config) {
    let unprobed = probes::unprobed(pool, config).await.unwrap_or_else(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "it cannot be read which profiles have passed a probe");
        Vec::new()
    });
    for Unprobed { third_party, profile } in unprobed {
        tracing::warn!(
            %third_party,
            profile,
            "nothing shows that the third party answers as its profile says: `quartet third-party \
             probe` has not passed with it, or not since it was changed"
        );
    }
}

async fn prepare_clients(pool: &Database, config: &Config) -> Result<(), AppError> {
    let keys = &config.secrets.master_keys;
    let default_client = config.default_client.as_ref();
    let configured = default_client.map(|client| client.name.as_str());
    let seals = secrets::carry_over(pool, keys, configured).await?;
    if keys.is_empty() {
        tracing::warn!(
            "QUARTET_SECRETS__MASTER_KEY is not set: signing secrets are in plain in the database"
        );
    } else if seals.plain > 0 {
        tracing::info!(secrets = seals.plain, "signing secrets stored in plain were sealed");
    }
    for (client, error) in &seals.unreadable {
        let error = error as &dyn std::error::Error;
        tracing::error!(
            client,
            error,
            "a signing secret cannot be opened: see `quartet secrets status`"
        );
    }
    if let Some(client) = default_client {
        let new = NewClient {
            name: &client.name,
            api_key_hash: client.api_key_hash.expose(),
            callback_url: client.callback_url.as_str(),
            signing_secret: &keys.seal(&client.name, &client.signing_secret),
            // What is not set stays as it is registered.
            third_party: client.third_party.as_ref(),
            other_third_parties: client.other_third_parties.as_deref(),
        };
        let is_same = |stored: &str| {
            keys.open(&client.name, stored).is_ok_and(|secret| secret == client.signing_secret)
        };
        let upserted = store::clients::upsert(pool, &new, is_same, BY_CONFIGURATION).await;
        let is_disabled = match upserted {
            Err(error) if error.constraint() == Some(KEY_TAKEN) => {
                return Err(key_taken(pool, &new, error).await?);
            }
            upserted => upserted?,
        };
        if is_disabled {
            tracing::warn!(
                client = client.name,
                "the client of QUARTET_DEFAULT_CLIENT__NAME stays disabled: its key is refused \
                 until QUARTET_DEFAULT_CLIENT__API_KEY is another one"
            );
        }
    }
    Ok(())
}

/// Why the default client cannot have its key: `error`, where nobody has the key any more.
async fn key_taken(
    pool: &Database,
    new: &NewClient<'_>,
    error: StoreError,
) -> Result<AppError, StoreError> {
    let owner = store::clients::name_of_api_key(pool, new.api_key_hash).await?;
    Ok(match owner {
        Some(owner) => AppError::KeyTaken { owner, client: new.name.to_owned() },
        None => error.into(),
    })
}
