//! How the names in callback URLs and of the third party are looked up.

use std::net::SocketAddr;

use super::super::{settings::Settings, value::name_servers};

/// `QUARTET_DNS__…`: the name servers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dns {
    /// Name servers, or empty for those of the system.
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
                     `10.0.0.53,[fd00::53]:5353`. Unset, those of `/etc/resolv.conf` are used, \
                     with its search list; the search list is ignored when this is set",
                )
                .unwrap_or_default(),
        }
    }
}
