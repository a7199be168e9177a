//! Logging: one subscriber for the process, written to standard error.
//!
//! What is logged comes from an `EnvFilter` (`QUARTET_LOG`), how it looks from [`LogFormat`]
//! (`QUARTET_LOG_FORMAT`). Timestamps are RFC 3339 in UTC. Standard output stays free for what a
//! command prints for its caller. Colours appear only on a terminal, and never with `NO_COLOR`.

use std::{
    env,
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    util::{SubscriberInitExt, TryInitError},
};

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Human,
    /// One JSON object an event, for log pipelines.
    Json,
}

/// The text is neither `human` nor `json`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log format is `human` or `json`")]
pub struct UnknownLogFormat;

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter is not valid")]
    Filter(#[source] ParseError),
    #[error("logging is already set up in this process")]
    AlreadySet(#[source] TryInitError),
}

/// Sets the process's subscriber up; a second call is an error and changes nothing.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(filter).map_err(TelemetryError::Filter)?;
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours);
    match format {
        LogFormat::Human => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().finish().try_init(),
    }
    .map_err(TelemetryError::AlreadySet)
}

/// Like [`init`], but content with a subscriber that is there already: for tests, where many share
/// one process. Returns whether this call set it up.
pub fn try_init(filter: &str, format: LogFormat) -> Result<bool, TelemetryError> {
    match init(filter, format) {
        Ok(()) => Ok(true),
        Err(TelemetryError::AlreadySet(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_up_once_and_refuses_bad_filters() {
        assert!(matches!(init("a=nonsense", LogFormat::Human), Err(TelemetryError::Filter(_))));
        try_init("info", LogFormat::Json).unwrap();
        assert!(!try_init("debug", LogFormat::Human).unwrap());
        assert!(matches!(init("info", LogFormat::Human), Err(TelemetryError::AlreadySet(_))));
    }

    #[test]
    fn formats_have_two_names() {
        assert_eq!("human".parse(), Ok(LogFormat::Human));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("JSON".parse::<LogFormat>(), Err(UnknownLogFormat));
    }
}
