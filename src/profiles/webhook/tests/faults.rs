//! Sections that are wrong, and what is said about them.

use super::{support::*, *};

const SIGNATURE: &str = "scheme = 'hmac', hash = 'sha256', encoding = 'hex', header = 'x-sig', \
                         signed = '{body}'";

/// The faults of a section as `key problem`.
fn faults(signature: &str, more: &str) -> Vec<String> {
    let toml = format!("signature = {{ {signature} }}\n{more}");
    let profile: WebhookProfile = toml::from_str(&toml).unwrap_or_else(|error| panic!("{error}"));
    let faults = profile.check().err().unwrap_or_default();
    let faults = faults.into_iter().map(|fault| {
        assert!(fault.key.starts_with("webhook."), "{fault}");
        format!("{} {}", fault.key.trim_start_matches("webhook."), fault.problem)
    });
    faults.collect()
}

/// Checks that the one fault is about this key and says this.
fn assert_fault(signature: &str, more: &str, key: &str, said: &str) {
    let found = faults(signature, more);
    assert_eq!(found.len(), 1, "{signature}\n{more}\n{found:?}");
    let is_said = found[0].starts_with(&format!("{key} ")) && found[0].contains(said);
    assert!(is_said, "{signature}\n{more}\n{found:?}");
}

const SETTLE: &str = "trust = 'settle'\nid = '/id'\nstatus = '/status'";
const HINT: &str = "id = '/id'";

#[test]
fn sections_in_order_have_no_fault() {
    for scheme in [
        "standard-webhooks-v1",
        "svix-v1",
        "standard-webhooks-v1a",
        "stripe",
        "hook0",
        "gocardless",
        "github",
        "adyen-header",
        "square",
        "wise",
        "circle",
        "paypal",
        "flutterwave-v3",
        "basic",
        "adyen-items",
        "rfc9421",
    ] {
        assert_eq!(profile(scheme).check(), Ok(()), "{scheme}");
    }
    assert_eq!(WebhookProfile::standard().check(), Ok(()));
    assert_eq!(faults(SIGNATURE, SETTLE), [""; 0]);
    assert_eq!(faults("scheme = 'none'", HINT), [""; 0]);
}

#[test]
fn nothing_settles_without_proof_of_the_body() {
    for signature in [
        "scheme = 'none'",
        "scheme = 'token', header = 'x-token'",
        "scheme = 'basic'",
        "adapter = 'paypal', webhook_id = '8PT'",
    ] {
        assert_fault(signature, SETTLE, "trust", "must be `hint`");
        assert_eq!(faults(signature, HINT), [""; 0]);
    }
    let with = |signed: &str| SIGNATURE.replace("{body}", signed);
    for signed in ["{url}", "{header:x-id}", "body", "{method}"] {
        assert_fault(&with(signed), SETTLE, "signature.signed", "must contain `{body}`");
    }
    assert_eq!(faults(&with("{method} {body:sha256}"), SETTLE), [""; 0]);
    let message = "adapter = 'rfc9421', cover = ['@method']";
    assert_fault(message, SETTLE, "signature.cover", "must contain `content-digest`");
    let query = "methods = ['GET']\ncontent = 'query'\nprovider_id = '/id'";
    assert_fault(SIGNATURE, query, "signature.signed", "must contain `{url}` or `{query}`");
    assert_eq!(faults(&with("{path}?{query}"), query), [""; 0]);
}

