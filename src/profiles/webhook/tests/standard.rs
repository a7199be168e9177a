//! The section of Quartet's own contract verifies what [`crate::signature`] does.

use std::time::Duration;

use proptest::prelude::*;

use super::{support::*, *};
use crate::signature::{self, Secret, SignedHeaders, VerifyError};

const ID: &str = "0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03";
const NOW: i64 = 1_767_225_600;
const SECRET: &str = "whsec_Pk1m7qorILlK7ddDV5jRGXy1dCa4DJWLgd0v9/9hdtg=";

/// The three headers, and the secrets that are active.
#[derive(Debug, Clone)]
struct Request {
    id: Option<String>,
    timestamp: Option<String>,
    signature: Option<String>,
    body: Vec<u8>,
    now: i64,
    secrets: Vec<String>,
}

impl Request {
    fn by_signature(&self) -> Result<(), VerifyError> {
        let secrets: Vec<Secret> =
            self.secrets.iter().map(|secret| secret.parse().unwrap()).collect();
        let headers = SignedHeaders {
            id: self.id.as_deref(),
            timestamp: self.timestamp.as_deref(),
            signature: self.signature.as_deref(),
        };
        let tolerance = Duration::from_secs(300);
        signature::verify(&secrets, headers, &self.body, self.now, tolerance).map(|_| ())
    }

    fn by_profile(&self) -> Result<Vec<Event>, Rejection> {
        let receiver = WebhookProfile::standard().receiver(&Vars::new()).unwrap();
        let keys = keys(&receiver, self.secrets.iter().map(String::as_str));
        let lines = [
            (signature::ID_HEADER, &self.id),
            (signature::TIMESTAMP_HEADER, &self.timestamp),
            (signature::SIGNATURE_HEADER, &self.signature),
        ];
        let lines: Vec<_> = lines
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_ref()?.as_bytes())))
            .collect();
        receiver.verify(&post(&lines, &self.body), &keys, time(self.now))
    }

    /// Compares the two, with the reason where they refuse.
    fn compare(&self) -> Result<(), TestCaseError> {
        let expected = self.by_signature();
        let found = match self.by_profile() {
            Ok(events) => {
                let id = self.id.as_deref();
                let is_short = id.is_some_and(|id| id.chars().count() <= MAX_ID_CHARS);
                prop_assert!(!is_short || events[0].dedupe_key.as_deref() == id, "{events:?}");
                Ok(())
            }
            // The signature was right.
            Err(Rejection::Body(_)) => Ok(()),
            Err(Rejection::MissingHeader(name)) => Err(VerifyError::MissingHeader(
                [signature::ID_HEADER, signature::TIMESTAMP_HEADER, signature::SIGNATURE_HEADER]
                    .into_iter()
                    .find(|header| *header == name)
                    .unwrap(),
            )),
            Err(Rejection::BadTimestamp { .. }) => Err(VerifyError::Timestamp),
            Err(Rejection::TooOld(_)) => Err(VerifyError::TooOld),
            Err(Rejection::TooNew(_)) => Err(VerifyError::TooNew),
            Err(Rejection::TooManySignatures(_)) => Err(VerifyError::TooManySignatures),
            Err(Rejection::NoMatch(_) | Rejection::NoSignature { .. }) => Err(VerifyError::NoMatch),
            Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(found, expected);
        Ok(())
    }
}

#[test]
fn the_vectors_are_verified_alike() {
    let mut compared = 0;
    for vector in vectors() {
        let Some(name) =
            ["standard-webhooks-v1", "svix-v1"].into_iter().find(|name| *name == vector.scheme)
        else {
            continue;
        };
        let prefix = if name == "svix-v1" { "svix-" } else { "webhook-" };
        let header = |name: &str| {
            let name = format!("{prefix}{name}");
            let mut values = vector.headers.iter();
            let found = values.find(|(given, _)| given.eq_ignore_ascii_case(&name));
            found.map(|(_, value)| value.clone())
        };
        let request = Request {
            id: header("id"),
            timestamp: header("timestamp"),
            signature: header("signature"),
            body: vector.body.clone().into_bytes(),
            now: vector.now,
            secrets: vector.secrets.clone(),
        };
        assert_eq!(request.by_signature().is_ok(), vector.valid, "{}", vector.id);
        request.compare().unwrap_or_else(|error| panic!("{}: {error}", vector.id));
        compared += 1;
    }
    assert_eq!(compared, 35);
}

