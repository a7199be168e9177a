//! Rejected webhooks: operators see how many there were and why, in the API, the console and the
//! log, and nobody without a key can make that costly.

use std::{collections::HashMap, time::Duration};

use chrono::Utc;
use quartet::{
    config::Role,
    sandbox::SendWebhook,
    signature::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign},
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    console::visitor::Visitor,
    support::{Answer, Client, TestApp, World, raw_http, spawn_api, wait_for, wait_until},
};

const BOUND: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/webhooks/third-party";
const JSON: (&str, &str) = ("content-type", "application/json");

async fn list(operator: &Client, query: &str) -> Answer {
    operator.get(&format!("/v1/operator/rejected-webhooks?{query}")).await
}

/// How many were rejected, by reason.
async fn counts(app: &TestApp) -> HashMap<String, i64> {
    let mut counts = HashMap::new();
    for item in list(&app.operator(), "limit=200").await.expect(200)["items"].as_array().unwrap() {
        let reason = item["reason"].as_str().unwrap().to_owned();
        *counts.entry(reason).or_default() += item["count"].as_i64().unwrap();
    }
    counts
}

/// A post to the webhooks' path that is signed as such, with more headers.
async fn signed(app: &TestApp, body: &str, headers: &[(&str, &str)]) -> Answer {
    let now = Utc::now().timestamp();
    let secret = &app.sandbox.config().webhook_secret;
    let (time, signature) = (now.to_string(), sign(secret, "evt", now, body.as_bytes()));
    let own = [(ID_HEADER, "evt"), (TIMESTAMP_HEADER, &time), (SIGNATURE_HEADER, &signature)];
    let headers: Vec<_> = own.into_iter().chain(headers.iter().copied()).collect();
    app.anonymous().send(Method::POST, PATH, &headers, body.to_owned()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_how_many_were_rejected_and_why() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let good = || SendWebhook::new(id, "completed");
    for (status, webhook) in [
        (401, good().bad_signature()),
        (401, good().bad_signature()),
        (401, good().tampered()),
        (401, good().without_header(ID_HEADER)),
        (401, good().timestamp_offset_seconds(-400)),
        (401, good().timestamp_offset_seconds(400)),
        (413, good().body("x".repeat(70_000))),
        (415, good().content_type("text/plain")),
        (400, good().body("{")),
        (422, good().json(&json!({ "id": id, "status": "refunded" }))),
        (422, good().webhook_id("e".repeat(256))),
        (200, good()),
    ] {
        assert_eq!(app.send_webhook(webhook).await.0, status);
    }
    let body = json!({ "id": id, "status": "completed" }).to_string();
    signed(&app, &body, &[JSON, ("content-encoding", "gzip")]).await.expect(415);
    signed(&app, &body, &[JSON, (TIMESTAMP_HEADER, "1")]).await.expect(400);
    let expected = [
        ("wrong_signature", 3),
        ("missing_header", 1),
        ("too_old", 1),
        ("too_new", 1),
        ("too_large", 1),
        ("content_type", 1),
        ("bad_json", 1),
        ("bad_fields", 1),
        ("bad_webhook_id", 1),
        ("content_coding", 1),
        ("repeated_header", 1),
    ];
    let expected: HashMap<_, _> =
        expected.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
    wait_until("all of them are counted", BOUND, async || counts(&app).await == expected).await;

    // Page by page it is the same list, newest first.
    let all = list(&app.operator(), "limit=200").await.body["items"].as_array().unwrap().clone();
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&app.operator(), &format!("limit=3{cursor}")).await.expect(200).clone();
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, all);
    let coded = all.iter().find(|item| item["reason"] == "content_coding").unwrap();
    assert_eq!(coded["last_webhook_id"], "evt");
    assert_eq!(coded["last_remote"], "127.0.0.1");
    assert!(coded["last_detail"].as_str().unwrap().contains("gzip"), "{coded}");

    let page = Visitor::signed_in(&app).await.get("/console/rejected-webhooks").await;
    for shown in ["wrong signature", "too old", "bad fields", "evt", "127.0.0.1"] {
        assert!(page.expect(200).contains(shown), "{shown}: {}", page.html);
    }
    list(&app.operator(), "cursor=x").await.expect_problem(422);
    list(&app.client(), "").await.expect_problem(403);
    list(&app.anonymous(), "").await.expect_problem(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_add_to_the_same_counts_and_a_stop_loses_none() {
    let mut app = spawn_api().await;
    let mut sibling = app.sibling().role(Role::Api).spawn().await;
    for _ in 0..5 {
        app.anonymous().post_raw(PATH, "{}").await.expect(401);
        sibling.anonymous().post_raw(PATH, "{}").await.expect(401);
    }
    sibling.stop().await;
    wait_until("both are counted", BOUND, async || {
        counts(&app).await.get("missing_header") == Some(&10)
    })
    .await;
    app.stop().await;
}

/// What its sender says is text for operators, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_webhook_id_is_shown_as_text() {
    const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\u{85}";
    let app = spawn_api().await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\ncontent-type: application/json\r\nwebhook-id: {HOSTILE}{}\r\n\
         webhook-timestamp: 1\r\nwebhook-signature: v1,AAAA\r\ncontent-length: 2",
        "x".repeat(5_000)
    );
    let (status, answer) = raw_http::exchange(&app, &head, b"{}").await;
    assert_eq!(status, 401, "{answer}");
    let item = wait_for("it is counted", BOUND, async || {
        let list = list(&app.operator(), "").await;
        list.expect(200)["items"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(item["reason"], "bad_webhook_id", "{item}");
    let id = item["last_webhook_id"].as_str().unwrap();
    assert!(id.starts_with(r"<script>alert(1)</script>\u{202e}\u{85}xx"), "{id}");
    assert!(id.chars().count() <= 200, "{id}");
    let page = Visitor::signed_in(&app).await.get("/console/rejected-webhooks").await;
    assert!(!page.expect(200).contains("<script>alert"), "{}", page.html);
    assert!(!page.html.contains(['\u{202e}', '\u{85}']), "{}", page.html);
}

/// Whoever sends them decides neither how much is written nor how much is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_rejected_webhooks_writes_few_rows_and_few_lines() {
    const COUNT: i64 = 300;
    let world = World::new().await;
    let process = world.process(Role::Api).set("QUARTET_LOG_FORMAT", "json");
    let process = process.spawn().await;
    let anonymous = process.anonymous();
    let began = std::time::Instant::now();
    for _ in 0..COUNT {
        let id = Uuid::now_v7().to_string();
        let headers = [JSON, (ID_HEADER, id.as_str())];
        anonymous.send(Method::POST, PATH, &headers, "{}").await.expect(401);
    }
    let took = began.elapsed();
    let rows = wait_for("all are counted", BOUND, async || {
        let query = "SELECT count FROM rejected_webhooks ORDER BY minute";
        let rows: Vec<i64> = sqlx::query_scalar(query).fetch_all(&world.pool).await.unwrap();
        (rows.iter().sum::<i64>() == COUNT).then_some(rows)
    })
    .await;
    // One a minute, and a minute may have begun.
    let minutes = 2 + took.as_secs() as usize / 60;
    assert!(rows.len() <= minutes, "{rows:?}");
    // Each has a line, or is in the count of one.
    let (lines, not_logged) = wait_for("all are in the log", BOUND, async || {
        let output = process.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fields: Vec<Value> = lines.map(|line| line["fields"].clone()).collect();
        let said = |message| fields.iter().filter(move |fields| fields["message"] == message);
        let lines = said("a webhook was rejected").count() as i64;
        let not_logged: i64 = said("a webhook was rejected")
            .chain(said("more webhooks were rejected"))
            .filter_map(|fields| fields["not_logged"].as_i64())
            .sum();
        (lines + not_logged == COUNT).then_some((lines, not_logged))
    })
    .await;
    let most = 5 * (took.as_secs() as i64 + 2);
    assert!((1..=most).contains(&lines), "{lines} lines in {took:?}, {not_logged} without one");
    let output = process.output();
    let line = output.lines().find(|line| line.contains("a webhook was rejected")).unwrap();
    for part in ["missing_header", "127.0.0.1", "WARN", "webhook-timestamp"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
