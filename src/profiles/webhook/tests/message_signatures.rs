//! HTTP message signatures beyond the recorded webhooks.

use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};

use super::{support::*, *};

const BODY: &[u8] = br#"{"hello": "world"}"#;
const NOW: i64 = 1_618_884_473;

/// RFC 9421, appendix B.2: the request and the RSA key.
const REQUEST_URL: &str = "https://example.com/foo?param=Value&Pet=dog";
const DIGEST: &str = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BN\
                      NyealdVLvRwEmTHWXvJwew==:";
const RSA_PSS_KEY: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2\
                           +QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+\
                           oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq\
                           gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W\
                           Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4\
                           aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI\
                           2wIDAQAB";

const SECTION: &str = "signature = { adapter = 'rfc9421' }\nprovider_id = '/hello'";

/// Verifies the request of the RFC with these headers beside its own.
fn verify(
    section: &str,
    key: &str,
    more: &[(&str, &str)],
    now: i64,
) -> Result<Vec<Event>, Rejection> {
    let receiver = receiver(section);
    let own = [
        ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("Content-Type", "application/json"),
        ("Content-Digest", DIGEST),
        ("Content-Length", "18"),
    ];
    let is_given = |name: &str| more.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let own = own.iter().filter(|(name, _)| !is_given(name));
    let lines: Vec<_> = own.chain(more).map(|(name, value)| (*name, value.as_bytes())).collect();
    let (method, url, headers) = ("POST", REQUEST_URL, Headers(&lines));
    let keys = keys(&receiver, [key]);
    receiver.verify(&Incoming { method, url, headers, body: BODY }, &keys, time(now))
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

#[test]
fn the_published_signature_is_verified() {
    let input = "sig-b23=(\"date\" \"@method\" \"@path\" \"@query\" \"@authority\" \
                 \"content-type\" \"content-digest\" \"content-length\");created=1618884473;\
                 keyid=\"test-key-rsa-pss\"";
    let signature = "sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh\
                     1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6\
                     ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xM\
                     y7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJ\
                     pvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==:";
    let headers = [("Signature-Input", input), ("Signature", signature)];
    let events = verify(SECTION, RSA_PSS_KEY, &headers, NOW).unwrap();
    let about = About::ProviderId("world".to_owned());
    assert_eq!(events[0].report, Ok(Report { about, status: None }));

    let later = verify(SECTION, RSA_PSS_KEY, &headers, NOW + 301);
    assert!(matches!(later, Err(Rejection::TooOld(_))), "{later:?}");
    let longer = SECTION.replace("'rfc9421'", "'rfc9421', tolerance = '1h'");
    assert!(verify(&longer, RSA_PSS_KEY, &headers, NOW + 301).is_ok());
    for (name, value) in [
        ("Date", "Tue, 20 Apr 2021 02:07:56 GMT"),
        ("Content-Type", "text/json"),
        ("Content-Length", "19"),
    ] {
        let changed = [headers[0], headers[1], (name, value)];
        let refused = verify(SECTION, RSA_PSS_KEY, &changed, NOW);
        assert!(matches!(refused, Err(Rejection::NoMatch(_))), "{name}: {refused:?}");
    }
    let only = "signature = { adapter = 'rfc9421', algorithms = ['rsa-v1_5-sha256'] }\nid = '/x'";
    let refused = verify(only, RSA_PSS_KEY, &headers, NOW);
    assert!(matches!(refused, Err(Rejection::NoMatch(_))), "{refused:?}");
    let more =
        "signature = { adapter = 'rfc9421', cover = ['content-digest', '@scheme'] }\nid = '/x'";
    let refused = verify(more, RSA_PSS_KEY, &headers, NOW);
    assert_eq!(refused, Err(Rejection::NotSigned("@scheme".to_owned())));
}

/// Signs components with `sign`; returns the two headers.
fn signed(parameters: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> (String, String) {
    let components = "(\"@method\" \"@authority\" \"@scheme\" \"@target-uri\" \"@request-target\" \
                      \"content-digest\")";
    let base = format!(
        "\"@method\": POST\n\"@authority\": example.com\n\"@scheme\": https\n\
         \"@target-uri\": {REQUEST_URL}\n\"@request-target\": /foo?param=Value&Pet=dog\n\
         \"content-digest\": {DIGEST}\n\"@signature-params\": {components}{parameters}"
    );
    let signature = base64(&sign(base.as_bytes()));
    (format!("a={components}{parameters}"), format!("a=:{signature}:"))
}

#[test]
fn the_other_algorithms_are_verified() {
    let random = SystemRandom::new();
    let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed25519 = Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap();
    let ed25519_key = base64(ed25519.public_key().as_ref());
    let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
    let p384 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let p384 = EcdsaKeyPair::from_pkcs8(algorithm, p384.as_ref(), &random).unwrap();
    // The DER of a key on P-384 before the point.
    let head = hex::decode("3076301006072a8648ce3d020106052b81040022036200").unwrap();
    let p384_key = base64(&[&head, p384.public_key().as_ref()].concat());
    let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let hmac_section = SECTION.replace("'rfc9421'", "'rfc9421', algorithms = ['hmac-sha256']");

    let by_ed25519 = |base: &[u8]| ed25519.sign(base).as_ref().to_vec();
    let by_p384 = |base: &[u8]| p384.sign(&random, base).unwrap().as_ref().to_vec();
    let by_hmac = |base: &[u8]| hmac::sign(&hmac_key, base).as_ref().to_vec();
    type Sign<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, &str, &str, Sign<'_>); 3] = [
        (SECTION, "ed25519", &ed25519_key, &by_ed25519),
        (SECTION, "ecdsa-p384-sha384", &p384_key, &by_p384),
        (&hmac_section, "hmac-sha256", "secret", &by_hmac),
    ];
    for (section, name, key, sign) in cases {
        for alg in ["".to_owned(), format!(";alg=\"{name}\"")] {
            let (input, signature) = signed(&format!(";created={NOW}{alg}"), sign);
            let headers = [("signature-input", &*input), ("signature", &*signature)];
            assert!(verify(section, key, &headers, NOW).is_ok(), "{name}");
        }
        let (input, signature) = signed(&format!(";created={NOW};alg=\"rsa-pss-sha512\""), sign);
        let headers = [("signature-input", &*input), ("signature", &*signature)];
        let refused = verify(section, key, &headers, NOW).unwrap_err();
        let is_refused =
            matches!(refused, Rejection::NoMatch(_) | Rejection::BadSignatureHeader(..));
        assert!(is_refused, "{name}: {refused:?}");
    }
    // A public key is no secret of an HMAC, whatever the webhook says.
    let by_public_key = |base: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, ed25519_key.as_bytes());
        hmac::sign(&key, base).as_ref().to_vec()
    };
    let (input, signature) = signed(&format!(";created={NOW};alg=\"hmac-sha256\""), &by_public_key);
    let headers = [("signature-input", &*input), ("signature", &*signature)];
    assert!(verify(SECTION, &ed25519_key, &headers, NOW).is_err());
}

