//! Which addresses Quartet calls for a client. The client chooses its callback URL, which must not
//! make Quartet call into its own network.
//!
//! Public addresses are allowed; those with a special purpose (IANA's registries, RFC 6890) only
//! where the operator allows their network; the addresses at which clouds offer a machine its
//! credentials only where the operator names that very address, so that `fd00::/8` does not open
//! them. Addresses of the machine itself are like those with a special purpose. An IPv4 address
//! inside an IPv6 one is judged as what it is. A name is judged by the addresses that it resolves
//! to, right before each connection; an address in a URL together with the URL.
//!
//! Of the ports, 80, 443 and those without privilege may be called, but for the usual ports of
//! databases and the like, which may take an HTTP request for commands.

mod addresses;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use url::{Host, Url};

use self::addresses::{is_metadata, meant_by, special_purpose, wrapped_in};

/// Below it, only privileged processes may listen: the system's own services.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
/// Where services that speak no HTTP, or serve all that reach them, usually are: SQL Server,
/// Oracle, NFS, Docker, etcd, MySQL, RDP, Postgres, AMQP, VNC, Redis, Kubernetes, Cassandra, Kafka,
/// Elasticsearch, the kubelet, memcached, MongoDB.
const SERVICE_PORTS: [u16; 22] = [
    1433, 1521, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 5432, 5672, 5900, 6379, 6443, 9042, 9092,
    9200, 9300, 10250, 10255, 11211, 27017,
];

/// What callbacks may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Networks that are allowed although they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Ports that are allowed although they are privileged or a well-known service's.
    pub allowed_ports: Vec<u16>,
    /// Whether plain `http://` is refused.
    pub https_only: bool,
}

/// Why a callback URL is not called; each text goes on after the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressDenied {
    #[error("leads to {address}, {what}, which QUARTET_NOTIFY__ALLOWED_NETWORKS does not allow")]
    Address { address: IpAddr, what: &'static str },
    #[error("uses port {port}, {what}, which QUARTET_NOTIFY__ALLOWED_PORTS does not allow")]
    Port { port: u16, what: &'static str },
    #[error("must be an https:// URL, since QUARTET_NOTIFY__HTTPS_ONLY is true")]
    PlainHttp,
    #[error("must be an absolute http:// or https:// URL without user or password")]
    Url,
}

impl EgressPolicy {
    /// Judges what can be judged of a URL before its name is resolved: scheme, user, and an address
    /// where it holds one, in whatever notation (`http://2130706433/` is 127.0.0.1).
    pub fn check_url(&self, url: &Url) -> Result<(), EgressDenied> {
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !matches!(url.scheme(), "http" | "https") || has_user {
            return Err(EgressDenied::Url);
        }
        if self.https_only && url.scheme() != "https" {
            return Err(EgressDenied::PlainHttp);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into())?,
            Some(Host::Ipv6(address)) => self.check_address(address.into())?,
            // Always this machine (RFC 6761), whatever a resolver says.
            Some(Host::Domain(name)) if is_localhost(name) => {
                self.check_address(Ipv4Addr::LOCALHOST.into())?;
            }
            Some(Host::Domain(_)) => {}
            None => return Err(EgressDenied::Url),
        }
        self.check_port(url.port_or_known_default().ok_or(EgressDenied::Url)?)
    }

    fn check_port(&self, port: u16) -> Result<(), EgressDenied> {
        let what = match port {
            80 | 443 => return Ok(()),
            ..FIRST_UNPRIVILEGED_PORT => "a privileged port",
            port if SERVICE_PORTS.contains(&port) => "the usual port of another service",
            _ => return Ok(()),
        };
        if self.allowed_ports.contains(&port) {
            return Ok(());
        }
        Err(EgressDenied::Port { port, what })
    }

    /// Judges an address, and every one that is written in it.
    pub fn check_address(&self, address: IpAddr) -> Result<(), EgressDenied> {
        self.check(address, &special_purpose)
    }

    /// Judges an address by those of this machine: it may be reached there as nobody outside may.
    pub fn check_own(&self, address: IpAddr, own: &[IpAddr]) -> Result<(), EgressDenied> {
        self.check(address, &|meant| own.contains(&meant).then_some("an address of this machine"))
    }

    fn check(
        &self,
        address: IpAddr,
        judge: &impl Fn(IpAddr) -> Option<&'static str>,
    ) -> Result<(), EgressDenied> {
        let meant = meant_by(address);
        if let Some(what) = judge(meant)
            && !self.allows(meant, address)
        {
            return Err(EgressDenied::Address { address: meant, what });
        }
        // Allowing the wrapping address does not allow the wrapped one.
        wrapped_in(meant).into_iter().try_for_each(|inner| self.check(inner.into(), judge))
    }

    /// Whether the operator allows this address, however it is written.
    fn allows(&self, meant: IpAddr, written: IpAddr) -> bool {
        let allowed = |network: &IpNet| {
            let is_single = network.prefix_len() == network.max_prefix_len();
            (is_single || !is_metadata(meant))
                && (network.contains(&meant) || network.contains(&written))
        };
        self.allowed_networks.iter().any(allowed)
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}
