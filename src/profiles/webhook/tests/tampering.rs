//! What is signed cannot be changed.

use proptest::prelude::*;

use super::{support::*, *};

/// The headers whose values are signed in a scheme, or are the time of sending.
fn signed_headers(scheme: &str) -> &'static [&'static str] {
    match scheme {
        "standard-webhooks-v1" | "standard-webhooks-v1a" => &["webhook-id", "webhook-timestamp"],
        "svix-v1" => &["svix-id", "svix-timestamp"],
        "hook0" => &["content-type", "x-event-id", "x-event-type"],
        "paypal" => &["paypal-transmission-id", "paypal-transmission-time", "paypal-auth-algo"],
        "rfc9421" => &["Content-Type", "Content-Digest", "Signature-Date", "Signature-Input"],
        _ => &[],
    }
}

/// The header with the signatures.
fn signature_header(scheme: &str) -> String {
    match scheme {
        "paypal" => "paypal-transmission-sig".to_owned(),
        "rfc9421" => "Signature".to_owned(),
        _ => signature_section(scheme)["header"].as_str().unwrap().to_owned(),
    }
}

/// The valid vectors of schemes that sign the body as it is.
fn signed_vectors() -> Vec<&'static Vector> {
    let is_signed =
        |scheme: &str| !["flutterwave-v3", "gitlab", "basic", "adyen-items"].contains(&scheme);
    let vectors = vectors().iter();
    let vectors: Vec<_> =
        vectors.filter(|vector| vector.valid && is_signed(&vector.scheme)).collect();
    assert!(vectors.len() > 80);
    vectors
}

fn with_signed_headers() -> Vec<&'static Vector> {
    let mut vectors = signed_vectors();
    vectors.retain(|vector| !signed_headers(&vector.scheme).is_empty());
    vectors
}

/// Those whose header holds one signature, and nothing that is skipped.
fn with_one_signature() -> Vec<&'static Vector> {
    let mut vectors = signed_vectors();
    vectors.retain(|vector| {
        let has_more = ["two_signatures", "version", "beside"];
        let has_more = has_more.iter().any(|word| vector.id.contains(word));
        !has_more
    });
    vectors
}

/// The lines with one value changed.
fn changed<'a>(vector: &'a Vector, name: &str, value: &'a [u8]) -> Vec<(&'a str, &'a [u8])> {
    let lines = vector
        .lines()
        .into_iter()
        .map(|(own, line)| (own, if own.eq_ignore_ascii_case(name) { value } else { line }));
    lines.collect()
}

fn verify(vector: &Vector, lines: &[(&str, &[u8])], body: &[u8]) -> Result<Vec<Event>, Rejection> {
    let receiver = vector.receiver();
    let keys = vector.keys(&receiver);
    let url = vector.url.as_deref().unwrap_or(URL);
    let incoming = Incoming { method: &vector.method, url, headers: Headers(lines), body };
    receiver.verify(&incoming, &keys, time(vector.now))
}

