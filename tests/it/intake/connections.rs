//! Connections that send slowly, nothing, or too much, while others are served.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quartet::config::Role;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::refused;
use crate::support::{
    TestApp, World, app::AppBuilder, counts, raw_http, wait_until, world::API_KEY,
};

const BOUND: Duration = Duration::from_secs(20);
/// Connections beyond the most, for health checks and metrics.
const SPARE: usize = 64;
/// Short enough to wait for, long enough for a busy machine to send a request in.
const SHORT: Duration = Duration::from_millis(600);

async fn builder() -> AppBuilder {
    World::new().await.app().role(Role::Api)
}

/// What comes until the connection is closed, and how long that took.
async fn closed_after(stream: &mut TcpStream, began: Instant) -> (String, Duration) {
    let text = timeout(BOUND, raw_http::read_to_close(stream)).await;
    (text.expect("the connection is closed"), began.elapsed())
}

async fn assert_served(app: &TestApp) {
    app.client().accept().await;
    app.client().list_transactions("limit=1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_closes_the_connection() {
    let app = builder().await.set("QUARTET_HTTP__HEAD_TIMEOUT", "600ms").spawn().await;
    for first in ["", "G", "POST /v1/transactions HTTP/1.1\r\nhost: a\r\nx: "] {
        let began = Instant::now();
        let mut stream = raw_http::connect(&app).await;
        stream.write_all(first.as_bytes()).await.unwrap();
        let (text, after) = closed_after(&mut stream, began).await;
        assert_eq!(text, "", "{first:?}");
        assert!(after >= SHORT, "{first:?} was closed after {after:?}");
    }
    assert_eq!(refused(&app, "slow_head").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_heads_that_trickle_delay_nobody() {
    let app = builder().await.set("QUARTET_HTTP__HEAD_TIMEOUT", "600ms").spawn().await;
    let trickling = (0..50).map(async |_| {
        let mut stream = raw_http::connect(&app).await;
        let (mut reading, mut writing) = stream.split();
        let trickle = async {
            // One header after another, for as long as it is read.
            let mut head = "GET /health/live HTTP/1.1\r\nhost: a\r\n".to_owned();
            while writing.write_all(head.as_bytes()).await.is_ok() {
                "x: y\r\n".clone_into(&mut head);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut text = Vec::new();
        let closed = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut text);
        tokio::select! {
            () = trickle => {}
            _ = closed => {}
        }
    });
    let all_closed = timeout(BOUND, join_all(trickling));
    let served = async {
        for _ in 0..10 {
            let began = Instant::now();
            assert_served(&app).await;
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        }
    };
    let (ended, ()) = tokio::join!(all_closed, served);
    ended.expect("all that trickle are closed");
    // A connection that the client opened in reserve may be among them.
    assert!(refused(&app, "slow_head").await >= 50.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_408() {
    let app = builder().await.set("QUARTET_HTTP__BODY_TIMEOUT", "600ms").spawn().await;
    for path in ["/v1/transactions", "/v1/webhooks/third-party"] {
        for length in ["content-length: 200", "transfer-encoding: chunked"] {
            let began = Instant::now();
            let mut stream = raw_http::connect(&app).await;
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                 authorization: Bearer {API_KEY}\r\n{length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(b"3\r\n{\"i\r\n").await.unwrap();
            let (answer, after) = closed_after(&mut stream, began).await;
            let name = format!("{path} {length}: {answer}");
            assert!(answer.starts_with("HTTP/1.1 408 "), "{name}");
            assert!(answer.contains("application/problem+json"), "{name}");
            assert!(answer.to_lowercase().contains("connection: close"), "{name}");
            assert!(after >= SHORT, "{name}: after {after:?}");
        }
    }
    assert_eq!(counts(&app.pool).await, [0; 5]);
    assert_eq!(refused(&app, "slow_body").await, 4.0);
    assert_served(&app).await;
}

/// The answer would be lost where the connection is closed while the caller still sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_read_costs_no_connection() {
    let app = builder().await.spawn().await;
    let next = "GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for (status, key, length) in
        [(413, API_KEY, 100_000), (413, API_KEY, 1_000_000), (401, "unknown", 60_000)]
    {
        let began = Instant::now();
        let mut stream = raw_http::connect(&app).await;
        let head = format!(
            "POST /v1/transactions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             authorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n"
        );
        let request = [head.as_bytes(), &vec![b'x'; length], next.as_bytes()].concat();
        stream.write_all(&request).await.unwrap();
        let (answers, _) = closed_after(&mut stream, began).await;
        assert!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{length}: {answers}");
        assert!(answers.contains("HTTP/1.1 200 "), "{length}: {answers}");
    }
    // One that is never sent delays its answer by a second, and not for ever.
    let began = Instant::now();
    let mut stream = raw_http::connect(&app).await;
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (answer, after) = closed_after(&mut stream, began).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(after < BOUND, "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_and_a_waiting_one_is_not() {
    let app = builder().await.set("QUARTET_HTTP__IDLE_TIMEOUT", "600ms").spawn().await;
    let mut stream = raw_http::connect(&app).await;
    for _ in 0..3 {
        let answer = raw_http::ask(&mut stream, "/health/live").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "it is kept: {answer:?}");
    }
    let (_, after) = closed_after(&mut stream, Instant::now()).await;
    assert!(after < BOUND, "{after:?}");
    assert_eq!(refused(&app, "slow_head").await, 0.0, "it had nothing to send");

    // A request may take longer than a pause.
    let id = app.client().accept().await;
    let began = Instant::now();
    let waiting = format!("/v1/transactions/{id}?wait_seconds=2");
    app.client().get(&waiting).await.expect(200);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_most_connections_only_health_and_metrics_are_answered() {
    let app = builder().await.set("QUARTET_HTTP__MAX_CONNECTIONS", "3").spawn().await;
    let client = app.client();
    let id = client.accept().await;
    // The client's own connections, and those of the start, are among them.
    let mut held = Vec::new();
    wait_until("all connections are taken", BOUND, async || {
        let mut stream = raw_http::connect(&app).await;
        let answer = raw_http::ask(&mut stream, "/openapi.json").await;
        held.push(stream);
        answer.starts_with("HTTP/1.1 503 ")
    })
    .await;
    let mut stream = raw_http::connect(&app).await;
    let answer = raw_http::ask(&mut stream, &format!("/v1/transactions/{id}")).await;
    let lower = answer.to_lowercase();
    for part in ["503 ", "retry-after: ", "connection: close", "application/problem+json"] {
        assert!(lower.contains(part), "{part}: {answer}");
    }
    for path in ["/health/live", "/health/ready", "/metrics"] {
        let mut stream = raw_http::connect(&app).await;
        let answer = raw_http::ask(&mut stream, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    assert!(refused(&app, "connections").await >= 2.0);

    // Silent ones take all places that are left, and the others are closed as soon as they come,
    // long before those.
    let silent = join_all((0..SPARE + 16).map(async |_| {
        let mut stream = raw_http::connect(&app).await;
        let at_once = Duration::from_secs(1);
        let closed = timeout(at_once, raw_http::read_to_close(&mut stream)).await.is_ok();
        (stream, closed)
    }))
    .await;
    let closed = silent.iter().filter(|(_, closed)| *closed).count();
    assert!(closed >= 16, "{closed} were closed at once");

    drop((held, silent));
    wait_until("others are served again", BOUND, async || {
        let mut stream = raw_http::connect(&app).await;
        raw_http::ask(&mut stream, "/openapi.json").await.starts_with("HTTP/1.1 200 ")
    })
    .await;
    client.get_transaction(id).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_long_is_431() {
    let app = builder().await.spawn().await;
    let long = format!("GET /health/live HTTP/1.1\r\nx: {}", "y".repeat(40_000));
    let many = format!("GET /health/live HTTP/1.1{}", "\r\nx: y".repeat(200));
    let path = format!("GET /{} HTTP/1.1", "y".repeat(40_000));
    for head in [long, many, path] {
        let (status, text) = raw_http::exchange(&app, &head, b"").await;
        assert!(matches!(status, 414 | 431), "{text}");
    }
    let fits = format!("GET /health/live HTTP/1.1\r\nx: {}", "y".repeat(20_000));
    assert_eq!(raw_http::exchange(&app, &fits, b"").await.0, 200);
    assert_served(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_served_and_idle_connections_of_it_are_closed() {
    let app = builder().await.set("QUARTET_HTTP__IDLE_TIMEOUT", "600ms").spawn().await;
    let http = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let url = format!("{}/health/live", app.url());
    let answers = (0..20).map(async |_| http.get(&url).send().await.unwrap());
    for answer in join_all(answers).await {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    }
    wait_until("only the connection of the question is left", BOUND, async || {
        let metrics = crate::metrics::scrape(&app).await;
        metrics.value("quartet_http_connections", &[]) == Some(1.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_with_idle_connections_stops_at_once() {
    let mut app = builder().await.set("QUARTET_WORKER__SHUTDOWN_GRACE", "30s").spawn().await;
    let mut idle = raw_http::connect(&app).await;
    raw_http::ask(&mut idle, "/health/live").await;
    // `stop` asserts that it takes less than the grace.
    app.stop().await;
    timeout(BOUND, raw_http::read_to_close(&mut idle)).await.expect("the connection is closed");
}
