//! The process's one subscriber: logs, written to standard error, and traces where configured.
//!
//! What is logged comes from an `EnvFilter` (`QUARTET_LOG`), how it looks from [`LogFormat`]
//! (`QUARTET_LOG_FORMAT`). Timestamps are RFC 3339 in UTC. Standard output stays free for what a
//! command prints for its caller. Colours appear only on a terminal, and never with `NO_COLOR`.
//!
//! Requests and jobs are spans at the level of errors, so that their ids stand in every line
//! within them, whatever the filter. A filter that turns Quartet's errors off turns its traces off
//! too.

use std::{
    env,
    io::{self, IsTerminal},
    panic,
    str::FromStr,
    sync::Once,
};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::ParseError,
    fmt,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use super::traces::{self, TraceExport, TraceSettings};

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

/// What is never logged: sqlx 0.9.0 repeats the value of a parameter of `DATABASE_URL` that it does
/// not know, and that may be a password under a mistyped name.
const SECRETIVE: &str = "sqlx_postgres::options::parse=off";

/// Why logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter is not valid")]
    Filter(#[source] ParseError),
    #[error("logging is already set up in this process")]
    AlreadySet(#[source] TryInitError),
    #[error("traces cannot be exported (QUARTET_TRACES__ENDPOINT)")]
    Traces(#[source] opentelemetry_otlp::ExporterBuildError),
}

/// What was set up. Drop it without [`Telemetry::shutdown`] and the last spans are lost.
#[derive(Debug, Default)]
#[must_use]
pub struct Telemetry {
    traces: Option<TraceExport>,
}

impl Telemetry {
    /// Sends what is left, for a few seconds at most.
    pub async fn shutdown(self) {
        if let Some(traces) = self.traces {
            traces.shutdown().await;
        }
    }
}

/// Sets the process's subscriber up; a second call is an error and changes nothing.
pub fn init(
    filter: &str,
    format: LogFormat,
    traces: Option<&TraceSettings>,
) -> Result<Telemetry, TelemetryError> {
    let silent = SECRETIVE.parse().map_err(TelemetryError::Filter)?;
    let filter = EnvFilter::builder().parse(filter).map_err(TelemetryError::Filter)?;
    let filter = filter.add_directive(silent);
    let export = traces.map(TraceExport::new).transpose().map_err(TelemetryError::Traces)?;
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(colours);
    let lines = match format {
        LogFormat::Human => lines.boxed(),
        // The list holds the current span too.
        LogFormat::Json => lines.json().with_current_span(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(export.as_ref().map(TraceExport::layer))
        .with(filter)
        .try_init()
        .map_err(TelemetryError::AlreadySet)?;
    if export.is_some() {
        traces::turn_on();
    }
    Ok(Telemetry { traces: export })
}

/// Like [`init`], but content with a subscriber that is there already: for tests, where many share
/// one process. Returns whether this call set it up.
pub fn try_init(filter: &str, format: LogFormat) -> Result<bool, TelemetryError> {
    match init(filter, format, None) {
        Ok(_) => Ok(true),
        Err(TelemetryError::AlreadySet(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// From now on a panic is a log line like any other, in the span where it happens: whoever reads
/// the log line by line must not stumble over it.
pub fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("without a message");
            let location = panic.location().map(ToString::to_string);
            tracing::error!(location, "panic: {text}");
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_up_once_and_refuses_bad_filters() {
        let bad = init("a=nonsense", LogFormat::Human, None);
        assert!(matches!(bad, Err(TelemetryError::Filter(_))));
        try_init("info", LogFormat::Json).unwrap();
        assert!(!try_init("debug", LogFormat::Human).unwrap());
        let again = init("info", LogFormat::Human, None);
        assert!(matches!(again, Err(TelemetryError::AlreadySet(_))));
    }

    #[test]
    fn formats_have_two_names() {
        assert_eq!("human".parse(), Ok(LogFormat::Human));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("JSON".parse::<LogFormat>(), Err(UnknownLogFormat));
    }
}
