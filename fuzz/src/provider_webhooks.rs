//! Webhooks of third parties, by their profiles.

use chrono::{DateTime, Utc};
use quartet::{
    profiles::webhook::{
        Event, Headers, Incoming, Keys, MAX_EVENTS, MAX_ID_CHARS, Receiver, Trust, Vars,
        WebhookProfile,
    },
    signature::{Secret, sign},
};
use serde_json::{Value, json};

const NOW: i64 = 1_767_225_600;
const SECRET: &str = "whsec_Pk1m7qorILlK7ddDV5jRGXy1dCa4DJWLgd0v9/9hdtg=";
const OTHER_SECRET: &str = "whsec_QvBRuQdFaNWaNjasH+nx+yiAgV5idpKGU7xAzWJrL84=";
const TOKEN: &str = "quartet_test_secret_current_0123456789abcdef";
const P256_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMS/DM/kyMZHELquC+SHq9HHhwcUh\
                        4Y1qs6mAFMpcv7dOBdmOnneqwVoR+33c55cNQ9sKzfSrj+vOg79ktYT9zg==";
const ADYEN_KEY: &str = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";

/// A profile for each byte that an input begins with: its section and its key.
fn profile(first: u8) -> (Value, &'static str) {
    let hmac = |more: Value| {
        let mut signature = json!({ "scheme": "hmac", "hash": "sha256", "encoding": "hex" });
        for (key, value) in more.as_object().into_iter().flatten() {
            signature[key] = value.clone();
        }
        json!({ "signature": signature, "trust": "settle", "id": "/id", "status": "/status" })
    };
    match first {
        b's' => {
            let timestamp = json!({ "from": "pair:t" });
            let section = hmac(json!({
                "header": "stripe-signature", "format": "pairs", "signature_key": "v1",
                "timestamp": timestamp, "signed": "{timestamp}.{body}",
            }));
            (section, TOKEN)
        }
        b'h' => {
            let timestamp = json!({ "from": "pair:t" });
            let mut section = hmac(json!({
                "header": "x-hook0-signature", "format": "pairs", "signature_key": "v1",
                "names_key": "h", "timestamp": timestamp,
                "signed": "{timestamp}.{signed_headers}.{body}",
            }));
            section["status"] = json!("header:x-event-type");
            (section, TOKEN)
        }
        b'g' => {
            let mut section = hmac(json!({ "header": "webhook-signature", "signed": "{body}" }));
            section["items"] = json!("/events");
            section["event_id"] = json!("body:/meta/webhook_id");
            (section, TOKEN)
        }
        b'l' => {
            let section = hmac(json!({
                "header": "x-sig", "format": "list", "prefix": "sha256=", "prefix_optional": true,
                "signed": "{method} {url} {body:sha256}",
            }));
            (section, TOKEN)
        }
        b'm' => {
            let section = json!({
                "signature": { "adapter": "rfc9421" },
                "trust": "settle", "id": "/payoutId", "status": "/status",
            });
            (section, P256_KEY)
        }
        b'c' => {
            let section = json!({
                "signature": {
                    "scheme": "ecdsa-p256-sha256", "encoding": "base64",
                    "header": "x-circle-signature", "signed": "{body}",
                    "key_id_header": "x-circle-key-id",
                },
                "trust": "settle", "id": "/notification/refId", "status": "/notification/status",
            });
            (section, P256_KEY)
        }
        b'a' => {
            let section = json!({ "signature": { "adapter": "adyen-items" }, "trust": "settle" });
            (section, ADYEN_KEY)
        }
        b't' => {
            let signature = json!({ "scheme": "token", "header": "x-token", "prefix": "Bearer " });
            (json!({ "signature": signature, "id": "/id", "status": "/status" }), TOKEN)
        }
        b'f' => {
            let signature = json!({ "scheme": "none" });
            (json!({ "signature": signature, "content": "form", "provider_id": "/id" }), "")
        }
        _ => {
            let section = json!({
                "signature": { "scheme": "none" }, "items": "/e",
                "id": "/i/0", "provider_id": "/p~1",
                "status": ["/s", "/t/u"], "event_id": "/n", "order": "/o",
                "only": { "at": "/k", "is": ["a", 1, true] },
                "ignore": { "at": "header:x-test", "is": "1" },
            });
            (section, "")
        }
    }
}

