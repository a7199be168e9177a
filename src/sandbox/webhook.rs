//! Webhooks of the simulated third party: signing and sending them, right or wrong.
//!
//! Each event has its own `webhook-id`; a repeat carries the same one. The body is serialised once
//! and those bytes are signed and sent. Nothing is repeated unless the sandbox is configured with
//! retries, so a receiver that is down has missed the event.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::Utc;
use poem::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Shared, Status, error::SandboxError};
use crate::signature::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER, sign};

/// Pause before a webhook's first repeat, doubled for each further one.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Webhooks under way at the same time: bounds the open sockets of a large run.
pub(super) const MAX_IN_FLIGHT: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);

/// The client all webhooks are sent with.
pub(super) fn http_client() -> Result<reqwest::Client, SandboxError> {
    // reqwest is built without a TLS provider; a second installation is refused, which is fine.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(SandboxError::HttpClient)
}

/// A webhook to send now, and what is wrong with it. Without further settings it is a good one.
#[derive(Clone, Debug)]
pub struct SendWebhook {
    id: Uuid,
    status: String,
    url: Option<String>,
    webhook_id: Option<String>,
    secret: Option<Secret>,
    timestamp_offset_seconds: i64,
    tampered: bool,
    body: Option<Vec<u8>>,
    without_headers: Vec<String>,
    content_type: String,
}

impl SendWebhook {
    /// `{id, status}` to the `webhookUrl` of the id's last create, under a new `webhook-id`. The
    /// status is free text, so that unknown ones can be sent.
    pub fn new(id: Uuid, status: impl ToString) -> Self {
        Self {
            id,
            status: status.to_string(),
            url: None,
            webhook_id: None,
            secret: None,
            timestamp_offset_seconds: 0,
            tampered: false,
            body: None,
            without_headers: Vec::new(),
            content_type: "application/json".to_owned(),
        }
    }

    /// Sends there instead; needed where no create was received.
    pub fn url(self, url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..self }
    }

    /// Uses this `webhook-id`; the same one again makes a duplicate.
    pub fn webhook_id(self, webhook_id: impl Into<String>) -> Self {
        Self { webhook_id: Some(webhook_id.into()), ..self }
    }

    /// Signs with this secret instead of the sandbox's.
    pub fn secret(self, secret: Secret) -> Self {
        Self { secret: Some(secret), ..self }
    }

    /// Signs with a secret nobody knows.
    pub fn bad_signature(self) -> Self {
        self.secret(Secret::generate())
    }

    /// Moves `webhook-timestamp`; negative is the past. The signature covers the moved time.
    pub fn timestamp_offset_seconds(self, seconds: i64) -> Self {
        Self { timestamp_offset_seconds: seconds, ..self }
    }

    /// Appends a space to the body after signing it.
    pub fn tampered(self) -> Self {
        Self { tampered: true, ..self }
    }

    /// Sends these bytes instead of `{id, status}`, signed.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..self }
    }

    /// Sends this JSON instead of `{id, status}`, signed.
    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// Leaves out a header, such as `webhook-signature`.
    pub fn without_header(mut self, name: impl Into<String>) -> Self {
        self.without_headers.push(name.into());
        self
    }

    /// Sends another `content-type` than `application/json`.
    pub fn content_type(self, content_type: impl Into<String>) -> Self {
        Self { content_type: content_type.into(), ..self }
    }
}

/// A `webhook-id` that was never used before.
pub(super) fn new_webhook_id() -> String {
    format!("evt_{}", Uuid::now_v7().simple())
}

/// An event of the random profile: sent, counted, and repeated as the configuration says.
pub(super) async fn send_event(
    shared: &Shared,
    id: Uuid,
    status: Status,
    webhook_id: &str,
    bad_signature: bool,
) {
    let event = SendWebhook::new(id, status).webhook_id(webhook_id);
    let event = if bad_signature { event.bad_signature() } else { event };
    let mut pause = RETRY_PAUSE;
    for attempt in 0..=shared.config.webhook_retries {
        if attempt > 0 {
            tokio::time::sleep(shared.scaled(pause)).await;
            pause = pause.saturating_mul(2);
        }
        match send(shared, event.clone()).await {
            Ok((code, _)) if is_success(code) => return,
            Ok((code, _)) => tracing::debug!(%id, code, "webhook was not accepted"),
            Err(error) => tracing::debug!(%id, %error, "webhook failed"),
        }
    }
}

/// Sends one webhook; returns the answer's status code and body (`Null` where it is no JSON).
pub(super) async fn send(
    shared: &Shared,
    webhook: SendWebhook,
) -> Result<(u16, Value), SandboxError> {
    let known = |id| shared.ledger().request(id).map(|request| request.webhook_url.clone());
    let url = webhook.url.or_else(|| known(webhook.id)).ok_or(SandboxError::WebhookUrl)?;
    let id = webhook.webhook_id.unwrap_or_else(new_webhook_id);
    let secret = webhook.secret.as_ref().unwrap_or(&shared.config.webhook_secret);
    let mut body = webhook.body.unwrap_or_else(|| {
        json!({ "id": webhook.id, "status": webhook.status }).to_string().into_bytes()
    });

    // The semaphore is never closed; if it were, sending would merely not be bounded.
    let _slot = shared.webhook_slots.acquire().await.ok();
    let skew = shared.third_party_skew_seconds.load(Ordering::Relaxed);
    let skew = skew.saturating_add(webhook.timestamp_offset_seconds);
    let timestamp = Utc::now().timestamp().saturating_add(skew);
    let signature = sign(secret, &id, timestamp, &body);
    if webhook.tampered {
        body.push(b' ');
    }
    let headers = [
        (ID_HEADER, id),
        (TIMESTAMP_HEADER, timestamp.to_string()),
        (SIGNATURE_HEADER, signature),
        ("content-type", webhook.content_type),
    ];
    let mut request = shared.http.post(url).body(body);
    for (name, value) in headers {
        if !webhook.without_headers.iter().any(|left_out| left_out == name) {
            request = request.header(name, value);
        }
    }

    let answer = async {
        let response = request.send().await?;
        let code = response.status().as_u16();
        let body = response.bytes().await?;
        Ok((code, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    };
    let answer = answer.await.map_err(SandboxError::Webhook);
    shared.ledger().webhook_sent(answer.as_ref().ok().map(|(code, _)| *code));
    answer
}

pub(super) fn is_success(code: u16) -> bool {
    StatusCode::from_u16(code).is_ok_and(|code| code.is_success())
}
