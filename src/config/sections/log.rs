//! What is logged.

use super::super::{settings::Settings, value::log_filter};
use crate::telemetry::LogFormat;

/// `QUARTET_LOG` and `QUARTET_LOG_FORMAT`: what is logged and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// What is logged, as a `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// How a line is written.
    pub format: LogFormat,
}

impl Log {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            filter: settings.read(
                "QUARTET_LOG",
                "info",
                log_filter,
                "Log filter, such as `info` or `info,quartet=debug`",
            ),
            format: settings.read(
                "QUARTET_LOG_FORMAT",
                "human",
                |text| text.parse().map_err(|_| "must be human or json".to_owned()),
                "Log format: `human` or `json`",
            ),
        }
    }
}
