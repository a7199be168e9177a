//! Everything in one process: Postgres, the sandbox and Quartet, for `demo` and `dev`.
//!
//! What the environment or the file sets wins over what is generated here, but for the database:
//! made-up transactions go into one that was started for them, unless its user says otherwise.
//! Whatever a stack starts it stops.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::{
    app::{App, AppError},
    config::{self, Config, Role, WithDefaults},
    dev::postgres::{EmbeddedPostgres, Options},
    http::middleware::auth,
    sandbox::{Sandbox, SandboxConfig},
    secrets::MasterKeys,
    signature::Secret,
    store,
    telemetry::Telemetry,
};

const BASE_URL: &str = "QUARTET_THIRD_PARTY__BASE_URL";
const PROFILE: &str = "QUARTET_THIRD_PARTY__PROFILE";
const CALLBACK_URL: &str = "QUARTET_DEFAULT_CLIENT__CALLBACK_URL";
const API_KEY: &str = "QUARTET_DEFAULT_CLIENT__API_KEY";
const SIGNING_SECRET: &str = "QUARTET_DEFAULT_CLIENT__SIGNING_SECRET";
const WEBHOOK_SECRETS: &str = "QUARTET_WEBHOOK__SECRETS";
const OPERATOR_TOKEN: &str = "QUARTET_OPERATOR_TOKEN";
/// What leads to a database.
const DATABASE: [&str; 3] =
    ["DATABASE_URL", "QUARTET_DATABASE__DIRECT_URL", "QUARTET_DATABASE__POOLER"];
const MASTER_KEY: &str = "QUARTET_SECRETS__MASTER_KEY";
/// The file that keeps the master key beside an embedded database that is kept.
const MASTER_KEY_FILE: &str = "master-key";

/// A running stack.
pub(super) struct Stack {
    pub address: SocketAddr,
    pub api_key: String,
    pub operator_token: String,
    /// What was made, where none was set.
    pub master_key: Option<String>,
    pub database_url: String,
    pub sandbox: Sandbox,
    pub has_profile: bool,
    pub config: Config,
    app: JoinHandle<Result<(), AppError>>,
    ended: CancellationToken,
    stop: CancellationToken,
    postgres: Option<EmbeddedPostgres>,
    telemetry: Telemetry,
}

