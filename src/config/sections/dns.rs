//! How the names in callback URLs and of the third party are looked up.

use std::net::SocketAddr;

use super::super::{settings::Settings, value::name_servers};

/// `QUARTET_DNS__…`: who is asked for names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dns {
    /// Name servers; none, which means those of the system.
    pub servers: Vec<SocketAddr>,
}

impl Dns {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            servers: settings
                .optional(
                    "QUARTET_DNS__SERVERS",
                    name_servers,
                    "Name servers for the third party and callback URLs, such as \
                     `10.0.0.53,[fd00::53]:5353`; by default those of `/etc/resolv.conf`, with its \
                     search list, which does not count beside this",
                )
                .unwrap_or_default(),
        }
    }
}
