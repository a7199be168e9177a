//! The operators' side, over HTTP, on the command line and in SQL.

mod audit;
mod audit_coverage;
mod bulk_replay;
mod commands;
mod dead_letters;
mod explain;
mod jobs;
mod maintenance;
mod output;
mod queues;
mod speed;
mod transactions;
mod views;

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, TestApp};

pub const BOUND: Duration = Duration::from_secs(15);

/// Calls as the operator with a name.
pub async fn post_as(app: &TestApp, name: &str, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("operator-name", name)];
    app.operator().send(reqwest::Method::POST, path, &headers, body.to_string()).await
}

/// What the audit says, newest first, without ids and times.
pub async fn audit(app: &TestApp) -> Vec<Value> {
    let answer = app.operator().get("/v1/operator/actions?limit=200").await;
    let items = answer.expect(200)["items"].as_array().unwrap();
    let fields =
        ["operator", "action", "transaction_id", "dead_letter_id", "job_id", "queue", "note"];
    items
        .iter()
        .map(|item| {
            let known = fields.iter().filter(|field| !item[**field].is_null());
            Value::Object(known.map(|field| ((*field).to_owned(), item[*field].clone())).collect())
        })
        .collect()
}

/// The one of a transaction's jobs, as the API shows it.
pub async fn job(app: &TestApp, id: Uuid, queue: &str) -> Value {
    let path = format!("/v1/operator/jobs?transaction_id={id}&queue={queue}");
    let answer = app.operator().get(&path).await;
    let items = answer.expect(200)["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{}", answer.text);
    items[0].clone()
}

/// An empty JSON body.
pub fn nothing() -> Value {
    json!({})
}
