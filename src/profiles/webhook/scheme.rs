//! The rules for `signature = { … }`: which keys a scheme needs and which it has no use for.

use ring::hmac;

use super::{
    adapter,
    built::{Built, Proved, tolerance},
    faults::{Faults, Vars},
    interpreter::{Proof, SignatureRule, TimestampRule},
    keys::{Algorithm, KeyKind, SecretEncoding},
    profile::{
        Adapter, Content, Format, Hash, Scheme, SignatureSection, TimestampSection, WebhookProfile,
    },
    signature_header::{HeaderForm, Prefix},
    source::header_name,
    template::{Part, Template},
};

/// `None` only with a fault.
pub fn build(profile: &WebhookProfile, vars: Option<&Vars>, faults: &mut Faults) -> Option<Built> {
    let section = &profile.signature;
    match (section.scheme, section.adapter) {
        (Some(scheme), None) => {
            let name = format!("scheme = \"{}\"", scheme.as_str());
            refuse_others(section, &name, allowed_keys(scheme), faults);
            match scheme {
                Scheme::None => {
                    let proof = Proved::Interpreted(Proof::Nothing);
                    Some(Built::new(proof, KeyKind::Nothing))
                }
                Scheme::Token => {
                    let header = required_header(section, faults)?;
                    let proof = Proof::Token { header, prefix: prefix(section) };
                    let key_kind = KeyKind::Shared { is_basic: false };
                    Some(Built::new(Proved::Interpreted(proof), key_kind))
                }
                Scheme::Basic => {
                    let header = match &section.header {
                        Some(_) => required_header(section, faults)?,
                        None => "authorization".to_owned(),
                    };
                    let proof = Proved::Interpreted(Proof::Basic { header });
                    Some(Built::new(proof, KeyKind::Shared { is_basic: true }))
                }
                _ => signed(profile, scheme, vars, faults),
            }
        }
        (None, Some(built_in)) => {
            let name = format!("adapter = \"{}\"", built_in.as_str());
            match built_in {
                Adapter::AdyenItems => {
                    refuse_others(section, &name, &[], faults);
                    let (encoding, prefix) = (SecretEncoding::Hex, String::new());
                    let algorithm = hmac::HMAC_SHA256;
                    let key_kind = KeyKind::Hmac { algorithm, encoding, prefix };
                    Some(Built::new(Proved::AdyenItems, key_kind))
                }
                Adapter::Paypal => {
                    refuse_others(section, &name, &["webhook_id", "tolerance"], faults);
                    adapter::paypal(section, vars, faults)
                }
                Adapter::Rfc9421 => {
                    let allowed =
                        ["cover", "algorithms", "tolerance", "secret_encoding", "secret_prefix"];
                    refuse_others(section, &name, &allowed, faults);
                    adapter::message_signature(profile, faults)
                }
            }
        }
        _ => {
            faults.add("signature", "must have either `scheme` or `adapter`");
            None
        }
    }
}

fn allowed_keys(scheme: Scheme) -> &'static [&'static str] {
    const SIGNED: &[&str] = &[
        "encoding",
        "header",
        "format",
        "prefix",
        "prefix_optional",
        "pair_separator",
        "signature_key",
        "names_key",
        "key_id_header",
        "timestamp",
        "signed",
        "secret_encoding",
        "secret_prefix",
        // Kept last: HMAC alone.
        "hash",
    ];
    match scheme {
        Scheme::None => &[],
        Scheme::Basic => &["header"],
        Scheme::Token => &["header", "prefix", "prefix_optional"],
        Scheme::Hmac => SIGNED,
        _ => &SIGNED[..SIGNED.len() - 1],
    }
}

/// A key that has no effect is a mistake: its author believes that it has one.
fn refuse_others(section: &SignatureSection, name: &str, allowed: &[&str], faults: &mut Faults) {
    let given = [
        ("hash", section.hash.is_some()),
        ("encoding", section.encoding.is_some()),
        ("header", section.header.is_some()),
        ("format", section.format.is_some()),
        ("prefix", section.prefix.is_some()),
        ("prefix_optional", section.prefix_optional.is_some()),
        ("pair_separator", section.pair_separator.is_some()),
        ("signature_key", section.signature_key.is_some()),
        ("names_key", section.names_key.is_some()),
        ("key_id_header", section.key_id_header.is_some()),
        ("timestamp", section.timestamp.is_some()),
        ("signed", section.signed.is_some()),
        ("secret_encoding", section.secret_encoding.is_some()),
        ("secret_prefix", section.secret_prefix.is_some()),
        ("webhook_id", section.webhook_id.is_some()),
        ("cover", section.cover.is_some()),
        ("algorithms", section.algorithms.is_some()),
        ("tolerance", section.tolerance.is_some()),
    ];
    let said = match allowed {
        [] => "no other key is".to_owned(),
        allowed => format!("allowed are {}", allowed.join(", ")),
    };
    for (key, is_given) in given {
        if is_given && !allowed.contains(&key) {
            let key = format!("signature.{key}");
            faults.add(&key, format!("is not used with `{name}`; {said}"));
        }
    }
}

