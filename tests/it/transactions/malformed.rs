//! Bodies that are no JSON object, too long, or of another type: 400, 413, 415; nothing written.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{World, counts, raw_http, spawn_api, transaction};

const PATH: &str = "/v1/transactions";
/// Request line and headers of a good post, but for its length.
const HEAD: &str = "POST /v1/transactions HTTP/1.1\r\nauthorization: Bearer qk_test_client_0123\r\n\
    content-type: application/json";
const MAX_BODY: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_json_object_is_400() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let good = transaction(id).to_string();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty body", vec![]),
        ("white space", b" \n".to_vec()),
        ("cut off", good.as_bytes()[..good.len() - 1].to_vec()),
        ("something after it", format!("{good} {good}").into()),
        ("single quotes", format!("{{'id':'{id}'}}").into()),
        ("trailing comma", format!(r#"{{"id":"{id}",}}"#).into()),
        ("a comment", format!(r#"{{"id":"{id}"/**/}}"#).into()),
        ("NaN", format!(r#"{{"id":"{id}","amount":NaN,"currency":"EUR"}}"#).into()),
        ("a number out of all range", format!(r#"{{"id":"{id}","amount":1e999}}"#).into()),
        ("raw control character", format!("{{\"id\":\"{id}\",\"reference\":\"a\0b\"}}").into()),
        ("lone surrogate", format!(r#"{{"id":"{id}","reference":"\ud800"}}"#).into()),
        ("byte order mark", format!("\u{feff}{good}").into()),
        ("invalid UTF-8", [br#"{"id":""#.as_slice(), b"\xff\"}"].concat()),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("binary", (0..=255).collect()),
        ("list", format!("[{good}]").into()),
        ("text", format!("\"{id}\"").into()),
        ("number", b"1".to_vec()),
        ("null", b"null".to_vec()),
        ("duplicate key", format!(r#"{{"id":"{id}","id":"{id}"}}"#).into()),
        ("duplicate key, escaped", format!(r#"{{"id":"{id}","\u0069d":"{id}"}}"#).into()),
        ("duplicate null", format!(r#"{{"id":"{id}","amount":null,"amount":null}}"#).into()),
        (
            "duplicate metadata key",
            format!(r#"{{"id":"{id}","metadata":{{"a":"1","a":"1"}}}}"#).into(),
        ),
        ("deep nesting", format!(r#"{{"id":{}"#, "[".repeat(60_000)).into()),
        ("deep nesting of objects", r#"{"a":"#.repeat(10_000).into()),
    ];
    for (name, body) in cases {
        let answer = app.client().post_raw(PATH, body).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text);
        answer.expect_problem(400);
    }
    assert_eq!(counts(&app.pool).await, [0; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_content_type_is_415() {
    let app = spawn_api().await;
    let body = transaction(Uuid::now_v7()).to_string();
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonx",
        "json",
        "",
    ] {
        let headers = [("content-type", content_type)];
        let answer = app.client().send(Method::POST, PATH, &headers, body.clone()).await;
        assert_eq!(answer.status, 415, "{content_type}: {}", answer.text);
        answer.expect_problem(415);
    }
    app.client().send(Method::POST, PATH, &[], body).await.expect_problem(415);
    assert_eq!(counts(&app.pool).await, [0; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_content_types_with_parameters_are_taken() {
    let app = spawn_api().await;
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        let body = transaction(Uuid::now_v7()).to_string();
        let headers = [("content-type", content_type)];
        let answer = app.client().send(Method::POST, PATH, &headers, body).await;
        assert_eq!(answer.status, 202, "{content_type}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_413() {
    let app = spawn_api().await;
    let padded = |length: usize| {
        let body = transaction(Uuid::now_v7()).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    app.client().post_raw(PATH, padded(MAX_BODY)).await.expect(202);
    // By hand: the server may close the connection before it was sent all of it.
    for length in [MAX_BODY + 1, 10 * MAX_BODY] {
        let head = format!("{HEAD}\r\ncontent-length: {length}");
        let (status, text) = raw_http::exchange(&app, &head, padded(length).as_bytes()).await;
        assert_eq!(status, 413, "{text}");
        assert!(text.contains("application/problem+json"), "{text}");
    }
    assert_eq!(counts(&app.pool).await, [1, 4, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunked_body_over_the_limit_is_413() {
    let app = spawn_api().await;
    let head = format!("{HEAD}\r\ntransfer-encoding: chunked");
    let id = Uuid::now_v7();
    let body = raw_http::chunked(transaction(id).to_string().as_bytes());
    assert_eq!(raw_http::exchange(&app, &head, &body).await.0, 202);

    let body = raw_http::chunked(&vec![b' '; MAX_BODY + 1]);
    let (status, text) = raw_http::exchange(&app, &head, &body).await;
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("application/problem+json"), "{text}");
    assert_eq!(counts(&app.pool).await, [1, 4, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_length_over_the_limit_is_413_before_the_body_comes() {
    let app = spawn_api().await;
    let head = format!("{HEAD}\r\ncontent-length: 1000000000000");
    let answer = raw_http::exchange(&app, &head, b"");
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    let (status, text) = answer.expect("an answer without waiting for a terabyte");
    assert_eq!(status, 413, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_follows_the_configuration() {
    let app = World::new().await.app().set("QUARTET_HTTP__MAX_BODY", "100").spawn().await;
    let post = json!({ "id": Uuid::now_v7() });
    app.client().post_transaction(&post).await.expect(202);
    app.client().post_transaction(&transaction(Uuid::now_v7())).await.expect_problem(413);
}