proptest! {
    /// One bit of the body.
    #[test]
    fn a_flipped_bit_of_the_body_is_refused(
        vector in prop::sample::select(signed_vectors()),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut body = vector.body.clone().into_bytes();
        let at = at.index(body.len());
        body[at] ^= 1u8 << bit;
        let rejection = verify(vector, &vector.lines(), &body).unwrap_err();
        let is_by_signature = matches!(rejection, Rejection::NoMatch(_) | Rejection::Digest);
        prop_assert!(is_by_signature, "{}: {rejection:?}", vector.id);
    }

    /// One bit of a header that is signed.
    #[test]
    fn a_flipped_bit_of_a_signed_header_is_refused(
        vector in prop::sample::select(with_signed_headers()),
        header in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let name = header.get(signed_headers(&vector.scheme));
        let mut value = vector.header(name).as_bytes().to_vec();
        let at = at.index(value.len());
        // PayPal's name of the algorithm has no case.
        let has_case = *name != "paypal-auth-algo";
        value[at] ^= 1u8 << if has_case || bit != 5 { bit } else { 6 };
        let lines = changed(vector, name, &value);
        let refused = verify(vector, &lines, vector.body.as_bytes());
        prop_assert!(refused.is_err(), "{}: {name} {}", vector.id, value.escape_ascii());
    }

    /// One bit of the header with the signatures, which may hold the time of sending: hex digits
    /// have no case, and nothing else may change.
    #[test]
    fn a_flipped_bit_of_the_signature_is_refused(
        vector in prop::sample::select(with_one_signature()),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let name = signature_header(&vector.scheme);
        let mut value = vector.header(&name).as_bytes().to_vec();
        // The last bits before the padding mean nothing in a structured field.
        let unused = if vector.scheme == "rfc9421" { ":cQ==".len() } else { 0 };
        let at = at.index(value.len() - unused);
        let is_letter_of_hex = value[at].is_ascii_hexdigit() && value[at].is_ascii_alphabetic();
        value[at] ^= 1u8 << if bit == 5 && is_letter_of_hex { 4 } else { bit };
        let lines = changed(vector, &name, &value);
        let refused = verify(vector, &lines, vector.body.as_bytes());
        prop_assert!(refused.is_err(), "{}: {}", vector.id, value.escape_ascii());
    }

    /// Headers and bodies that are signed, but not together.
    #[test]
    fn what_was_not_signed_together_is_refused(
        first in prop::sample::select(signed_vectors()),
        second in prop::sample::select(signed_vectors()),
    ) {
        let is_together = first.body == second.body;
        // PayPal signs a CRC-32, and one vector shows that another body has the same.
        let is_forged = first.scheme == "paypal" && second.scheme == "paypal";
        let result = verify(first, &first.lines(), second.body.as_bytes());
        prop_assert!(is_together || is_forged || result.is_err());
    }

    /// No request of any bytes makes it panic, and none passes where there is a proof.
    #[test]
    fn arbitrary_requests_never_pass(
        vector in prop::sample::select(signed_vectors()),
        values in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "(v1|v1a|t|h|sig|sha256)?[=,]?[\"(:;=, a-zA-Z0-9+/]{0,90}".prop_map(String::into_bytes),
            Just(b"1767225600".to_vec()),
            Just(b"2026-01-01T00:00:00Z".to_vec()),
        ], 8),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[\\[\\]{}\":,0-9a-z\\\\ ]{0,100}".prop_map(String::into_bytes),
        ],
    ) {
        let names = vector.headers.keys();
        let lines: Vec<_> =
            names.zip(&values).map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        prop_assert!(verify(vector, &lines, &body).is_err());
    }

    /// No body makes reading it panic, where nothing proves it.
    #[test]
    fn arbitrary_bodies_are_read_or_refused(
        content in prop::sample::select(vec!["json", "form"]),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[\\[\\]{}\":,0-9a-z\\\\ &=%]{0,100}".prop_map(String::into_bytes),
            "\\{\"i\":\\[(\\{\"a\":(\"[a-z]{0,3}\"|1|null|\\[\\])\\},?){0,3}\\]\\}"
                .prop_map(String::into_bytes),
        ],
    ) {
        let items = if content == "json" { "items = '/i'" } else { "" };
        let receiver = receiver(&format!(
            "content = '{content}'\n{items}\nsignature = {{ scheme = 'none' }}\nprovider_id = '/a'"
        ));
        if let Ok(events) = receiver.verify(&post(&[], &body), &Keys::default(), time(0)) {
            prop_assert!(events.len() <= body.len() + 1);
            prop_assert!(events.iter().all(|event| event.dedupe_key.is_none()));
        }
    }
}

#[test]
fn no_vector_passes_with_other_keys_or_without_any() {
    for vector in signed_vectors() {
        let receiver = vector.receiver();
        let refused = vector.verify(&receiver, &Keys::default());
        let is_refused = matches!(refused, Err(Rejection::NoMatch(_) | Rejection::UnknownKey(_)));
        assert!(is_refused, "{}", vector.id);
        let others = vectors().iter().filter(|other| {
            let no_common = !other.secrets.iter().any(|secret| vector.secrets.contains(secret));
            other.scheme == vector.scheme && no_common
        });
        for other in others {
            let refused = vector.verify(&receiver, &other.keys(&receiver));
            assert!(matches!(refused, Err(Rejection::NoMatch(_))), "{} {}", vector.id, other.id);
        }
    }
}