fn header(key: &str, name: &str, faults: &mut Faults) -> Option<String> {
    faults.value(key, header_name(name).ok_or("must be the name of a header"))
}

fn required_header(section: &SignatureSection, faults: &mut Faults) -> Option<String> {
    let Some(name) = &section.header else {
        faults.add("signature.header", "must name the header that holds the proof");
        return None;
    };
    header("signature.header", name, faults)
}

fn prefix(section: &SignatureSection) -> Prefix {
    let is_optional = section.prefix_optional.unwrap_or(false);
    Prefix { text: section.prefix.clone().unwrap_or_default(), is_optional }
}

/// Schemes that sign a template.
fn signed(
    profile: &WebhookProfile,
    scheme: Scheme,
    vars: Option<&Vars>,
    faults: &mut Faults,
) -> Option<Built> {
    let section = &profile.signature;
    let header_name = required_header(section, faults);
    let form = header_form(section, faults);
    let template = template(profile, vars, faults);
    let timestamp = timestamp(section, faults);
    let key_id = section.key_id_header.as_ref();
    let key_id_header = key_id.and_then(|name| header("signature.key_id_header", name, faults));
    if section.encoding.is_none() {
        faults.add("signature.encoding", "must be `hex`, `base64` or `base64url`");
    }
    let (algorithm, key_kind) = key_kind(section, scheme, faults)?;
    let signed = template?;
    let rule = SignatureRule {
        header: header_name?,
        form: form?,
        encoding: section.encoding?,
        algorithm,
        timestamp: timestamp?,
        key_id_header,
        fixed_header: None,
        signed,
    };
    let signed_headers = rule.signed.headers().map(str::to_owned).collect();
    let names_headers = section.names_key.is_some();
    let proof = Proved::Interpreted(Proof::Signature(Box::new(rule)));
    Some(Built { signed_headers, names_headers, ..Built::new(proof, key_kind) })
}

/// `None` for the algorithm: HMAC.
fn key_kind(
    section: &SignatureSection,
    scheme: Scheme,
    faults: &mut Faults,
) -> Option<(Option<Algorithm>, KeyKind)> {
    let prefix = section.secret_prefix.clone().unwrap_or_default();
    let algorithm = match scheme {
        Scheme::Ed25519 => webpki::ring::ED25519,
        Scheme::RsaPkcs1Sha256 => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
        Scheme::EcdsaP256Sha256 => webpki::ring::ECDSA_P256_SHA256,
        _ => {
            let Some(hash) = section.hash else {
                let allowed = "must be `sha1`, `sha256`, `sha384` or `sha512`";
                faults.add("signature.hash", allowed);
                return None;
            };
            let algorithm = match hash {
                Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                Hash::Sha256 => hmac::HMAC_SHA256,
                Hash::Sha384 => hmac::HMAC_SHA384,
                Hash::Sha512 => hmac::HMAC_SHA512,
            };
            let encoding = section.secret_encoding.unwrap_or_default();
            return Some((None, KeyKind::Hmac { algorithm, encoding, prefix }));
        }
    };
    if section.secret_encoding == Some(SecretEncoding::Text) {
        let allowed = "must be `base64` or `hex` for a public key; PEM is read too";
        faults.add("signature.secret_encoding", allowed);
    }
    let is_hex = section.secret_encoding == Some(SecretEncoding::Hex);
    Some((Some(algorithm), KeyKind::Public { algorithms: vec![algorithm], is_hex, prefix }))
}

