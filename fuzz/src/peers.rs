//! What peers answer, and where they are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use quartet::{
    config::{BaseUrl, http_url},
    domain::peer_answer::{
        Field, MAX_EXCERPT_CHARS, charset, excerpt, fields, report, status_word, text,
    },
    outbound::parse_retry_after,
};
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use super::lines;

const ID: Uuid = Uuid::from_u128(0x0195_f3a2_7b1c_7e9a_8d4f_2c6b_5a1e_9f03);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `Retry-After` (first line) never parks a job for longer than a day; an answer (the rest) that is
/// a JSON object is believed exactly if it is about the id that was asked for.
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

    let read = report(ID, body);
    let Ok(object) = serde_json::from_str::<Map<String, Value>>(body) else { return };
    let id = object.get("id").map(|id| id.as_str().and_then(|id| Uuid::parse_str(id.trim()).ok()));
    // serde_json takes the last of several.
    let [id_field, status_field] = fields(body, ["id", "status"]).expect("it is an object");
    if [id_field, status_field].contains(&Field::Repeated) {
        assert!(read.is_err(), "{body:?}");
        return;
    }
    assert_eq!(read.is_ok(), id.is_none_or(|id| id == Some(ID)), "{body:?}");
    if let Ok(report) = read {
        let word = object.get("status").and_then(Value::as_str);
        assert_eq!(report.status, word.and_then(status_word), "{body:?}");
    }
}

/// An answer's bytes (after a line with its content type) are read or refused, in any encoding, and
/// what is kept of them is short and printable. A mark before the text, and what stands in other
/// fields, change nothing.
pub fn peer_body(input: &[u8]) {
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let content_type = String::from_utf8_lossy(&input[..at]);
    let body = text(&input[at..], charset(&content_type));
    let read = report(ID, &body);
    let kept = excerpt(&body, MAX_EXCERPT_CHARS);
    assert!(kept.chars().count() <= MAX_EXCERPT_CHARS);
    assert!(!kept.contains(|character: char| character.is_control()), "{kept:?}");
    if let Some(unknown) = read.as_ref().ok().and_then(|report| report.unknown.as_ref()) {
        assert!(unknown.chars().count() <= 60, "{unknown:?}");
    }
    let Ok(report_read) = read else { return };
    let marked = format!("\u{feff}{}", body.trim_start_matches('\u{feff}'));
    assert_eq!(report(ID, &marked).as_ref(), Ok(&report_read), "{body:?}");
    let brace = body.find('{').expect("it is an object") + 1;
    for other in [r#""note":"\ud83d""#, r#""a":NaN"#, r#""a":[{"status":"x"}]"#] {
        let comma = if body[brace..].trim_start().starts_with('}') { "" } else { "," };
        let more = format!("{}{other}{comma}{}", &body[..brace], &body[brace..]);
        assert_eq!(report(ID, &more).as_ref(), Ok(&report_read), "{more:?}");
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
