//! Credentials: what they add to a request, and that nothing prints them.

use std::time::Duration;

use super::{BY_ID, content, inputs, profile, values, with};
use crate::profiles::{Header, Profile, SecretText, ThirdParty, Token, read_token};

const SECRETS: [(&str, &str); 7] = [
    ("token", "hush-token"),
    ("username", "hush-user"),
    ("password", "hush-password"),
    ("key", "hush-key"),
    ("client_id", "hush-id"),
    ("client_secret", "hush-secret"),
    ("certificate", "hush-certificate"),
];

fn with_auth(auth: &str) -> Profile {
    profile(&format!("{BY_ID}[auth]\n{auth}\n"))
}

fn headers(profile: &Profile) -> Vec<(String, String)> {
    let token = SecretText::from("hush-access".to_owned());
    let headers = profile.credential_headers(&values(&SECRETS), Some(&token)).unwrap();
    assert!(headers.iter().all(|header| header.is_secret));
    assert!(!format!("{headers:?}").contains("hush"), "{headers:?}");
    headers.into_iter().map(|Header { name, value, .. }| (name, value)).collect()
}

#[test]
fn each_kind_adds_its_header() {
    for (auth, name, value) in [
        ("kind = \"bearer\"", "Authorization", "Bearer hush-token"),
        ("kind = \"bearer\"\ntoken = \"{secret:key}\"", "Authorization", "Bearer hush-key"),
        // hush-user:hush-password
        ("kind = \"basic\"", "Authorization", "Basic aHVzaC11c2VyOmh1c2gtcGFzc3dvcmQ="),
        // hush-key:
        (
            "kind = \"basic\"\nusername = \"{secret:key}\"\npassword = \"\"",
            "Authorization",
            "Basic aHVzaC1rZXk6",
        ),
        ("kind = \"header\"\nheader = \"X-API-Key\"", "X-API-Key", "hush-key"),
        (
            "kind = \"header\"\nheader = \"X-Auth\"\nvalue = \"Token {secret:token}\"",
            "X-Auth",
            "Token hush-token",
        ),
        ("kind = \"oauth2\"\ntoken_url = \"/t\"", "Authorization", "Bearer hush-access"),
    ] {
        let expected = vec![(name.to_owned(), value.to_owned())];
        assert_eq!(headers(&with_auth(auth)), expected, "{auth}");
    }
    assert_eq!(headers(&profile(BY_ID)), []);
}

#[test]
fn a_token_is_asked_for_as_the_profile_says() {
    let values = values(&SECRETS);
    let ask = |profile: &Profile| profile.token_request(&values).unwrap().unwrap();
    for (client, body, has_basic) in [
        ("basic", "grant_type=client_credentials&scope=a+b", true),
        (
            "form",
            "grant_type=client_credentials&scope=a+b&client_id=hush-id&client_secret=hush-secret",
            false,
        ),
        (
            "json",
            concat!(
                r#"{"client_id":"hush-id","client_secret":"hush-secret","#,
                r#""grant_type":"client_credentials","scope":"a b"}"#,
            ),
            false,
        ),
    ] {
        let auth = format!(
            "kind = \"oauth2\"\ntoken_url = \"https://login.example/{{var:region}}/token\"\n\
             client = \"{client}\"\nscope = \"a b\"\nheaders = {{ X-Own = \"1\" }}"
        );
        let asked = ask(&with_auth(&auth));
        assert_eq!(asked.url, "https://login.example/eu/token");
        assert_eq!(String::from_utf8(asked.request.body.clone()).unwrap(), body);
        let basic = asked.request.headers.iter().find(|header| header.name == "Authorization");
        assert_eq!(basic.is_some(), has_basic);
        assert!(basic.is_none_or(|header| header.value == "Basic aHVzaC1pZDpodXNoLXNlY3JldA=="));
        assert!(asked.request.headers.iter().any(|header| header.name == "X-Own"));
        assert!(!format!("{asked:?}").contains("hush"), "{asked:?}");
    }
    assert_eq!(profile(BY_ID).token_request(&values), Ok(None));
}

#[test]
fn the_headers_of_all_calls_go_to_no_other_host() {
    let shared = with(BY_ID, "[create]", "headers = { X-Key = \"{secret:key}\" }\n[create]");
    let names = |url: &str| -> Vec<String> {
        let auth = format!("{shared}[auth]\nkind = \"oauth2\"\ntoken_url = \"{url}\"\n");
        let asked = profile(&auth).token_request(&values(&SECRETS)).unwrap().unwrap();
        asked.request.headers.into_iter().map(|header| header.name).collect()
    };
    assert_eq!(names("/token"), ["X-Key", "Authorization"]);
    assert_eq!(names("https://login.example/token"), ["Authorization"]);
}

