//! The vectors, and profiles made of their parameters.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;

/// Where a webhook arrives if nothing else is said.
pub const URL: &str = "https://quartet.example/v1/webhooks/third-party";

#[derive(Deserialize)]
struct VectorFile {
    schemes: Map<String, Value>,
    vectors: Vec<Vector>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Vector {
    pub id: String,
    pub scheme: String,
    pub secrets: Vec<String>,
    pub method: String,
    pub url: Option<String>,
    pub headers: std::collections::BTreeMap<String, String>,
    pub body: String,
    pub now: i64,
    pub valid: bool,
    pub reason: Option<String>,
}

static FILE: LazyLock<VectorFile> = LazyLock::new(|| {
    let text = include_str!("../../../../tests/provider_webhooks/vectors.json");
    serde_json::from_str(text).unwrap()
});

pub fn vectors() -> &'static [Vector] {
    &FILE.vectors
}

pub fn vector(id: &str) -> &'static Vector {
    FILE.vectors.iter().find(|vector| vector.id == id).unwrap_or_else(|| panic!("no vector {id}"))
}

/// The signature section that the parameters of a scheme are.
pub fn signature_section(scheme: &str) -> Value {
    let mut section = FILE.schemes[scheme].as_object().unwrap().clone();
    for key in ["provider", "event_id", "note"] {
        section.remove(key);
    }
    if let Some(timestamp) = section.get_mut("timestamp").and_then(Value::as_object_mut) {
        let seconds = timestamp.remove("tolerance_s").unwrap();
        timestamp.insert("tolerance".to_owned(), json!(format!("{seconds}s")));
    }
    match scheme {
        "adyen-items" => json!({ "adapter": scheme }),
        "paypal" => json!({ "adapter": scheme, "webhook_id": section["webhook_id"] }),
        "rfc9421" => json!({
            "adapter": scheme,
            "cover": section["covered_components_required"],
            "algorithms": section["algorithms"],
        }),
        _ => section.into(),
    }
}

/// The webhooks of a scheme, as hints.
pub fn profile(scheme: &str) -> WebhookProfile {
    let mut section = json!({ "signature": signature_section(scheme) });
    if scheme != "adyen-items" {
        section["id"] = json!("/data/reference");
    }
    serde_json::from_value(section).unwrap()
}

pub fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

/// What is known of a section of a profile.
pub fn receiver(toml: &str) -> Receiver {
    let profile: WebhookProfile = toml::from_str(toml).unwrap();
    profile.receiver(&Vars::new()).unwrap()
}

pub fn keys<'a>(receiver: &Receiver, secrets: impl IntoIterator<Item = &'a str>) -> Keys {
    let mut keys = Keys::default();
    for secret in secrets {
        keys.add(None, receiver.read_key(secret).unwrap());
    }
    keys
}

/// A webhook by `POST` to [`URL`].
pub fn post<'a>(headers: &'a [(&'a str, &'a [u8])], body: &'a [u8]) -> Incoming<'a> {
    Incoming { method: "POST", url: URL, headers: Headers(headers), body }
}

impl Vector {
    pub fn receiver(&self) -> Receiver {
        let mut profile = profile(&self.scheme);
        if self.id == "paypal/other_webhook_id" {
            profile.signature.webhook_id = Some("0XX00000XX000000X".to_owned());
        }
        profile.receiver(&Vars::new()).unwrap()
    }

    pub fn keys(&self, receiver: &Receiver) -> Keys {
        keys(receiver, self.secrets.iter().map(String::as_str))
    }

    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("{} has no {name}", self.id)).1
    }

    pub fn lines(&self) -> Vec<(&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    pub fn verify(&self, receiver: &Receiver, keys: &Keys) -> Result<Vec<Event>, Rejection> {
        let lines = self.lines();
        let url = self.url.as_deref().unwrap_or(URL);
        let (method, headers, body) = (&self.method, Headers(&lines), self.body.as_bytes());
        receiver.verify(&Incoming { method, url, headers, body }, keys, time(self.now))
    }
}
