//! How clients are notified.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};

use super::super::{
    settings::Settings,
    value::{count, duration, networks, ports, positive_duration, truth},
};
use crate::domain::EgressPolicy;

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
                "Delay from acceptance to the first notification of the client. Written into the \
                 job when the transaction is accepted: set it alike on all processes",
            ),
            max_attempts: settings.read(
                "QUARTET_NOTIFY__MAX_ATTEMPTS",
                "15",
                count(1, 1_000),
                "Maximum number of attempts to notify, including the first; then a dead letter is \
                 opened. Written into the job when the transaction is accepted: set it alike on all \
                 processes",
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
