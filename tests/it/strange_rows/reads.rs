//! Everything that can be read is read: no answer is a server error, and each list has its rows.

use std::collections::HashSet;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::BOUND;
use crate::{
    console::visitor::{Page, Visitor},
    support::{Answer, Client, TestApp, wait_for},
};

/// The views that operators query.
const VIEWS: [&str; 10] = [
    "actions",
    "circuit",
    "dead_letters",
    "evidence",
    "findings",
    "floors",
    "jobs",
    "queues",
    "rejected_webhooks",
    "transactions",
];
/// Entries of a page: few, so that lists have many pages.
const PAGE: usize = 40;

/// An answer that is no 503: on a machine that is busy with other tests a read may take too long.
async fn patiently<T>(what: &str, ask: impl AsyncFn() -> T, status: impl Fn(&T) -> u16) -> T {
    wait_for(what, BOUND, async || {
        let answer = ask().await;
        (status(&answer) != 503).then_some(answer)
    })
    .await
}

async fn get(client: &Client, path: &str) -> Answer {
    patiently(path, async || client.get(path).await, |answer| answer.status).await
}

async fn visit(visitor: &Visitor, path: &str) -> Page {
    patiently(path, async || visitor.get(path).await, |page| page.status).await
}

/// The `id`s of all pages of a list, each of which is there once.
async fn all_ids(client: &Client, path: &str, query: &str, id: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = get(client, &format!("{path}?{query}&limit={PAGE}{cursor}")).await;
        for item in answer.expect(200)["items"].as_array().unwrap() {
            ids.push(item[id].to_string());
        }
        let Some(next) = answer.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        assert!(ids.len() < 5_000, "{path}?{query} goes round in circles");
    }
    let distinct: HashSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{path}?{query} has a row twice");
    ids
}

/// The lists of the API and the console, page by page. `own` are the default client's transactions,
/// `all` everybody's.
pub async fn lists(app: &TestApp, own: &[Uuid], all: &[Uuid]) {
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let quoted = |ids: &[Uuid]| sorted(ids.iter().map(|id| format!("\"{id}\"")).collect());
    let mine = all_ids(&app.client(), "/v1/transactions", "", "id").await;
    assert_eq!(sorted(mine), quoted(own), "the client's list");

    let operator = app.operator();
    let everybody = all_ids(&operator, "/v1/operator/transactions", "", "id").await;
    assert_eq!(sorted(everybody), quoted(all), "the operator's list");
    for state in ["", "due", "scheduled", "running", "done", "failed", "cancelled"] {
        let query = if state.is_empty() { String::new() } else { format!("state={state}") };
        all_ids(&operator, "/v1/operator/jobs", &query, "id").await;
    }
    for query in ["state=open", "kind=poison", ""] {
        all_ids(&operator, "/v1/operator/dead-letters", query, "id").await;
    }
    all_ids(&operator, "/v1/operator/actions", "", "id").await;
    all_ids(&operator, "/v1/operator/reconciliation", "", "transaction_id").await;
    all_ids(&operator, "/v1/operator/rejected-webhooks", "", "reason").await;
    for path in ["queues", "maintenance", "circuit"] {
        get(&operator, &format!("/v1/operator/{path}")).await.expect(200);
    }
    get(&operator, "/metrics").await.expect(200);
    for view in VIEWS {
        // Every column of every row: a plain count would compute none.
        let read = format!("SELECT count(to_jsonb(seen)) FROM operator.{view} AS seen");
        let read = sqlx::query_scalar::<_, i64>(AssertSqlSafe(read)).fetch_one(&app.pool).await;
        read.unwrap_or_else(|error| panic!("operator.{view}: {error}"));
    }
    let visitor = Visitor::signed_in(app).await;
    let pages = ["/transactions", "/dead-letters?state=any", "/jobs", "/queues", "/audit"];
    for path in pages.into_iter().chain(["", "/rejected-webhooks"]) {
        visit(&visitor, &format!("/console{path}")).await.expect(200);
    }
}

/// Everything about one transaction. `is_own`: it is the default client's.
pub async fn transaction(app: &TestApp, visitor: &Visitor, id: Uuid, is_own: bool) {
    let status = if is_own { 200 } else { 404 };
    get(&app.client(), &format!("/v1/transactions/{id}")).await.expect(status);
    get(&app.client(), &format!("/v1/transactions/{id}/events")).await.expect(status);
    let operator = app.operator();
    let path = format!("/v1/operator/transactions/{id}/explain");
    get(&operator, &path).await.expect(200);
    visit(visitor, &format!("/console/transactions/{id}")).await.expect(200);
    let jobs = get(&operator, &format!("/v1/operator/jobs?transaction_id={id}")).await;
    for job in jobs.expect(200)["items"].as_array().unwrap() {
        let path = format!("/v1/operator/jobs/{}", in_path(&job["id"]));
        // Longer ones cannot be sent, and an empty one is no path.
        if path.len() < MAX_PATH && job["id"] != "" {
            get(&operator, &path).await.expect(200);
        }
    }
    let letters = get(&operator, &format!("/v1/operator/dead-letters?transaction_id={id}")).await;
    for letter in letters.expect(200)["items"].as_array().unwrap() {
        let path = format!("dead-letters/{}", in_path(&letter["id"]));
        get(&operator, &format!("/v1/operator/{path}")).await.expect(200);
        visit(visitor, &format!("/console/{path}")).await.expect(200);
    }
}

/// The limit of a request's line and headers, less some for the headers.
const MAX_PATH: usize = 30_000;

/// A text as a segment of a path.
fn in_path(text: &Value) -> String {
    let bytes = text.as_str().unwrap().bytes();
    bytes.map(|byte| format!("%{byte:02X}")).collect()
}
