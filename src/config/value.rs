//! The kinds of value a setting can have: each parser says, in its error, what is allowed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

use super::sections::Pooler;
use crate::domain::parse_duration;

/// No duration may be longer: sums with the present stay far from any overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Where name servers listen.
const DNS_PORT: u16 = 53;

/// What a parser answers: the value, or what is allowed ("must be …").
pub(super) type Parsed<T> = Result<T, String>;

/// A value that `Debug` never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// The value itself; do not log it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An absolute `http` or `https` URL that paths are appended to: no query, fragment, credentials or
/// trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Reads a base URL; trailing slashes are dropped. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = http_url(text)?;
        if url.query().is_some() {
            return Err("must be a URL without a query".to_owned());
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The URL of a path that begins with `/`.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme, host and port, as browsers write them in `Origin`.
    pub fn origin(&self) -> String {
        Url::parse(&self.0)
            .map_or_else(|_| self.0.clone(), |url| url.origin().ascii_serialization())
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute `http` or `https` URL without credentials or fragment: what a client's callback URL
/// must be. The error says what is allowed.
pub fn http_url(text: &str) -> Result<Url, String> {
    let allowed = || "must be an absolute http:// or https:// URL".to_owned();
    let url = Url::parse(text).map_err(|_| allowed())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(allowed());
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must be a URL without user, password or fragment".to_owned());
    }
    Ok(url)
}

/// A duration, zero included. The error says what is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration > LONGEST { Err("must be at most 3650d".to_owned()) } else { Ok(duration) }
}

/// A duration of at least 1 ms, where zero makes no sense.
pub(super) fn positive_duration(text: &str) -> Parsed<Duration> {
    at_least(text, Duration::from_millis(1))
}

/// A duration of at least 1 s, for what is compared in whole seconds.
pub(super) fn seconds(text: &str) -> Parsed<Duration> {
    at_least(text, Duration::from_secs(1))
}

fn at_least(text: &str, shortest: Duration) -> Parsed<Duration> {
    let duration = duration(text)?;
    if duration < shortest {
        return Err(format!("must be at least {}", duration_text(shortest)));
    }
    Ok(duration)
}

/// A duration as people write it, and as [`duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;

    // humantime has units for months from there on.
    let days = duration.as_secs() / DAY;
    if days < 30 {
        return humantime::format_duration(duration).to_string();
    }
    match duration - Duration::from_secs(days * DAY) {
        Duration::ZERO => format!("{days}days"),
        rest => format!("{days}days {}", humantime::format_duration(rest)),
    }
}

/// The text of a file without the byte-order mark that some editors begin it with.
pub(super) fn without_byte_order_mark(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// A whole number from `least` to `most`.
pub(super) fn count(least: u32, most: u32) -> impl Fn(&str) -> Parsed<u32> {
    move |text| match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {least} to {most}")),
    }
}

/// A growth factor from 1 to 100.
pub(super) fn factor(text: &str) -> Parsed<f64> {
    match text.parse() {
        Ok(number) if (1.0..=100.0).contains(&number) => Ok(number),
        _ => Err("must be a number from 1 to 100".to_owned()),
    }
}

/// A share above 0 and at most 1.
pub(super) fn positive_ratio(text: &str) -> Parsed<f64> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1.0 => Ok(number),
        _ => Err("must be a number above 0 and at most 1".to_owned()),
    }
}

/// A share from 0 to 1.
pub(super) fn ratio(text: &str) -> Parsed<f64> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

/// A size in bytes from 1 B to 1 GiB: `65536`, `64KiB`, `1MiB`, or with powers of ten `64KB`,
/// `1MB`.
pub(super) fn size(text: &str) -> Parsed<usize> {
    let allowed = || "must be a size from 1B to 1GiB, such as 64KiB or 1MiB".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(allowed()),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| (1..=1 << 30).contains(bytes)).ok_or_else(allowed)
}

/// An address to listen on; port 0 lets the system choose.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// Networks such as `10.1.0.0/16` or single addresses, separated by commas.
pub(super) fn networks(text: &str) -> Parsed<Vec<IpNet>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let address = || part.parse::<IpAddr>().ok().map(IpNet::from);
            let network = part.parse::<IpNet>().ok().or_else(address);
            network.map(|network| network.trunc()).ok_or_else(|| {
                "must be networks such as 10.1.0.0/16 or fd12::/48, separated by commas, or none"
                    .to_owned()
            })
        })
        .collect()
}

