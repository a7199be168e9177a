//! What operators see of a running process: logs, metrics, traces.
//!
//! [`logs`] sets up the process's one subscriber, with [`traces`] beside it where they are
//! configured. [`Metrics`] belongs to an application and not to the process: several live in one
//! test process. [`labels`] are the words that stand in metrics for what happened,
//! [`database_errors`] what keeps the database from serving this process.
//!
//! Nothing here holds a body or a secret, and nothing that a request or a job does waits for it.
//! Imports `domain` alone, so that every other module may use it.

pub mod database_errors;
pub mod labels;
pub mod logs;
pub mod metrics;
pub mod operations;
pub mod reading;
mod registering;
mod third_party;
pub mod traces;

pub use self::{
    logs::{LogFormat, Telemetry, TelemetryError, init, log_panics, try_init},
    metrics::Metrics,
    third_party::ThirdPartyMetrics,
    traces::TraceSettings,
};
