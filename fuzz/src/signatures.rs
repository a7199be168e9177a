//! Standard Webhooks.

use std::time::Duration;

use quartet::signature::{MAX_SIGNATURES, Secret, SignedHeaders, VerifyError, sign, verify};

use super::lines;

const TOLERANCE: Duration = Duration::from_secs(300);
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NOW: i64 = 1_649_367_553;

/// Headers of any form (a line each, then the body) pass only with the signature that the body has;
/// what is signed is verified, and not with another body, id, time or secret.
pub fn signature(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (id, rest) = lines(&text);
    let (timestamp, rest) = lines(rest);
    let (given, body) = lines(rest);
    let body = body.as_bytes();
    let secret: Secret = SECRET.parse().unwrap();
    let secrets = std::slice::from_ref(&secret);

    let headers =
        SignedHeaders { id: Some(id), timestamp: Some(timestamp), signature: Some(given) };
    match verify(secrets, headers, body, NOW, TOLERANCE) {
        Ok(verified) => {
            assert_eq!(verified, id);
            // A time is signed as it is written; ours is written without leading zeros.
            let sent_at: i64 = timestamp.parse().unwrap();
            assert!(sent_at.abs_diff(NOW) <= TOLERANCE.as_secs());
            let ours = sign(&secret, id, sent_at, body);
            let plain = timestamp == sent_at.to_string();
            assert!(!plain || given.split(' ').any(|entry| entry == ours));
        }
        Err(VerifyError::MissingHeader(_)) => {
            assert!(id.is_empty() || timestamp.is_empty() || given.is_empty());
        }
        Err(_) => {}
    }
    for (id, timestamp, signature) in [
        (None, Some(timestamp), Some(given)),
        (Some(id), None, Some(given)),
        (Some(id), Some(timestamp), None),
    ] {
        let headers = SignedHeaders { id, timestamp, signature };
        let refused = verify(secrets, headers, body, NOW, TOLERANCE);
        assert!(refused.is_err());
    }

    if id.is_empty() {
        return;
    }
    let signed = sign(&secret, id, NOW, body);
    let listed = format!("v0,x {given} {signed} v1,");
    // Of the input's own entries those count that hold something after `v1,`.
    let counted = given
        .split(' ')
        .filter(|entry| entry.strip_prefix("v1,").is_some_and(|encoded| !encoded.is_empty()));
    let is_listed_in_time = counted.count() < MAX_SIGNATURES;
    let (now, later) = (NOW.to_string(), (NOW + 1).to_string());
    let (other_id, longer) = (format!("{id}x"), [body, b" "].concat());
    let with = |id, timestamp, body, secrets: &[Secret]| {
        let headers =
            SignedHeaders { id: Some(id), timestamp: Some(timestamp), signature: Some(&listed) };
        verify(secrets, headers, body, NOW, TOLERANCE).is_ok()
    };
    assert_eq!(with(id, &now, body, secrets), is_listed_in_time);
    let other: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
    assert_eq!(with(id, &now, body, &[other.clone(), secret.clone()]), is_listed_in_time);
    // What the input itself signs may pass as well.
    if given.is_empty() {
        assert!(!with(id, &now, body, &[other]));
        assert!(!with(id, &now, &longer, secrets));
        assert!(!with(&other_id, &now, body, secrets));
        assert!(!with(id, &later, body, secrets));
    }
}

const SECRET_PREFIX: &str = "whsec_";

/// A secret is read as it was written, and never shown.
pub fn secret(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match text.parse::<Secret>() {
        Ok(secret) => {
            // It may have been written without padding, or in the alphabet of URLs.
            let written = secret.reveal();
            // Once: in the alphabet of URLs, a secret may begin with the same characters.
            let bare = |text: &str| text[SECRET_PREFIX.len()..].trim_end_matches('=').to_owned();
            let standard = bare(&text).replace('-', "+").replace('_', "/");
            assert_eq!(bare(&written), standard);
            assert_eq!(written.parse(), Ok(secret.clone()), "what is written is read");
            assert_eq!(format!("{secret:?}"), "Secret(…)");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("whsec_"), "{said}");
        }
    }
}
