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
