//! Requests that two programs could read in two ways: 400, the connection closed where it is not
//! sure where they end, and nothing done.

use quartet::config::Role;
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::refused;
use crate::support::{TestApp, World, counts, raw_http, spawn_api, transaction, world::API_KEY};

/// Sends these bytes as they are; what is answered until the connection is closed.
async fn send(app: &TestApp, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = raw_http::connect(app).await;
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes.as_ref()).await;
    let read = raw_http::read_to_close(&mut stream);
    tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("it is closed")
}

/// A post of a new transaction with these header lines, besides those that it needs.
fn post(lines: &[&str], body: &str) -> String {
    let mut head = vec!["POST /v1/transactions HTTP/1.1", "content-type: application/json"];
    let authorization = format!("authorization: Bearer {API_KEY}");
    head.push(&authorization);
    head.extend(lines);
    format!("{}\r\n\r\n{body}", head.join("\r\n"))
}

fn chunked(body: &str) -> String {
    String::from_utf8(raw_http::chunked(body.as_bytes())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_can_be_read_in_two_ways_is_400_and_closes_the_connection() {
    let app = spawn_api().await;
    let body = transaction(Uuid::now_v7()).to_string();
    let (chunks, bytes) = (chunked(&body), body.len());
    let length = format!("content-length: {bytes}");
    let shorter = format!("content-length: {}", bytes - 1);
    let (host, te) = ("host: a", "transfer-encoding: chunked");
    let with = |lines: &[&str]| post(lines, &body);
    let bare_lf = with(&[host, &length]).replace("host: a\r\n", "host: a\n");
    let all_bare = post(&[host, &length], "").replace("\r\n", "\n") + &body;
    let cases = [
        ("two keys", with(&[host, &length, "authorization: Bearer other"])),
        ("the same key twice", with(&[host, &length, &format!("authorization: Bearer {API_KEY}")])),
        ("no host", with(&[&length])),
        ("two hosts", with(&[host, "host: b", &length])),
        ("the same host twice", with(&[host, host, &length])),
        ("a host with a user", with(&["host: user@a", &length])),
        ("two content types", with(&[host, &length, "content-type: text/plain"])),
        ("a line that ends in LF", bare_lf),
        ("lines that end in LF", all_bare),
        ("a length, then chunks", post(&[host, &length, te], &chunks)),
        ("chunks, then a length", post(&[host, te, &length], &chunks)),
        (
            "another coding before chunks",
            post(&[host, "transfer-encoding: gzip, chunked"], &chunks),
        ),
        ("chunks twice", post(&[host, te, te], &chunks)),
        ("another coding", post(&[host, "transfer-encoding: identity", &length], &body)),
        ("a space before the colon", post(&[host, "transfer-encoding : chunked"], &chunks)),
        ("two lengths", with(&[host, &length, &shorter])),
        ("the same length twice", with(&[host, &length, &length])),
        ("a signed length", with(&[host, &format!("content-length: +{bytes}")])),
        ("a folded line", with(&[host, &length, "x: y\r\n z"])),
        ("chunks that end in LF", post(&[host, te], &chunks.replace("\r\n", "\n"))),
    ];
    for (name, request) in cases {
        // What is behind it on the same connection must not be taken for a request.
        let smuggled = format!("{request}GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n");
        for bytes in [request, smuggled] {
            let answer = send(&app, bytes).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
        }
    }
    assert_eq!(counts(&app.pool).await, [0; 5], "nothing was accepted");
    assert!(refused(&app, "framing").await >= 20.0);

    // The same body is taken from a request that can be read in one way only.
    let close = "connection: close";
    for (status, request) in [
        (202, post(&[host, te, close], &chunks)),
        (200, post(&[host, &length, close], &body)),
        (
            200,
            post(&["Host: A.example:8080", "Content-Length:  ", close], "")
                .replace("Content-Length:  ", &format!("Content-Length: {bytes} "))
                + &body,
        ),
        (200, post(&[host, "TRANSFER-ENCODING: Chunked", close], &chunks)),
    ] {
        let answer = send(&app, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// What was asked before on the same connection is answered, and nothing after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_before_one_that_is_refused_are_answered() {
    let app = spawn_api().await;
    let body = transaction(Uuid::now_v7()).to_string();
    let good = post(&["host: a", &format!("content-length: {}", body.len())], &body);
    let chunks = post(&["host: a", "transfer-encoding: chunked"], &chunked(&body));
    let bad = "GET /health/live HTTP/1.1\r\nhost: a\n\r\n";
    let behind = "GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = send(&app, [good.as_str(), &chunks, behind, bad, behind].concat()).await;
    let statuses: Vec<&str> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["202", "200", "200", "400"], "{answer}");
}

/// HTTP/1.0 has no `Host`, and load balancers still check health with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_of_http_1_0_needs_no_host() {
    let app = spawn_api().await;
    let answer = send(&app, "GET /health/live HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
}

/// HTTP/2 frames itself; what decides is there once on it, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_http_2_two_keys_are_400_and_others_are_served() {
    let app = World::new().await.app().role(Role::Api).spawn().await;
    let http = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let url = format!("{}/v1/transactions", app.url());
    let get = || http.get(&url).header("authorization", format!("Bearer {API_KEY}"));
    assert_eq!(get().send().await.unwrap().status(), 200);
    let two = get().header("authorization", "Bearer other").send().await.unwrap();
    assert_eq!(two.status(), 400);
    assert_eq!(two.version(), reqwest::Version::HTTP_2);
    let id = Uuid::now_v7();
    let post = http.post(&url).bearer_auth(API_KEY).json(&transaction(id));
    assert_eq!(post.send().await.unwrap().status(), 202);
}

/// A body is read as it was sent: one that is compressed is 415, by every path that takes a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_is_415_and_names_its_coding() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let letter = "/v1/operator/dead-letters/replay";
    for (client, path) in [
        (app.client(), "/v1/transactions"),
        (app.anonymous(), "/v1/webhooks/third-party"),
        (app.operator(), letter),
    ] {
        for (coding, named) in [
            ("gzip", "gzip"),
            ("br", "br"),
            ("identity, zstd", "zstd"),
            ("GZIP", "GZIP"),
            ("x'\"<b>", "<b>"),
        ] {
            let headers = [("content-type", "application/json"), ("content-encoding", coding)];
            let body = transaction(id).to_string();
            let answer = client.send(Method::POST, path, &headers, body).await;
            let problem = answer.expect_problem(415);
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("Content-Encoding") && detail.contains(named), "{detail}");
        }
    }
    assert_eq!(counts(&app.pool).await, [0; 5]);
    let headers = [("content-type", "application/json"), ("content-encoding", "identity")];
    let body = json!({ "id": id }).to_string();
    app.client().send(Method::POST, "/v1/transactions", &headers, body).await.expect(202);
}