#[test]
fn what_is_read_must_be_signed() {
    let dated = format!("{SIGNATURE}, timestamp = {{ from = 'header:x-time' }}");
    assert_fault(&dated, SETTLE, "signature.signed", "must contain `{timestamp}`");
    let undated = SIGNATURE.replace("{body}", "{timestamp}.{body}");
    assert_fault(&undated, SETTLE, "signature.timestamp", "must say where");
    let pairs = format!("{SIGNATURE}, format = 'pairs', signature_key = 'v1'");
    let named = format!("{pairs}, names_key = 'h'");
    assert_fault(&named, SETTLE, "signature.signed", "must contain `{signed_headers}`");
    let unnamed = pairs.replace("{body}", "{signed_headers}.{body}");
    assert_fault(&unnamed, SETTLE, "signature.names_key", "must name the pair");

    let other = |key: &str, value: &str| {
        let lines = SETTLE.lines().filter(|line| !line.starts_with(key));
        format!("{}\n{key} = {value}", lines.collect::<Vec<_>>().join("\n"))
    };
    for (key, value) in
        [("status", "'header:x-status'"), ("id", "'header:x-id'"), ("provider_id", "'header:x-id'")]
    {
        assert_fault(SIGNATURE, &other(key, value), key, "must be a header that is signed");
        let signed = SIGNATURE.replace("{body}", "{header:X-Id}.{header:x-status}.{body}");
        assert_eq!(faults(&signed, &other(key, value)), [""; 0]);
    }
    for key in ["only", "ignore"] {
        let condition = other(key, "{ at = 'header:x-kind', is = 'a' }");
        let key = format!("{key}.at");
        assert_fault(SIGNATURE, &condition, &key, "must be a header that is signed");
    }
    // These need no signature: the content is a part of the dedupe key then.
    assert_eq!(faults(SIGNATURE, &other("event_id", "'header:x-id'")), [""; 0]);
    assert_eq!(faults(SIGNATURE, &HINT.replace("/id", "header:x-id")), [""; 0]);
}

#[test]
fn templates_are_checked() {
    for (signed, said) in [
        ("{boddy}", "unknown placeholder `{boddy}`; allowed are `{body}`"),
        ("{body", "a placeholder in each pair of braces"),
        ("{header:a}{header:b}{body}", "must have a text between"),
        ("{path}{query}{body}", "must have a text between"),
    ] {
        let signature = SIGNATURE.replace("{body}", signed);
        assert_fault(&signature, SETTLE, "signature.signed", said);
    }
    let form = "content = 'form'\nid = '/id'";
    let signed = SIGNATURE.replace("{body}", "{url}{body}");
    assert_fault(&signed, form, "signature.signed", "must have a text between");
    assert_eq!(faults(&signed, SETTLE), [""; 0]);
    let vars = SIGNATURE.replace("{body}", "{var:a}{body}");
    let profile: WebhookProfile =
        toml::from_str(&format!("signature = {{ {vars} }}\n{SETTLE}")).unwrap();
    assert_eq!(profile.check(), Ok(()));
    let fault = profile.receiver(&Vars::new()).unwrap_err().remove(0);
    let said = "`webhook.signature.signed` names the variable `a`, which has no value";
    assert_eq!(fault.to_string(), said);
    assert!(profile.receiver(&Vars::from([("a".to_owned(), "b".to_owned())])).is_ok());
}

