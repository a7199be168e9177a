//! The webhooks of a simulated third party: when a payment ends, and how they are signed.

use std::sync::atomic::Ordering;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use ring::{digest, hmac};
use url::Url;
use uuid::Uuid;

use super::{Notice, Running, Signing, credentials::Credentials};
use crate::sandbox::{
    Shared, Status, profile::Settlement, third_party::FOLLOW_UP_AFTER, webhook::RETRY_PAUSE,
};

/// Makes a payment final when it is time, and reports it as its fate says.
pub(super) async fn settle(shared: &Shared, id: String, settlement: Settlement) {
    let Some(running) = &shared.provider else { return };
    tokio::time::sleep(shared.scaled(settlement.after)).await;
    running.books().settle(&id, settlement.status);
    shared.ledger().stats.settled += 1;
    let named = running.books().find(&id).and_then(|payment| payment.order.webhook_url.clone());
    let (Some(fate), Some(url)) = (settlement.webhook, named.or_else(|| running.webhook_url()))
    else {
        shared.ledger().stats.webhooks_lost += 1;
        return;
    };
    tokio::time::sleep(shared.scaled(fate.late_by)).await;
    let event = Event { id: &id, status: settlement.status, url: &url, is_bad: fate.bad_signature };
    let event_id = Uuid::now_v7().simple().to_string();
    send(shared, running, &event, &event_id).await;
    if fate.duplicate {
        tokio::time::sleep(shared.scaled(FOLLOW_UP_AFTER)).await;
        send(shared, running, &event, &event_id).await;
    }
    if fate.out_of_order {
        tokio::time::sleep(shared.scaled(FOLLOW_UP_AFTER)).await;
        let event = Event { status: Status::Pending, ..event };
        send(shared, running, &event, &Uuid::now_v7().simple().to_string()).await;
    }
}

struct Event<'a> {
    id: &'a str,
    status: Status,
    url: &'a str,
    /// Signed with a key that nobody knows.
    is_bad: bool,
}

async fn send(shared: &Shared, running: &Running, event: &Event<'_>, event_id: &str) {
    let word = running.provider.word(event.status);
    let notice = running
        .books()
        .find(event.id)
        .map(|payment| (running.provider.webhook)(payment, word, event_id));
    let Some(notice) = notice else { return };
    let mut pause = RETRY_PAUSE;
    for attempt in 0..=shared.config.webhook_retries {
        if attempt > 0 {
            tokio::time::sleep(shared.scaled(pause)).await;
            pause = pause.saturating_mul(2);
        }
        if send_once(shared, running, event, &notice).await {
            return;
        }
    }
}

/// Whether it was accepted.
async fn send_once(shared: &Shared, running: &Running, event: &Event<'_>, notice: &Notice) -> bool {
    // The semaphore is never closed; if it were, sending would merely not be bounded.
    let _slot = shared.webhook_slots.acquire().await.ok();
    let skew = shared.third_party_skew_seconds.load(Ordering::Relaxed);
    let now = Utc::now() + TimeDelta::seconds(skew);
    let other;
    let credentials = match event.is_bad {
        true => {
            other = Credentials::new(None, Uuid::new_v4().to_string());
            &other
        }
        false => &running.credentials,
    };
    let method = Method::from_bytes(notice.method.as_bytes()).unwrap_or(Method::POST);
    let headers = running.provider.signing.headers(credentials, notice, event.url, now);
    let mut request = shared
        .http
        .request(method, event.url)
        .header("content-type", notice.content_type)
        .body(notice.body.clone());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = request.send().await;
    let code = answer.as_ref().ok().map(|response| response.status().as_u16());
    let is_accepted = shared.ledger().webhook_sent(code);
    if !is_accepted {
        tracing::debug!(id = event.id, ?answer, "webhook was not accepted");
    }
    is_accepted
}

impl Signing {
    /// The headers that prove a webhook.
    fn headers(
        &self,
        credentials: &Credentials,
        notice: &Notice,
        url: &str,
        now: DateTime<Utc>,
    ) -> Vec<(&'static str, String)> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Hmac { header, algorithm, is_api_key } => {
                let secret =
                    if *is_api_key { &credentials.api_key } else { &credentials.webhook_secret };
                let key = hmac::Key::new(*algorithm, secret.as_bytes());
                vec![(header, hex::encode(hmac::sign(&key, notice.body.as_bytes())))]
            }
            Self::TimeAndBody { header } => {
                let time = now.timestamp();
                let signed = format!("{time}.{}", notice.body);
                let secret = credentials.webhook_secret.as_bytes();
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
                vec![(header, format!("t={time},v1={}", hex::encode(tag)))]
            }
            Self::MessageSignature => message_signature(credentials, notice, url, now),
        }
    }
}

/// RFC 9421, with the components that pawaPay signs.
fn message_signature(
    credentials: &Credentials,
    notice: &Notice,
    url: &str,
    now: DateTime<Utc>,
) -> Vec<(&'static str, String)> {
    let Ok(url) = Url::parse(url) else { return Vec::new() };
    let digest = digest::digest(&digest::SHA512, notice.body.as_bytes());
    let digest = format!("sha-512=:{}:", BASE64_STANDARD.encode(digest));
    let date = now.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let components = [
        ("@method", notice.method),
        ("@authority", url.authority()),
        ("@path", url.path()),
        ("signature-date", &date),
        ("content-digest", &digest),
        ("content-type", notice.content_type),
    ];
    let names = components.map(|(name, _)| format!("\"{name}\"")).join(" ");
    let (created, expires) = (now.timestamp(), now.timestamp() + 60);
    let parameters = format!(
        "({names});alg=\"ecdsa-p256-sha256\";keyid=\"HTTP_EC_P256_KEY:1\";created={created};\
         expires={expires}"
    );
    let lines = components.map(|(name, value)| format!("\"{name}\": {value}\n")).concat();
    let base = format!("{lines}\"@signature-params\": {parameters}");
    let signature = BASE64_STANDARD.encode(credentials.sign_with_key(&base));
    vec![
        ("signature-date", date),
        ("content-digest", digest),
        ("signature-input", format!("sig-pp={parameters}")),
        ("signature", format!("sig-pp=:{signature}:")),
    ]
}
