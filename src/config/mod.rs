//! The configuration: environment variables over an optional TOML file.
//!
//! `DATABASE_URL`, and everything else as `QUARTET_<SECTION>__<FIELD>`; the file's key is the same
//! path in lower case, `[section] field = …`. An empty value counts as unset. Durations carry a
//! unit (`200ms`, `15m`, `7d`); sizes look like `64KiB`.
//!
//! Guarantees: a [`Config`] that [`Config::load`] returns holds only allowed values, and the
//! relations between them hold. Whatever is wrong is reported at once, each by the name of its
//! variable, with the value unless it is a secret, and what is allowed; unknown names count as
//! wrong, unless a container engine set them for a service (`service_links`). `Debug` shows no
//! secret. [`Config::reference`] is made by the code that reads the settings.

mod check;
mod credentials;
mod database_url;
mod default_client;
mod defaults;
mod error;
mod reference;
mod sections;
mod service_links;
mod settings;
#[cfg(test)]
mod tests;
mod value;
mod variable;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use self::{check::Broken, settings::Settings};
pub use self::{
    default_client::DefaultClient,
    defaults::WithDefaults,
    error::{ConfigError, Problem},
    reference::reference_page,
    sections::{
        Circuit, Database, Dns, Http, Intake, Limits, LiveSecrets, LiveValues, Log,
        NamedThirdParty, Notify, Poll, Pooler, Reconcile, Retention, Secrets, ThirdParties,
        ThirdParty, ThirdPartyProfile, Tls, Traces, Webhook, Worker,
    },
    service_links::service_links,
    settings::SettingDoc,
    value::{BaseUrl, Redacted, duration, http_url, name},
};
pub use crate::domain::DEFAULT_THIRD_PARTY;
use crate::domain::ThirdPartyName;

/// Where webhooks arrive, below the public URL, each third party's below its name.
const WEBHOOK_PATH: &str = "/v1/webhooks/";

/// What a process does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Serves the API and runs jobs.
    #[default]
    All,
    /// Serves the API.
    Api,
    /// Runs jobs.
    Worker,
}

impl Role {
    pub fn serves_api(self) -> bool {
        matches!(self, Self::All | Self::Api)
    }

    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }

    pub fn runs_jobs(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }
}

/// Every setting of the program. `Default` is what an empty environment gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub database: Database,
    pub http: Http,
    pub intake: Intake,
    pub limits: Limits,
    /// `QUARTET_OPERATOR_TOKEN`: hash of each bearer token of the operator API, which is closed
    /// without one.
    pub operator_tokens: Vec<Redacted<[u8; 32]>>,
    /// `QUARTET_OPERATOR_NAME`: name of the operator on the command line.
    pub operator_name: Option<String>,
    pub secrets: Secrets,
    /// The third party without a name.
    pub third_party: ThirdParty,
    /// The others.
    pub third_parties: ThirdParties,
    pub circuit: Circuit,
    pub webhook: Webhook,
    pub poll: Poll,
    pub notify: Notify,
    pub dns: Dns,
    pub worker: Worker,
    pub reconcile: Reconcile,
    pub retention: Retention,
    /// A client to create or update at start.
    pub default_client: Option<DefaultClient>,
    pub log: Log,
    pub traces: Traces,
}

impl Default for Config {
    fn default() -> Self {
        Self::read(&mut no_settings())
    }
}

impl Config {
    /// Reads the settings from `env` ([`environment`] outside tests), then from `file`, and checks
    /// them. What a role cannot do without is left to [`Config::validate_for`].
    pub fn load(
        env: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        Self::load_checked(env, file, None)
    }

    /// [`Config::load`] and [`Config::validate_for`] in one, so that wrong and missing values are
    /// reported together.
    pub fn load_for(
        role: Role,
        env: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        Self::load_checked(env, file, Some(role))
    }

