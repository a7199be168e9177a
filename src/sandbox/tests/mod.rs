//! The sandbox over HTTP, as its users see it: what the tests share, and those of the whole.

mod providers;
mod third_party;
mod webhooks;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use chrono::Utc;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Route, listener::TcpAcceptor};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use uuid::Uuid;

use super::*;
use crate::signature::{
    ID_HEADER, SIGNATURE_HEADER, Secret, SignedHeaders, TIMESTAMP_HEADER, sign, verify,
};

const BOUND: Duration = Duration::from_secs(10);
const HOOK: &str = "http://127.0.0.1:9/hook";

async fn start(profile: Profile, speed: f64) -> Sandbox {
    Sandbox::start(SandboxConfig { profile, speed, ..SandboxConfig::default() }).await.unwrap()
}

async fn faultless() -> Sandbox {
    start(Profile { webhook_rate: 0.0, ..Profile::faultless() }, 1.0).await
}

/// Polls a condition until it holds.
async fn until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(BOUND, poll).await.expect("the condition holds within the bound");
}

struct Caller {
    http: reqwest::Client,
    base: String,
}

impl Caller {
    fn new(sandbox: &Sandbox) -> Self {
        Self { http: webhook::http_client().unwrap(), base: sandbox.base_url() }
    }

    fn post(&self, id: Uuid, url: &str) -> reqwest::RequestBuilder {
        let body = json!({ "id": id, "webhookUrl": url, "amount": 5, "currency": "EUR" });
        self.http.post(format!("{}/transaction", self.base)).json(&body)
    }

    async fn create(&self, id: Uuid) -> (u16, Value) {
        answer(self.post(id, HOOK)).await.unwrap()
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    async fn lookup(&self, id: Uuid) -> (u16, Value) {
        answer(self.get(&format!("/transaction/{id}"))).await.unwrap()
    }

    fn callback(&self, secret: &Secret, id: Uuid, version: i64, status: &str) -> Put {
        let occurred_at = Utc::now();
        let body =
            json!({ "id": id, "status": status, "version": version, "occurred_at": occurred_at });
        let (body, webhook_id) = (body.to_string(), format!("{id}_{version}"));
        let now = Utc::now().timestamp();
        let signature = sign(secret, &webhook_id, now, body.as_bytes());
        let request = self.http.put(format!("{}/callback/shop", self.base)).body(body);
        Put(request
            .header(ID_HEADER, webhook_id)
            .header(TIMESTAMP_HEADER, now)
            .header(SIGNATURE_HEADER, signature))
    }
}

struct Put(reqwest::RequestBuilder);

impl Put {
    async fn code(self) -> u16 {
        self.0.send().await.unwrap().status().as_u16()
    }
}

async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<(u16, Value)> {
    let response = request.send().await?;
    let code = response.status().as_u16();
    Ok((code, serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null)))
}