/// Ports, separated by commas.
pub(super) fn ports(text: &str) -> Parsed<Vec<u16>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ports: Option<Vec<u16>> =
        parts.map(|part| part.parse().ok().filter(|port| *port > 0)).collect();
    ports.ok_or_else(|| "must be ports from 1 to 65535, separated by commas, or none".to_owned())
}

/// Name servers, each with port 53 unless it says another, separated by commas.
pub(super) fn name_servers(text: &str) -> Parsed<Vec<SocketAddr>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let servers: Option<Vec<SocketAddr>> = parts
        .map(|part| {
            let bare = part.strip_prefix('[').and_then(|part| part.strip_suffix(']'));
            let address = bare.unwrap_or(part).parse::<IpAddr>().ok();
            part.parse().ok().or_else(|| address.map(|ip| SocketAddr::new(ip, DNS_PORT)))
        })
        .collect();
    servers.filter(|servers| !servers.is_empty()).ok_or_else(|| {
        "must be IP addresses, with a port or without, such as 10.0.0.53 or [fd00::53]:5353, \
         separated by commas"
            .to_owned()
    })
}

/// Yes or no.
pub(super) fn truth(text: &str) -> Parsed<bool> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

/// A file; the code that uses it opens it.
pub(super) fn file(text: &str) -> Parsed<PathBuf> {
    Ok(PathBuf::from(text))
}

/// A directory.
pub(super) fn directory(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err("must be a directory that is there".to_owned()) }
}

/// A path to append to a base URL.
pub(super) fn path(text: &str) -> Parsed<String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '{' | '}');
    if text.starts_with('/') && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("must be a path that begins with `/`, without spaces, `#` or braces".to_owned())
}

/// A path with the placeholder `{id}` exactly once.
pub(super) fn lookup_path(text: &str) -> Parsed<String> {
    let allowed = "must be a path that begins with `/` and contains `{id}` exactly once";
    let (before, after) = text.split_once("{id}").ok_or(allowed)?;
    path(before).and_then(|_| path(&format!("/{after}"))).map_err(|_| allowed)?;
    Ok(text.to_owned())
}

/// What is between here and Postgres.
pub(super) fn pooler(text: &str) -> Parsed<Pooler> {
    match text {
        "none" => Ok(Pooler::None),
        "transaction" => Ok(Pooler::Transaction),
        _ => Err("must be `none` or `transaction`".to_owned()),
    }
}

/// A short name for people. The error says what is allowed.
pub fn name(text: &str) -> Result<String, String> {
    if text.chars().count() <= 100 && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("must be at most 100 characters, without control characters".to_owned())
}

/// A filter that `EnvFilter` understands and that says how much of Quartet is logged. To `EnvFilter`
/// a word that is no level, such as `warning`, is a target, and a filter of that target alone drops
/// Quartet's errors.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    let mut parts = text.split(',').filter(|part| !part.is_empty());
    let is_of_quartet = |part: &str| {
        let rest = part.strip_prefix(LOG_TARGET_OF_QUARTET);
        is_level(part)
            || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':', '[']))
    };
    if EnvFilter::builder().parse(text).is_ok()
        && parts.clone().all(is_log_directive)
        && parts.any(is_of_quartet)
    {
        return Ok(text.to_owned());
    }
    Err("must be a level (off, error, warn, info, debug or trace), with levels for single targets \
         after commas, such as info or info,quartet=debug"
        .to_owned())
}

/// The target that all of Quartet's own targets begin with.
const LOG_TARGET_OF_QUARTET: &str = "quartet";

/// A level, a target with its level or without, or something about spans.
fn is_log_directive(part: &str) -> bool {
    let (target, has_level) =
        part.split_once('=').map_or((part, false), |(target, _)| (target, true));
    let is_path = || target.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
    // Without its level only what cannot be a misspelt one is taken for a target.
    let is_named = || has_level || target == LOG_TARGET_OF_QUARTET || target.contains("::");
    is_level(part) || part.contains('[') || is_path() && is_named()
}

fn is_level(text: &str) -> bool {
    text.parse::<LevelFilter>().is_ok()
}
