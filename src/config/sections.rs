//! The settings by section: each field's meaning, unit and default, and how it is read.

use std::{net::SocketAddr, time::Duration};

use super::{
    settings::Settings,
    value::{
        BaseUrl, Redacted, address, bearer_token, count, database_url, duration, factor,
        log_filter, lookup_path, path, positive_duration, seconds, secrets, size,
    },
};
use crate::{signature::Secret, telemetry::LogFormat};

/// `DATABASE_URL` and `QUARTET_DATABASE__…`: the connection to Postgres.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Where Postgres is; no default, `serve` needs it.
    pub url: Option<Redacted<String>>,
    /// Most connections of one process, 4 or more; 20.
    pub max_connections: u32,
}

impl Database {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            url: settings.secret(
                "DATABASE_URL",
                database_url,
                "Postgres to use, `postgres://user:password@host:5432/database`; required by `serve`",
            ),
            max_connections: settings.read(
                "QUARTET_DATABASE__MAX_CONNECTIONS",
                "20",
                count(4, 10_000),
                "Most database connections of one process, 4 or more: one for the leases, one to \
                 look for due jobs, of the rest a quarter for requests",
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
    /// [`Config::webhook_url`](super::Config::webhook_url).
    pub public_url: Option<BaseUrl>,
    /// Largest request body, in bytes; 64 KiB.
    pub max_body: usize,
}

impl Http {
    pub(super) fn read(settings: &mut Settings) -> Self {
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
pub(super) fn read_operator_token(settings: &mut Settings) -> Option<Redacted<String>> {
    settings.secret(
        "QUARTET_OPERATOR_TOKEN",
        bearer_token,
        "Bearer token of the operator API; 32 random characters or more are advisable. Without it \
         the operator API is closed",
    )
}

/// `QUARTET_THIRD_PARTY__…`: the third party that creates transactions.
#[derive(Debug, Clone, PartialEq)]
pub struct ThirdParty {
    /// Where it is; no default, workers need it.
    pub base_url: Option<BaseUrl>,
    /// Path that a transaction is posted to; `/transaction`.
    pub create_path: String,
    /// Path of one transaction, with `{id}` once; `/transaction/{id}`.
    pub lookup_path: String,
    /// Longest wait for the answer to a create; 35 s.
    pub timeout: Duration,
    /// Longest wait for the answer to a lookup; 5 s.
    pub lookup_timeout: Duration,
    /// Tries after the first one; 3.
    pub create_retries: u32,
    /// Wait after an ambiguous or failed try; 120 s.
    pub create_backoff: Duration,
    /// Most requests of one process at the same time; 1000.
    pub max_in_flight: u32,
}

impl ThirdParty {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            base_url: settings.optional(
                "QUARTET_THIRD_PARTY__BASE_URL",
                BaseUrl::parse,
                "URL of the third party, `http://` or `https://`; required by workers",
            ),
            create_path: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_PATH",
                "/transaction",
                path,
                "Path that a transaction is posted to",
            ),
            lookup_path: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_PATH",
                "/transaction/{id}",
                lookup_path,
                "Path of one transaction, with `{id}` exactly once",
            ),
            timeout: settings.read(
                "QUARTET_THIRD_PARTY__TIMEOUT",
                "35s",
                positive_duration,
                "Longest wait for the answer to a create",
            ),
            lookup_timeout: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT",
                "5s",
                positive_duration,
                "Longest wait for the answer to a lookup",
            ),
            create_retries: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_RETRIES",
                "3",
                count(0, 1_000),
                "Tries to create after the first one",
            ),
            create_backoff: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_BACKOFF",
                "120s",
                positive_duration,
                "Wait after an ambiguous or failed try to create",
            ),
            max_in_flight: settings.read(
                "QUARTET_THIRD_PARTY__MAX_IN_FLIGHT",
                "1000",
                count(1, 1_000_000),
                "Most creates, and as many polls, of one process at the same time",
            ),
        }
    }

    /// The URL that a transaction is posted to; none without a base URL.
    pub fn create_url(&self) -> Option<String> {
        self.base_url.as_ref().map(|base| base.join(&self.create_path))
    }

    /// The URL of the transaction `id`; none without a base URL.
    pub fn lookup_url(&self, id: &str) -> Option<String> {
        self.base_url.as_ref().map(|base| base.join(&self.lookup_path.replace("{id}", id)))
    }
}

/// `QUARTET_WEBHOOK__…`: what the third party's webhooks are checked with.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Secrets, any of which may have signed; empty by default, the API needs one. The first one
    /// signs in `sign-webhook`.
    pub secrets: Vec<Secret>,
    /// How far a webhook's timestamp may be from now, both ways; 300 s.
    pub tolerance: Duration,
}

impl Webhook {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            secrets: settings
                .secret(
                    "QUARTET_WEBHOOK__SECRETS",
                    secrets,
                    "Signing secrets of the third party's webhooks, `whsec_…` separated by \
                     commas, each accepted; required by the API",
                )
                .unwrap_or_default(),
            tolerance: settings.read(
                "QUARTET_WEBHOOK__TOLERANCE",
                "300s",
                seconds,
                "How far a webhook's timestamp may be from now, in both directions",
            ),
        }
    }
}

/// `QUARTET_POLL__…`: when the third party is asked how a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// From acceptance to the first poll; 200 ms.
    pub first: Duration,
    /// Gap after the first poll; 10 ms.
    pub second: Duration,
    /// By how much each further gap grows; 2.
    pub factor: f64,
    /// Longest gap; 60 s.
    pub max_delay: Duration,
    /// From acceptance to giving up; 15 min.
    pub deadline: Duration,
}

