//! The process's one subscriber: logs, written to standard error, and traces where configured.
//!
//! What is logged comes from an `EnvFilter` (`QUARTET_LOG`), how it looks from [`LogFormat`]
//! (`QUARTET_LOG_FORMAT`). Timestamps are RFC 3339 in UTC. Standard output stays free for what a
//! command prints for its caller. Colours appear only on a terminal, and never with `NO_COLOR`.
//! An event is one line, whatever its texts hold: control and format characters are escaped.
//!
//! Requests and jobs are spans at the level of errors, so that their ids stand in every line
//! within them, whatever the filter. A filter that turns Quartet's errors off turns its traces off
//! too.

use std::{
    borrow::Cow,
    env,
    io::{self, IsTerminal, Write},
    panic,
    str::FromStr,
    sync::Once,
};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::ParseError,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use super::traces::{self, TraceExport, TraceSettings};
use crate::domain::visible_line;

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
    let lines = fmt::layer().with_writer(Lines { colours }).with_ansi(colours);
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

/// Standard error, which gets each event as one line.
#[derive(Debug, Clone, Copy)]
struct Lines {
    /// Whether the lines hold colours: escape sequences of our own.
    colours: bool,
}

impl Lines {
    /// An event as it is written, and its line break.
    fn line(self, event: &str) -> String {
        let event = event.strip_suffix('\n').unwrap_or(event);
        if !self.colours {
            return format!("{}\n", visible_line(event));
        }
        // Those in values were escaped when the event was formatted.
        let mut parts = event.split("\u{1b}[");
        let mut line = visible_line(parts.next().unwrap_or_default()).into_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(part.len());
            match part[end..].strip_prefix('m') {
                Some(rest) => line += &format!("\u{1b}[{}m{}", &part[..end], visible_line(rest)),
                None => line += &visible_line(&format!("\u{1b}[{part}")),
            }
        }
        line.push('\n');
        line
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Lines {
    /// Takes a whole event, as the subscriber writes it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text: Cow<'_, str> = String::from_utf8_lossy(event);
        io::stderr().lock().write_all(self.line(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// From now on a panic is a log line like any other, in the span where it happens: anybody who
/// reads the log line by line must not stumble over it.
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
    fn an_event_is_one_line_and_drives_no_terminal() {
        let event = "INFO refused: paid\u{202e}\n2026 ERROR forged \u{1b}[2J\n";
        let line = Lines { colours: false }.line(event);
        assert_eq!(line, "INFO refused: paid\\u202e\\n2026 ERROR forged \\u001b[2J\n");
        let event = "\u{1b}[32m INFO\u{1b}[0m a\u{1b}[2Jb\u{1b}]0;c\u{1b}[\n";
        let line = Lines { colours: true }.line(event);
        let expected = "\u{1b}[32m INFO\u{1b}[0m a\\u001b[2Jb\\u001b]0;c\\u001b[\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn formats_have_two_names() {
        assert_eq!("human".parse(), Ok(LogFormat::Human));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("JSON".parse::<LogFormat>(), Err(UnknownLogFormat));
    }
}
