//! Settings of the API's address, of the database and of access.

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
    /// Where Postgres is.
    pub url: Option<Redacted<String>>,
    /// The connection pooler in between.
    pub pooler: Pooler,
    /// Postgres itself where `url` is a pooler, for what needs a session.
    pub direct_url: Option<Redacted<String>>,
    /// Maximum number of connections of one process.
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
                "Postgres connection URL, `postgres://user:password@host:5432/database`; required \
                 by `serve`",
            ),
            pooler: settings.read(
                "QUARTET_DATABASE__POOLER",
                "none",
                pooler,
                "Connection pooler between Quartet and Postgres: `transaction` for one in \
                 transaction mode, such as PgBouncer, or `none`. See \
                 [database.md](database.md#through-pgbouncer)",
            ),
            direct_url: settings.secret(
                "QUARTET_DATABASE__DIRECT_URL",
                database_url,
                "URL that leads to Postgres itself where `DATABASE_URL` leads to a pooler. \
                 `quartet migrate` needs it; each worker process also keeps one connection over it \
                 to hear `NOTIFY`",
            ),
            max_connections: settings.read(
                "QUARTET_DATABASE__MAX_CONNECTIONS",
                "20",
                count(10, 10_000),
                "Maximum number of database connections of one process, at least 10. Eight have a \
                 fixed use (writers, claims, leases, metrics); a third of the rest serves \
                 requests, the others serve jobs",
            ),
        }
    }
}

const CERTIFICATE: &str = "QUARTET_HTTP__TLS_CERTIFICATE";
const KEY: &str = "QUARTET_HTTP__TLS_KEY";

/// `QUARTET_HTTP__…`: Quartet's own API.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// URL at which the third party reaches the API. See
    /// [`Config::webhook_url`](crate::config::Config::webhook_url).
    pub public_url: Option<BaseUrl>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Certificate and key for HTTPS, or none for plain HTTP.
    pub tls: Option<Tls>,
}

/// `QUARTET_HTTP__TLS_…`: HTTPS. Both files or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificate and the intermediate certificates.
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key.
    pub key: PathBuf,
    /// How often the files are checked for changes.
    pub reload: Duration,
}

impl Tls {
    fn read(settings: &mut Settings) -> Option<Self> {
        let certificate = settings.optional(
            CERTIFICATE,
            file,
            "PEM file with the certificate for HTTPS, followed by the intermediate certificates. \
             Unset, Quartet serves plain HTTP",
        );
        let key = settings.optional(KEY, file, "PEM file with the private key of that certificate");
        let reload = settings.read(
            "QUARTET_HTTP__TLS_RELOAD",
            "10s",
            positive_duration,
            "How often both files are checked for changes; a renewed certificate is used without a \
             restart",
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
                "URL at which the third party reaches the API; it goes into `webhookUrl`. Unset, \
                 the listen address is used. Set it behind a proxy, and on workers that run apart \
                 from the API",
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
        "Bearer token of the operator API; use 32 random characters or more. Tokens shorter than \
         16 characters, with quotes, or copied from an example are refused. Separate several with \
         commas; each is accepted. Unset, the operator API is closed",
    );
    tokens.unwrap_or_default()
}

/// `QUARTET_OPERATOR_NAME`.
pub(in crate::config) fn read_operator_name(settings: &mut Settings) -> Option<String> {
    settings.optional(
        "QUARTET_OPERATOR_NAME",
        name,
        "Name of the operator on the command line, for the audit, which also records the operating \
         system's account. `--operator` overrides it",
    )
}

/// `QUARTET_SECRETS__…`: what seals secrets in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Secrets {
    /// Keys that encrypt clients' signing secrets: the first encrypts, each decrypts. Without any
    /// the secrets are stored in plain text.
    pub master_keys: MasterKeys,
}

impl Secrets {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            master_keys: settings.secret(
                "QUARTET_SECRETS__MASTER_KEY",
                master_keys,
                "Key that encrypts clients' signing secrets in the database: 32 bytes in base64 \
                 (`quartet secrets generate-key`). Separate several with commas: the first \
                 encrypts, each decrypts. Unset, secrets are stored in plain text, with a warning \
                 at each start",
            ).unwrap_or_default(),
        }
    }
}
