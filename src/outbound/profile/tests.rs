//! What a request is signed with, and what the answer of a token endpoint postpones.

use std::{fs, net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::config::Config;

const ID: Uuid = Uuid::from_u128(0x6f1c_2f0e_7a52_4b7e_9d6a_2d2a_0a4d_9b11);
const PROFILE: &str = r#"profile = 1
name = "signed"
[create]
path = "/payments"
body = { id = "{id}" }
repeat = "refused"
answers = [ { code = 201, means = "created" } ]
[lookup]
by = "id"
path = "/payments/{id}"
answers = [
  { code = 200, means = "found", status = "/status" },
  { code = 404, at = "/code", is = "NOT_FOUND", means = "absent" },
]
[status]
completed = ["done"]
"#;
const SIGN: &str = r#"[sign]
hash = "sha256"
encoding = "hex"
signed = "{timestamp} {nonce} {body}"
headers = { X-Nonce = "{nonce}", X-Retry = "{repeat}", X-Signature = "{signature}" }
"#;
const OAUTH2: &str = r#"[auth]
kind = "oauth2"
token_url = "/token"
"#;

/// A client of a third party with this profile.
fn client(profile: &str, base_url: &str, secrets: &[&str]) -> ProfileClient {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.toml");
    fs::write(&file, profile).unwrap();
    let mut settings = vec![
        ("QUARTET_THIRD_PARTY__PROFILE".to_owned(), file.display().to_string()),
        ("QUARTET_THIRD_PARTY__BASE_URL".to_owned(), base_url.to_owned()),
    ];
    let secrets = secrets.iter().map(|name| format!("QUARTET_THIRD_PARTY__SECRETS__{name}"));
    settings.extend(secrets.map(|name| (name, "hush".to_owned())));
    let config = Config::load(settings, None).unwrap();
    let profile = config.third_party.profile.as_ref().unwrap();
    ProfileClient::new(&config.third_party, &config.dns, profile, String::new()).unwrap()
}

/// The nonce of a request, and what it says about being a repeat.
fn nonce(client: &ProfileClient, request: &Request, how: How<'_>) -> (String, String) {
    let (values, clock) = (client.settings.values.get(), DatabaseClock::default());
    let signed = client.authenticated(request, how, &values, None, &clock).unwrap();
    let header = |name: &str| {
        let found = signed.headers.iter().find(|header| header.name == name);
        found.unwrap().value.clone()
    };
    (header("X-Nonce"), header("X-Retry"))
}

#[tokio::test]
async fn the_nonce_of_a_create_stays_the_same_for_its_transaction() {
    let client = client(&format!("{PROFILE}{SIGN}"), "http://localhost:1", &["SIGNING_KEY"]);
    let clock = DatabaseClock::default();
    let always: LeaseGuard = Arc::new(|| true);
    let subject = nothing(&clock);
    let first = client.prepare(ID, &subject, &clock).unwrap();
    let repeat = client.repeat(ID, &subject, &first.to_bytes(), &clock).unwrap();
    let later = Subject { since_create: Some(Duration::ZERO), ..subject };
    let after_absence = client.prepare(ID, &later, &clock).unwrap();
    for (create, is_repeat) in
        [(&first, "false"), (&first, "false"), (&repeat, "true"), (&after_absence, "true")]
    {
        let found = nonce(&client, &create.request, How::Create(create, &always));
        assert_eq!(found, (ID.to_string(), is_repeat.to_owned()));
    }
    let other = client.prepare(Uuid::nil(), &later, &clock).unwrap();
    let found = nonce(&client, &other.request, How::Create(&other, &always)).0;
    assert_eq!(found, Uuid::nil().to_string());
    // A third party may refuse a lookup with the nonce of a create, or with one that it has seen.
    let lookups = [(); 2].map(|()| nonce(&client, &first.request, How::Lookup));
    assert_ne!(lookups[0].0, lookups[1].0);
    for (nonce, is_repeat) in lookups {
        assert!(nonce != ID.to_string() && is_repeat == "false", "{nonce} {is_repeat}");
    }
}

/// A token endpoint that gives this answer; the URL of its third party.
async fn token_endpoint(answer: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !String::from_utf8_lossy(&request).contains("client_credentials") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            // What is left unread would reset the connection, and the answer would be lost.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut request).await;
        }
    });
    url
}

#[tokio::test]
async fn a_token_endpoint_that_asks_to_wait_postpones_the_call() {
    let answer = "HTTP/1.1 503 x\r\nretry-after: 7\r\n\
                  content-length: 0\r\nconnection: close\r\n\r\n";
    let url = token_endpoint(answer).await;
    let client = client(&format!("{PROFILE}{OAUTH2}"), &url, &["CLIENT_ID", "CLIENT_SECRET"]);
    let (clock, turn) = (DatabaseClock::default(), CallTurn::default());
    let (subject, wait) = (nothing(&clock), Some(Duration::from_secs(7)));
    let error = client.look_up(ID, &subject, &turn, &clock).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (LookupErrorKind::Outage, wait), "{error}");
    let create = client.prepare(ID, &subject, &clock).unwrap();
    let created = client.create(ID, &create, &turn, Arc::new(|| true), &clock).await;
    match created {
        Err(CreateError::Busy { retry_after, may_be_lost: false, .. }) => {
            assert_eq!(retry_after, wait);
        }
        other => panic!("{other:?}"),
    }
}
