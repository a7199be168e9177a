//! Requests that are signed by an HMAC.

use chrono::DateTime;
use serde_json::Value;

use super::{BY_ID, ID, content, inputs, profile, values, with};
use crate::profiles::{
    Header, Profile, RenderError, Request, Signing, ThirdParty, Values, request::Method,
};

fn signed(text: &str, values: &Values, now: &str, nonce: &str) -> Result<Request, RenderError> {
    let (profile, content) = (profile(text), content(&[]));
    let mut request = profile.create_request(&inputs(&content, values))?;
    let (base_url, now) = ("https://api.example", now.parse().unwrap());
    let with = Signing { base_url, values, now, nonce, is_repeat: false };
    profile.signer().unwrap().sign(&mut request, &with)?;
    Ok(request)
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    let found: Vec<_> = request.headers.iter().filter(|header| header.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {request:?}");
    &found[0].value
}

/// The example in Modulr's documentation of its signatures.
#[test]
fn a_signature_over_a_date_and_a_nonce() {
    let text = format!(
        r#"{BY_ID}
[sign]
hash = "sha1"
encoding = "base64-percent"
signed = "date: {{date}}\nx-mod-nonce: {{nonce}}"
[sign.headers]
Date = "{{date}}"
x-mod-nonce = "{{nonce}}"
Authorization = 'Signature keyId="{{secret:key_id}}",headers="date x-mod-nonce",signature="{{signature}}"'
"#
    );
    let key = "NzAwZmIwMGQ0YTJiNDhkMzZjYzc3YjQ5OGQyYWMzOTI=";
    let values = values(&[("signing_key", key), ("key_id", "KNOWN_API_KEY")]);
    let nonce = "28154b2-9c62b93cc22a-24c9e2-5536d7d";
    let request = signed(&text, &values, "2016-07-25T16:36:07Z", nonce).unwrap();
    assert_eq!(header(&request, "Date"), "Mon, 25 Jul 2016 16:36:07 GMT");
    assert_eq!(
        header(&request, "Authorization"),
        "Signature keyId=\"KNOWN_API_KEY\",headers=\"date x-mod-nonce\",\
         signature=\"WBMr%2FYdhysbmiIEkdTrf2hP7SfA%3D\""
    );
    assert!(!format!("{request:?}").contains("KNOWN_API_KEY"), "{request:?}");
}

/// The expected values were computed with Python's hmac.
#[test]
fn a_signature_over_headers_and_body_and_over_the_request_line() {
    let values = values(&[("key", "hush-key")]);
    let login = with(BY_ID, "repeat =", "headers = { X-Login = \"login-1\" }\nrepeat =");
    let text = format!(
        r#"{login}
[sign]
hash = "sha256"
encoding = "hex"
key = "{{secret:key}}"
signed = "{{header:x-login}}{{header:X-Date}}{{body}}"
headers = {{ X-Date = "{{now}}", Authorization = "V2-HMAC-SHA256, Signature: {{signature}}" }}
"#
    );
    let request = signed(&text, &values, "2026-01-01T00:01:40Z", "n").unwrap();
    assert_eq!(
        header(&request, "Authorization"),
        "V2-HMAC-SHA256, Signature: \
         62a3b08b338fd2fd7927d5044a561a37e220756f72b73d1b3be85db7073496ae"
    );
    let text = format!(
        r#"{BY_ID}
[sign]
hash = "sha512"
encoding = "hex"
key = "{{secret:key}}"
signed = "{{method}}\n{{target}}\n{{timestamp}}\n{{body}}"
headers = {{ X-Signature = "t={{timestamp}},v1={{signature}}" }}
"#
    );
    let request = signed(&text, &values, "2026-01-01T00:01:40Z", "n").unwrap();
    assert_eq!(
        header(&request, "X-Signature"),
        "t=1767225700,v1=\
         92c77f573974c6c3e713b142677ab47f3ff9f1d457f906858b319b9e2c3baaa1\
         13ed45cfc814a3f94c107b28b942ce60cb895de5b5c84dc8ba9d5264ada3f8d9"
    );
    let error = signed(&text, &super::values(&[]), "2026-01-01T00:01:40Z", "n").unwrap_err();
    assert!(error.is_configuration() && error.to_string() == "{secret:key} is not set", "{error}");
    assert!(signed(&text, &values, "2026-01-01T00:01:40Z", "n\r\nX: 1").is_ok());
    let nonce = with(&text, "t={timestamp}", "t={nonce}");
    let error = signed(&nonce, &values, "2026-01-01T00:01:40Z", "n\r\nX: 1").unwrap_err();
    assert!(matches!(error, RenderError::Unsendable { .. }), "{error}");
}

const COINBASE: &str = r#"hash = "sha256"
encoding = "hex"
signed = "{timestamp}{method}{target}{body}"
headers = { CB-ACCESS-TIMESTAMP = "{timestamp}", CB-ACCESS-SIGN = "{signature}" }
"#;
const MODULR: &str = r#"hash = "sha1"
encoding = "base64-percent"
signed = "date: {date}\nx-mod-nonce: {nonce}"
[sign.headers]
Date = "{date}"
x-mod-nonce = "{nonce}"
x-mod-retry = "{repeat}"
Authorization = """Signature keyId="{var:key_id}",algorithm="hmac-sha1",\
  headers="date x-mod-nonce",signature="{signature}\""""
"#;
const DLOCAL_PAYLOAD: &str = r#"hash = "sha256"
encoding = "hex"
signed = "{body}"
headers = { Payload-Signature = "{signature}" }
"#;

const DLOCAL: &str = r#"hash = "sha256"
encoding = "hex"
signed = "{header:X-Login}{now:ms}{body}"
[sign.headers]
X-Date = "{now:ms}"
Authorization = "V2-HMAC-SHA256, Signature: {signature}"
"#;
const PAYSEND: &str = r#"hash = "sha256"
keyed = false
encoding = "hex"
signed = "{body}{secret:signing_key}"
headers = { X-OPP-Signature = "{signature}" }
"#;

/// `[sign]` for a recorded request.
fn section(vector: &str) -> &'static str {
    match vector {
        "coinbase-legacy/post" | "coinbase-legacy/get" => COINBASE,
        "modulr/retry_false" | "modulr/retry_true" => MODULR,
        "dlocal/payload" => DLOCAL_PAYLOAD,
        "dlocal/v2" => DLOCAL,
        "paysend/post" => PAYSEND,
        other => panic!("no section for {other}"),
    }
}

