//! Keys as they are handed out.

use super::{support::*, *};

fn read(signature: &str, text: &str) -> Result<(), KeyError> {
    receiver(&format!("signature = {signature}\nid = '/id'")).read_key(text).map(|_| ())
}

#[test]
fn keys_are_read_as_the_profile_says() {
    let hmac = "{ scheme = 'hmac', hash = 'sha256', encoding = 'hex', header = 'x', \
                signed = '{body}', secret_encoding = 'hex', secret_prefix = 'k_' }";
    assert_eq!(read(hmac, "k_00ff"), Ok(()));
    for (text, why) in [
        ("", KeyError::Empty),
        (" \n", KeyError::Empty),
        ("k_", KeyError::Empty),
        ("k_00ff\n", KeyError::Space),
        ("00ff", KeyError::Prefix("k_".to_owned())),
        ("k_0", KeyError::Hex),
    ] {
        assert_eq!(read(hmac, text), Err(why), "{text:?}");
    }
    let plain = hmac.replace(", secret_encoding = 'hex', secret_prefix = 'k_'", "");
    assert_eq!(read(&plain, "any text: at all"), Ok(()));
    let base64 = plain.replace("signed", "secret_encoding = 'base64', signed");
    for text in ["-_8", "+/8=", "AAAA"] {
        assert_eq!(read(&base64, text), Ok(()));
    }
    assert_eq!(read(&base64, "A"), Err(KeyError::Base64("")));
    assert_eq!(read("{ scheme = 'basic' }", "user"), Err(KeyError::Basic));
    assert_eq!(read("{ scheme = 'basic' }", "user:"), Ok(()));
    assert_eq!(read("{ scheme = 'none' }", "x"), Err(KeyError::NotNeeded));
}

#[test]
fn credentials_are_compared_whole() {
    let basic = vector("basic/valid");
    let receiver = basic.receiver();
    let keys = basic.keys(&receiver);
    let verify = |value: &str| {
        let lines: [(&str, &[u8]); 1] = [("Authorization", value.as_bytes())];
        receiver.verify(&post(&lines, b"{}"), &keys, time(0))
    };
    for right in ["Basic cXVhcnRldDpwOnc=", "basic  cXVhcnRldDpwOnc="] {
        assert!(verify(right).is_ok(), "{right}");
    }
    for wrong in ["Bearer cXVhcnRldDpwOnc=", "cXVhcnRldDpwOnc=", "Basic", "Basic ***", "Basic cXU="]
    {
        let refused = verify(wrong);
        assert!(matches!(refused, Err(Rejection::WrongCredentials(_))), "{wrong}: {refused:?}");
    }
}

#[test]
fn a_public_key_must_be_one_of_the_scheme() {
    let key = |id: &str| vector(id).secrets[0].clone();
    let (rsa, p256) = (key("wise/valid"), key("circle/valid"));
    let ed25519 = key("standard-webhooks-v1a/valid").trim_start_matches("whpk_").to_owned();
    let pem = key("rfc9421/valid");
    let bare_rsa: String = rsa.lines().filter(|line| !line.starts_with("--")).collect();
    let section = |scheme: &str| {
        format!("{{ scheme = '{scheme}', encoding = 'base64', header = 'x', signed = '{{body}}' }}")
    };
    for (scheme, right) in [
        ("rsa-pkcs1-sha256", vec![&rsa, &bare_rsa]),
        ("ecdsa-p256-sha256", vec![&p256, &pem]),
        ("ed25519", vec![&ed25519]),
    ] {
        for text in [&rsa, &bare_rsa, &p256, &pem, &ed25519] {
            let expected = right.contains(&text);
            let result = read(&section(scheme), text);
            assert_eq!(result.is_ok(), expected, "{scheme} {text:.40} {result:?}");
            if !expected {
                assert!(matches!(result, Err(KeyError::OtherAlgorithm(_))), "{result:?}");
            }
        }
        assert_eq!(read(&section(scheme), "***"), Err(KeyError::Base64(" or PEM")));
        let damaged = rsa.replace("MIIB", "MIIC");
        assert!(read(&section(scheme), &damaged).is_err());
        let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(read(&section(scheme), private), Err(KeyError::PublicKey));
    }
    let short = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCqGKukO1De7zhZj6+H0qtjTkVxwTCpvKe4eCZ0FPqr\
                 i0cb2JZfXJ/DgYSF6vUpwmJG8wVQZKjeGcjDOL5UlsuusFncCzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6U\
                 tW+5u09lHNsj6tQ51s1SPrCBkedbNf0Tp0GbMJDyR4e9T04ZZwIDAQAB";
    assert_eq!(read(&section("rsa-pkcs1-sha256"), short), Err(KeyError::TooShort));
}

