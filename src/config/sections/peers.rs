//! The third party and the clients: how they are called, and what is accepted from them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};

use super::super::{
    credentials::secrets,
    settings::Settings,
    value::{
        BaseUrl, count, duration, factor, lookup_path, networks, path, ports, positive_duration,
        positive_ratio, seconds, truth,
    },
};
use crate::{domain::EgressPolicy, signature::Secret};

/// `QUARTET_THIRD_PARTY__…`: the third party that creates transactions.
#[derive(Debug, Clone, PartialEq)]
pub struct ThirdParty {
    /// Where it is; no default, workers need it.
    pub base_url: Option<BaseUrl>,
    /// Path that a transaction is posted to; `/transaction`.
    pub create_path: String,
    /// Path of one transaction, with `{id}` once; `/transaction/{id}`.
    pub lookup_path: String,
    /// Longest wait for the answer to a create; 35 s.
    pub timeout: Duration,
    /// Longest wait for the answer to a lookup; 5 s.
    pub lookup_timeout: Duration,
    /// Tries after the first one; 3.
    pub create_retries: u32,
    /// Wait after an ambiguous or failed try; 120 s.
    pub create_backoff: Duration,
    /// How long after its answer a create that was not confirmed may still be stored; 120 s.
    pub late_storing: Duration,
    /// Most requests of one process at the same time; 1000.
    pub max_in_flight: u32,
}

impl ThirdParty {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            base_url: settings.optional(
                "QUARTET_THIRD_PARTY__BASE_URL",
                BaseUrl::parse,
                "URL of the third party, `http://` or `https://`; required by workers",
            ),
            create_path: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_PATH",
                "/transaction",
                path,
                "Path that a transaction is posted to",
            ),
            lookup_path: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_PATH",
                "/transaction/{id}",
                lookup_path,
                "Path of one transaction, with `{id}` exactly once",
            ),
            timeout: settings.read(
                "QUARTET_THIRD_PARTY__TIMEOUT",
                "35s",
                positive_duration,
                "Longest wait for the answer to a create",
            ),
            lookup_timeout: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT",
                "5s",
                positive_duration,
                "Longest wait for the answer to a lookup",
            ),
            create_retries: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_RETRIES",
                "3",
                count(0, 1_000),
                "Tries to create after the first one",
            ),
            create_backoff: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_BACKOFF",
                "120s",
                positive_duration,
                "Wait after an ambiguous or failed try to create",
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
                "Most creates, and as many polls, of one process at the same time",
            ),
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

/// `QUARTET_CIRCUIT__…`: when the third party is left alone because it does not answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    /// Share of failed calls from which the circuit opens, above 0 and at most 1; 0.5.
    pub failure_ratio: f64,
    /// Over how long calls are counted; 60 s.
    pub window: Duration,
    /// With fewer calls in the window it stays closed; 20.
    pub min_calls: u32,
    /// First opening, doubled with each failed probe; 15 s.
    pub open_for: Duration,
    /// Longest opening; 2 min.
    pub max_open_for: Duration,
}

impl Circuit {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            failure_ratio: settings.read(
                "QUARTET_CIRCUIT__FAILURE_RATIO",
                "0.5",
                positive_ratio,
                "Share of one process's calls to the third party, above 0 and at most 1, that \
                 must fail for the circuit to open",
            ),
            window: settings.read(
                "QUARTET_CIRCUIT__WINDOW",
                "60s",
                positive_duration,
                "Over how long these calls are counted",
            ),
            min_calls: settings.read(
                "QUARTET_CIRCUIT__MIN_CALLS",
                "20",
                count(1, 1_000_000_000),
                "With fewer calls within the window the circuit stays closed",
            ),
            open_for: settings.read(
                "QUARTET_CIRCUIT__OPEN_FOR",
                "15s",
                positive_duration,
                "How long an open circuit lets no call through, at first; doubled with each \
                 failed probe",
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

/// `QUARTET_WEBHOOK__…`: what the third party's webhooks are checked with.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Secrets, any of which may have signed; empty by default, the API needs one. The first one
    /// signs in `sign-webhook`.
    pub secrets: Vec<Secret>,
    /// How far a webhook's timestamp may be from now, both ways; 300 s.
    pub tolerance: Duration,
}

impl Webhook {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            secrets: settings
                .secret(
                    "QUARTET_WEBHOOK__SECRETS",
                    secrets,
                    "Signing secrets of the third party's webhooks, `whsec_…` separated by \
                     commas, each accepted; required by the API",
                )
                .unwrap_or_default(),
            tolerance: settings.read(
                "QUARTET_WEBHOOK__TOLERANCE",
                "300s",
                seconds,
                "How far a webhook's timestamp may be from now, in both directions",
            ),
        }
    }
}