fn header_form(section: &SignatureSection, faults: &mut Faults) -> Option<HeaderForm> {
    let format = section.format.unwrap_or_default();
    let has_key = matches!(format, Format::Pairs | Format::VersionedList);
    let mut only_with = |key: &str, is_given: bool, is_right: bool, formats: &str| {
        if is_given && !is_right {
            faults.add(&format!("signature.{key}"), format!("is only used with {formats}"));
        }
    };
    let pairs = "`format = \"pairs\"`";
    let is_pairs = format == Format::Pairs;
    only_with("pair_separator", section.pair_separator.is_some(), is_pairs, pairs);
    only_with("names_key", section.names_key.is_some(), is_pairs, pairs);
    let keyed = "`format = \"pairs\"` or `format = \"versioned-list\"`";
    only_with("signature_key", section.signature_key.is_some(), has_key, keyed);
    let prefixed = "`format = \"plain\"` or `format = \"list\"`";
    only_with("prefix", section.prefix.is_some(), !has_key, prefixed);
    let prefix_optional = section.prefix_optional.is_some();
    only_with("prefix_optional", prefix_optional, section.prefix.is_some(), "`prefix`");

    let signature_key = || section.signature_key.clone().filter(|key| !key.is_empty());
    if has_key && signature_key().is_none() {
        let problem = "must be the name under which signatures stand in the header, such as `v1`";
        faults.add("signature.signature_key", problem);
        return None;
    }
    let separator = section.pair_separator.clone().unwrap_or_else(|| ",".to_owned());
    if separator.is_empty() || separator.contains('=') {
        faults.add("signature.pair_separator", "must be a text without `=`, such as `,` or `;`");
        return None;
    }
    let from = section.timestamp.as_ref().map(|timestamp| timestamp.from.as_str());
    let timestamp_key = from.and_then(|from| from.strip_prefix("pair:"));
    let timestamp_key = timestamp_key.filter(|key| !key.is_empty()).map(str::to_owned);
    if timestamp_key.is_some() && !is_pairs {
        let problem = format!("may only be `pair:…` with {pairs}");
        faults.add("signature.timestamp.from", problem);
    }
    let names_key = section.names_key.clone();
    let keys = [signature_key(), timestamp_key.clone(), names_key.clone()];
    let keys: Vec<_> = keys.into_iter().flatten().collect();
    let is_repeated = (1..keys.len()).any(|nth| keys[..nth].contains(&keys[nth]));
    if is_repeated || keys.iter().any(|key| key.contains([' ', ',', '=', ';'])) {
        let problem = "and the other keys of pairs must differ and have no space, `,`, `;` or `=`";
        faults.add("signature.signature_key", problem);
    }
    Some(match format {
        Format::Plain => HeaderForm::Plain(prefix(section)),
        Format::List => HeaderForm::List(prefix(section)),
        Format::Pairs => HeaderForm::Pairs {
            separator,
            signature_key: signature_key()?,
            names_key,
            timestamp_key,
        },
        Format::VersionedList => HeaderForm::VersionedList { version: signature_key()? },
    })
}

/// `Some(None)`: nothing is dated.
fn timestamp(section: &SignatureSection, faults: &mut Faults) -> Option<Option<TimestampRule>> {
    let Some(TimestampSection { from, unit, tolerance: within }) = &section.timestamp else {
        return Some(None);
    };
    let tolerance = tolerance("signature.timestamp.tolerance", within.as_ref(), faults)?;
    let key = "signature.timestamp.from";
    let header = match from.split_once(':') {
        Some(("header", name)) => Some(header(key, name, faults)?),
        Some(("pair", name)) if !name.is_empty() => None,
        _ => {
            faults.add(key, "must be `header:name` or `pair:key`");
            return None;
        }
    };
    Some(Some(TimestampRule { header, from: from.clone(), unit: *unit, tolerance }))
}

fn template(
    profile: &WebhookProfile,
    vars: Option<&Vars>,
    faults: &mut Faults,
) -> Option<Template> {
    const KEY: &str = "signature.signed";
    let section = &profile.signature;
    let Some(text) = &section.signed else {
        faults.add(KEY, "must say what is signed, such as `{timestamp}.{body}`");
        return None;
    };
    let template = faults.value(KEY, Template::parse(text))?;
    let is_in = |part: Part| template.contains(&part);
    if profile.content == Content::Query {
        if !is_in(Part::Url) && !is_in(Part::Query) {
            let problem = "must contain `{url}` or `{query}`, which the events are read from";
            faults.add(KEY, problem);
        }
    } else if !is_in(Part::Body) && !is_in(Part::BodySha256) {
        faults.add(KEY, "must contain `{body}` or `{body:sha256}`: else nothing proves the body");
    }
    match (&section.timestamp, is_in(Part::Timestamp)) {
        (Some(_), false) => {
            let problem =
                "must contain `{timestamp}`: a timestamp that is not signed proves nothing";
            faults.add(KEY, problem);
        }
        (None, true) => {
            let problem = "must say where the `{timestamp}` of `signed` stands";
            faults.add("signature.timestamp", problem);
        }
        _ => {}
    }
    match (&section.names_key, is_in(Part::SignedHeaders)) {
        (Some(_), false) => {
            faults.add(KEY, "must contain `{signed_headers}`, which `names_key` lists");
        }
        (None, true) => {
            let problem = "must name the pair that lists the `{signed_headers}` of `signed`";
            faults.add("signature.names_key", problem);
        }
        _ => {}
    }
    if template.has_ambiguous_pair(profile.content == Content::Json) {
        let problem = "must have a text between two placeholders that a sender fills: what is \
                       moved from one to the other would still be signed";
        faults.add(KEY, problem);
    }
    let Some(vars) = vars else { return Some(template) };
    let missing = |name| format!("names the variable `{name}`, which has no value");
    faults.value(KEY, template.with_vars(vars).map_err(missing))
}
