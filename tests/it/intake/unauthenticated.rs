//! What a request without a key may cost: about as much as its bytes, whatever is in them.
//!
//! Costs are compared within one run, so that neither the machine nor the build matters. The
//! benchmark's section `unauthenticated` has the figures.

use std::time::{Duration, Instant};

use chrono::Utc;
use quartet::config::Role;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{World, process::Process, raw_http, spawn_api, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const WEBHOOKS: &str = "POST /v1/webhooks/third-party HTTP/1.1";
/// As many bytes as a body may have.
const BODY: usize = 65_000;
const SIGNATURE: &str = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A request on a connection that is kept.
fn request(line: &str, headers: &[String], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}", body.len());
    let mut head = vec![line, "host: a", length.as_str()];
    head.extend(headers.iter().map(String::as_str));
    [format!("{}\r\n\r\n", head.join("\r\n")).as_bytes(), body].concat()
}

/// A webhook that is signed like this, and whose timestamp is good.
fn webhook(signature: &str) -> Vec<u8> {
    let headers = [
        "content-type: application/json".to_owned(),
        "webhook-id: evt".to_owned(),
        format!("webhook-timestamp: {}", Utc::now().timestamp()),
        format!("webhook-signature: {signature}"),
    ];
    request(WEBHOOKS, &headers, &vec![b'x'; BODY])
}

/// Sends `request` and reads its answer to the end; its status.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> u16 {
    stream.write_all(request).await.unwrap();
    let (mut answer, mut part) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "the connection was closed: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..count]);
        let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if answer.len() >= end + 4 + length {
            return head[9..12].parse().unwrap();
        }
    }
}

async fn connect(process: &Process) -> TcpStream {
    TcpStream::connect(process.url().trim_start_matches("http://")).await.unwrap()
}

/// CPU time of each of `count` requests.
async fn cpu(process: &Process, request: &[u8], count: u32) -> Duration {
    let mut stream = connect(process).await;
    let before = process.cpu_time();
    for _ in 0..count {
        ask(&mut stream, request).await;
    }
    (process.cpu_time() - before) / count
}

/// One HMAC over the body is what a signature costs; entries beside it cost nothing that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_makes_a_webhook_dearer_than_its_one_signature() {
    const COUNT: u32 = 150;
    let world = World::new().await;
    let process = world.process(Role::Api).spawn().await;
    let one = webhook(SIGNATURE);
    cpu(&process, &one, 20).await;
    let plain = cpu(&process, &one, COUNT).await;
    for (name, signature) in [
        ("entries without a signature", "v1, ".repeat(8_000)),
        ("full entries", format!("{SIGNATURE} ").repeat(600)),
        ("short entries", "v1,AAAA ".repeat(3_500)),
        ("as many as are compared", format!("{SIGNATURE} ").repeat(16)),
        ("spaces", " ".repeat(30_000)),
        ("other versions", "v2,AAAA ".repeat(3_500)),
    ] {
        let worst = cpu(&process, &webhook(&signature), COUNT).await;
        // Ticks are 10 ms; parsing 30 KB more is a part of a build without optimisation.
        let most = plain * 3 + Duration::from_millis(10);
        assert!(worst < most, "{name}: {worst:?} a request, {plain:?} with one signature");
    }
}

/// Answers are not much longer than their requests, and the documents are sent now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_makes_a_long_answer() {
    let app = spawn_api().await;
    let many = "a&".repeat(15_000);
    let names: String = (0..900).map(|name| format!("{name:x}=&")).collect();
    let long = format!("{}=1", "x".repeat(20_000));
    for path in ["/v1/transactions", "/v1/operator/jobs", "/health/live", "/console/sign-in"] {
        for query in [&many, &names, &long] {
            let head = format!("GET {path}?{query} HTTP/1.1");
            let (status, answer) = raw_http::exchange(&app, &head, b"").await;
            assert!(answer.len() < 32 * 1024, "{path}: {} bytes", answer.len());
            let is_page = path.starts_with("/console");
            assert!(matches!(status, 400 | 422) || is_page && status == 200, "{path}: {status}");
        }
        let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/json");
        let (_, answer) = raw_http::exchange(&app, &head, &vec![b'['; BODY]).await;
        assert!(answer.len() < 32 * 1024, "{path}: {} bytes", answer.len());
    }
    // A key too long to be anybody's is wrong, like any other.
    for path in ["/v1/transactions", "/v1/operator/jobs"] {
        let head = format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {}", "k".repeat(30_000));
        assert_eq!(raw_http::exchange(&app, &head, b"").await.0, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_are_sent_a_few_times_a_second() {
    let app = spawn_api().await;
    let anonymous = app.anonymous();
    let began = Instant::now();
    let reads = (0..120).map(async |index| {
        let path = if index % 2 == 0 { "/openapi.json" } else { "/docs" };
        anonymous.get(path).await
    });
    let answers = futures_util::future::join_all(reads).await;
    let sent = answers.iter().filter(|answer| answer.status == 200).count() as u64;
    let most = 20 * (began.elapsed().as_secs() + 2);
    assert!((1..=most).contains(&sent), "{sent} in {:?}", began.elapsed());
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.expect_problem(503);
        refused.expect_retry_after();
    }
    wait_until("they are sent again", BOUND, async || anonymous.get("/docs").await.status == 200)
        .await;
}

/// Wrong keys share two look-ups at the same time, so that those that are right find a connection
/// to the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_take_no_connections_from_right_ones() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let flood = futures_util::future::join_all((0..200).map(async |index: u32| {
        let key = format!("qk_wrong_{index}");
        let wrong = app.client().with_key(&key);
        wrong.get_transaction(id).await.status
    }));
    let served = async {
        for _ in 0..20 {
            app.client().get_transaction(id).await.expect(200);
            app.client().accept().await;
        }
    };
    let (statuses, ()) = tokio::join!(flood, served);
    assert!(statuses.iter().all(|status| matches!(status, 401 | 503)), "{statuses:?}");
    assert!(statuses.contains(&401));
}

/// Four connections that send what costs most without a key, against a client that posts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dearest_requests_delay_posts_little() {
    const POSTS: usize = 25;
    const ROUNDS: usize = 4;
    let world = World::new().await;
    let process = world.process(Role::Api).spawn().await;
    let post = async || {
        let began = Instant::now();
        process.client().accept().await;
        began.elapsed()
    };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // Of the slow link that was enough before: 0.5 MB/s each, whatever this build's speed is.
    let pause = Duration::from_millis(130);
    let attack = async || -> () {
        let worst = webhook(&"v1, ".repeat(8_000).replacen("v1,", SIGNATURE, 1));
        let mut stream = connect(&process).await;
        loop {
            assert_eq!(ask(&mut stream, &worst).await, 401);
            tokio::time::sleep(pause).await;
        }
    };
    post().await;
    // In turns, so that what else the machine does is the same for both.
    for _ in 0..ROUNDS {
        for _ in 0..POSTS {
            alone.push(post().await);
        }
        let posts = async {
            for _ in 0..POSTS {
                beside.push(post().await);
            }
        };
        tokio::select! {
            () = posts => {}
            () = async { tokio::join!(attack(), attack(), attack(), attack()); } => {}
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (alone, beside) = (median(&mut alone), median(&mut beside));
    // The least that is told apart on a machine that does other things, too.
    let most = 2 * alone.max(Duration::from_millis(10));
    assert!(beside <= most, "{beside:?} beside four attackers, {alone:?} alone");
}