fn receiver(section: Value) -> Receiver {
    let profile: WebhookProfile = serde_json::from_value(section).expect("a section");
    profile.receiver(&Vars::new()).expect("it is in order")
}

fn keys(receiver: &Receiver, key: &str) -> Keys {
    let mut keys = Keys::default();
    if receiver.needs_key() {
        keys.add(None, receiver.read_key(key).expect("a key"));
    }
    keys
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).expect("a time")
}

/// A webhook (the profile's letter, its headers a line each, an empty line, the body) that settles
/// something does so with no other body, no other key and without its headers; what is taken from
/// any is bounded and printable. What is signed as Standard Webhooks passes.
pub fn provider_webhook(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let (headers, body) = match rest.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&rest[..end], &rest[end + 2..]),
        None => (&[][..], rest),
    };
    let headers = headers.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        Some((name, line[colon + 1..].trim_ascii()))
    });
    let headers: Vec<(&str, &[u8])> = headers.take(50).collect();

    let (section, key) = profile(*first);
    let is_json = section["content"].is_null();
    let receiver = receiver(section);
    let keys = keys(&receiver, key);
    let verify = |headers: &[(&str, &[u8])], body: &[u8], keys: &Keys| {
        let (method, url) = ("POST", "https://quartet.example/v1/webhooks/third-party/pawapay");
        let headers = Headers(headers);
        receiver.verify(&Incoming { method, url, headers, body }, keys, now())
    };
    match verify(&headers, body, &keys) {
        Ok(events) => {
            assert!(events.len() <= MAX_EVENTS);
            assert!(!is_json || body.iter().any(|byte| matches!(byte, b'{' | b'[')));
            events.iter().for_each(|event| check(event, receiver.trust));
            if receiver.needs_key() {
                assert!(verify(&headers, body, &Keys::default()).is_err());
            }
            if receiver.trust == Trust::Settle && *first != b'a' {
                assert!(verify(&[], body, &keys).is_err());
                assert!(verify(&headers, &[body, b" "].concat(), &keys).is_err());
            }
        }
        Err(rejection) => {
            assert!(!rejection.to_string().is_empty() && !rejection.reason().is_empty());
            assert!((400..500).contains(&rejection.code(401)), "{rejection}");
            assert!(key.is_empty() || !rejection.to_string().contains(key), "{rejection}");
        }
    }
    standard(body);
}

fn check(event: &Event, trust: Trust) {
    let Ok(report) = &event.report else { return };
    assert!(trust == Trust::Hint || report.status.is_some() && event.dedupe_key.is_some());
    for text in [&event.event_id, &event.dedupe_key, &report.status].into_iter().flatten() {
        assert!(text.chars().count() <= MAX_ID_CHARS, "{text:?}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

/// Signs the body, and changes what is signed.
fn standard(body: &[u8]) {
    let receiver = WebhookProfile::standard().receiver(&Vars::new()).expect("it is in order");
    let secret: Secret = SECRET.parse().expect("a secret");
    let signature = sign(&secret, "msg", NOW, body);
    let time = NOW.to_string();
    let is_signed = |id: &str, body: &[u8], secret: &str| {
        let headers: [(&str, &[u8]); 3] = [
            ("Webhook-Id", id.as_bytes()),
            ("Webhook-Timestamp", time.as_bytes()),
            ("Webhook-Signature", signature.as_bytes()),
        ];
        let (method, url, headers) = ("POST", "https://quartet.example/", Headers(&headers));
        let incoming = Incoming { method, url, headers, body };
        let result = receiver.verify(&incoming, &keys(&receiver, secret), now());
        // A body that is no JSON is refused after its signature.
        result.err().is_none_or(|rejection| rejection.reason() == "bad_json")
    };
    assert!(is_signed("msg", body, SECRET));
    assert!(!is_signed("msg", body, OTHER_SECRET));
    assert!(!is_signed("msg2", body, SECRET));
    assert!(!is_signed("msg", &[body, b" "].concat(), SECRET));
}
