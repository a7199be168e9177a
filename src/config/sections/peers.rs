//! Settings of calls to the third party and to clients, and of the third party's webhooks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};

use super::{
    super::{
        credentials::secrets,
        settings::Settings,
        value::{
            BaseUrl, count, duration, factor, lookup_path, networks, path, ports,
            positive_duration, positive_ratio, seconds, truth,
        },
    },
    ThirdPartyProfile,
};
use crate::{domain::EgressPolicy, signature::Secret};

/// `QUARTET_THIRD_PARTY__…`: the third party that creates transactions.
#[derive(Debug, Clone, PartialEq)]
pub struct ThirdParty {
    /// Where it is.
    pub base_url: Option<BaseUrl>,
    /// Path that a transaction is posted to.
    pub create_path: String,
    /// Path of one transaction, with `{id}` once.
    pub lookup_path: String,
    /// Time limit for the answer to a create.
    pub timeout: Duration,
    /// Time limit for the answer to a lookup.
    pub lookup_timeout: Duration,
    /// Retries after the first attempt.
    pub create_retries: u32,
    /// Wait after an ambiguous or failed attempt.
    pub create_backoff: Duration,
    /// How long after its answer a create that was not confirmed may still be stored.
    pub late_storing: Duration,
    /// Maximum number of concurrent creates, and of polls, in one process.
    pub max_in_flight: u32,
    /// How it is called, where that is not Quartet's own contract.
    pub profile: Option<ThirdPartyProfile>,
}

/// What a profile says itself.
const NOT_WITH_PROFILE: [&str; 2] =
    ["QUARTET_THIRD_PARTY__CREATE_PATH", "QUARTET_THIRD_PARTY__LOOKUP_PATH"];

impl ThirdParty {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        let mut third_party = Self::read_without(settings);
        let profile = ThirdPartyProfile::read(settings);
        if let Some(ThirdPartyProfile { profile, .. }) = &profile {
            for variable in NOT_WITH_PROFILE {
                if settings.is_given(variable) {
                    settings.refuse(variable, "is not used with QUARTET_THIRD_PARTY__PROFILE");
                }
            }
            let own = |variable, of_profile: Option<Duration>, setting: &mut Duration| {
                if let Some(own) = of_profile.filter(|_| !settings.is_given(variable)) {
                    *setting = own;
                }
            };
            own("QUARTET_THIRD_PARTY__TIMEOUT", profile.timeout(), &mut third_party.timeout);
            own(
                "QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT",
                profile.lookup_timeout(),
                &mut third_party.lookup_timeout,
            );
            let base_url = profile.base_url().and_then(|url| BaseUrl::parse(url).ok());
            third_party.base_url = third_party.base_url.or(base_url);
        }
        third_party.profile = profile;
        third_party
    }

    fn read_without(settings: &mut Settings) -> Self {
        Self {
            base_url: settings.optional(
                "QUARTET_THIRD_PARTY__BASE_URL",
                BaseUrl::parse,
                "Base URL of the third party, `http://` or `https://`; required by workers",
            ),
            create_path: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_PATH",
                "/transaction",
                path,
                "Path to which Quartet posts a transaction",
            ),
            lookup_path: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_PATH",
                "/transaction/{id}",
                lookup_path,
                "Path at which Quartet looks up a transaction; contains `{id}` exactly once",
            ),
            timeout: settings.read(
                "QUARTET_THIRD_PARTY__TIMEOUT",
                "35s",
                positive_duration,
                "Time limit for the answer to a create",
            ),
            lookup_timeout: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT",
                "5s",
                positive_duration,
                "Time limit for the answer to a lookup",
            ),
            create_retries: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_RETRIES",
                "3",
                count(0, 1_000),
                "Retries of a create after the first attempt",
            ),
            create_backoff: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_BACKOFF",
                "120s",
                positive_duration,
                "Wait before the next attempt after an ambiguous or failed create",
            ),
            late_storing: settings.read(
                "QUARTET_THIRD_PARTY__LATE_STORING",
                "120s",
                positive_duration,
                "How long after its answer the third party may still store a create that it did not \
                 confirm, `CREATE_BACKOFF` where that is longer; reconciliation compares what ended \
                 until then",
            ),
            max_in_flight: settings.read(
                "QUARTET_THIRD_PARTY__MAX_IN_FLIGHT",
                "1000",
                count(1, 1_000_000),
                "Maximum number of concurrent creates, and of concurrent polls, in one process",
            ),
            profile: None,
        }
    }

    /// The URL that a transaction is posted to; none without a base URL.
    pub fn create_url(&self) -> Option<String> {
        self.base_url.as_ref().map(|base| base.join(&self.create_path))
    }

    /// The URL of the transaction `id`; none without a base URL.
    pub fn lookup_url(&self, id: &str) -> Option<String> {
        self.base_url.as_ref().map(|base| base.join(&self.lookup_path.replace("{id}", id)))
    }
}

