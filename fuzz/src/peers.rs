//! What peers answer, and where they are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use quartet::{
    clients::{parse_retry_after, third_party::parse_status},
    config::{BaseUrl, http_url},
};
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use super::lines;

const ID: Uuid = Uuid::from_u128(0x0195_f3a2_7b1c_7e9a_8d4f_2c6b_5a1e_9f03);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `Retry-After` (first line) never parks a job for longer than a day; an answer (the rest) is
/// believed only where it is a JSON object about the id that was asked for.
pub fn peer_answer(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (header, body) = lines(&text);
    let now: DateTime<Utc> = DateTime::from_timestamp(1_795_428_000, 0).unwrap();
    if let Some(delay) = parse_retry_after(header, now) {
        assert!(delay <= DAY, "{header:?}: {delay:?}");
    }
    if let Ok(seconds) = header.parse::<u64>() {
        let delay = Duration::from_secs(seconds).min(DAY);
        assert_eq!(parse_retry_after(header, now), Some(delay));
    }

    let status = parse_status(ID, body.as_bytes());
    let object = serde_json::from_str::<Map<String, Value>>(body).ok();
    let Some(object) = object else {
        assert_eq!(status, None, "{body:?}");
        return;
    };
    let id = object.get("id").map(|id| id.as_str().and_then(|id| Uuid::parse_str(id).ok()));
    assert_eq!(status.is_some(), id.is_none_or(|id| id == Some(ID)), "{body:?}");
    if let Some(Some(status)) = status {
        assert_eq!(object["status"], status.as_str());
    }
}

/// A URL that is taken is an http URL without secrets in it, and is taken again as it is kept; what
/// is appended to a base URL stays below it.
pub fn url(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match http_url(&text) {
        Ok(url) => {
            assert!(matches!(url.scheme(), "http" | "https"));
            assert!(url.has_host() && url.username().is_empty() && url.password().is_none());
            assert_eq!(http_url(url.as_str()).as_ref(), Ok(&url));
        }
        Err(allowed) => assert!(allowed.starts_with("must be "), "{allowed}"),
    }
    match BaseUrl::parse(&text) {
        Ok(base) => {
            assert_eq!(BaseUrl::parse(base.as_str()).as_ref(), Ok(&base), "{text:?}");
            let joined: Url = base.join("/transaction/7").parse().expect("a URL");
            let base: Url = base.as_str().parse().unwrap();
            assert_eq!(joined.origin(), base.origin(), "{text:?}");
            assert!(joined.path().ends_with("/transaction/7"), "{text:?}");
        }
        Err(allowed) => assert!(allowed.starts_with("must be "), "{allowed}"),
    }
}