#[test]
fn a_webhook_becomes_an_event() {
    let secret = Secret::generate();
    let body = format!(r#"{{"id":"{ID}","status":"completed","more":[1]}}"#);
    let request = Request {
        id: Some("msg_1".to_owned()),
        timestamp: Some(NOW.to_string()),
        signature: Some(signature::sign(&secret, "msg_1", NOW, body.as_bytes())),
        body: body.into_bytes(),
        now: NOW,
        secrets: vec![secret.reveal()],
    };
    let about = About::Id(ID.parse().unwrap());
    let event = Event {
        event_id: Some("msg_1".to_owned()),
        dedupe_key: Some("msg_1".to_owned()),
        order: None,
        claims: Vec::new(),
        report: Ok(Report { about, status: Some("completed".to_owned()) }),
    };
    assert_eq!(request.by_profile(), Ok(vec![event]));
}

/// Header values that a server lets through and `HeaderValue::to_str` takes.
fn value(pattern: &'static str) -> impl Strategy<Value = Option<String>> {
    prop_oneof![1 => Just(None), 9 => pattern.prop_map(Some)]
}

fn secrets() -> impl Strategy<Value = Vec<String>> {
    let secret = prop::collection::vec(any::<u8>(), 1..80);
    let secret = secret.prop_map(|bytes| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("whsec_{}", STANDARD.encode(bytes))
    });
    prop::collection::vec(secret, 0..4)
}

proptest! {
    /// Any header values at all.
    #[test]
    fn arbitrary_requests_are_verified_alike(
        id in value("[ -~]{0,300}"),
        timestamp in value("(1767225[0-9]{3}|[ -~]{0,24})"),
        signature in value("((v1|v1a|v2)?,?[A-Za-z0-9+/]{43}=? ?){0,20}"),
        body in prop::collection::vec(any::<u8>(), 0..60),
        secrets in secrets(),
    ) {
        Request { id, timestamp, signature, body, now: NOW, secrets }.compare()?;
    }

    /// What is rightly signed, and then changed in one place or in none.
    #[test]
    fn mutations_are_verified_alike(
        id in "[a-z0-9_.]{1,30}",
        body in prop_oneof![
            Just(br#"{"id":"x","status":"pending"}"#.to_vec()),
            prop::collection::vec(any::<u8>(), 0..60),
        ],
        secrets in secrets(),
        offset in -310i64..310,
        signer in any::<prop::sample::Index>(),
        before in "((v1|v1a|v2),[A-Za-z0-9+/]{43}= ){0,17}",
        change in 0..8,
        at in any::<prop::sample::Index>(),
        to in any::<char>(),
    ) {
        let secrets = if secrets.is_empty() { vec![SECRET.to_owned()] } else { secrets };
        let secret: Secret = secrets[signer.index(secrets.len())].parse().unwrap();
        let sent_at = NOW + offset;
        let signed = signature::sign(&secret, &id, sent_at, &body);
        let mut request = Request {
            id: Some(id),
            timestamp: Some(sent_at.to_string()),
            signature: Some(format!("{before}{signed}")),
            body,
            now: NOW,
            secrets,
        };
        let to = if to.is_ascii_graphic() { to } else { '7' };
        let replace = |text: &mut Option<String>| {
            let text = text.as_mut().unwrap();
            let at = at.index(text.len());
            text.replace_range(at..=at, &to.to_string());
        };
        match change {
            0 => replace(&mut request.id),
            1 => replace(&mut request.timestamp),
            2 => replace(&mut request.signature),
            3 => request.body.push(b' '),
            4 => std::mem::swap(&mut request.id, &mut request.signature),
            5 => _ = request.secrets.remove(signer.index(request.secrets.len())),
            _ => {}
        }
        let counted = before.matches("v1,").count();
        if change > 5 && counted < signature::MAX_SIGNATURES {
            prop_assert_eq!(request.by_signature().is_ok(), offset.abs() <= 300);
        }
        request.compare()?;
    }
}