/// `QUARTET_CIRCUIT__…`: when calls to the third party stop because too many fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    /// Share of failed calls at which the circuit opens.
    pub failure_ratio: f64,
    /// Time over which calls are counted.
    pub window: Duration,
    /// Minimum number of calls in the window before it may open.
    pub min_calls: u32,
    /// How long it stays open at first, doubled after each failed probe.
    pub open_for: Duration,
    /// Longest time between probes.
    pub max_open_for: Duration,
}

impl Circuit {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            failure_ratio: settings.read(
                "QUARTET_CIRCUIT__FAILURE_RATIO",
                "0.5",
                positive_ratio,
                "Share of failed calls, above 0 and at most 1, at which a process opens the \
                 circuit",
            ),
            window: settings.read(
                "QUARTET_CIRCUIT__WINDOW",
                "60s",
                positive_duration,
                "Time over which each process counts its calls",
            ),
            min_calls: settings.read(
                "QUARTET_CIRCUIT__MIN_CALLS",
                "20",
                count(1, 1_000_000_000),
                "Minimum number of calls in the window before the circuit may open",
            ),
            open_for: settings.read(
                "QUARTET_CIRCUIT__OPEN_FOR",
                "15s",
                positive_duration,
                "How long the circuit stays open at first; doubled after each failed probe",
            ),
            max_open_for: settings.read(
                "QUARTET_CIRCUIT__MAX_OPEN_FOR",
                "2m",
                positive_duration,
                "Longest time between probes; at least `QUARTET_CIRCUIT__OPEN_FOR`",
            ),
        }
    }
}

/// `QUARTET_WEBHOOK__…`: how the third party's webhooks are verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Signing secrets, each accepted. `sign-webhook` signs with the first one.
    pub secrets: Vec<Secret>,
    /// Maximum difference between a webhook's timestamp and now, in both directions.
    pub tolerance: Duration,
}

impl Webhook {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            secrets: settings
                .secret(
                    "QUARTET_WEBHOOK__SECRETS",
                    secrets,
                    "Signing secrets of the third party's webhooks, `whsec_…`, separated by \
                     commas; each is accepted. Required by the API",
                )
                .unwrap_or_default(),
            tolerance: settings.read(
                "QUARTET_WEBHOOK__TOLERANCE",
                "300s",
                seconds,
                "Maximum difference between a webhook's timestamp and the current time, in both \
                 directions",
            ),
        }
    }
}

/// `QUARTET_POLL__…`: when the third party is polled for a final status.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// Delay from acceptance to the first poll.
    pub first: Duration,
    /// Delay after the first poll.
    pub second: Duration,
    /// Factor by which each further delay grows.
    pub factor: f64,
    /// Longest delay.
    pub max_delay: Duration,
    /// Time from acceptance after which polling stops.
    pub deadline: Duration,
}

impl Poll {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            first: settings.read(
                "QUARTET_POLL__FIRST",
                "200ms",
                duration,
                "Delay from acceptance to the first poll",
            ),
            second: settings.read(
                "QUARTET_POLL__SECOND",
                "10ms",
                positive_duration,
                "Delay between the first and the second poll",
            ),
            factor: settings.read(
                "QUARTET_POLL__FACTOR",
                "2",
                factor,
                "Factor by which each further delay grows, 1 to 100",
            ),
            max_delay: settings.read(
                "QUARTET_POLL__MAX_DELAY",
                "60s",
                positive_duration,
                "Longest delay between two polls; at least `QUARTET_POLL__SECOND`",
            ),
            deadline: settings.read(
                "QUARTET_POLL__DEADLINE",
                "15m",
                positive_duration,
                "Time from acceptance after which polling stops and a dead letter is opened; \
                 longer than `QUARTET_POLL__FIRST`",
            ),
        }
    }
}

