//! The command line: what each command takes, and its dispatch.

/// `println!` of this module and those below: what others wrote cannot drive the terminal, and a
/// failure to write does not panic ([`output`]).
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::output::print(::std::format_args!($($text)*), "\n") };
}
/// `eprintln!`, likewise.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::output::print_error(::std::format_args!($($text)*)) };
}
/// `print!`, likewise.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::output::print(::std::format_args!($($text)*), "") };
}

mod args;
mod audit;
mod circuit;
mod clients;
mod dead_letter_page;
mod dead_letters;
mod demo;
mod dev;
mod doctor;
mod error;
mod explain;
mod jobs;
mod migrate;
mod operator;
mod output;
mod page;
mod queues;
mod reconcile;
mod report;
mod sandbox;
mod secret_arg;
mod secrets;
mod serve;
mod sign_webhook;
mod signals;
mod stack;
mod table;
mod third_party;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Parser, Subcommand};

pub use self::error::CliError;
use self::signals::Signals;
use crate::{
    config::{self, Config, Role},
    http,
    sandbox::SandboxArgs,
    store::{self, Database, Target, postgres::diagnosis},
    telemetry::{self, Telemetry},
};

/// How long a command waits for the database.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command that does one thing may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A durable transaction relay on Postgres: one transaction, four jobs, one commit.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// TOML file with settings; the environment wins over it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who acts, for the audit, which names the system's account beside it; default:
    /// QUARTET_OPERATOR_NAME
    #[arg(long, global = true, value_name = "NAME", value_parser = args::operator_name)]
    operator: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send transactions through the whole of Quartet, against simulated peers, and sum up
    Demo(demo::DemoArgs),
    /// Run the same stack and keep it up, to try things out
    Dev(dev::DevArgs),
    /// Serve the API and run the jobs; needs DATABASE_URL
    Serve {
        /// What this process does
        #[arg(long, value_enum, default_value_t)]
        role: Role,
    },
    /// Bring the database schema up to date; needs DATABASE_URL
    Migrate {
        /// How long to wait, in all, for other sessions that hold locks or snapshots
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = config::duration)]
        wait: Duration,
    },
    /// Run the simulated third party and client
    Sandbox(Box<SandboxArgs>),
    /// Register clients; needs DATABASE_URL
    #[command(subcommand)]
    Clients(clients::ClientsCommand),
    /// Make master keys, and seal clients' secrets with them
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Work off dead letters; needs DATABASE_URL
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// List, retry and cancel jobs; needs DATABASE_URL
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Show, pause and resume the queues; needs DATABASE_URL
    #[command(subcommand)]
    Queues(queues::QueuesCommand),
    /// Show the third parties' circuit breakers; needs DATABASE_URL
    Circuit(circuit::CircuitArgs),
    /// Show what operators did, newest first; needs DATABASE_URL
    Audit(audit::AuditArgs),
    /// Explain what a transaction waits for; needs DATABASE_URL
    Explain(explain::ExplainArgs),
    /// Compare what is open with the third party, now; needs DATABASE_URL
    Reconcile(reconcile::ReconcileArgs),
    /// Check everything that a deployment needs, and say how to correct what is wrong
    Doctor(doctor::DoctorArgs),
    /// Describe third parties: the profiles in the program, checks of your own, and probes of the
    /// real thing
    #[command(subcommand)]
    ThirdParty(third_party::ThirdPartyCommand),
    /// Sign the body on standard input as the third party does; prints three header lines
    SignWebhook(sign_webhook::SignWebhookArgs),
    /// Print the OpenAPI document
    Openapi,
}

impl Command {
    /// Whether it waits for the signals itself, to stop, give back or cancel what it has begun.
    fn stops_by_itself(&self) -> bool {
        matches!(
            self,
            Self::Demo(_)
                | Self::Dev(_)
                | Self::Serve { .. }
                | Self::Migrate { .. }
                | Self::Sandbox(_)
                | Self::Reconcile(_)
        )
    }
}

impl Cli {
    /// Reads the command line; ends the process where that cannot be read, or asks for help.
    pub fn read() -> Self {
        args::read()
    }

    /// Runs the command to its end.
    pub async fn run(self) -> Result<(), CliError> {
        if !self.command.stops_by_itself() {
            tokio::spawn(Signals::listen()?.end_process());
        }
        self.dispatch().await?;
        output::check()
    }

