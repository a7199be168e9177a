//! Where Quartet is reached, and what it keeps its data in.

use std::net::SocketAddr;

use super::super::{
    settings::Settings,
    value::{BaseUrl, Redacted, address, bearer_token, count, database_url, size},
};

/// `DATABASE_URL` and `QUARTET_DATABASE__…`: the connection to Postgres.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Where Postgres is; no default, `serve` needs it.
    pub url: Option<Redacted<String>>,
    /// Most connections of one process, 13 or more; 20.
    pub max_connections: u32,
}

impl Database {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            url: settings.secret(
                "DATABASE_URL",
                database_url,
                "Postgres to use, `postgres://user:password@host:5432/database`; required by `serve`",
            ),
            max_connections: settings.read(
                "QUARTET_DATABASE__MAX_CONNECTIONS",
                "20",
                count(13, 10_000),
                "Most database connections of one process, 13 or more: two that write what \
                 requests bring, eight that claim, watch and write jobs, of the rest a third for requests",
            ),
        }
    }
}

/// `QUARTET_HTTP__…`: Quartet's own API.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// Address to listen on; `127.0.0.1:8080`. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// URL under which the third party reaches the API; by default the listen address. See
    /// [`Config::webhook_url`](crate::config::Config::webhook_url).
    pub public_url: Option<BaseUrl>,
    /// Largest request body, in bytes; 64 KiB.
    pub max_body: usize,
}

impl Http {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            listen: settings.read(
                "QUARTET_HTTP__LISTEN",
                "127.0.0.1:8080",
                address,
                "Address and port to listen on; port 0 lets the system choose",
            ),
            public_url: settings.optional(
                "QUARTET_HTTP__PUBLIC_URL",
                BaseUrl::parse,
                "URL under which the third party reaches the API, for `webhookUrl`; by default \
                 `http://` and the listen address. Set it behind a proxy, and on workers that \
                 run apart from the API",
            ),
            max_body: settings.read(
                "QUARTET_HTTP__MAX_BODY",
                "64KiB",
                size,
                "Largest request body: a size such as `64KiB`, or a number of bytes",
            ),
        }
    }
}

/// Reads `QUARTET_OPERATOR_TOKEN`.
pub(in crate::config) fn read_operator_token(settings: &mut Settings) -> Option<Redacted<String>> {
    settings.secret(
        "QUARTET_OPERATOR_TOKEN",
        bearer_token,
        "Bearer token of the operator API; 32 random characters or more are advisable. Without it \
         the operator API is closed",
    )
}
