//! Everything in one process: Postgres, the sandbox and Quartet, for `demo` and `dev`.
//!
//! `DATABASE_URL` wins: with it no Postgres is started. Whatever a stack starts it stops.

use std::{
    collections::HashMap,
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
    config::{self, Config, Role},
    dev::postgres::{EmbeddedPostgres, Options},
    http::auth,
    sandbox::{Sandbox, SandboxConfig},
    secrets::MasterKeys,
    store,
    telemetry::Telemetry,
};

const MASTER_KEY: &str = "QUARTET_SECRETS__MASTER_KEY";
/// The file that keeps the master key beside an embedded database that is kept.
const MASTER_KEY_FILE: &str = "master-key";

/// A running stack.
pub(super) struct Stack {
    pub address: SocketAddr,
    pub api_key: String,
    pub operator_token: String,
    /// Empty where the file has it.
    pub master_key: String,
    pub database_url: String,
    pub sandbox: Sandbox,
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
    /// Keeps the embedded database there; without it, it is temporary.
    pub data_dir: Option<PathBuf>,
    /// Settings that hold unless the environment or the file sets them.
    pub defaults: Vec<(&'static str, String)>,
}

impl Stack {
    /// Starts Postgres (unless `DATABASE_URL` is set), the sandbox and Quartet, until `stop`.
    pub(super) async fn start(
        options: StackOptions,
        stop: CancellationToken,
    ) -> Result<Self, CliError> {
        let speed = options.sandbox.speed;
        let mut env: HashMap<String, String> = config::environment().collect();
        let mut set_default = |name: &str, value: String| {
            env.entry(name.to_owned()).or_insert(value);
        };
        for (name, value) in options.defaults {
            set_default(name, value);
        }
        let sandbox = Sandbox::start(options.sandbox).await?;
        set_default("QUARTET_OPERATOR_TOKEN", auth::generate_api_key());
        set_default("QUARTET_THIRD_PARTY__BASE_URL", sandbox.base_url());
        set_default("QUARTET_WEBHOOK__SECRETS", sandbox.config().webhook_secret.reveal());
        set_default("QUARTET_DEFAULT_CLIENT__NAME", "sandbox".to_owned());
        set_default("QUARTET_DEFAULT_CLIENT__API_KEY", auth::generate_api_key());
        set_default("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", sandbox.callback_url());
        // The simulated client is on this machine.
        set_default("QUARTET_NOTIFY__ALLOWED_NETWORKS", "127.0.0.0/8".to_owned());
        let signing_secret = sandbox.config().client_secret.reveal();
        set_default("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", signing_secret);
        // As it is given to `Config`, which keeps hashes alone.
        let given = |name: &str| env.get(name).map(String::as_str).unwrap_or_default();
        let api_key = given("QUARTET_DEFAULT_CLIENT__API_KEY").to_owned();
        let tokens = given("QUARTET_OPERATOR_TOKEN");
        let operator_token = tokens.split(',').next().unwrap_or_default().trim().to_owned();
        let config = Config::load(env.clone(), options.file.as_deref())?;
        let telemetry = super::start_telemetry(&config)?;

        let (postgres, kept_in) = match &config.database.url {
            Some(_) => (None, None),
            None => {
                let data_dir = options.data_dir;
                let settings = Options { data_dir: data_dir.clone(), ..Options::default() };
                let postgres = EmbeddedPostgres::start(settings).await?;
                env.insert("DATABASE_URL".to_owned(), postgres.url("postgres"));
                (Some(postgres), data_dir)
            }
        };
        if config.secrets.master_keys.is_empty() {
            env.insert(MASTER_KEY.to_owned(), master_key(kept_in.as_deref())?);
        }
        let master_key = env.get(MASTER_KEY).cloned().unwrap_or_default();
        let config = Config::load(env, options.file.as_deref())?;
        let database_url = super::session_url(&config)?.to_owned();
        store::migrate(&database_url).await?;

        let mut config = config.scaled(speed);
        // The stack's own calls of itself are plain HTTP, on this machine.
        config.http.tls = None;
        let app = App::build(config.clone(), Role::All).await?;
        let address = app.address();
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
            config,
            app,
            ended,
            stop,
            postgres,
            telemetry,
        })
    }

    /// Returns when Quartet has ended; before [`Stack::stop`] that means that it failed, and `stop`
    /// tells why.
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

/// The master key of a database that is kept in `dir`, which is kept there as well, for its owner
/// alone; a new one where there is none, or nothing is kept.
fn master_key(dir: Option<&Path>) -> io::Result<String> {
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
