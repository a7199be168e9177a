//! Outbound HTTP: the third party and the clients' callbacks. Answers and failures come back as
//! variants that a job matches on. Knows nothing of the database.
//!
//! No call follows a redirect, and no answer is read beyond a bound. The third party's URL is the
//! operator's word: it may be anywhere, and the proxies of the environment (`HTTPS_PROXY`) are used
//! for it. A client's callback URL is the client's word: only addresses that
//! [`EgressPolicy`](crate::domain::EgressPolicy) allows are connected to, and no proxy is used,
//! which would resolve the name once more by itself.
//!
//! Where the third party has a budget of calls, each request to it waits for its time first: see
//! `budget`.
//!
//! Over which connection a request goes, and what is known when it gets no answer, is the matter of
//! `sender`.

mod answer;
mod budget;
pub mod client_callback;
#[cfg(test)]
mod default_profile;
mod lease_guard;
mod names;
mod own_addresses;
pub mod probe;
pub mod profile;
mod progress;
mod resolver;
mod reuse;
mod sender;
mod third_parties;
pub mod third_party;
mod third_party_answers;

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use reqwest::{
    RequestBuilder, Response,
    header::{DATE, RETRY_AFTER},
    redirect,
};
use tracing::Span;

pub use budget::{CallTurn, CallsLeased, CallsWanted, LeaseCalls};
pub use client_callback::CallbackClient;
pub use lease_guard::LeaseGuard;
pub use sender::longest_call;
pub use third_parties::ThirdPartyClients;
pub use third_party::ThirdPartyClient;

use crate::{
    domain::{DatabaseClock, causes, innermost},
    telemetry::traces,
};

/// A connection that takes longer than this to open is as good as none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A `Retry-After` further ahead than this is cut: a peer's mistake must not park a job for years.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bytes read of a peer's answer.
const MAX_ANSWER: usize = 64 * 1024;
/// The obsolete forms of a date, which a recipient must accept (RFC 9110 section 5.6.7).
const OBSOLETE_DATES: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// How long a name may take to be resolved, where a connection may take this long to open.
fn name_limit(timeout: Duration) -> Duration {
    CONNECT_TIMEOUT.min(timeout) * 4 / 5
}

/// Why no outbound client could be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be set up")]
pub struct SetupError(#[source] reqwest::Error);

/// A client that follows no redirect: a peer must not send signed requests elsewhere.
fn http_client(timeout: Duration) -> reqwest::ClientBuilder {
    // An error means that a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
        .user_agent(concat!("quartet/", env!("CARGO_PKG_VERSION")))
}

/// The span of an outbound call, while traces are on.
macro_rules! call_span {
    ($name:literal, $method:literal, $id:expr) => {
        if crate::telemetry::traces::is_on() {
            // Of the highest level: no log filter takes it away.
            tracing::error_span!(
                $name,
                otel.kind = "client",
                http.request.method = $method,
                transaction_id = %$id,
                outcome = tracing::field::Empty
            )
        } else {
            tracing::Span::none()
        }
    };
}
use call_span;

/// The request, as a part of the present span's trace.
fn traced(request: RequestBuilder) -> RequestBuilder {
    match traces::traceparent(&Span::current()) {
        Some(traceparent) => request.header(traces::TRACEPARENT, traceparent),
        None => request,
    }
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110 section 10.2.3). A date is counted
/// from the peer's own `Date`, where it sends one: its clock may differ from ours.
fn retry_after(response: &Response, clock: &DatabaseClock) -> Option<Duration> {
    let text = |name| response.headers().get(name)?.to_str().ok().map(str::trim);
    let now = text(DATE).and_then(parse_date).unwrap_or_else(|| clock.now());
    parse_retry_after(text(RETRY_AFTER)?, now)
}

/// What `Retry-After` says, from the header's text, as of `now`; at most a day. `None`: it says
/// nothing.
pub fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let delay = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (parse_date(value)? - now).to_std().unwrap_or_default(),
    };
    Some(delay.min(MAX_RETRY_AFTER))
}

/// A date in any form that HTTP has had.
fn parse_date(value: &str) -> Option<DateTime<Utc>> {
    if let Ok(date) = DateTime::parse_from_rfc2822(value) {
        return Some(date.to_utc());
    }
    let obsolete = |form| NaiveDateTime::parse_from_str(value, form).ok();
    OBSOLETE_DATES.into_iter().find_map(obsolete).map(|date| date.and_utc())
}

/// The cause of this type that a failed call is due to, if it is.
fn cause_in<T: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Why there was no answer: the error's innermost cause, without the URL.
fn describe_failure(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let stage = if error.is_connect() { "no connection" } else { "the connection broke" };
    match std::error::Error::source(error) {
        None => stage.to_owned(),
        Some(cause) => format!("{stage}: {}", innermost(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let parse = |value| parse_retry_after(value, now);
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Mon, 23 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(parse("Mon, 23 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("Monday, 23-Nov-26 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(parse("Mon Nov 23 10:00:30 2026"), Some(Duration::from_secs(30)));
        assert_eq!(parse("Sun Nov  1 10:00:00 2026"), Some(Duration::ZERO));
        assert_eq!(parse("Sunday, 06-Nov-94 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }
}