#[test]
fn a_token_is_read_and_an_answer_without_one_is_not_quoted() {
    let read = |code, body: &str| read_token(code, Ok(body));
    let token = |text: &str, lives: Option<u64>| Token {
        text: SecretText::from(text.to_owned()),
        lives: lives.map(Duration::from_secs),
    };
    for (body, expected) in [
        (r#"{"access_token":"abc","expires_in":3600}"#, token("abc", Some(3600))),
        (r#"{"access_token":"abc","expires_in":"180"}"#, token("abc", Some(180))),
        (r#"{"access_token":"abc","token_type":"Bearer"}"#, token("abc", None)),
        (r#"{"access_token":"abc","expires_in":-1}"#, token("abc", None)),
    ] {
        assert_eq!(read(200, body), Ok(expected), "{body}");
    }
    for (code, body) in [
        (200, r#"{"access_token":"hush\r\nx"}"#),
        (200, r#"{"access_token":"","hush":1}"#),
        (200, r#"{"access_token":"hush","access_token":"hush"}"#),
        (200, "hush"),
        (401, r#"{"access_token":"hush"}"#),
    ] {
        let why = read(code, body).unwrap_err().reason;
        assert!(!why.contains("hush") && why.contains(&code.to_string()), "{why}");
    }
    assert!(!format!("{:?}", token("hush", None)).contains("hush"));
}

#[test]
fn a_refusal_of_our_credentials_is_read_whatever_its_code_is() {
    for (code, body, is_refused) in [
        (400, "", true),
        (401, "", true),
        (403, "", true),
        (404, "", false),
        (500, r#"{"error":"invalid_client"}"#, false),
        (200, r#"{"error":"invalid_client"}"#, true),
        (200, r#"{"error":"unauthorized_client","access_token":null}"#, true),
        (200, r#"{"error":"invalid_grant","access_token":""}"#, true),
        (201, r#"{"error":"invalid_scope"}"#, true),
        (200, r#"{"error":"access_denied","error_description":"hush"}"#, true),
        (200, r#"{"error":"temporarily_unavailable"}"#, false),
        (200, r#"{"error":"invalid_client","error":"invalid_client"}"#, false),
        (200, r#"{"error":{"code":"invalid_client"}}"#, false),
        (200, "{}", false),
    ] {
        let error = read_token(code, Ok(body)).unwrap_err();
        assert_eq!(error.is_refused, is_refused, "{code} {body}: {error:?}");
        assert!(!error.reason.contains("hush"), "{error:?}");
    }
    let error = read_token(200, Ok(r#"{"error":"invalid_client"}"#)).unwrap_err();
    assert_eq!(error.reason, "the token request was answered 200, but it says `invalid_client`");
    // A token is one, whatever stands beside it.
    assert!(read_token(200, Ok(r#"{"access_token":"t","error":"invalid_client"}"#)).is_ok());
}

#[test]
fn what_a_profile_needs_is_known_before_it_is_used() {
    let text = "kind = \"basic\"\nusername = \"{var:user}\"\n\
                tls = { certificate = \"{secret:certificate}\", key = \"{secret:key}\" }";
    let profile = with_auth(text);
    let names = profile.names();
    assert_eq!(Vec::from_iter(names.secrets), ["certificate", "key", "password"]);
    assert_eq!(Vec::from_iter(names.vars), ["user"]);
    let pem = profile.client_certificate(&values(&SECRETS)).unwrap().unwrap();
    assert_eq!(pem[0].expose(), "hush-certificate");
    assert!(!format!("{pem:?}").contains("hush"));
}

#[test]
fn a_request_with_secrets_prints_none() {
    let text = with(BY_ID, "repeat =", "headers = { X-Key = \"{secret:key}\" }\nrepeat =");
    let text = with(&text, "{amount:minor}", "{secret:token}");
    let content = content(&[]);
    let values = values(&SECRETS);
    let request = profile(&text).create_request(&inputs(&content, &values)).unwrap();
    assert!(request.headers[0].value.contains("hush"));
    assert!(!format!("{request:?} {values:?}").contains("hush"), "{request:?}");
}
