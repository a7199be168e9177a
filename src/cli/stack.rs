//! Everything in one process: Postgres, the sandbox and Quartet, for `demo` and `dev`.
//!
//! `DATABASE_URL` wins: with it no Postgres is started. Whatever a stack starts it stops.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::{
    app::{App, AppError},
    config::{self, Config, Role},
    dev::postgres::{EmbeddedPostgres, Options},
    http::auth,
    sandbox::{Sandbox, SandboxConfig},
    store,
    telemetry::Telemetry,
};

/// A running stack.
pub(super) struct Stack {
    pub address: SocketAddr,
    pub api_key: String,
    pub operator_token: String,
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
        let signing_secret = sandbox.config().client_secret.reveal();
        set_default("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", signing_secret);
        let config = Config::load(env.clone(), options.file.as_deref())?;
        let telemetry = super::start_telemetry(&config)?;

        let (postgres, config) = match &config.database.url {
            Some(_) => (None, config),
            None => {
                let data_dir = options.data_dir;
                let settings = Options { data_dir, ..Options::default() };
                let postgres = EmbeddedPostgres::start(settings).await?;
                env.insert("DATABASE_URL".to_owned(), postgres.url("postgres"));
                (Some(postgres), Config::load(env, options.file.as_deref())?)
            }
        };
        let database_url = super::database_url(&config)?.to_owned();
        store::migrate(&database_url).await?;

        let config = config.scaled(speed);
        let app = App::build(config.clone(), Role::All).await?;
        let address = app.address();
        let client = config.default_client.as_ref().map(|client| client.api_key.expose().clone());
        let operator_token = config.operator_token.as_ref().map(|token| token.expose().clone());
        let ended = CancellationToken::new();
        let (run, guard) = (app.run(stop.clone()), ended.clone().drop_guard());
        let app = tokio::spawn(async move {
            let _guard = guard;
            run.await
        });
        Ok(Self {
            address,
            api_key: client.unwrap_or_default(),
            operator_token: operator_token.unwrap_or_default(),
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