    async fn dispatch(self) -> Result<(), CliError> {
        let file = self.config;
        let load = |file: Option<PathBuf>| {
            let mut config = Config::load(config::environment(), file.as_deref())?;
            config.operator_name = self.operator.or(config.operator_name);
            Ok(config)
        };
        match self.command {
            Command::Demo(args) => demo::run(file, args, Signals::listen()?.into_token()).await,
            Command::Dev(args) => dev::run(file, args, Signals::listen()?.into_token()).await,
            Command::Serve { role } => {
                let stop = Signals::listen()?.into_token();
                let config = Config::load_for(role, config::environment(), file.as_deref())?;
                let telemetry = start_telemetry(&config)?;
                let ended = serve::run(config, role, stop).await;
                telemetry.shutdown().await;
                ended
            }
            Command::Migrate { wait } => {
                let signals = Signals::listen()?;
                migrate::run(&load(file)?, wait, signals).await
            }
            Command::Sandbox(args) => {
                let stop = Signals::listen()?.into_token();
                let telemetry = telemetry::init("info", telemetry::LogFormat::Human, None)?;
                let ended = sandbox::run(*args, stop).await;
                telemetry.shutdown().await;
                ended
            }
            Command::Clients(command) => in_time(clients::run(&load(file)?, command)).await,
            Command::Secrets(command) => secrets::run(|| load(file), command).await,
            Command::DeadLetters(command) => dead_letters::run(&load(file)?, command).await,
            Command::Jobs(command) => in_time(jobs::run(&load(file)?, command)).await,
            Command::Queues(command) => in_time(queues::run(&load(file)?, command)).await,
            Command::Circuit(args) => in_time(circuit::run(&load(file)?, args)).await,
            Command::Audit(args) => in_time(audit::run(&load(file)?, args)).await,
            Command::Explain(args) => in_time(explain::run(&load(file)?, args)).await,
            Command::Reconcile(args) => {
                let stop = Signals::listen()?.into_token();
                reconcile::run(&load(file)?, args, stop).await
            }
            Command::Doctor(args) => doctor::run(file.as_deref(), args).await,
            Command::ThirdParty(command) => third_party::run(file, command).await,
            Command::SignWebhook(args) => sign_webhook::run(&load(file)?, args),
            Command::Openapi => {
                print!("{}", http::openapi());
                Ok(())
            }
        }
    }
}

/// Nobody is left waiting for a database that is silent.
async fn in_time(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::time::timeout(COMMAND_LIMIT, command).await.unwrap_or(Err(CliError::NoAnswer))
}

/// Logs and traces, as configured, for a process that serves.
fn start_telemetry(config: &Config) -> Result<Telemetry, CliError> {
    let traces = config.traces.settings();
    let telemetry = telemetry::init(&config.log.filter, config.log.format, traces.as_ref())?;
    telemetry::log_panics();
    let variables = config::service_links(config::environment());
    if !variables.is_empty() {
        tracing::debug!(?variables, "ignoring variables that were set for services");
    }
    Ok(telemetry)
}

/// A connection for a command that a person waits for.
async fn connect(config: &Config) -> Result<Database, CliError> {
    connect_many(config, 1).await
}

/// As many connections. The first one is tried at once: a pool would try until its time is up, and
/// say no more than that it was.
async fn connect_many(config: &Config, connections: u32) -> Result<Database, CliError> {
    let target = target(config)?;
    diagnosis::connect(&target).await?;
    Ok(store::connect(&target, connections, CONNECT_TIMEOUT, &Arc::default()))
}

fn target(config: &Config) -> Result<Target, CliError> {
    let url = config.database.url.as_ref().ok_or(CliError::NoDatabase)?;
    Ok(Target::new(url.expose(), config.database.pooler.shares_sessions())?)
}

/// The URL at which sessions are kept, which migrations need.
fn session_url(config: &Config) -> Result<&str, CliError> {
    let database = &config.database;
    match (&database.direct_url, &database.url) {
        (Some(url), _) => Ok(url.expose()),
        (None, _) if database.pooler.shares_sessions() => Err(CliError::NoSessions),
        (None, Some(url)) => Ok(url.expose()),
        (None, None) => Err(CliError::NoDatabase),
    }
}