/// Requests whose signatures were made by the providers' own libraries or rules.
#[test]
fn recorded_requests_are_signed_alike() {
    let text = include_str!("../../../tests/provider_webhooks/vectors.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let vectors = file["request_signing"].as_array().unwrap();
    assert_eq!(vectors.len(), 7);
    for vector in vectors {
        let id = vector["id"].as_str().unwrap();
        let profile = profile(&format!("{BY_ID}[sign]\n{}", section(id)));
        let text = |name: &str| vector[name].as_str().unwrap_or_default();
        let target = text("path_and_query");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: if text("method") == "GET" { Method::Get } else { Method::Post },
            path: path.to_owned(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers: Vec::new(),
            content: None,
            body: text("body").into(),
        };
        // What the profile sends beside what the signature adds.
        let login = vector["headers"]["X-Login"].as_str();
        request.headers.extend(login.map(|login| Header {
            name: "X-Login".to_owned(),
            value: login.to_owned(),
            is_secret: false,
        }));
        let mut values = values(&[("signing_key", text("secret"))]);
        values.vars.insert("key_id".to_owned(), "quartet_key".to_owned());
        let now = DateTime::from_timestamp(vector["now"].as_i64().unwrap(), 0).unwrap();
        // Where there is a nonce, it is our id.
        let (nonce, is_repeat) = (&ID.to_string(), id.ends_with("retry_true"));
        let with = Signing { base_url: "", values: &values, now, nonce, is_repeat };
        profile.signer().unwrap().sign(&mut request, &with).unwrap();
        for Header { name, value, .. } in &request.headers {
            assert_eq!(vector["headers"][name], value.as_str(), "{id}: {name}");
        }
        assert!(request.headers.iter().any(|header| header.is_secret), "{id}");
    }
}

/// The expected values were computed with Python's hmac and hashlib.
#[test]
fn times_have_milliseconds_and_methods_and_digits_their_case() {
    let values = values(&[("signing_key", "hush-key")]);
    let sign = |section: &str| {
        let text = format!("{BY_ID}[sign]\n{section}");
        let request = signed(&text, &values, "2026-01-01T00:01:40.0789Z", "n").unwrap();
        header(&request, "X-Signature").to_owned()
    };
    assert_eq!(
        sign(
            "hash = \"sha512\"\nencoding = \"hex-upper\"\n\
             signed = \"{method:lower}{timestamp:ms}{now:ms}\"\n\
             headers = { X-Signature = \"{timestamp:ms} {signature}\" }"
        ),
        "1767225700078 \
         1E1752BF8778EF37339A159AA28502359F76945C2F3246C2C0C2331CCCE04488\
         1DB643750FCDB8A7663CAECFDAE3D119F5C55C91CB1F02F1CC130C70C3DBCDDE"
    );
    assert_eq!(
        sign(
            "hash = \"sha1\"\nkeyed = false\nencoding = \"base64\"\n\
             signed = \"{secret:signing_key}{now:ms}\"\n\
             headers = { X-Signature = \"{signature}\" }"
        ),
        "S00BslbEon0SoG/wgdLJ6sWUpBY="
    );
}

#[test]
fn the_path_that_is_signed_is_the_one_that_is_sent() {
    let text = format!(
        "{BY_ID}[sign]\nhash = \"sha256\"\nencoding = \"hex\"\nsigned = \"{{body}}\"\n\
         headers = {{ X-Sent = \"{{path}} {{target}}\", X-Signature = \"{{signature}}\" }}\n"
    );
    let (profile, content) = (profile(&text), content(&[]));
    let values = values(&[("signing_key", "k")]);
    let sent = |base_url: &str| {
        let mut request = profile.create_request(&inputs(&content, &values)).unwrap();
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let with = Signing { base_url, values: &values, now, nonce: "n", is_repeat: false };
        profile.signer().unwrap().sign(&mut request, &with).unwrap();
        header(&request, "X-Sent").to_owned()
    };
    for base_url in ["https://api.example", "https://api.example/", "http://[::1]:80", ""] {
        assert_eq!(sent(base_url), "/payments /payments", "{base_url}");
    }
    for base_url in ["https://api.example/v1/eu", "https://api.example/v1/eu/"] {
        assert_eq!(sent(base_url), "/v1/eu/payments /v1/eu/payments", "{base_url}");
    }
}

#[test]
fn a_create_is_noted_where_its_signature_says_whether_it_is_a_repeat() {
    let section = "[sign]\nhash = \"sha256\"\nencoding = \"hex\"\nsigned = \"{nonce}\"\n\
                   headers = { X-Signature = \"{signature}\" }\n";
    let text = format!("{BY_ID}{section}");
    assert!(!profile(&text).depends_on_sent_creates());
    for (from, to) in [("{nonce}", "{nonce}{repeat}"), ("{signature}", "{repeat} {signature}")] {
        assert!(profile(&with(&text, from, to)).depends_on_sent_creates(), "{to}");
    }
}

#[test]
fn what_would_prove_nothing_is_refused() {
    let section = "[sign]\nhash = \"sha256\"\nencoding = \"hex\"\nsigned = \"{body}\"\n\
                   headers = { X-Signature = \"{signature}\" }\n";
    let text = format!("{BY_ID}{section}");
    let names = profile(&text).names();
    assert_eq!(Vec::from_iter(names.secrets), ["signing_key"]);
    for (from, to, why) in [
        ("\"{body}\"", "\"fixed {var:x}\"", "would prove nothing"),
        ("\"{body}\"", "\"{repeat}\"", "would prove nothing"),
        ("\"{body}\"", "\"{body}{signature}\"", "not allowed in what is signed"),
        ("\"{signature}\"", "\"{timestamp}\"", "would not be sent"),
        ("X-Signature", "\"X Signature\"", "not a header's name"),
        ("signed =", "key = \"abc\"\nsigned =", "never written in a profile"),
        ("signed =", "keyed = false\nsigned =", "must have a {secret:NAME}"),
        (
            "signed = \"{body}",
            "keyed = false\nkey = \"{secret:k}\"\nsigned = \"{body}{secret:k}",
            "is not used where `keyed` is false",
        ),
        ("\"sha256\"", "\"md5\"", "sha1, sha256 or sha512"),
        ("\"{body}\"", "\"{bodies}\"", "is not a placeholder here: {method}"),
        ("\"{body}\"", "\"{header:a b}\"", "is not a placeholder here"),
        ("\"{body}\"", "\"{body\"", "a brace without its partner"),
        ("\"{body}\"", "\"{secret:A}\"", "is not a name"),
    ] {
        let error = Profile::parse("test.toml", &with(&text, from, to)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("sign"), "{to}: {error}");
    }
}