#[tokio::test]
async fn hang_never_answers_and_does_not_hold_up_a_stop() {
    let sandbox = faultless().await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let id = Uuid::now_v7();
    third_party.script_creates(vec![CreateStep::hang(Some(Status::Completed))]);
    third_party.script_lookups(vec![LookupStep::hang()]);
    let error = caller.post(id, HOOK).timeout(Duration::from_millis(100)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(third_party.status_of(id), Some(Status::Completed));

    let hanging = tokio::spawn(answer(caller.get(&format!("/transaction/{id}"))));
    until(|| third_party.lookups_of(id) == 1).await;
    tokio::time::timeout(BOUND, sandbox.stop()).await.expect("stop does not wait for hung calls");
    assert!(hanging.await.unwrap().is_err());
    assert!(caller.get("/healthz").send().await.is_err());
}

#[tokio::test]
async fn the_client_verifies_signatures_and_keeps_deliveries() {
    let sandbox = faultless().await;
    let (caller, client) = (Caller::new(&sandbox), sandbox.client());
    let secret = sandbox.config().client_secret.clone();
    let id = Uuid::now_v7();
    assert_eq!(caller.callback(&secret, id, 1, "pending").code().await, 204);
    assert_eq!(caller.callback(&Secret::generate(), id, 2, "failed").code().await, 401);
    client.script(vec![Reaction::retry_after(503, 3)]);
    client.script_for(id, vec![Reaction::status_code(410), Reaction::Reset]);
    assert_eq!(caller.callback(&secret, id, 2, "failed").code().await, 410);
    assert!(caller.callback(&secret, id, 2, "failed").0.send().await.is_err());
    let refused = caller.callback(&secret, id, 2, "failed").0.send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"] == "3"), (503, true));
    assert_eq!(client.last_acknowledged(id).unwrap().version, 1);
    assert_eq!(client.stats().ids_notified_finally, 0);

    assert_eq!(caller.callback(&secret, id, 2, "failed").code().await, 204);
    let last = client.last_acknowledged(id).unwrap();
    assert_eq!((last.version, last.status.as_str()), (2, "failed"));
    assert_eq!((last.webhook_id, last.path.as_str()), (format!("{id}_2"), "/callback/shop"));
    let answers: Vec<_> = client.deliveries_of(id).iter().map(|one| one.answered_status).collect();
    assert_eq!(answers, [Some(204), Some(401), Some(410), None, Some(503), Some(204)]);
    assert!(!client.deliveries()[1].signature_valid);

    client.set_clock_skew_seconds(-400);
    assert_eq!(caller.callback(&secret, id, 2, "failed").code().await, 401);
    client.set_clock_skew_seconds(0);
    assert!(client.regressions().is_empty());
    assert_eq!(caller.callback(&secret, id, 1, "pending").code().await, 204);
    assert_eq!(client.regressions(), [id]);
    let stats = client.stats();
    assert_eq!((stats.callbacks_received, stats.acknowledged, stats.refused), (8, 3, 4));
    assert_eq!((stats.signature_failures, stats.version_regressions), (2, 1));
    assert_eq!((stats.ids_notified, stats.ids_notified_finally), (1, 1));

    assert_eq!(client.last_versions()[&id], [1]);
    client.forget_versions();
    assert_eq!(client.last_versions()[&id], [1, 2, 1], "a backup may be as old as any of them");
    assert_eq!(caller.callback(&secret, id, 2, "failed").code().await, 204);
    assert_eq!(client.last_versions()[&id], [2]);
}

#[tokio::test]
async fn stats_and_health_are_served_and_bad_calls_are_counted() {
    let sandbox = faultless().await;
    let caller = Caller::new(&sandbox);
    assert_eq!(answer(caller.get("/healthz")).await.unwrap(), (200, json!({ "status": "ok" })));
    for body in [json!({}), json!({ "id": Uuid::nil(), "webhookUrl": HOOK, "surprise": 1 })] {
        let post = caller.http.post(format!("{}/transaction", caller.base)).json(&body);
        assert_eq!(answer(post).await.unwrap().0, 400);
    }
    let (code, stats) = answer(caller.get("/stats")).await.unwrap();
    assert_eq!(code, 200);
    assert_eq!(stats["third_party"]["creates_malformed"], 2);
    assert_eq!(stats["client"]["callbacks_received"], 0);
}

#[tokio::test]
async fn a_taken_port_is_reported_and_a_stopped_one_is_free_again() {
    let sandbox = faultless().await;
    let listen: SocketAddr = sandbox.address();
    let config = || SandboxConfig { listen, ..SandboxConfig::default() };
    assert!(matches!(Sandbox::start(config()).await, Err(SandboxError::Listen { .. })));
    let began = Instant::now();
    sandbox.stop().await;
    assert!(began.elapsed() < BOUND);
    assert_eq!(Sandbox::start(config()).await.unwrap().address(), listen);
}
