//! Signed webhooks whose bodies are wrong: 400, 413, 415, 422, and nothing written.

use quartet::sandbox::SendWebhook;
use serde_json::json;
use uuid::Uuid;

use crate::support::{contents, spawn_api};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_body_is_refused_and_can_be_corrected_under_the_same_id() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let before = contents(&app.pool).await;
    let webhook = || SendWebhook::new(id, "completed").webhook_id("evt");
    let fields = [
        (json!({}), vec!["/id", "/status"]),
        (json!({ "id": id }), vec!["/status"]),
        (json!({ "status": "completed" }), vec!["/id"]),
        (json!({ "id": "1", "status": "completed" }), vec!["/id"]),
        (json!({ "id": format!("{id}0"), "status": "completed" }), vec!["/id"]),
        (json!({ "id": "", "status": "completed" }), vec!["/id"]),
        (json!({ "id": id, "status": "failed" }), vec!["/status"]),
        (json!({ "id": id, "status": "" }), vec!["/status"]),
        (json!({ "id": id, "status": null }), vec!["/status"]),
        (json!({ "id": id, "status": ["completed"] }), vec!["/status"]),
    ];
    for (body, pointers) in fields {
        let (status, problem) = app.send_webhook(webhook().json(&body)).await;
        assert_eq!(status, 422, "{body}: {problem}");
        let named: Vec<_> =
            problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
        assert_eq!(named, pointers, "{body}");
    }
    let texts = [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        format!(r#"{{"id":"{id}","id":"{id}","status":"completed"}}"#),
        format!(r#"{{"id":"{id}","status":"completed"}} x"#),
    ];
    for text in texts {
        let (status, problem) = app.send_webhook(webhook().body(text.clone())).await;
        assert_eq!(status, 400, "{text}: {problem}");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
        let (status, problem) = app.send_webhook(webhook().content_type(content_type)).await;
        assert_eq!(status, 415, "{content_type}: {problem}");
    }
    assert_eq!(contents(&app.pool).await, before);
    let (status, body) = app.send_webhook(webhook()).await;
    assert_eq!((status, body), (200, json!({ "outcome": "settled", "duplicate": false })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_are_ignored() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let body = json!({
        "id": id.to_string().to_uppercase(), "status": "completed", "amount": "12",
        "nested": { "a": [null] }, "webhookUrl": "http://example.com",
    });
    let (status, answer) = app.send_webhook(SendWebhook::new(id, "x").json(&body)).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("settled")));
    // An id is compared as a uuid, not as text.
    for text in [id.simple().to_string(), format!(" {id}\n"), id.braced().to_string()] {
        let body = json!({ "id": text, "status": "completed" });
        let (status, answer) = app.send_webhook(SendWebhook::new(id, "x").json(&body)).await;
        assert_eq!((status, &answer["outcome"]), (200, &json!("unchanged")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_413() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let padded = |length: usize| {
        let body = json!({ "id": id, "status": "completed" }).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    let over = SendWebhook::new(id, "completed").body(padded(64 * 1024 + 1));
    assert_eq!(app.send_webhook(over).await.0, 413);
    let full = SendWebhook::new(id, "completed").body(padded(64 * 1024));
    assert_eq!(app.send_webhook(full).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_id_has_at_most_255_characters() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let with_id = |length| SendWebhook::new(id, "completed").webhook_id("x".repeat(length));
    let (status, problem) = app.send_webhook(with_id(256)).await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (422, &json!("webhook-id")));
    let (status, body) = app.send_webhook(with_id(255)).await;
    assert_eq!((status, &body["outcome"]), (200, &json!("unknown_transaction")));
}
