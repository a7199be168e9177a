//! The profile `quartet` is what this client does: the same bytes are sent, and each answer is read
//! alike. Over HTTP, with a peer that gives one set answer to every request.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use super::{
    CallTurn,
    third_party::{CreateError, Lookup, LookupError, ThirdPartyClient},
};
use crate::{
    config::Config,
    domain::{Content, ReportedStatus, peer_answer},
    profiles::{
        Answer, CreateMeans, Inputs, LookupMeans, Profile, Request, Shipped, ThirdParty, Values,
    },
};

const WEBHOOK_URL: &str = "https://quartet.example/v1/webhooks/third-party";
const ID: Uuid = Uuid::from_u128(0x6f1c_2f0e_7a52_4b7e_9d6a_2d2a_0a4d_9b11);

/// A peer that gives one answer to everything, and keeps the last request.
struct Peer {
    client: ThirdPartyClient,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<Mutex<String>>,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = [("QUARTET_THIRD_PARTY__BASE_URL".to_owned(), url)];
        let config = Config::load(settings, None).unwrap();
        let webhook_url = WEBHOOK_URL.to_owned();
        let client = ThirdPartyClient::new(&config.third_party, &config.dns, webhook_url).unwrap();
        let peer = Self { client, answer: Arc::default(), asked: Arc::default() };
        let (answer, asked) = (peer.answer.clone(), peer.asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read(&mut stream).await;
                *asked.lock().unwrap() = request;
                let (code, body) = answer.lock().unwrap().clone();
                let length = match code {
                    204 | 304 => String::new(),
                    _ => format!("content-length: {}\r\n", body.len()),
                };
                let answer =
                    format!("HTTP/1.1 {code} x\r\n{length}connection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        peer
    }

    fn answer(&self, code: u16, body: &str) {
        *self.answer.lock().unwrap() = (code, body.to_owned());
    }

    /// The request line, and the body.
    fn asked(&self) -> (String, String, String) {
        let request = self.asked.lock().unwrap().clone();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase().replace("http/1.1", "");
        let (line, headers) = head.split_once("\r\n").unwrap();
        let content_type = headers.lines().filter(|line| line.starts_with("content-type: "));
        (line.trim().to_owned(), content_type.collect(), body.to_owned())
    }
}

async fn look_up(client: &ThirdPartyClient) -> Result<Lookup, LookupError> {
    client.look_up(ID, || panic!("only a profile needs it")).await
}

/// Reads a request whole.
async fn read(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{text}");
    }
}

fn profile() -> Profile {
    Shipped::named("quartet").unwrap().profile().unwrap()
}

fn inputs<'a>(content: &'a Content, values: &'a Values) -> Inputs<'a> {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let (provider_id, created_at, webhook_url) = (None, now, WEBHOOK_URL);
    Inputs { id: ID, content, provider_id, created_at, now, webhook_url, values }
}

fn contents() -> Vec<Content> {
    let odd = "\u{1f4b6} \"\\/\u{8}\u{c}\n\r\t\u{0}\u{7f}\u{2028}é</script>";
    let money = |amount: i64, currency: &str| Content {
        amount: Some(amount),
        currency: Some(currency.to_owned()),
        ..Content::default()
    };
    let metadata = [("z", "1"), ("a", odd), (odd, "2"), ("", "")];
    let metadata = metadata.map(|(key, text)| (key.to_owned(), text.to_owned()));
    vec![
        Content::default(),
        Content { metadata: Some([].into()), ..Content::default() },
        Content { reference: Some(odd.to_owned()), ..money(1250, "EUR") },
        Content { reference: Some(String::new()), ..money(0, "XOF") },
        Content { metadata: Some(metadata.into()), ..money(i64::MAX, "KWD") },
        money(5, "XAU"),
    ]
}

