//! Request bodies.

use quartet::{
    domain::Content,
    http::{
        api::{transaction_schema::CreateTransaction, webhooks::ThirdPartyWebhook},
        middleware::body::{FromFields, Unknown, parse},
        operator::{Note, bulk_replay::BulkReplayRequest, dead_letters::ResolveRequest},
        problem::Problem,
    },
};
use serde_json::{Map, Value, json};

/// An accepted post is the same again when it is written as JSON, in any order and under the same
/// content hash; a refused one is explained.
pub fn accept_body(input: &[u8]) {
    let Some(posted) = checked::<CreateTransaction>(input, Unknown::Refused) else { return };
    let content = content(&posted);
    let mut written = serde_json::to_value(&content).unwrap();
    written["id"] = json!(posted.id);
    for text in [written.to_string(), serde_json::to_string_pretty(&written).unwrap()] {
        let again = checked::<CreateTransaction>(text.as_bytes(), Unknown::Refused).unwrap();
        assert_eq!(again.id, posted.id, "{text}");
        assert_eq!(self::content(&again).hash(), content.hash(), "{text}");
    }
    // As the payload of create_transaction holds it.
    let kept: Content = serde_json::from_slice(&serde_json::to_vec(&content).unwrap()).unwrap();
    assert_eq!(kept.hash(), content.hash());

    assert_eq!(posted.amount.is_some(), posted.currency.is_some());
    assert!(posted.amount.is_none_or(|amount| amount >= 0));
    let metadata = content.metadata.iter().flatten().flat_map(|(key, value)| [key, value]);
    let mut texts = metadata.chain(&content.reference);
    assert!(texts.all(|text| !text.contains('\0')), "NUL is nothing that Postgres can store");
}

fn content(posted: &CreateTransaction) -> Content {
    let CreateTransaction { amount, currency, reference, metadata, .. } = posted.clone();
    Content { amount, currency, reference, metadata }
}

/// A webhook is taken exactly if it has one uuid and one known status, whatever else it holds; a
/// refused one is explained.
pub fn webhook_body(input: &[u8]) {
    let webhook = match ThirdPartyWebhook::read(input, Some("application/json")) {
        Ok(webhook) => webhook,
        Err(problem) => return explained(problem),
    };
    // serde_json is stricter about what is not used.
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(input) else { return };
    let id = object["id"].as_str().unwrap();
    assert!(id.eq_ignore_ascii_case(&webhook.id.to_string()));
    let word = object["status"].as_str().unwrap().trim().to_ascii_lowercase();
    assert_eq!(word, webhook.status.0.as_str());
}

/// The bodies of operators' calls are taken or explained.
pub fn operator_body(input: &[u8]) {
    if let Some(Note { note: Some(note) }) = checked(input, Unknown::Refused) {
        assert!(note.chars().count() <= 1_000 && !note.contains('\0'));
    }
    checked::<ResolveRequest>(input, Unknown::Refused);
    checked::<BulkReplayRequest>(input, Unknown::Refused);
}

/// The parsed body; `None` where it is refused, which must be as a problem that a client
/// understands: 400 for what is no JSON object, else 422 with every field at fault.
fn checked<T: FromFields>(input: &[u8], unknown: Unknown) -> Option<T> {
    let problem = match parse::<T>(input, unknown) {
        Ok(parsed) => {
            assert!(serde_json::from_slice::<Map<String, Value>>(input).is_ok());
            return Some(parsed);
        }
        Err(problem) => problem,
    };
    explained(problem);
    None
}

fn explained(problem: Problem) {
    assert!(!problem.title.is_empty() && !problem.detail.is_empty());
    let Problem { status, errors, .. } = problem;
    match status {
        400 => assert!(errors.is_none()),
        422 => {
            let errors = errors.expect("the fields at fault are named");
            assert!(!errors.is_empty());
            for error in errors {
                let pointer = error.pointer.expect("a field has a pointer");
                assert!(pointer.starts_with('/') && !error.detail.is_empty(), "{pointer}");
                assert!(error.parameter.is_none());
            }
        }
        other => panic!("a body is refused with {other}"),
    }
}