#[test]
fn parameters_and_components_are_checked() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let section = SECTION.replace("'rfc9421'", "'rfc9421', algorithms = ['hmac-sha256']");
    let by_hmac = |base: &[u8]| hmac::sign(&key, base).as_ref().to_vec();
    let result = |parameters: &str| {
        let (input, signature) = signed(parameters, &by_hmac);
        let headers = [("signature-input", &*input), ("signature", &*signature)];
        verify(&section, "secret", &headers, NOW)
    };
    let reason = |parameters: &str| result(parameters).unwrap_err().reason();
    assert!(result(&format!(";created={NOW};expires={NOW};nonce=\"x\";tag=\"t\"")).is_ok());
    for (parameters, expected) in [
        ("".to_owned(), "missing_header"),
        (";created=\"x\"".to_owned(), "bad_timestamp"),
        (";created=-1".to_owned(), "bad_timestamp"),
        (format!(";created={}", NOW - 301), "too_old"),
        (format!(";created={}", NOW + 301), "too_new"),
        (format!(";created={NOW};expires={}", NOW - 1), "too_old"),
        (format!(";created={NOW};expires=\"x\""), "too_old"),
        (format!(";created={NOW};alg=\"none\""), "bad_signature_header"),
    ] {
        assert_eq!(reason(&parameters), expected, "{parameters}");
    }
    for (input, expected) in [
        ("", "missing_header"),
        ("a=(", "bad_signature_header"),
        ("a=1", "wrong_signature"),
        ("b=(\"content-digest\");created=1618884473", "wrong_signature"),
        ("a=(\"@method\");created=1618884473", "body_not_signed"),
        ("a=(\"content-digest\" \"x\");created=1618884473", "missing_header"),
        ("a=(\"content-digest\" \"@status\");created=1618884473", "bad_signature_header"),
        ("a=(\"content-digest\";sf);created=1618884473", "bad_signature_header"),
        ("a=(\"content-digest\" 1);created=1618884473", "bad_signature_header"),
        ("a=(\"content-digest\" \"content-digest\");created=1618884473", "bad_signature_header"),
        ("a=(\"content-digest\");created=1618884473", "wrong_signature"),
    ] {
        let headers = [("signature-input", input), ("signature", "a=:AAAA:")];
        let refused = verify(&section, "secret", &headers, NOW).unwrap_err();
        assert_eq!(refused.reason(), expected, "{input}: {refused}");
    }
    for digest in ["", "sha-256=:AAAA:", "md5=:AAAA:", "sha-512=1"] {
        let headers = [
            ("signature-input", "a=(\"content-digest\");created=1618884473"),
            ("signature", "a=:AAAA:"),
            ("content-digest", digest),
        ];
        let refused = verify(&section, "secret", &headers, NOW).unwrap_err();
        let expected = if digest.is_empty() { "missing_header" } else { "body_not_signed" };
        assert_eq!(refused.reason(), expected, "{digest}");
    }
}

#[test]
fn one_good_signature_is_enough() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let section = SECTION.replace("'rfc9421'", "'rfc9421', algorithms = ['hmac-sha256']");
    let by_hmac = |base: &[u8]| hmac::sign(&key, base).as_ref().to_vec();
    let (input, signature) = signed(&format!(";created={NOW}"), &by_hmac);
    let headers = [
        ("signature-input", "b=(\"@method\");created=1"),
        ("signature-input", &input),
        ("signature", "b=:AAAA:"),
        ("signature", &signature),
    ];
    assert!(verify(&section, "secret", &headers, NOW).is_ok());
    let many: Vec<_> =
        (0..17).map(|nth| format!("a{nth}=(\"content-digest\");created=1")).collect();
    let many = many.join(", ");
    let headers = [("signature-input", &*many), ("signature", "b=:AAAA:")];
    let refused = verify(&section, "secret", &headers, NOW);
    assert!(matches!(refused, Err(Rejection::TooManySignatures(_))), "{refused:?}");
}
