//! Ports for servers that come back at the same address after a stop.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that the system gives to outgoing connections, and apart from those of
/// embedded Postgres servers: nobody takes one while its server is away.
const FIRST: u16 = 10_000;
const COUNT: u16 = 5_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address on localhost that nobody listens on, and that no other test of this process gets.
pub fn free_address() -> SocketAddr {
    // Two test processes begin at different places.
    let offset = (process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + next) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}