/// `QUARTET_POLL__…`: when the third party is asked how a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// From acceptance to the first poll; 200 ms.
    pub first: Duration,
    /// Gap after the first poll; 10 ms.
    pub second: Duration,
    /// By how much each further gap grows; 2.
    pub factor: f64,
    /// Longest gap; 60 s.
    pub max_delay: Duration,
    /// From acceptance to giving up; 15 min.
    pub deadline: Duration,
}

impl Poll {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            first: settings.read(
                "QUARTET_POLL__FIRST",
                "200ms",
                duration,
                "From acceptance to the first poll",
            ),
            second: settings.read(
                "QUARTET_POLL__SECOND",
                "10ms",
                positive_duration,
                "Gap between the first and the second poll",
            ),
            factor: settings.read(
                "QUARTET_POLL__FACTOR",
                "2",
                factor,
                "By how much each further gap grows, 1 to 100",
            ),
            max_delay: settings.read(
                "QUARTET_POLL__MAX_DELAY",
                "60s",
                positive_duration,
                "Longest gap; at least `QUARTET_POLL__SECOND`",
            ),
            deadline: settings.read(
                "QUARTET_POLL__DEADLINE",
                "15m",
                positive_duration,
                "From acceptance to giving up, which opens a dead letter; longer than \
                 `QUARTET_POLL__FIRST`",
            ),
        }
    }
}

/// `QUARTET_NOTIFY__…`: how clients are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Notify {
    /// From acceptance to the first notification; 200 ms.
    pub first: Duration,
    /// Most attempts to deliver, the first included; 15.
    pub max_attempts: u32,
    /// Wait after the first failed attempt, doubled after each further one; 1 s.
    pub base: Duration,
    /// Longest wait between attempts; 1 h.
    pub max_delay: Duration,
    /// Longest wait for the client's answer; 10 s.
    pub timeout: Duration,
    /// Calls in a row without an answer after which a callback host is left alone; 5.
    pub host_failures: u32,
    /// Where callback URLs may lead; to public addresses, by `http` or `https`, and to loopback ones
    /// while `HTTP__LISTEN` is one.
    pub egress: EgressPolicy,
}

impl Notify {
    /// `is_local`: this process is reached from its own machine alone, as in development, where the
    /// clients are there too.
    pub(in crate::config) fn read(settings: &mut Settings, is_local: bool) -> Self {
        Self {
            first: settings.read(
                "QUARTET_NOTIFY__FIRST",
                "200ms",
                duration,
                "From acceptance to the first notification of the client",
            ),
            max_attempts: settings.read(
                "QUARTET_NOTIFY__MAX_ATTEMPTS",
                "15",
                count(1, 1_000),
                "Most attempts to notify, the first included; then a dead letter",
            ),
            base: settings.read(
                "QUARTET_NOTIFY__BASE",
                "1s",
                positive_duration,
                "Wait after the first failed attempt, doubled after each further one",
            ),
            max_delay: settings.read(
                "QUARTET_NOTIFY__MAX_DELAY",
                "1h",
                positive_duration,
                "Longest wait between attempts; at least `QUARTET_NOTIFY__BASE`",
            ),
            timeout: settings.read(
                "QUARTET_NOTIFY__TIMEOUT",
                "10s",
                positive_duration,
                "Longest wait for the client's answer",
            ),
            host_failures: settings.read(
                "QUARTET_NOTIFY__HOST_FAILURES",
                "5",
                count(1, 1_000_000_000),
                "Calls of one client's callback host in a row that get no answer, after which its \
                 notifications are postponed and one call at a time probes, at first after \
                 `QUARTET_NOTIFY__BASE`, then at most once a minute",
            ),
            egress: EgressPolicy {
                allowed_networks: settings
                    .optional(
                        "QUARTET_NOTIFY__ALLOWED_NETWORKS",
                        networks,
                        "Networks that callback URLs may lead to although they are not public, such \
                         as `10.1.0.0/16`, separated by commas, or `none`. Private, loopback, \
                         link-local and other special addresses, and those of the machine itself, \
                         are refused without it; loopback ones only where `HTTP__LISTEN` is none \
                         itself. A cloud's metadata address needs an entry of its own, such as \
                         `169.254.169.254`",
                    )
                    .unwrap_or_else(|| if is_local { loopback() } else { Vec::new() }),
                allowed_ports: settings
                    .optional(
                        "QUARTET_NOTIFY__ALLOWED_PORTS",
                        ports,
                        "Ports below 1024 besides 80 and 443, and usual ports of databases and \
                         other services such as 6379, that callback URLs may use, separated by \
                         commas, or `none`. They are refused without it",
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
