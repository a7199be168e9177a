//! A webhook without a good signature is 401, whatever its body is, and writes nothing.

use chrono::Utc;
use quartet::{
    config::Role,
    sandbox::SendWebhook,
    signature::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER, sign},
};
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, TestApp, World, contents, spawn_api};

const PATH: &str = "/v1/webhooks/third-party";

/// Posts `body` with these three headers as they are.
async fn post(app: &TestApp, id: &str, timestamp: &str, signature: &str, body: &str) -> Answer {
    let headers = [
        (ID_HEADER, id),
        (TIMESTAMP_HEADER, timestamp),
        (SIGNATURE_HEADER, signature),
        ("content-type", "application/json"),
    ];
    app.anonymous().send(Method::POST, PATH, &headers, body.to_owned()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_missing_expired_or_future_signature_is_401() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let before = contents(&app.pool).await;
    let good = || SendWebhook::new(id, "completed");
    let cases = [
        ("another secret", good().bad_signature()),
        ("tampered body", good().tampered()),
        ("no id", good().without_header(ID_HEADER)),
        ("no timestamp", good().without_header(TIMESTAMP_HEADER)),
        ("no signature", good().without_header(SIGNATURE_HEADER)),
        ("expired", good().timestamp_offset_seconds(-305)),
        ("from the future", good().timestamp_offset_seconds(305)),
        // The signature comes before the content type and the body.
        ("another content type", good().bad_signature().content_type("text/plain")),
        ("no JSON", good().bad_signature().body("{")),
        ("empty", good().bad_signature().body("")),
        ("unknown status", good().bad_signature().json(&json!({ "id": id, "status": "x" }))),
    ];
    for (name, webhook) in cases {
        let (status, body) = app.send_webhook(webhook).await;
        assert_eq!(status, 401, "{name}: {body}");
        assert_eq!(body["title"], "Unauthorized", "{name}: {body}");
    }
    assert_eq!(contents(&app.pool).await, before);
    assert_eq!(app.send_webhook(good().timestamp_offset_seconds(-290)).await.0, 200);
    assert_eq!(app.send_webhook(good().timestamp_offset_seconds(290)).await.0, 200);
    // A key would not help: what is asked for is a signature.
    let refused = app.client().post(PATH, &json!({ "id": id, "status": "completed" })).await;
    refused.expect_problem(401);
    assert_eq!(refused.header("www-authenticate"), "WebhookSignature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_not_what_they_should_be_are_401() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let before = contents(&app.pool).await;
    let secret = &app.sandbox.config().webhook_secret;
    let body = json!({ "id": id, "status": "completed" }).to_string();
    let now = Utc::now().timestamp();
    let (time, good) = (now.to_string(), sign(secret, "evt", now, body.as_bytes()));
    let bare = good.trim_start_matches("v1,");
    for (name, (id, time, signature)) in [
        ("of another id", ("evt2", time.as_str(), good.as_str())),
        ("of another time", ("evt", &(now + 1).to_string(), &good)),
        ("a time with a fraction", ("evt", &format!("{now}.0"), &good)),
        ("a signed time", ("evt", &format!("+{now}"), &good)),
        ("a time in milliseconds", ("evt", &format!("{now}000"), &good)),
        ("no version", ("evt", &time, bare)),
        ("another version", ("evt", &time, &format!("v2,{bare}"))),
        ("cut off", ("evt", &time, &good[..good.len() - 4])),
        ("lower case", ("evt", &time, &good.to_lowercase())),
        ("empty", ("evt", &time, "v1,")),
        ("separated by a comma", ("evt", &time, &format!("v1,AAAA,{good}"))),
    ] {
        let answer = post(&app, id, time, signature, &body).await;
        assert_eq!(answer.status, 401, "{name}: {}", answer.text);
        answer.expect_problem(401);
    }
    assert_eq!(contents(&app.pool).await, before);
    // Any match in a list passes; unknown versions are skipped.
    let list = format!("v2,xyz v1,AAAA v1 v1a,x {good}");
    assert_eq!(post(&app, "evt", &time, &list, &body).await.expect(200)["outcome"], "settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_several_secrets_is_accepted_during_rotation() {
    let world = World::new().await;
    let old = world.sandbox.config().webhook_secret.clone();
    let (new, unknown) = (Secret::generate(), Secret::generate());
    let app = world.app().role(Role::Api);
    let both = format!("{},{}", new.reveal(), old.reveal());
    let app = app.set("QUARTET_WEBHOOK__SECRETS", both).spawn().await;
    for secret in [old, new] {
        let id = app.client().accept().await;
        let (status, body) =
            app.send_webhook(SendWebhook::new(id, "completed").secret(secret)).await;
        assert_eq!((status, &body["outcome"]), (200, &json!("settled")));
    }
    let id = app.client().accept().await;
    let webhook = SendWebhook::new(id, "completed").secret(unknown);
    assert_eq!(app.send_webhook(webhook).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tolerance_follows_the_configuration() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_WEBHOOK__TOLERANCE", "20s").spawn().await;
    let id = app.client().accept().await;
    for (offset, status) in [(-25, 401), (25, 401), (-15, 200), (15, 200)] {
        let webhook = SendWebhook::new(id, "completed").timestamp_offset_seconds(offset);
        assert_eq!(app.send_webhook(webhook).await.0, status, "{offset} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_key_does_not_replace_a_signature() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    for client in [app.client(), app.operator()] {
        let body = json!({ "id": id, "status": "completed" });
        client.post(PATH, &body).await.expect_problem(401);
    }
}