/// `QUARTET_NOTIFY__…`: how clients are notified.
#[derive(Debug, Clone, PartialEq)]
pub struct Notify {
    /// Delay from acceptance to the first notification.
    pub first: Duration,
    /// Maximum number of attempts, including the first.
    pub max_attempts: u32,
    /// Delay after the first failed attempt, doubled after each further one.
    pub base: Duration,
    /// Longest delay between attempts.
    pub max_delay: Duration,
    /// Time limit for the client's answer.
    pub timeout: Duration,
    /// Consecutive calls without an answer after which a callback host counts as down.
    pub host_failures: u32,
    /// Where callback URLs may lead.
    pub egress: EgressPolicy,
}

impl Notify {
    /// `is_local`: the process listens on a loopback address only, as in development, where the
    /// clients run on the same machine.
    pub(in crate::config) fn read(settings: &mut Settings, is_local: bool) -> Self {
        Self {
            first: settings.read(
                "QUARTET_NOTIFY__FIRST",
                "200ms",
                duration,
                "Delay from acceptance to the first notification of the client",
            ),
            max_attempts: settings.read(
                "QUARTET_NOTIFY__MAX_ATTEMPTS",
                "15",
                count(1, 1_000),
                "Maximum number of attempts to notify, including the first; then a dead letter is \
                 opened",
            ),
            base: settings.read(
                "QUARTET_NOTIFY__BASE",
                "1s",
                positive_duration,
                "Delay after the first failed attempt; doubled after each further one",
            ),
            max_delay: settings.read(
                "QUARTET_NOTIFY__MAX_DELAY",
                "1h",
                positive_duration,
                "Longest delay between two attempts; at least `QUARTET_NOTIFY__BASE`",
            ),
            timeout: settings.read(
                "QUARTET_NOTIFY__TIMEOUT",
                "10s",
                positive_duration,
                "Time limit for the client's answer",
            ),
            host_failures: settings.read(
                "QUARTET_NOTIFY__HOST_FAILURES",
                "5",
                count(1, 1_000_000_000),
                "Number of consecutive calls without an answer after which a client's callback \
                 host counts as down: its notifications are postponed and single calls probe it, \
                 first after `QUARTET_NOTIFY__BASE`, later at most once a minute",
            ),
            egress: EgressPolicy {
                allowed_networks: settings
                    .optional(
                        "QUARTET_NOTIFY__ALLOWED_NETWORKS",
                        networks,
                        "Non-public networks that callback URLs may lead to, such as \
                         `10.1.0.0/16`, separated by commas, or `none`. Unset, private, loopback, \
                         link-local and other special addresses, and those of the machine itself, \
                         are refused; loopback is allowed only while `QUARTET_HTTP__LISTEN` is a \
                         loopback address. A cloud's metadata address must be listed by itself, \
                         such as `169.254.169.254`",
                    )
                    .unwrap_or_else(|| if is_local { loopback() } else { Vec::new() }),
                allowed_ports: settings
                    .optional(
                        "QUARTET_NOTIFY__ALLOWED_PORTS",
                        ports,
                        "Further ports that callback URLs may use, separated by commas, or `none`. \
                         Unset, these are refused: ports below 1024 other than 80 and 443, and the \
                         usual ports of databases and similar services, such as 6379",
                    )
                    .unwrap_or_default(),
                https_only: settings.read(
                    "QUARTET_NOTIFY__HTTPS_ONLY",
                    "false",
                    truth,
                    "Whether callback URLs with plain `http://` are refused",
                ),
            },
        }
    }
}

fn loopback() -> Vec<IpNet> {
    let (v4, v6) = (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), Ipv6Addr::LOCALHOST);
    vec![v4.into(), IpNet::from(IpAddr::from(v6))]
}