#[test]
fn a_public_key_may_be_hex() {
    let vector = vector("standard-webhooks-v1a/valid");
    let base64 = vector.secrets[0].trim_start_matches("whpk_");
    let text = hex::encode(crate::signature::decode_secret(base64).unwrap());
    assert_eq!(text.len(), 64);
    let section = "{ scheme = 'ed25519', encoding = 'base64', header = 'x', signed = '{body}', \
                   secret_encoding = 'hex' }";
    assert_eq!(read(section, &text), Ok(()));
    assert_eq!(read(section, &text.to_uppercase()), Ok(()));
    assert_eq!(read(section, base64), Err(KeyError::Hex));
    assert!(matches!(read(section, &text[2..]), Err(KeyError::OtherAlgorithm(_))));
    let pem = super::support::vector("rfc9421/valid").secrets[0].clone();
    let other = read(section, &pem);
    assert!(matches!(other, Err(KeyError::OtherAlgorithm(_))), "PEM is read too: {other:?}");
    let adapter = "{ adapter = 'rfc9421', algorithms = ['ed25519'], secret_encoding = 'hex' }";
    assert_eq!(read(adapter, &text), Ok(()));
    // It verifies what the key in base64 does.
    let mut profile = profile(&vector.scheme);
    profile.signature.secret_encoding = Some(SecretEncoding::Hex);
    profile.signature.secret_prefix = None;
    let receiver = profile.receiver(&Vars::new()).unwrap();
    let keys = keys(&receiver, [text.as_str()]);
    assert!(vector.verify(&receiver, &keys).is_ok());
}

#[test]
fn a_webhook_names_its_key() {
    let vector = vector("circle/rotated_receiver_holds_both");
    let receiver = vector.receiver();
    let own = vector.headers["x-circle-key-id"].clone();
    let with = |ids: [Option<&str>; 2]| {
        let mut keys = Keys::default();
        for (id, secret) in ids.into_iter().zip(&vector.secrets) {
            keys.add(id.map(str::to_owned), receiver.read_key(secret).unwrap());
        }
        vector.verify(&receiver, &keys)
    };
    assert!(with([None, None]).is_ok());
    // It is the second key that signed.
    assert!(with([Some("other"), Some(&own)]).is_ok());
    assert!(with([Some(&own), None]).is_ok());
    assert!(matches!(with([Some(&own), Some("other")]), Err(Rejection::NoMatch(_))));
    assert_eq!(with([Some("a"), Some("b")]), Err(Rejection::UnknownKey(own.clone())));
}

#[test]
fn a_key_is_never_printed() {
    let vector = vector("stripe/valid");
    let receiver = vector.receiver();
    let keys = vector.keys(&receiver);
    let printed = format!("{keys:?} {receiver:?}");
    assert!(!printed.contains("quartet_test_secret"), "{printed}");
    let error = vector.verify(&receiver, &Keys::default()).unwrap_err();
    let signature = &vector.headers["stripe-signature"][20..];
    assert!(!format!("{error} {error:?}").contains(signature), "{error:?}");
}
