//! Signatures agree with the official Python library; see `tests/standard_webhooks/README.md`.

use std::time::Duration;

use quartet::signature::{Secret, SignedHeaders, sign, verify};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    secret: String,
    id: String,
    timestamp: i64,
    body: String,
    signature: String,
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../standard_webhooks/vectors.json")).unwrap();
    assert!(vectors.len() >= 20);
    vectors
}

#[test]
fn what_the_library_signs_is_accepted() {
    for Vector { secret, id, timestamp, body, signature } in vectors() {
        let secret: Secret = secret.parse().unwrap();
        let headers = SignedHeaders {
            id: Some(&id),
            timestamp: Some(&timestamp.to_string()),
            signature: Some(&signature),
        };
        let check = |body: &str| {
            let secrets = [Secret::generate(), secret.clone()];
            let tolerance = Duration::from_secs(300);
            verify(&secrets, headers, body.as_bytes(), timestamp + 299, tolerance)
                .map(str::to_owned)
        };
        assert_eq!(check(&body), Ok(id.clone()));
        assert!(check(&format!("{body} ")).is_err(), "{id}: a tampered body");
    }
}

#[test]
fn the_same_is_signed_the_same() {
    for Vector { secret, id, timestamp, body, signature } in vectors() {
        let secret: Secret = secret.parse().unwrap();
        assert_eq!(sign(&secret, &id, timestamp, body.as_bytes()), signature, "{id}");
    }
}
