//! The addresses of this machine's interfaces, public ones among them. They change (a lease, a
//! floating address, a container's network), so that they are read again every few seconds.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::ifaddrs::getifaddrs;

/// How long what was read is used.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The machine's addresses. Cheap to clone; clones share what was read.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses(Arc<Mutex<Reading>>);

#[derive(Debug, Default)]
struct Reading {
    addresses: Arc<[IpAddr]>,
    /// When they were read; never where they are fixed.
    at: Option<Instant>,
    is_fixed: bool,
}

impl OwnAddresses {
    /// These, for good.
    #[cfg(test)]
    pub fn fixed(addresses: impl Into<Arc<[IpAddr]>>) -> Self {
        let addresses = addresses.into();
        Self(Arc::new(Mutex::new(Reading { addresses, at: None, is_fixed: true })))
    }

    /// Those of the last few seconds. Where the system does not say them, the last that it said.
    pub fn current(&self) -> Arc<[IpAddr]> {
        // The reading is replaced whole.
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = reading.at.is_some_and(|at| at.elapsed() < MAX_AGE);
        if !is_fresh && !reading.is_fixed {
            reading.at = Some(Instant::now());
            match getifaddrs() {
                Ok(interfaces) => {
                    let addresses = interfaces.filter_map(|interface| {
                        let address = interface.address?;
                        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
                    });
                    reading.addresses = addresses.collect();
                }
                Err(error) => {
                    tracing::warn!(%error, "the addresses of this machine cannot be read");
                }
            }
        }
        reading.addresses.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[test]
    fn the_addresses_of_the_interfaces_are_read() {
        let own = OwnAddresses::default().current();
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()), "{own:?}");
        // Connecting a datagram's socket sends nothing: it picks the interface that leads outside.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let outward = socket.local_addr().unwrap().ip();
            assert!(own.contains(&outward), "{outward} is not in {own:?}");
        }
    }
}