#[test]
fn each_scheme_has_its_own_keys() {
    for (signature, key, said) in [
        ("header = 'x'", "signature", "either `scheme` or `adapter`"),
        ("scheme = 'none', adapter = 'paypal'", "signature", "either `scheme` or `adapter`"),
        ("scheme = 'none', header = 'x'", "signature.header", "no other key is"),
        ("scheme = 'basic', prefix = 'x'", "signature.prefix", "allowed are header"),
        ("scheme = 'token'", "signature.header", "must name the header"),
        ("scheme = 'token', header = 'a b'", "signature.header", "the name of a header"),
        ("adapter = 'paypal'", "signature.webhook_id", "the id that PayPal gave"),
        ("adapter = 'paypal', webhook_id = '{body}'", "signature.webhook_id", "a text or `{var:"),
        ("adapter = 'rfc9421', header = 'x'", "signature.header", "allowed are cover"),
        (
            "adapter = 'rfc9421', cover = ['@status', 'content-digest']",
            "signature.cover",
            "has `@status`",
        ),
        (
            "adapter = 'rfc9421', algorithms = ['hmac-sha256', 'ed25519']",
            "signature.algorithms",
            "`hmac-sha256` alone",
        ),
        ("adapter = 'rfc9421', algorithms = []", "signature.algorithms", "`hmac-sha256` alone"),
        ("adapter = 'rfc9421', tolerance = '5'", "signature.tolerance", "such as `300s`"),
    ] {
        assert_fault(signature, HINT, key, said);
    }
    for (from, to, key, said) in [
        ("hash = 'sha256', ", "", "signature.hash", "`sha1`, `sha256`"),
        ("encoding = 'hex', ", "", "signature.encoding", "`hex`, `base64`"),
        ("header = 'x-sig', ", "", "signature.header", "must name the header"),
        (", signed = '{body}'", "", "signature.signed", "must say what is signed"),
        ("hmac", "ed25519", "signature.hash", "is not used with `scheme = \"ed25519\"`"),
        ("signed", "webhook_id = 'x', signed", "signature.webhook_id", "is not used"),
        ("signed", "signature_key = 'v1', signed", "signature.signature_key", "only used with"),
        ("signed", "pair_separator = ';', signed", "signature.pair_separator", "only used with"),
        ("signed", "prefix_optional = true, signed", "signature.prefix_optional", "`prefix`"),
        ("signed", "format = 'pairs', signed", "signature.signature_key", "must be the name"),
        ("signed", "format = 'versioned-list', signed", "signature.signature_key", "such as `v1`"),
        (
            "signed",
            "format = 'pairs', signature_key = 'v1', pair_separator = '=', signed",
            "signature.pair_separator",
            "without `=`",
        ),
        (
            "signed",
            "format = 'pairs', signature_key = 'v=1', signed",
            "signature.signature_key",
            "must differ",
        ),
        (
            "signed",
            "format = 'versioned-list', signature_key = 'v1', prefix = 'x', signed",
            "signature.prefix",
            "only used with",
        ),
    ] {
        assert_fault(&SIGNATURE.replacen(from, to, 1), HINT, key, said);
    }
    let dated = SIGNATURE.replace("{body}", "{timestamp}.{body}");
    for (timestamp, key, said) in [
        ("from = 'x-time'", "from", "`header:name` or `pair:key`"),
        ("from = 'pair:'", "from", "`header:name` or `pair:key`"),
        ("from = 'pair:t'", "from", "with `format = \"pairs\"`"),
        ("from = 'header:a b'", "from", "the name of a header"),
        ("from = 'header:t', tolerance = '300'", "tolerance", "such as `300s`"),
        ("from = 'header:t', tolerance = '90days'", "tolerance", "at most `31days`"),
    ] {
        let key = format!("signature.timestamp.{key}");
        assert_fault(&format!("{dated}, timestamp = {{ {timestamp} }}"), HINT, &key, said);
    }
    let repeated = format!(
        "{}, format = 'pairs', signature_key = 't', timestamp = {{ from = 'pair:t' }}",
        SIGNATURE.replace("{body}", "{timestamp}.{body}")
    );
    assert_fault(&repeated, HINT, "signature.signature_key", "must differ");
    let public = SIGNATURE.replace("hmac', hash = 'sha256'", "ed25519', secret_encoding = 'text'");
    assert_fault(&public, HINT, "signature.secret_encoding", "`hex` for a public key");
}

#[test]
fn the_rest_of_the_section_is_checked() {
    let none = "scheme = 'none'";
    for (more, key, said) in [
        ("", "id", "or `webhook.provider_id` must say"),
        ("id = 'id'", "id", "`/pointer`, `body:/pointer` or `header:name`"),
        ("provider_id = '/a~'", "provider_id", "`~0`"),
        ("id = '/id'\nstatus = ['/a', '']", "status", "`/pointer`"),
        ("id = '/id'\nitems = 'events'", "items", "a JSON pointer"),
        ("id = '/id'\nevent_id = 'header:'", "event_id", "`header:name`"),
        ("id = '/id'\norder = 'x'", "order", "`/pointer`"),
        ("id = '/id'\nonly = { at = 'x', is = 'y' }", "only.at", "`/pointer`"),
        ("id = '/id'\nonly = { at = '/x', is = [] }", "only.is", "at least one value"),
        ("id = '/id'\nmethods = []", "methods", "must name `POST`, `PUT` or `GET`"),
        ("id = '/id'\nmethods = ['HEAD']", "methods", "must name `POST`, `PUT` or `GET`"),
        ("id = '/id'\nmethods = ['GET']", "methods", "`content = \"query\"`"),
        ("id = '/id'\ncontent = 'query'", "methods", "must be `GET`"),
        ("id = '/id'\ncontent = 'form'\nitems = '/x'", "items", "unless `content = \"json\"`"),
        ("id = '/a/b'\ncontent = 'form'", "id", "a form has no deeper fields"),
        ("id = '/id'\nok_code = 302", "ok_code", "from 200 to 299"),
        ("id = '/id'\nok_code = 204\nok_body = 'x'", "ok_body", "`ok_code = 204`"),
        ("id = '/id'\nrefused_code = 500", "refused_code", "from 400 to 499"),
    ] {
        assert_fault(none, more, key, said);
    }
    let long = format!("id = '/id'\nok_body = '{}'", "x".repeat(1_025));
    assert_fault(none, &long, "ok_body", "at most 1024 characters");
    assert_fault(SIGNATURE, "trust = 'settle'\nid = '/id'", "status", "must be there");
    let adyen = "adapter = 'adyen-items'";
    assert_fault(adyen, "id = '/additionalData/x'", "id", "nothing else is signed");
    assert_fault(adyen, "order = '/eventDate'", "order", "/pspReference, /originalReference");
    assert_fault(adyen, "items = '/notificationItems'", "items", "must not be there");
    assert_eq!(faults(adyen, "id = '/merchantReference'"), [""; 0]);
}

