//! Limits on what callers send: number, time and rate.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, positive_duration},
};

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

/// `QUARTET_LIMITS__…`: how fast one client may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Requests per second of one client, in each process, or zero for no limit.
    pub rate: u32,
    /// Requests that it may send at once after a pause.
    pub burst: Option<u32>,
}

impl Limits {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            rate: settings.read(
                "QUARTET_LIMITS__RATE",
                "0",
                count(0, 1_000_000),
                "Requests per second that one client may send to each process; 0 means no limit. \
                 Excess requests are answered 429",
            ),
            burst: settings.optional(
                "QUARTET_LIMITS__BURST",
                count(1, 1_000_000),
                "Requests that a client may send at once after a pause. Unset, it equals \
                 `QUARTET_LIMITS__RATE`",
            ),
        }
    }
}