#[test]
fn what_is_dated_is_refused_when_it_is_old_or_early() {
    let mut dated = 0;
    for vector in signed_vectors() {
        let section = signature_section(&vector.scheme);
        let is_dated = section.get("timestamp").is_some() || section.get("adapter").is_some();
        for (offset, expected) in
            [(-1_000, "too_new"), (1_000, "too_old"), (1_000_000_000_000, "too_old")]
        {
            let receiver = vector.receiver();
            let mut later = vector.clone();
            later.now += offset;
            match later.verify(&receiver, &vector.keys(&receiver)) {
                Err(rejection) if is_dated => assert_eq!(rejection.reason(), expected),
                result => assert!(!is_dated && result.is_ok(), "{} {offset}", vector.id),
            }
        }
        dated += usize::from(is_dated);
    }
    assert!(dated > 30);
}

#[test]
fn a_second_signature_header_is_refused_unless_the_header_is_a_list() {
    for vector in signed_vectors() {
        let name = signature_header(&vector.scheme);
        let mut lines = vector.lines();
        let (_, value) = *lines.iter().find(|(own, _)| own.eq_ignore_ascii_case(&name)).unwrap();
        // The same once more says nothing new, but which of two counts is open.
        lines.push((&name, value));
        let result = verify(vector, &lines, vector.body.as_bytes());
        // What is a list may stand in several lines (RFC 9110, section 5.3).
        let is_list = signature_section(&vector.scheme)["format"] == "versioned-list"
            || vector.scheme == "rfc9421";
        assert_eq!(result.is_ok(), is_list, "{}: {result:?}", vector.id);
        if !is_list {
            assert_eq!(result, Err(Rejection::RepeatedHeader(name.to_ascii_lowercase())));
        }
        // Signed headers stand once, whatever their values.
        for header in signed_headers(&vector.scheme) {
            let mut lines = vector.lines();
            let found = lines.iter().find(|(own, _)| own.eq_ignore_ascii_case(header)).copied();
            lines.push(found.unwrap());
            let is_field_of_a_list = vector.scheme == "rfc9421"
                && ["Content-Digest", "Signature-Input"].contains(header);
            let result = verify(vector, &lines, vector.body.as_bytes());
            assert!(result.is_err() || is_field_of_a_list, "{}: {header}", vector.id);
        }
    }
}

#[test]
fn values_of_headers_cannot_be_swapped() {
    for vector in signed_vectors() {
        let headers = signed_headers(&vector.scheme);
        let values: Vec<_> = headers.iter().map(|name| vector.header(name).as_bytes()).collect();
        for first in 0..headers.len() {
            for second in 0..first {
                let lines = vector.lines().into_iter().map(|(own, value)| {
                    let is = |nth: usize| own.eq_ignore_ascii_case(headers[nth]);
                    let swapped = if is(first) { values[second] } else { values[first] };
                    (own, if is(first) || is(second) { swapped } else { value })
                });
                let lines: Vec<_> = lines.collect();
                let result = verify(vector, &lines, vector.body.as_bytes());
                assert!(result.is_err(), "{}: {} {}", vector.id, headers[first], headers[second]);
            }
        }
    }
}

#[test]
fn adyen_items_prove_their_signed_fields_alone() {
    let vector = vector("adyen-items/two_items_valid");
    for (from, to, is_signed) in [
        ("\"1250\"", "", false),
        ("7914073381342284", "7914073381342286", true),
        ("\"EUR\"", "\"USD\"", true),
        ("1250", "1251", true),
        ("PAYOUT_THIRDPARTY", "CANCELLATION", true),
        ("\"success\":\"true\"", "\"success\":\"false\"", true),
        ("TestMerchant", "TestMerchanu", true),
        ("\"eventDate\":\"2026", "\"eventDate\":\"2027", false),
        ("\"live\":\"false\"", "\"live\":\"true\"", false),
    ] {
        let body = vector.body.replacen(from, to, 1);
        let result = verify(vector, &vector.lines(), body.as_bytes());
        assert_eq!(result.is_err(), is_signed, "{from}: {result:?}");
    }
    for body in ["{}", r#"{"notificationItems":[]}"#, r#"{"notificationItems":[{}]}"#] {
        assert!(verify(vector, &[], body.as_bytes()).is_err(), "{body}");
    }
}
