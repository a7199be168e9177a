//! What is taken in: how much at the same time, how long it may take, how fast it may come.

use std::time::Duration;

use super::super::{
    settings::Settings,
    value::{count, positive_duration},
};

/// `QUARTET_HTTP__MAX_…` and `QUARTET_HTTP__…_TIMEOUT`: what connections and requests may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Intake {
    /// Most connections at the same time; 4096.
    pub max_connections: u32,
    /// Most requests of one kind at the same time; 1024.
    pub max_in_flight: u32,
    /// Wait for a writer from which on a standing queue takes no more posts; 20 ms.
    pub max_queue_delay: Duration,
    /// How long a request's head may take to come; 10 s.
    pub head_timeout: Duration,
    /// How long a request's body may take to come; 10 s.
    pub body_timeout: Duration,
    /// How long a connection may stay without a request; 75 s.
    pub idle_timeout: Duration,
}

impl Intake {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            max_connections: settings.read(
                "QUARTET_HTTP__MAX_CONNECTIONS",
                "4096",
                count(1, 1_000_000),
                "Most connections at the same time, and at most half of the files that the process \
                 may open. 64 more are taken for health checks and metrics alone",
            ),
            max_in_flight: settings.read(
                "QUARTET_HTTP__MAX_IN_FLIGHT",
                "1024",
                count(1, 1_000_000),
                "Most requests at the same time, of each kind: posts, reads, reads that wait for a \
                 final status, webhooks, and what operators do. More are answered 503",
            ),
            max_queue_delay: settings.read(
                "QUARTET_HTTP__MAX_QUEUE_DELAY",
                "150ms",
                positive_duration,
                "How long a post may wait to be written while posts come faster than they are \
                 written; more are answered 503. For webhooks it is ten times as long",
            ),
            head_timeout: settings.read(
                "QUARTET_HTTP__HEAD_TIMEOUT",
                "10s",
                positive_duration,
                "How long a request's line and headers, and a new connection's first ones, may \
                 take to come",
            ),
            body_timeout: settings.read(
                "QUARTET_HTTP__BODY_TIMEOUT",
                "10s",
                positive_duration,
                "How long a request's body may take to come",
            ),
            idle_timeout: settings.read(
                "QUARTET_HTTP__IDLE_TIMEOUT",
                "75s",
                positive_duration,
                "How long a connection is kept without a request, and how long a caller may take \
                 to read an answer; longer than a load balancer in front keeps it",
            ),
        }
    }
}

/// `QUARTET_LIMITS__…`: how fast one client may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Requests per second of one client, in each process; 0, which is no limit.
    pub rate: u32,
    /// Requests that it may send at once after a pause; as many as a second has.
    pub burst: Option<u32>,
}

impl Limits {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            rate: settings.read(
                "QUARTET_LIMITS__RATE",
                "0",
                count(0, 1_000_000),
                "Requests per second that one client may send to each process; 0 is no limit. \
                 More are answered 429",
            ),
            burst: settings.optional(
                "QUARTET_LIMITS__BURST",
                count(1, 1_000_000),
                "Requests that a client may send at once after a pause; by default as many as \
                 `QUARTET_LIMITS__RATE`",
            ),
        }
    }
}