/// How a stack is started.
pub(super) struct StackOptions {
    /// TOML file with settings.
    pub file: Option<PathBuf>,
    pub sandbox: SandboxConfig,
    /// The third party is called by the profile that the sandbox simulates.
    pub has_profile: bool,
    /// Keeps the embedded database there; without it, it is temporary.
    pub data_dir: Option<PathBuf>,
    /// Writes into the database of `DATABASE_URL`, which else is refused.
    pub use_database_url: bool,
    /// Settings that hold unless the environment or the file sets them.
    pub defaults: Vec<(&'static str, String)>,
}

impl Stack {
    /// Starts Postgres (unless `DATABASE_URL` is to be used), the sandbox and Quartet, until
    /// `stop`.
    pub(super) async fn start(
        mut options: StackOptions,
        stop: CancellationToken,
    ) -> Result<Self, CliError> {
        let speed = options.sandbox.speed;
        let mut settings = WithDefaults::new(config::environment(), options.file.as_deref())?;
        for (name, why) in [
            (BASE_URL, "made-up transactions are sent to a simulated third party alone"),
            (CALLBACK_URL, "a simulated client alone is notified of made-up transactions"),
            (PROFILE, "the simulated third party speaks the profile of `demo --profile NAME`"),
        ] {
            if settings.text(name).is_some() {
                return Err(CliError::Failed(format!(
                    "{why}: unset {name}, in the environment and in the file"
                )));
            }
        }
        check_database(&settings, options.use_database_url)?;
        for (name, value) in options.defaults {
            settings.set(name, value);
        }
        // The simulated peers sign and check with what is set.
        let secret = |name: &str| first(&settings, name)?.parse::<Secret>().ok();
        if let Some(secret) = secret(WEBHOOK_SECRETS) {
            options.sandbox.webhook_secret = secret;
        }
        if let Some(secret) = secret(SIGNING_SECRET) {
            options.sandbox.client_secret = secret;
        }
        let sandbox = Sandbox::start(options.sandbox).await?;
        settings.set(OPERATOR_TOKEN, auth::generate_api_key());
        settings.set(BASE_URL, sandbox.base_url());
        settings.set(WEBHOOK_SECRETS, sandbox.config().webhook_secret.reveal());
        if options.has_profile {
            settings.set(PROFILE, sandbox.config().interface.name().to_owned());
            for (name, value) in sandbox.provider_values() {
                set_own(&mut settings, &format!("QUARTET_THIRD_PARTY__{name}"), value)?;
            }
        }
        settings.set("QUARTET_DEFAULT_CLIENT__NAME", "sandbox".to_owned());
        settings.set(API_KEY, auth::generate_api_key());
        settings.set(CALLBACK_URL, sandbox.callback_url());
        // The simulated client is on this machine.
        settings.set("QUARTET_NOTIFY__ALLOWED_NETWORKS", "127.0.0.0/8".to_owned());
        settings.set(SIGNING_SECRET, sandbox.config().client_secret.reveal());
        // `Config` keeps hashes alone.
        let api_key = settings.text(API_KEY).unwrap_or_default();
        let operator_token = first(&settings, OPERATOR_TOKEN).unwrap_or_default();
        let config = settings.load()?;
        let telemetry = super::start_telemetry(&config)?;

        let (postgres, kept_in) = match &config.database.url {
            Some(_) => (None, None),
            None => {
                let data_dir = options.data_dir;
                let embedded = Options { data_dir: data_dir.clone(), ..Options::default() };
                let postgres = EmbeddedPostgres::start(embedded).await?;
                // It has no TLS, whatever the environment asks of other servers (PGSSLMODE).
                let url = format!("{}?sslmode=disable", postgres.url("postgres"));
                settings.set("DATABASE_URL", url);
                (Some(postgres), data_dir)
            }
        };
        let mut master_key = None;
        if config.secrets.master_keys.is_empty() {
            let made = master_key.insert(make_master_key(kept_in.as_deref())?);
            settings.set(MASTER_KEY, made.clone());
        }
        let config = settings.load()?;
        let database_url = super::session_url(&config)?.to_owned();
        store::migrate(&database_url).await?;

        let mut config = config.scaled(speed);
        // The stack's own calls of itself are plain HTTP, on this machine.
        config.http.tls = None;
        let app = App::build(config.clone(), Role::All).await?;
        let address = app.address();
        sandbox.set_webhook_url(config.webhook_url(address));
        let ended = CancellationToken::new();
        let (run, guard) = (app.run(stop.clone()), ended.clone().drop_guard());
        let app = tokio::spawn(async move {
            let _guard = guard;
            run.await
        });
        Ok(Self {
            address,
            api_key,
            operator_token,
            master_key,
            database_url,
            sandbox,
            has_profile: options.has_profile,
            config,
            app,
            ended,
            stop,
            postgres,
            telemetry,
        })
    }

    /// Returns when Quartet has ended; before [`Stack::stop`] that means that it failed, and `stop`
    /// returns why.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops everything that was started.
    pub(super) async fn stop(self) -> Result<(), CliError> {
        self.stop.cancel();
        let ended = self.app.await;
        self.sandbox.stop().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        self.telemetry.shutdown().await;
        match ended {
            Ok(ended) => Ok(ended?),
            Err(error) => Err(CliError::Failed(format!("Quartet ended: {error}"))),
        }
    }
}

/// Refuses a database that nobody has asked to write into.
fn check_database(settings: &WithDefaults<'_>, is_wanted: bool) -> Result<(), CliError> {
    let set: Vec<&str> =
        DATABASE.into_iter().filter(|name| settings.text(name).is_some()).collect();
    if is_wanted && settings.text(DATABASE[0]).is_none() {
        let text = "--use-database-url needs DATABASE_URL, which is not set";
        return Err(CliError::Failed(text.to_owned()));
    }
    if is_wanted || set.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "this writes made-up transactions and a client, and {set} leads to a database that it did \
         not start: unset {set} for one of its own, or pass --use-database-url to write into that \
         one",
        set = set.join(", ")
    )))
}

/// Sets what the simulated third party knows; another value would not do.
fn set_own(settings: &mut WithDefaults<'_>, variable: &str, value: String) -> Result<(), CliError> {
    settings.set(variable, value.clone());
    if settings.text(variable).as_ref() == Some(&value) {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "the simulated third party has secrets of its own: unset {variable}"
    )))
}

/// The first entry of a setting that is a list.
fn first(settings: &WithDefaults<'_>, variable: &str) -> Option<String> {
    Some(settings.text(variable)?.split(',').next()?.trim().to_owned())
}

/// The master key of a database that is kept in `dir`, which is kept there as well, for its owner
/// alone; a new one where there is none, or nothing is kept.
fn make_master_key(dir: Option<&Path>) -> io::Result<String> {
    let new = MasterKeys::generate();
    let Some(dir) = dir else { return Ok(new) };
    let path = dir.join(MASTER_KEY_FILE);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            file.write_all(new.as_bytes())?;
            Ok(new)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::read_to_string(path),
        Err(error) => Err(error),
    }
}
