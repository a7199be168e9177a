//! The OpenAPI document: one text, served, printed and committed.

use serde_json::Value;

use crate::support::spawn_api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_served_document_is_the_printed_one() {
    let app = spawn_api().await;
    let answer = app.anonymous().get("/openapi.json").await;
    answer.expect(200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.text, quartet::http::openapi());
}

#[test]
fn the_committed_document_is_the_present_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/quartet.json");
    let committed = std::fs::read_to_string(path).expect("openapi/quartet.json is committed");
    assert!(committed == quartet::http::openapi(), "openapi/quartet.json is stale: just openapi");
}

#[test]
fn every_operation_has_an_id_a_tag_and_answers() {
    let document: Value = serde_json::from_str(&quartet::http::openapi()).unwrap();
    let mut ids = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = format!("{method} {path}");
            ids.push(operation["operationId"].as_str().unwrap_or_else(|| panic!("{name}")));
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name}");
            assert!(operation["summary"].is_string(), "{name}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with('2')), "{name}");
            for (status, answer) in answers.iter().filter(|(status, _)| status.as_str() >= "4") {
                let content = answer["content"].as_object();
                let types: Vec<_> =
                    content.into_iter().flat_map(|content| content.keys()).collect();
                assert_eq!(types, ["application/problem+json"], "{name} {status}");
            }
        }
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "operation ids are unique");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docs_are_a_page() {
    let app = spawn_api().await;
    for path in ["/docs", "/docs/"] {
        let answer = app.anonymous().get(path).await;
        answer.expect(200);
        assert!(answer.header("content-type").starts_with("text/html"), "{path}");
        assert!(answer.text.contains("<html"), "{path}");
        assert!(answer.text.contains("swagger"), "{path}");
    }
}

/// What generators make models of: no choice between objects, no enumeration in place, and headers
/// as their RFCs write them.
#[test]
fn the_document_makes_good_models() {
    let document: Value = serde_json::from_str(&quartet::http::openapi()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = serde_json::to_string(&document).unwrap();
    for word in ["\"anyOf\"", "\"oneOf\""] {
        assert!(!text.contains(word), "{word}");
    }
    let (mut enums, mut references) = (0, Vec::new());
    walk(&document, &mut |node| {
        if let Some(reference) = node["$ref"].as_str() {
            references.push(reference.rsplit('/').next().unwrap().to_owned());
        }
        let all = node["allOf"].as_array();
        assert!(all.is_none_or(|all| all.len() == 1 && all[0]["$ref"].is_string()), "{node}");
        enums += usize::from(node["enum"].is_array());
    });
    let named = schemas.values().filter(|schema| schema["enum"].is_array()).count();
    assert!(named > 10 && named == enums, "{named} of {enums} enumerations have a name");
    assert!(references.iter().all(|name| schemas.contains_key(name)), "{references:?}");

    let tags: Vec<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    assert_eq!(tags, ["Transactions", "Webhooks", "Operator", "Health"]);
    let post = &document["paths"]["/v1/transactions"]["post"];
    let headers = |status: &str| {
        let headers = post["responses"][status]["headers"].as_object().unwrap();
        headers.keys().map(String::as_str).collect::<Vec<_>>()
    };
    for (status, name) in [
        ("202", "Location"),
        ("200", "Idempotent-Replayed"),
        ("429", "Retry-After"),
        ("503", "Retry-After"),
        ("401", "WWW-Authenticate"),
        ("202", "RateLimit-Policy"),
    ] {
        assert!(headers(status).contains(&name), "{status}: {:?}", headers(status));
    }
    let callback = post["callbacks"].as_object().unwrap().values().next().unwrap();
    let put = &callback.as_object().unwrap().values().next().unwrap()["put"];
    let names = put["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]);
    let signed = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    assert_eq!(names.collect::<Vec<_>>(), signed);
    let problem = &post["responses"]["409"]["content"]["application/problem+json"]["example"];
    assert_eq!(problem["type"], "/docs/errors#id-conflict");
    assert_eq!(schemas["NewTransaction"]["required"], serde_json::json!(["id"]));
}

fn walk(node: &Value, visit: &mut impl FnMut(&Value)) {
    match node {
        Value::Object(fields) => {
            visit(node);
            fields.values().for_each(|field| walk(field, visit));
        }
        Value::Array(entries) => entries.iter().for_each(|entry| walk(entry, visit)),
        _ => {}
    }
}
