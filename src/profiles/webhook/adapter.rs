//! The rules for `signature = { adapter = … }` that verifies by a key of the profile's choice.

use ring::hmac;

use super::{
    built::{Built, Proved, tolerance},
    faults::{Faults, Vars},
    interpreter::{Proof, SignatureRule, TimestampRule},
    keys::{KeyKind, SecretEncoding},
    profile::{Content, MessageAlgorithm, SignatureSection, WebhookProfile},
    rfc9421::{CONTENT_DIGEST, DERIVED},
    signature_header::{Encoding, HeaderForm, Prefix},
    source::header_name,
    template::{Part, Template},
    timestamp::TimeUnit,
};

/// PayPal signs its own id of the webhook and a CRC-32 of the body. Somebody who has seen one
/// webhook can write another body of the same CRC-32, so this proves no body.
pub fn paypal(
    section: &SignatureSection,
    vars: Option<&Vars>,
    faults: &mut Faults,
) -> Option<Built> {
    const KEY: &str = "signature.webhook_id";
    let webhook_id = section.webhook_id.as_ref().filter(|id| !id.is_empty());
    if webhook_id.is_none() {
        faults.add(KEY, "must be the id that PayPal gave this webhook");
    }
    let tolerance = tolerance("signature.tolerance", section.tolerance.as_ref(), faults);
    let id = faults.value(KEY, Template::parse(webhook_id?))?;
    if id.0.iter().any(|part| !matches!(part, Part::Text(_) | Part::Var(_))) {
        faults.add(KEY, "must be a text or `{var:name}`");
    }
    let missing = |name| format!("names the variable `{name}`, which has no value");
    let id = match vars {
        Some(vars) => faults.value(KEY, id.with_vars(vars).map_err(missing))?,
        None => id,
    };
    let bar = || Part::Text("|".to_owned());
    let head = Part::Header("paypal-transmission-id".to_owned());
    let mut parts = vec![head, bar(), Part::Timestamp, bar()];
    parts.extend(id.0);
    parts.extend([bar(), Part::BodyCrc32]);
    let algorithm = webpki::ring::RSA_PKCS1_2048_8192_SHA256;
    let time = "paypal-transmission-time";
    let rule = SignatureRule {
        header: "paypal-transmission-sig".to_owned(),
        form: HeaderForm::Plain(Prefix::default()),
        encoding: Encoding::Base64,
        algorithm: Some(algorithm),
        signed: Template(parts),
        timestamp: Some(TimestampRule {
            header: Some(time.to_owned()),
            from: format!("header:{time}"),
            unit: TimeUnit::Rfc3339,
            tolerance: tolerance?,
        }),
        key_id_header: Some("paypal-cert-url".to_owned()),
        fixed_header: Some(("paypal-auth-algo", "SHA256withRSA")),
    };
    let proof = Proved::Interpreted(Proof::Signature(Box::new(rule)));
    let (algorithms, prefix) = (vec![algorithm], String::new());
    let key_kind = KeyKind::Public { algorithms, is_hex: false, prefix };
    Some(Built::new(proof, key_kind))
}

pub fn message_signature(profile: &WebhookProfile, faults: &mut Faults) -> Option<Built> {
    let section = &profile.signature;
    if profile.content == Content::Query {
        faults.add("content", "must be `json` or `form` for `rfc9421`: it signs the body's digest");
    }
    let default_cover = || vec![CONTENT_DIGEST.to_owned()];
    let cover = section.cover.clone().unwrap_or_else(default_cover);
    let cover: Vec<_> = cover.iter().map(|name| name.to_ascii_lowercase()).collect();
    let is_component = |name: &str| {
        DERIVED.contains(&name) || header_name(name).is_some_and(|_| !name.starts_with('@'))
    };
    if let Some(unknown) = cover.iter().find(|name| !is_component(name)) {
        let derived = DERIVED.join(", ");
        let problem = format!("has `{unknown}`; allowed are names of headers and {derived}");
        faults.add("signature.cover", problem);
    }
    if !cover.iter().any(|name| name == CONTENT_DIGEST) {
        let problem = "must contain `content-digest`: else nothing proves the body";
        faults.add("signature.cover", problem);
    }
    let tolerance = tolerance("signature.tolerance", section.tolerance.as_ref(), faults)?;
    let asymmetric = || MessageAlgorithm::ASYMMETRIC.to_vec();
    let algorithms = section.algorithms.clone().unwrap_or_else(asymmetric);
    let public: Vec<_> = algorithms.iter().filter_map(|algorithm| algorithm.public()).collect();
    let prefix = section.secret_prefix.clone().unwrap_or_default();
    let key_kind = if public.is_empty() && !algorithms.is_empty() {
        let encoding = section.secret_encoding.unwrap_or_default();
        KeyKind::Hmac { algorithm: hmac::HMAC_SHA256, encoding, prefix }
    } else {
        if public.len() != algorithms.len() || algorithms.is_empty() {
            // A public key must never be taken for the secret of an HMAC.
            let problem = "must be `hmac-sha256` alone, or only algorithms with public keys";
            faults.add("signature.algorithms", problem);
        }
        let is_hex = section.secret_encoding == Some(SecretEncoding::Hex);
        KeyKind::Public { algorithms: public, is_hex, prefix }
    };
    let signed_headers = cover.clone();
    let proof = Proved::MessageSignature { cover, algorithms, tolerance };
    Some(Built { signed_headers, names_headers: true, ..Built::new(proof, key_kind) })
}
