//! `GET /v1/transactions/{id}/events`: the evidence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use quartet::sandbox::SendWebhook;
use serde_json::json;

use crate::support::{spawn_api, spawn_app};

const BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_transaction_events_shows_what_happened_oldest_first() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let webhook = SendWebhook::new(id, "completed").webhook_id("evt_1");
    app.send_webhook(webhook).await;
    let answer = app.client().list_events(id).await;
    let events = answer.expect(200)["items"].as_array().unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| json!([event["kind"], event["source"], event["detail"]]))
        .collect();
    assert_eq!(
        seen,
        [
            json!(["accepted", "api", {}]),
            json!(["webhook", "webhook", {
                "webhook_id": "evt_1", "status": "completed", "outcome": "settled"
            }]),
            json!(["settled", "webhook", {
                "status": "completed", "version": 2, "settled_by": "webhook"
            }]),
        ]
    );
    assert!(events.is_sorted_by_key(|event| event["id"].as_i64().unwrap()));
    for event in events {
        assert!(event["at"].as_str().unwrap().parse::<DateTime<Utc>>().is_ok(), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_evidence_tells_the_whole_life() {
    let app = spawn_app().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.first().map(String::as_str), Some("accepted"));
    assert_eq!(kinds.last().map(String::as_str), Some("client_notified"));
    for kind in ["created_at_third_party", "settled"] {
        assert_eq!(kinds.iter().filter(|seen| *seen == kind).count(), 1, "{kind} in {kinds:?}");
    }
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[id]).await;
}