#[tokio::test]
async fn the_same_bytes_are_sent() {
    let (peer, profile, values) = (Peer::start().await, profile(), Values::default());
    peer.answer(200, r#"{"status":"pending"}"#);
    let same = |request: Request| {
        let (line, content_type, body) = peer.asked();
        assert_eq!(line, format!("{} {}", request.method, request.target()).to_ascii_lowercase());
        let expected = request.content_type().map(|name| format!("content-type: {name}"));
        assert_eq!(content_type, expected.unwrap_or_default());
        assert_eq!(body, String::from_utf8(request.body).unwrap());
    };
    for content in contents() {
        peer.client.create(ID, &content, &CallTurn::default(), Arc::new(|| true)).await.unwrap();
        same(profile.create_request(&inputs(&content, &values)).unwrap());
        look_up(&peer.client).await.unwrap();
        same(profile.lookup_request(&inputs(&content, &values)).unwrap());
    }
}

fn bodies() -> Vec<String> {
    let (id, other) = (ID.to_string(), Uuid::from_u128(7).to_string());
    let mut bodies: Vec<String> = [
        "",
        " ",
        "{}",
        "[]",
        "null",
        "<html>",
        "{\"status\":\"completed\"",
        "{\"status\":\"completed\"}{}",
        "{\"status\":\"completed\",}",
        "{\"status\":completed}",
        "{\"status\":\"completed\",\"status\":\"completed\"}",
        "{\"status\":\"\\ud83d\"}",
        "{\"id\":7,\"status\":\"completed\"}",
        "{\"id\":null,\"status\":\"completed\"}",
        "{\"x\":NaN,\"x\":\"\\ud83d\",\"status\":\"completed\"}",
        "\u{feff}{\"status\":\"completed\"}",
    ]
    .map(str::to_owned)
    .into();
    for status in ["\"completed\"", "\" DECLINED \"", "\"Pending\"", "\"odd\"", "1", "null", "{}"] {
        for id in [&id, &id.to_uppercase(), &id.replace('-', ""), &other, "x"] {
            bodies.push(format!(r#"{{"id":"{id}","status":{status}}}"#));
        }
        bodies.push(format!(r#"{{"status":{status}}}"#));
        bodies.push(format!(r#"{{"id":"{id}","id":"{id}","status":{status}}}"#));
    }
    bodies
}

const CODES: [u16; 27] = [
    200, 201, 202, 204, 206, 300, 302, 304, 400, 401, 402, 403, 404, 405, 407, 408, 409, 410, 421,
    422, 425, 429, 500, 501, 502, 503, 504,
];

/// What is known after a create: the meaning, the status, whether something was strange, whether it
/// may have been lost, and whether it speaks of an outage.
type Known = (CreateMeans, Option<ReportedStatus>, bool, bool, bool);

#[tokio::test]
async fn each_answer_to_a_create_is_read_alike() {
    let (peer, profile) = (Peer::start().await, profile());
    for code in CODES {
        for body in bodies().iter().filter(|body| !matches!(code, 204 | 304) || body.is_empty()) {
            peer.answer(code, body);
            let (turn, content) = (CallTurn::default(), Content::default());
            let answer = peer.client.create(ID, &content, &turn, Arc::new(|| true)).await;
            let outage = answer.as_ref().err().is_some_and(CreateError::is_outage);
            let (means, said) = match &answer {
                Ok(_) => (CreateMeans::Created, None),
                Err(CreateError::AlreadyExists(_)) => (CreateMeans::Exists, None),
                Err(CreateError::Unauthorized { reason }) => (CreateMeans::Blocked, Some(reason)),
                Err(CreateError::Rejected { reason }) => (CreateMeans::Refused, Some(reason)),
                Err(CreateError::Busy { reason, .. }) => (CreateMeans::Later, Some(reason)),
                Err(CreateError::Ambiguous { reason, .. }) => {
                    (CreateMeans::Ambiguous, Some(reason))
                }
                Err(other) => panic!("{code} {body}: {other}"),
            };
            let is_lost = matches!(
                answer,
                Err(CreateError::Ambiguous { .. } | CreateError::Busy { may_be_lost: true, .. })
            );
            let (status, strange) = match &answer {
                Ok(report) => (report.status, report.unusable.is_some()),
                Err(_) => (None, false),
            };
            let known: Known = (means, status, strange, is_lost, outage);
            let text = peer_answer::text(body.as_bytes(), None);
            let read = profile.read_create(ID, &Answer { code, body: Ok(&text) });
            let status = read.known_status();
            let strange = means == CreateMeans::Created && read.strange.is_some();
            let found = (read.means, status, strange, read.may_be_lost(), read.is_outage());
            assert_eq!(found, known, "{code} {body}");
            assert!(said.is_none_or(|said| *said == read.said), "{said:?} {read:?}");
        }
    }
}

#[tokio::test]
async fn each_answer_to_a_lookup_is_read_alike() {
    let (peer, profile) = (Peer::start().await, profile());
    let (content, values) = (Content::default(), Values::default());
    let inputs = inputs(&content, &values);
    for code in CODES {
        for body in bodies().iter().filter(|body| !matches!(code, 204 | 304) || body.is_empty()) {
            peer.answer(code, body);
            let answer = look_up(&peer.client).await;
            let text = peer_answer::text(body.as_bytes(), None);
            let read = profile.read_lookup(&inputs, &Answer { code, body: Ok(&text) }, None);
            let found = match read.means {
                LookupMeans::Found => Ok((read.known_status(), read.strange.is_some())),
                LookupMeans::Absent => Err(None),
                LookupMeans::NoAnswer | LookupMeans::NotOurs => {
                    Err(Some((read.is_outage(), read.is_unauthorized())))
                }
                LookupMeans::Unclear => panic!("{code} {body}: {read:?}"),
            };
            let known = match answer {
                Ok(Lookup::Found(report)) => Ok((report.status, report.unusable.is_some())),
                Ok(Lookup::Absent) => Err(None),
                Ok(Lookup::Unclear { reason }) => panic!("{code} {body}: {reason}"),
                Err(error) => Err(Some((error.is_outage(), error.is_unauthorized()))),
            };
            assert_eq!(found, known, "{code} {body}: {read:?}");
        }
    }
}
