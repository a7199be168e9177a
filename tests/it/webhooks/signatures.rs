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

/// A sender may put each signature into a line of its own, as HTTP lets a list be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_in_several_header_lines_count_as_one_list() {
    let app = spawn_api().await;
    let secret = &app.sandbox.config().webhook_secret;
    let now = Utc::now().timestamp();
    let time = now.to_string();
    let bad = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (good_at, lines) in [(1, 2), (0, 2), (2, 3), (15, 16)] {
        let id = app.client().accept().await;
        let body = json!({ "id": id, "status": "completed" }).to_string();
        let event = format!("evt {id}");
        let good = sign(secret, &event, now, body.as_bytes());
        let signatures = (0..lines).map(|line| if line == good_at { good.as_str() } else { bad });
        let mut headers = vec![
            (ID_HEADER, event.as_str()),
            (TIMESTAMP_HEADER, time.as_str()),
            ("content-type", "application/json"),
        ];
        headers.extend(signatures.map(|signature| (SIGNATURE_HEADER, signature)));
        let answer = app.anonymous().send(Method::POST, PATH, &headers, body.clone()).await;
        assert_eq!(answer.expect(200)["outcome"], "settled", "{good_at} of {lines}");

        // None of them matches.
        let headers: Vec<_> = headers.into_iter().filter(|(_, value)| *value != good).collect();
        let answer = app.anonymous().send(Method::POST, PATH, &headers, body).await;
        answer.expect_problem(401);
    }
}

/// The signature covers one id and one time: with two, another reader could take the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_id_or_time_is_400_and_writes_nothing() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let before = contents(&app.pool).await;
    let body = json!({ "id": id, "status": "completed" }).to_string();
    let now = Utc::now().timestamp();
    let time = now.to_string();
    let good = sign(&app.sandbox.config().webhook_secret, "evt", now, body.as_bytes());
    for second in [(ID_HEADER, "evt"), (ID_HEADER, "evt2"), (TIMESTAMP_HEADER, time.as_str())] {
        for is_first in [true, false] {
            let mut headers = vec![
                (ID_HEADER, "evt"),
                (TIMESTAMP_HEADER, time.as_str()),
                (SIGNATURE_HEADER, good.as_str()),
                ("content-type", "application/json"),
            ];
            headers.insert(if is_first { 0 } else { 4 }, second);
            let answer = app.anonymous().send(Method::POST, PATH, &headers, body.clone()).await;
            let problem = answer.expect_problem(400);
            assert!(problem["detail"].as_str().unwrap().contains(second.0), "{problem}");
        }
    }
    assert_eq!(contents(&app.pool).await, before);
    assert_eq!(post(&app, "evt", &time, &good, &body).await.expect(200)["outcome"], "settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_signatures_than_a_sender_has_secrets_are_401() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let body = json!({ "id": id, "status": "completed" }).to_string();
    let now = Utc::now().timestamp();
    let (time, secret) = (now.to_string(), &app.sandbox.config().webhook_secret);
    let good = sign(secret, "evt", now, body.as_bytes());
    let beyond = format!("{}{good}", "v1,AAAA ".repeat(16));
    let problem = post(&app, "evt", &time, &beyond, &body).await;
    assert!(problem.expect_problem(401)["detail"].as_str().unwrap().contains("more than 16"));
    // Entries that hold nothing are no signatures.
    let empty = format!("{}{good}", "v1, ".repeat(5_000));
    assert_eq!(post(&app, "evt", &time, &empty, &body).await.expect(200)["outcome"], "settled");
}

/// Secrets are handed over by people: with the padding cut off, or in the alphabet of URLs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_without_padding_or_in_the_alphabet_of_urls_is_the_same_secret() {
    let world = World::new().await;
    // 32 bytes whose base64 has padding and both characters in which the alphabets differ.
    let written = "whsec_+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/8=";
    let secret: Secret = written.parse().unwrap();
    let bare = written.trim_end_matches('=').to_owned();
    let url_safe = written.replace('+', "-").replace('/', "_");
    let bare_url_safe = bare.replace('+', "-").replace('/', "_");
    for given in [written.to_owned(), bare, url_safe, bare_url_safe] {
        let app = world
            .app()
            .role(Role::Api)
            .set("QUARTET_WEBHOOK__SECRETS", &given)
            .set("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", &given)
            .spawn()
            .await;
        let id = app.client().accept().await;
        let webhook = SendWebhook::new(id, "completed").secret(secret.clone());
        let (status, body) = app.send_webhook(webhook).await;
        assert_eq!((status, &body["outcome"]), (200, &json!("settled")), "{given}");
    }
}
