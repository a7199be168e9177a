//! Variables that a container engine sets for other services, which are no settings of ours.
//!
//! Kubernetes puts eight variables or more for each Service of the namespace into each pod, unless
//! the pod says `enableServiceLinks: false`; their names follow Docker's old container links. A
//! Service that is named `quartet` or `quartet-db-rw` brings variables with our prefix. They are
//! recognised by name and value together, so that a mistyped setting, or `QUARTET_PORT=8080`, is
//! still refused.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>

use std::net::{IpAddr, SocketAddr};

use super::variable::{LEVEL, PREFIX};

/// What may follow a service's name.
const SERVICE_HOST: &str = "_SERVICE_HOST";
const SERVICE_PORT: &str = "_SERVICE_PORT";
const PORT: &str = "_PORT";

/// Protocols of a Service's port, as they stand in a value.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// The variables of `env` that begin as ours do and that a container engine set for a service.
pub fn service_links(env: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let links = env.into_iter().filter(|(name, value)| is_service_link(name, value));
    links.map(|(name, _)| name).collect()
}

/// Whether a variable with our prefix has the name and the value of a service's.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    // A level of our own names can be no part of a service's.
    if !name.starts_with(PREFIX) || name.contains(LEVEL) {
        return false;
    }
    // The service's own name may hold any of these words: each place where one stands is tried.
    [SERVICE_HOST, SERVICE_PORT, PORT].into_iter().any(|word| {
        name.match_indices(word).any(|(at, _)| {
            let (service, rest) = (&name[..at], &name[at + word.len()..]);
            is_name(service)
                && match word {
                    SERVICE_HOST => rest.is_empty() && is_address(value),
                    SERVICE_PORT => {
                        let port_name = rest.strip_prefix('_');
                        (rest.is_empty() || port_name.is_some_and(is_name)) && is_port(value)
                    }
                    _ => is_link(rest, value),
                }
        })
    })
}

/// What follows `…_PORT`: nothing, or `_8080_TCP` and perhaps one part of the link.
fn is_link(rest: &str, value: &str) -> bool {
    if rest.is_empty() {
        return link(value).is_some();
    }
    let mut parts = rest.strip_prefix('_').into_iter().flat_map(|rest| rest.split('_'));
    let (Some(port), Some(protocol)) = (parts.next(), parts.next()) else { return false };
    let protocol = protocol.to_ascii_lowercase();
    if !is_port(port) || !PROTOCOLS.contains(&protocol.as_str()) {
        return false;
    }
    let fits = match parts.next() {
        None => link(value).is_some_and(|(of, at)| of == protocol && at.port().to_string() == port),
        Some("PROTO") => value == protocol,
        Some("PORT") => value == port,
        Some("ADDR") => is_address(value),
        Some(_) => false,
    };
    fits && parts.next().is_none()
}

/// `tcp://10.96.0.1:80`
fn link(value: &str) -> Option<(&str, SocketAddr)> {
    let (protocol, address) = value.split_once("://")?;
    let address: SocketAddr = address.parse().ok()?;
    (PROTOCOLS.contains(&protocol) && address.port() > 0).then_some((protocol, address))
}

fn is_address(value: &str) -> bool {
    value.parse::<IpAddr>().is_ok()
}

fn is_port(value: &str) -> bool {
    value.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == value)
}

/// A service's or a port's name: a DNS label in capitals, with `_` for `-`.
fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('_') && !text.ends_with('_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Kubernetes sets for a Service with these ports: name, number, protocol.
    fn of_service(
        service: &str,
        address: &str,
        ports: &[(&str, u16, &str)],
    ) -> Vec<(String, String)> {
        let service = service.to_uppercase().replace('-', "_");
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let first = ports[0];
        let mut env = vec![
            (format!("{service}_SERVICE_HOST"), address.to_owned()),
            (format!("{service}_SERVICE_PORT"), first.1.to_string()),
            (format!("{service}_PORT"), format!("{}://{host}:{}", first.2, first.1)),
        ];
        for (name, port, protocol) in ports {
            let link = format!("{service}_PORT_{port}_{}", protocol.to_uppercase());
            let name = name.to_uppercase().replace('-', "_");
            env.extend([
                (format!("{service}_SERVICE_PORT_{name}"), port.to_string()),
                (link.clone(), format!("{protocol}://{host}:{port}")),
                (format!("{link}_PROTO"), (*protocol).to_owned()),
                (format!("{link}_PORT"), port.to_string()),
                (format!("{link}_ADDR"), address.to_owned()),
            ]);
        }
        env
    }

    #[test]
    fn everything_that_a_service_brings_is_recognised() {
        for service in [
            "quartet",
            "quartet-db-rw",
            "quartet-port",
            "quartet-service-port",
            "quartet-log",
            "quartet-port-80-tcp",
            "quartet-2",
        ] {
            for address in ["10.96.0.1", "fd00::17"] {
                let ports = [("http", 80, "tcp"), ("web-ui2", 8080, "udp"), ("s", 1, "sctp")];
                let env = of_service(service, address, &ports);
                let names: Vec<String> = env.iter().map(|(name, _)| name.clone()).collect();
                assert_eq!(service_links(env), names, "{service} at {address}");
            }
        }
    }

    #[test]
    fn what_only_resembles_a_service_is_not() {
        for (name, value) in [
            ("QUARTET_PORT", "8080"),
            ("QUARTET_PORT", "tcp://quartet:80"),
            ("QUARTET_PORT", "http://10.96.0.1:80"),
            ("QUARTET_PORT", "tcp://10.96.0.1"),
            ("QUARTET_PORT", "tcp://10.96.0.1:0"),
            ("QUARTET_PORT", ""),
            ("QUARTET_HTTP_PORT", "8080"),
            ("QUARTET_HTTP__LISTN", "0.0.0.0:8080"),
            ("QUARTET_HTTP__PORT", "tcp://10.96.0.1:80"),
            ("QUARTET_DATABASE__SERVICE_PORT", "5432"),
            ("QUARTET_SERVICE_HOST", "db.example"),
            ("QUARTET_SERVICE_PORT", "http"),
            ("QUARTET_SERVICE_PORT", "99999"),
            ("QUARTET_SERVICE_PORT_", "80"),
            ("QUARTET_SERVICE_PORTS", "80"),
            ("QUARTET_PORT_80_TCP", "tcp://10.96.0.1:81"),
            ("QUARTET_PORT_80_TCP", "udp://10.96.0.1:80"),
            ("QUARTET_PORT_80_TCP_PORT", "81"),
            ("QUARTET_PORT_80_TCP_PROTO", "udp"),
            ("QUARTET_PORT_80_TCP_ADDR", "here"),
            ("QUARTET_PORT_80_TCP_ADDR_X", "10.96.0.1"),
            ("QUARTET_PORT_80_HTTP", "tcp://10.96.0.1:80"),
            ("QUARTET_port", "tcp://10.96.0.1:80"),
            // Without our prefix they are none of our business.
            ("DATABASE_PORT", "tcp://10.96.0.1:80"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
