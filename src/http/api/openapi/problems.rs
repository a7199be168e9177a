//! Error answers in the document: the headers that come with them, and an example of each.

use poem::http::StatusCode;
use serde_json::{Value, json};

use super::node::Node;
use crate::http::problem::{ProblemJson, ProblemType};

/// Adds to the error answers of an operation what their statuses bring.
pub fn describe(path: &str, operation: &mut Node) {
    let has_body = operation.get("requestBody").is_some();
    let Some(responses) = operation.get("responses") else { return };
    for (status, response) in responses.fields() {
        let status = status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
        let Some(status) = status else { continue };
        if let Some((name, header)) = header(status) {
            if response.get("headers").is_none() {
                response.set("headers", json!({}));
            }
            if let Some(headers) = response.get("headers") {
                headers.set(name, header);
            }
        }
        let detail = response.get("description").and_then(|text| text.as_text());
        let content = response.get("content");
        let problem = content.and_then(|content| content.get(ProblemJson::MEDIA_TYPE));
        if let (Some(problem), Some(detail)) = (problem, detail) {
            problem.set("example", example(path, status, &detail, has_body));
        }
    }
}

/// What each answer of this status has.
fn header(status: StatusCode) -> Option<(&'static str, Value)> {
    let (name, kind, description) = match status {
        StatusCode::UNAUTHORIZED => {
            ("WWW-Authenticate", "string", "How to authenticate: `Bearer` or `WebhookSignature`.")
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            ("Retry-After", "integer", "Seconds after which to send the same request again.")
        }
        _ => return None,
    };
    let schema = json!({ "type": kind });
    Some((name, json!({ "description": description, "required": true, "schema": schema })))
}

fn example(path: &str, status: StatusCode, detail: &str, has_body: bool) -> Value {
    let kind = match status {
        StatusCode::CONFLICT if path == "/v1/transactions" => Some(ProblemType::IdConflict),
        StatusCode::UNAUTHORIZED if path.starts_with("/v1/webhooks") => {
            Some(ProblemType::InvalidSignature)
        }
        status => ProblemType::of(status),
    };
    let mut example = json!({
        "type": kind.map(ProblemType::uri),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    if status == StatusCode::UNPROCESSABLE_ENTITY {
        let (place, name, detail) = match (path, has_body) {
            ("/v1/transactions", true) => {
                ("pointer", "/currency", "is required together with amount")
            }
            (_, true) => ("pointer", "/status", "must be one of the words of the document"),
            (_, false) => ("parameter", "limit", "must be at most 200"),
        };
        example["detail"] = format!("{name}: {detail}").into();
        example["errors"] = json!([{ place: name, "detail": detail }]);
    }
    example
}
