//! A thin HTTP client for Quartet's API.

use std::{net::SocketAddr, time::Duration};

use quartet::http::problem::ProblemType;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Longer than `wait_seconds` may be.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Calls one app with one key, or none.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    key: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// `Null` where the body is no JSON.
    pub body: Value,
}

impl Answer {
    /// A header's text, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that it asks to come back within seconds, at a moment of its own.
    #[track_caller]
    pub fn expect_retry_after(&self) {
        let seconds = self.header("retry-after");
        assert!(["1", "2", "3"].contains(&seconds), "Retry-After: {seconds:?}");
    }

    /// Asserts the status and returns the body.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{}", self.text);
        &self.body
    }

    /// Asserts a well-formed `application/problem+json` of this status and returns it.
    #[track_caller]
    pub fn expect_problem(&self, status: u16) -> &Value {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let kind = problem["type"].as_str().unwrap_or_default();
        let types = ProblemType::ALL.map(ProblemType::uri);
        assert!(types.iter().any(|uri| uri == kind), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    /// The pointers and parameter names of a problem's `errors`.
    pub fn faults(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().map_or(&[][..], Vec::as_slice);
        errors
            .iter()
            .map(|error| error.get("pointer").or(error.get("parameter")).unwrap_or(&Value::Null))
            .map(|name| name.as_str().unwrap_or_default())
            .collect()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        // reqwest is built without a TLS provider; a second installation is refused, which is fine.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().unwrap();
        Self { http, base_url: format!("http://{address}"), key: None }
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    /// Sends anything; fails where there is no answer.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base_url)).body(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, body })
    }

    /// Sends anything.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// Posts bytes as JSON.
    pub async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let json = [(CONTENT_TYPE.as_str(), "application/json")];
        self.send(Method::POST, path, &json, body).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_raw(path, body.to_string()).await
    }

    pub async fn post_transaction(&self, body: &Value) -> Answer {
        self.post("/v1/transactions", body).await
    }

    /// Posts a new transaction and returns its id.
    pub async fn accept(&self) -> Uuid {
        let id = Uuid::now_v7();
        self.post_transaction(&transaction(id)).await.expect(202);
        id
    }

    pub async fn get_transaction(&self, id: Uuid) -> Answer {
        self.get(&format!("/v1/transactions/{id}")).await
    }

    /// Lists with this query, such as `status=pending&limit=2`.
    pub async fn list_transactions(&self, query: &str) -> Answer {
        self.get(&format!("/v1/transactions?{query}")).await
    }

    pub async fn list_events(&self, id: Uuid) -> Answer {
        self.get(&format!("/v1/transactions/{id}/events")).await
    }

    /// The kinds of a transaction's evidence, oldest first.
    pub async fn event_kinds(&self, id: Uuid) -> Vec<String> {
        let events = self.list_events(id).await;
        let items = events.expect(200)["items"].as_array().unwrap();
        items.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// Lists as an operator with this query, such as `state=open`.
    pub async fn list_dead_letters(&self, query: &str) -> Answer {
        self.get(&format!("/v1/operator/dead-letters?{query}")).await
    }

    /// The open dead letters about a transaction.
    pub async fn open_dead_letters(&self, id: Uuid) -> Vec<Value> {
        let list = self.list_dead_letters(&format!("state=open&transaction_id={id}")).await;
        list.expect(200)["items"].as_array().unwrap().clone()
    }

    /// Calls an action of a dead letter: `replay`, `resolve`, `discard`.
    pub async fn act_on_dead_letter(&self, id: &str, action: &str, body: &Value) -> Answer {
        self.post(&format!("/v1/operator/dead-letters/{id}/{action}"), body).await
    }
}

/// A complete transaction to post.
pub fn transaction(id: Uuid) -> Value {
    json!({
        "id": id, "amount": 1250, "currency": "EUR", "reference": "Invoice 2026-117",
        "metadata": { "order": "A-117", "shop": "7" },
    })
}