    fn load_checked(
        env: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
        role: Option<Role>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Settings::new(env, file)?;
        let config = Self::read(&mut settings);
        for Broken { variable, other, allowed, .. } in config.broken(role) {
            // Where one side could not be read, the comparison was with its default.
            let read = |variable: &str| !settings.is_refused(variable);
            if read(&variable) && other.is_none_or(read) {
                settings.refuse(&variable, &allowed);
            }
        }
        settings.refuse_unknown();
        let problems = settings.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    fn read(settings: &mut Settings) -> Self {
        let (database, http) = (Database::read(settings), Http::read(settings));
        let is_local = http.listen.ip().is_loopback();
        Self {
            database,
            http,
            intake: Intake::read(settings),
            limits: Limits::read(settings),
            operator_tokens: sections::read_operator_tokens(settings),
            operator_name: sections::read_operator_name(settings),
            secrets: Secrets::read(settings),
            third_party: ThirdParty::read(settings),
            third_parties: ThirdParties::read(settings),
            circuit: Circuit::read(settings),
            webhook: Webhook::read(settings),
            poll: Poll::read(settings),
            notify: Notify::read(settings, is_local),
            dns: Dns::read(settings),
            worker: Worker::read(settings),
            reconcile: Reconcile::read(settings),
            retention: Retention::read(settings),
            default_client: DefaultClient::read(settings),
            log: Log::read(settings),
            traces: Traces::read(settings),
        }
    }

    fn broken(&self, role: Option<Role>) -> Vec<Broken> {
        let mut broken = check::relations(self);
        broken.extend(role.map(|role| check::missing(self, role)).unwrap_or_default());
        broken
    }

    /// Whether `role` has all that it needs, and the relations between the settings hold: for a
    /// configuration that was changed after it was loaded.
    pub fn validate_for(&self, role: Role) -> Result<(), ConfigError> {
        let problems: Vec<Problem> = self
            .broken(Some(role))
            .into_iter()
            .map(|Broken { variable, value, allowed, other }| {
                let state = match (value, other) {
                    (Some(value), _) => format!(": {value:?}"),
                    (None, Some(_)) => ": the value".to_owned(),
                    (None, None) => " is not set; it".to_owned(),
                };
                Problem {
                    message: format!("{variable}{state} {allowed}"),
                    variable: variable.into_owned(),
                }
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// Where the third party sends webhooks: below the public URL, or without one below the address
    /// that is `actually` listened on, which is loopback for others where it is unspecified
    /// (`0.0.0.0`).
    pub fn webhook_url(&self, actually: SocketAddr) -> String {
        self.webhook_url_of(&ThirdPartyName::default(), actually)
    }

    /// The same of the third party with this name.
    pub fn webhook_url_of(&self, third_party: &ThirdPartyName, actually: SocketAddr) -> String {
        let name = self.webhook_name(third_party);
        if let Some(public_url) = &self.http.public_url {
            return public_url.join(&format!("{WEBHOOK_PATH}{name}"));
        }
        let ip = match actually.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let scheme = if self.http.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{WEBHOOK_PATH}{name}", SocketAddr::new(ip, actually.port()))
    }

    /// The last part of the path of its webhooks.
    fn webhook_name<'a>(&'a self, third_party: &'a ThirdPartyName) -> &'a str {
        match &self.third_party.profile {
            Some(profile) if third_party.is_default() => profile.profile.name(),
            _ => third_party,
        }
    }

    /// Whether there is a third party without a name. A process that serves only the API may know
    /// nothing of it but the secrets of its webhooks.
    pub fn has_unnamed_third_party(&self) -> bool {
        self.third_parties.directory.is_none()
            || self.third_party.base_url.is_some()
            || self.third_party.profile.is_some()
            || !self.webhook.secrets.is_empty()
    }

    /// All third parties, the one without a name first.
    pub fn all_third_parties(&self) -> impl Iterator<Item = (ThirdPartyName, &ThirdParty)> {
        let unnamed = (ThirdPartyName::default(), &self.third_party);
        let named = &self.third_parties.named;
        let named = named.iter().map(|(name, named)| (name.clone(), &named.settings));
        self.has_unnamed_third_party().then_some(unnamed).into_iter().chain(named)
    }

    /// Time from acceptance after which transactions of this third party are polled no more.
    pub fn poll_deadline(&self, third_party: &ThirdPartyName) -> Duration {
        let named = self.third_parties.named.get(third_party).map(|named| &named.settings);
        let unnamed = third_party.is_default().then_some(&self.third_party);
        let own = named.or(unnamed).and_then(|settings| settings.poll_deadline);
        own.unwrap_or(self.poll.deadline)
    }

    /// The same configuration with the long waits divided by `speed`, for demonstrations: what
    /// takes minutes in production, in seconds. Each has a floor, below which only a value that
    /// was there already goes. The first polls and the first notification stay as they are.
    /// A `speed` that is not a positive number changes nothing.
    pub fn scaled(&self, speed: f64) -> Self {
        let mut config = self.clone();
        if !(speed.is_finite() && speed > 0.0) {
            return config;
        }
        let scale = |duration: &mut Duration, floor: Duration| {
            let scaled = Duration::try_from_secs_f64(duration.as_secs_f64() / speed)
                .map_or(value::LONGEST, |scaled| scaled.min(value::LONGEST));
            *duration = scaled.max(floor.min(*duration));
        };
        const TIMEOUT: Duration = Duration::from_millis(250);
        const BACKOFF: Duration = Duration::from_millis(50);
        const MAX_DELAY: Duration = Duration::from_millis(20);
        const DEADLINE: Duration = Duration::from_secs(2);
        const WINDOW: Duration = Duration::from_secs(1);

        let Config { third_party, third_parties, circuit, poll, notify, .. } = &mut config;
        let named = third_parties.named.values_mut().map(|named| &mut named.settings);
        for third_party in std::iter::once(third_party).chain(named) {
            scale(&mut third_party.timeout, TIMEOUT);
            scale(&mut third_party.lookup_timeout, TIMEOUT);
            scale(&mut third_party.create_backoff, BACKOFF);
            if let Some(deadline) = &mut third_party.poll_deadline {
                scale(deadline, DEADLINE.max(poll.first * 2));
            }
        }
        scale(&mut circuit.window, WINDOW);
        scale(&mut circuit.open_for, BACKOFF);
        scale(&mut circuit.max_open_for, MAX_DELAY.max(circuit.open_for));
        scale(&mut poll.max_delay, MAX_DELAY.max(poll.second));
        // Twice the first wait: the deadline must come after it.
        scale(&mut poll.deadline, DEADLINE.max(poll.first * 2));
        scale(&mut notify.base, BACKOFF);
        scale(&mut notify.max_delay, MAX_DELAY.max(notify.base));
        config
    }

    /// Every setting, in the order of the sections.
    pub fn reference() -> Vec<SettingDoc> {
        let mut settings = no_settings();
        Self::read(&mut settings);
        settings.docs().to_vec()
    }
}

/// The process's environment, for [`Config::load`]. Other than `std::env::vars` it does not panic
/// on a variable that is not Unicode: such a value arrives with replacement characters.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

fn no_settings() -> Settings {
    // Only a file can fail to be read.
    Settings::new([], None).expect("no file is read")
}