impl Poll {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            first: settings.read(
                "QUARTET_POLL__FIRST",
                "200ms",
                duration,
                "From acceptance to the first poll",
            ),
            second: settings.read(
                "QUARTET_POLL__SECOND",
                "10ms",
                positive_duration,
                "Gap between the first and the second poll",
            ),
            factor: settings.read(
                "QUARTET_POLL__FACTOR",
                "2",
                factor,
                "By how much each further gap grows, 1 to 100",
            ),
            max_delay: settings.read(
                "QUARTET_POLL__MAX_DELAY",
                "60s",
                positive_duration,
                "Longest gap; at least `QUARTET_POLL__SECOND`",
            ),
            deadline: settings.read(
                "QUARTET_POLL__DEADLINE",
                "15m",
                positive_duration,
                "From acceptance to giving up, which opens a dead letter; longer than \
                 `QUARTET_POLL__FIRST`",
            ),
        }
    }
}

/// `QUARTET_NOTIFY__…`: how clients are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Notify {
    /// From acceptance to the first notification; 200 ms.
    pub first: Duration,
    /// Most attempts to deliver, the first included; 15.
    pub max_attempts: u32,
    /// Wait after the first failed attempt, doubled after each further one; 1 s.
    pub base: Duration,
    /// Longest wait between attempts; 1 h.
    pub max_delay: Duration,
    /// Longest wait for the client's answer; 10 s.
    pub timeout: Duration,
}

impl Notify {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            first: settings.read(
                "QUARTET_NOTIFY__FIRST",
                "200ms",
                duration,
                "From acceptance to the first notification of the client",
            ),
            max_attempts: settings.read(
                "QUARTET_NOTIFY__MAX_ATTEMPTS",
                "15",
                count(1, 1_000),
                "Most attempts to notify, the first included; then a dead letter",
            ),
            base: settings.read(
                "QUARTET_NOTIFY__BASE",
                "1s",
                positive_duration,
                "Wait after the first failed attempt, doubled after each further one",
            ),
            max_delay: settings.read(
                "QUARTET_NOTIFY__MAX_DELAY",
                "1h",
                positive_duration,
                "Longest wait between attempts; at least `QUARTET_NOTIFY__BASE`",
            ),
            timeout: settings.read(
                "QUARTET_NOTIFY__TIMEOUT",
                "10s",
                positive_duration,
                "Longest wait for the client's answer",
            ),
        }
    }
}

/// `QUARTET_WORKER__…`: how jobs are run.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Most jobs of one queue at the same time in one process; 1000.
    pub concurrency: u32,
    /// How often one statement looks for jobs that other processes made due; 25 ms.
    pub poll_interval: Duration,
    /// How often a worker shows that it lives; 5 s.
    pub heartbeat: Duration,
    /// Silence after which a worker's jobs go to others; 15 s, at least two heartbeats.
    pub dead_after: Duration,
    /// How long running jobs may take to end at shutdown; 30 s.
    pub shutdown_grace: Duration,
}

impl Worker {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            concurrency: settings.read(
                "QUARTET_WORKER__CONCURRENCY",
                "1000",
                count(1, 1_000_000),
                "Most jobs of one queue at the same time in one process",
            ),
            poll_interval: settings.read(
                "QUARTET_WORKER__POLL_INTERVAL",
                "22ms",
                positive_duration,
                "How often one statement looks for due jobs of all queues that other processes \
                 made due",
            ),
            heartbeat: settings.read(
                "QUARTET_WORKER__HEARTBEAT",
                "5s",
                positive_duration,
                "How often a worker shows that it lives",
            ),
            dead_after: settings.read(
                "QUARTET_WORKER__DEAD_AFTER",
                "15s",
                positive_duration,
                "Silence after which a worker counts as dead and its jobs go to others; at least \
                 twice `QUARTET_WORKER__HEARTBEAT`",
            ),
            shutdown_grace: settings.read(
                "QUARTET_WORKER__SHUTDOWN_GRACE",
                "30s",
                duration,
                "How long running jobs may take to end at shutdown",
            ),
        }
    }
}

/// `QUARTET_RETENTION__…`: how long what has ended is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// How long the job rows of ended transactions are kept; 7 days.
    pub jobs: Duration,
}

impl Retention {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            jobs: settings.read(
                "QUARTET_RETENTION__JOBS",
                "7d",
                seconds,
                "Age at which what has ended may be pruned; nothing is pruned in this version",
            ),
        }
    }
}

/// `QUARTET_LOG` and `QUARTET_LOG_FORMAT`: what is logged and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// What is logged, as a `tracing_subscriber::EnvFilter`; `info`.
    pub filter: String,
    /// How a line is written, `human` or `json`; `human`.
    pub format: LogFormat,
}

impl Log {
    pub(super) fn read(settings: &mut Settings) -> Self {
        Self {
            filter: settings.read(
                "QUARTET_LOG",
                "info",
                log_filter,
                "What is logged: a filter such as `info` or `info,quartet=debug`",
            ),
            format: settings.read(
                "QUARTET_LOG_FORMAT",
                "human",
                |text| text.parse().map_err(|_| "must be human or json".to_owned()),
                "How a log line is written, `human` or `json`",
            ),
        }
    }
}
