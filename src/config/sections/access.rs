//! Where Quartet is reached, and what it keeps its data in.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::super::{
    credentials::{master_keys, operator_tokens},
    database_url::database_url,
    settings::Settings,
    value::{BaseUrl, Redacted, address, count, file, name, pooler, positive_duration, size},
};
use crate::secrets::MasterKeys;

/// `DATABASE_URL` and `QUARTET_DATABASE__…`: the connection to Postgres.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Where Postgres is; no default, `serve` needs it.
    pub url: Option<Redacted<String>>,
    /// What is between here and Postgres; nothing.
    pub pooler: Pooler,
    /// Postgres itself where `url` is a pooler, for what needs a session; none.
    pub direct_url: Option<Redacted<String>>,
    /// Most connections of one process, 10 or more; 20.
    pub max_connections: u32,
}

/// What is between this process and Postgres.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pooler {
    /// Nothing, or what keeps sessions.
    #[default]
    None,
    /// A pooler that hands its sessions from transaction to transaction.
    Transaction,
}

impl Pooler {
    /// Whether the next transaction may be in another session.
    pub fn shares_sessions(self) -> bool {
        self == Self::Transaction
    }
}

impl Database {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            url: settings.secret(
                "DATABASE_URL",
                database_url,
                "Postgres to use, `postgres://user:password@host:5432/database`; required by `serve`",
            ),
            pooler: settings.read(
                "QUARTET_DATABASE__POOLER",
                "none",
                pooler,
                "What is between Quartet and Postgres: `transaction` for a pooler in transaction \
                 mode, such as PgBouncer; `none` for nothing. See docs/database.md",
            ),
            direct_url: settings.secret(
                "QUARTET_DATABASE__DIRECT_URL",
                database_url,
                "Postgres itself where `DATABASE_URL` is a pooler: for `quartet migrate`, which \
                 needs it, and for one connection of each worker process, which then hears at once \
                 of jobs that others made due",
            ),
            max_connections: settings.read(
                "QUARTET_DATABASE__MAX_CONNECTIONS",
                "20",
                count(10, 10_000),
                "Most database connections of one process, 10 or more: two that write what \
                 requests bring, five that claim, watch and write jobs, one for scrapes of the \
                 metrics, of the rest a third for requests",
            ),
        }
    }
}

const CERTIFICATE: &str = "QUARTET_HTTP__TLS_CERTIFICATE";
const KEY: &str = "QUARTET_HTTP__TLS_KEY";

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
    /// Certificate and key to serve HTTPS with; none by default, and then it is plain HTTP.
    pub tls: Option<Tls>,
}

/// `QUARTET_HTTP__TLS_…`: HTTPS. Both files or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificate, then those that lead to a root.
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key.
    pub key: PathBuf,
    /// How often the files are looked at; 10 s.
    pub reload: Duration,
}

impl Tls {
    fn read(settings: &mut Settings) -> Option<Self> {
        let certificate = settings.optional(
            CERTIFICATE,
            file,
            "PEM file with the certificate to serve HTTPS with, then those that lead to a root; \
             without it HTTP is served",
        );
        let key = settings.optional(KEY, file, "PEM file with that certificate's private key");
        let reload = settings.read(
            "QUARTET_HTTP__TLS_RELOAD",
            "10s",
            positive_duration,
            "How often both files are looked at: a renewed certificate is used without a restart",
        );
        if certificate.is_some() != key.is_some() {
            let (absent, other) =
                if key.is_none() { (KEY, CERTIFICATE) } else { (CERTIFICATE, KEY) };
            settings.refuse(absent, &format!("must be set when {other} is"));
        }
        Some(Self { certificate: certificate?, key: key?, reload })
    }
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
                 the listen address. Set it behind a proxy, and on workers that run apart from the \
                 API",
            ),
            max_body: settings.read(
                "QUARTET_HTTP__MAX_BODY",
                "64KiB",
                size,
                "Largest request body: a size such as `64KiB`, or a number of bytes",
            ),
            tls: Tls::read(settings),
        }
    }
}

/// Reads `QUARTET_OPERATOR_TOKEN`: the hash of each token.
pub(in crate::config) fn read_operator_tokens(settings: &mut Settings) -> Vec<Redacted<[u8; 32]>> {
    let tokens = settings.secret(
        "QUARTET_OPERATOR_TOKEN",
        operator_tokens,
        "Bearer token of the operator API: 32 random characters or more; fewer than 16, quotes and \
         examples' placeholders are refused. Several, each accepted, are separated by commas. \
         Without it the operator API is closed",
    );
    tokens.unwrap_or_default()
}

/// `QUARTET_OPERATOR_NAME`.
pub(in crate::config) fn read_operator_name(settings: &mut Settings) -> Option<String> {
    settings.optional(
        "QUARTET_OPERATOR_NAME",
        name,
        "Who acts on the command line, for the audit, which names the system's account beside it; \
         `--operator` wins over it",
    )
}

/// `QUARTET_SECRETS__…`: what seals secrets in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Secrets {
    /// Keys that clients' signing secrets are sealed with: the first one seals, each opens. None by
    /// default: then they are stored in plain.
    pub master_keys: MasterKeys,
}

impl Secrets {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            master_keys: settings.secret(
                "QUARTET_SECRETS__MASTER_KEY",
                master_keys,
                "Key that seals clients' signing secrets in the database, 32 bytes in base64 \
                 (`quartet secrets generate-key`); several are separated by commas: the first one \
                 seals, each opens. Without it they are stored in plain, and each start warns of it",
            ).unwrap_or_default(),
        }
    }
}
