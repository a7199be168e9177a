//! Quartet's own API: its address, HTTPS, and what connections and requests may cost.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::super::{
    settings::Settings,
    value::{BaseUrl, address, count, file, positive_duration, size},
};

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

/// `QUARTET_HTTP__MAX_…` and `QUARTET_HTTP__…_TIMEOUT`: what connections and requests may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Intake {
    /// Maximum number of open connections.
    pub max_connections: u32,
    /// Maximum number of concurrent requests of one kind.
    pub max_in_flight: u32,
    /// How long posts may wait for their turn.
    pub max_queue_delay: Duration,
    /// Time limit for receiving a request's line and headers.
    pub head_timeout: Duration,
    /// Time limit for receiving a request's body.
    pub body_timeout: Duration,
    /// How long a connection is kept without a request.
    pub idle_timeout: Duration,
}

impl Intake {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            max_connections: settings.read(
                "QUARTET_HTTP__MAX_CONNECTIONS",
                "4096",
                count(1, 1_000_000),
                "Maximum number of open connections, and never more than half of the process's \
                 limit of open files. 64 further connections are reserved for health checks and \
                 metrics",
            ),
            max_in_flight: settings.read(
                "QUARTET_HTTP__MAX_IN_FLIGHT",
                "1024",
                count(1, 1_000_000),
                "Maximum number of concurrent requests of each kind: posts, reads, reads that wait \
                 for a final status, webhooks, operator calls. Excess requests are answered 503",
            ),
            max_queue_delay: settings.read(
                "QUARTET_HTTP__MAX_QUEUE_DELAY",
                "150ms",
                positive_duration,
                "How long a post may wait for its turn. If every wait within 100 ms is longer, posts \
                 arrive faster than they are written, and a process answers the excess 503. For \
                 webhooks the time is ten times as long",
            ),
            head_timeout: settings.read(
                "QUARTET_HTTP__HEAD_TIMEOUT",
                "10s",
                positive_duration,
                "Time limit for receiving a request's line and headers; for the first request it \
                 begins with the connection",
            ),
            body_timeout: settings.read(
                "QUARTET_HTTP__BODY_TIMEOUT",
                "10s",
                positive_duration,
                "Time limit for receiving a request's body",
            ),
            idle_timeout: settings.read(
                "QUARTET_HTTP__IDLE_TIMEOUT",
                "75s",
                positive_duration,
                "How long a connection is kept without a request, and how long a caller may take \
                 to read a response. Set it longer than the idle timeout of a load balancer in \
                 front",
            ),
        }
    }
}
