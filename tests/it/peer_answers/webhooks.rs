//! Webhooks as third parties write them. Their signature is over the bytes as they are.

use quartet::sandbox::SendWebhook;
use serde_json::json;

use crate::support::spawn_api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_settles_whatever_its_other_fields_and_marks_are() {
    let app = spawn_api().await;
    let bodies: [fn(String) -> Vec<u8>; 6] = [
        |id| format!(r#"{{"id":"{id}","status":"completed","message":"paid \ud83d"}}"#).into(),
        |id| format!("\u{feff}{{\"id\":\"{id}\",\"status\":\"completed\"}}").into(),
        |id| format!(r#"{{"id":"{id}","status":" COMPLETED "}}"#).into(),
        |id| format!(r#"{{"a":NaN,"id":"{id}","status":"completed","b":1,"b":2}}"#).into(),
        |id| {
            let body = format!("\u{feff}{{\"id\":\"{id}\",\"status\":\"completed\"}}");
            body.encode_utf16().flat_map(u16::to_be_bytes).collect()
        },
        |id| {
            let mut body = format!(r#"{{"id":"{id}","status":"completed","n":""#).into_bytes();
            body.extend(b"\xe9\"}");
            body
        },
    ];
    for body in bodies {
        let id = app.client().accept().await;
        let body = body(id.to_string());
        let text = String::from_utf8_lossy(&body).into_owned();
        let answer = app.send_webhook(SendWebhook::new(id, "x").body(body)).await;
        let settled = json!({ "outcome": "settled", "duplicate": false });
        assert_eq!(answer, (200, settled), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_whose_used_fields_are_unclear_is_refused() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    for (body, status) in [
        (format!(r#"{{"id":"{id}","status":"completed","status":"declined"}}"#), 400),
        (format!(r#"{{"id":"{id}","status":"completed"}}{{}}"#), 400),
        (format!(r#"{{"id":"{id}","status":"complet\ud83d"}}"#), 422),
        (format!(r#"{{"id":"{id}","status":"paid"}}"#), 422),
    ] {
        let answer = app.send_webhook(SendWebhook::new(id, "x").body(body.clone())).await;
        assert_eq!(answer.0, status, "{body}: {}", answer.1);
    }
    assert_eq!(app.client().get_transaction(id).await.body["status"], "pending");
}