#[test]
fn every_fault_is_found_at_once() {
    let found = faults("scheme = 'hmac', header = 'x'", "trust = 'settle'\nok_code = 1");
    let keys: Vec<_> = found.iter().map(|fault| fault.split(' ').next().unwrap()).collect();
    let expected = ["ok_code", "signature.signed", "signature.encoding", "signature.hash", "id"];
    assert_eq!(keys, expected);
}

#[test]
fn unknown_keys_and_words_are_named_with_what_is_allowed() {
    let said = |toml: &str| toml::from_str::<WebhookProfile>(toml).unwrap_err().to_string();
    for (toml, words) in [
        ("signature = { scheme = 'hmac', hsh = 'sha1' }", ["`hsh`", "`hash`"]),
        ("signature = { scheme = 'hmc' }", ["`hmc`", "`ecdsa-p256-sha256`"]),
        ("signature = { adapter = 'adyen' }", ["`adyen`", "`adyen-items`"]),
        ("signature = { scheme = 'none' }\ntrust = 'full'", ["`full`", "`settle`"]),
        ("signature = { scheme = 'none' }\nmethods = ['DELETE']", ["`DELETE`", "`POST`"]),
        ("signature = { scheme = 'none' }\nsatus = '/x'", ["`satus`", "`status`"]),
        ("trust = 'hint'", ["missing field", "`signature`"]),
        ("signature = { scheme = 'none' }\nstatus = 1.5", ["one value or a list", "1.5"]),
        (
            "signature = { scheme = 'none' }\nonly = { at = '/x', is = [1.5] }",
            ["a text, a whole number or a boolean", "1.5"],
        ),
        (
            "signature = { scheme = 'none' }\nonly = { at = '/x', is = 'y', or = 1 }",
            ["`or`", "`at`"],
        ),
    ] {
        let said = said(toml);
        assert!(words.iter().all(|word| said.contains(word)), "{toml}\n{said}");
    }
}

#[test]
fn an_event_is_compared_with_what_the_client_posted() {
    let same = |at: &str, is: &str| format!("{SETTLE}\nsame = {{ at = '{at}', is = '{is}' }}");
    for is in ["{amount:minor}", "{currency:lower}", "x-{reference}", "{metadata.order}", "{id}"] {
        assert_eq!(faults(SIGNATURE, &same("/x", is)), [""; 0], "{is}");
    }
    for is in ["1250", "{secret:token}", "{var:x}", "{provider_id}", "{now}", "{metadata}"] {
        assert_fault(SIGNATURE, &same("/x", is), "same.is", "must be what the client posted");
    }
    assert_fault(SIGNATURE, &same("/x", "{amount}"), "same.is", "{amount:minor}");
    assert_fault(SIGNATURE, &same("x", "{currency}"), "same.at", "/");
    assert_fault(SIGNATURE, &same("header:x", "{currency}"), "same.at", "signed");
}
