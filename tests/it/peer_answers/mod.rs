//! What third parties and clients really answer: read where it can be, and explained where not.

mod credentials;
mod third_party;
mod webhooks;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use quartet::sandbox::Reaction;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::support::{
    jobs::{BOUND, quiet_app},
    wait_until,
};

/// A third party that takes every create as pending, and answers lookups of what it has with the
/// bytes that a test wants.
#[derive(Clone)]
struct Scripted {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    created: Vec<Uuid>,
    answers: HashMap<Uuid, Vec<u8>>,
    /// What is answered to lookups of what was not created; 404 where there is nothing.
    early_answers: HashMap<Uuid, Vec<u8>>,
}

impl Scripted {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let peer = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = peer.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, state.clone()));
            }
        });
        peer
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn answer(&self, id: Uuid, answer: Vec<u8>) {
        self.state.lock().unwrap().answers.insert(id, answer);
    }

    /// Answers lookups with this before the create.
    fn answer_early(&self, id: Uuid, answer: Vec<u8>) {
        self.state.lock().unwrap().early_answers.insert(id, answer);
    }

    fn forget_early_answers(&self) {
        self.state.lock().unwrap().early_answers.clear();
    }

    fn has_created(&self, id: Uuid) -> bool {
        self.state.lock().unwrap().created.contains(&id)
    }
}

/// An answer of 200 with these further header lines.
fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    answer("200 OK", headers, body)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// One request and its answer.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut request = Vec::new();
    let (head, body_begin) = loop {
        stream.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
        let end = request.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            break (String::from_utf8(request[..end].to_vec()).unwrap(), end + 4);
        }
    };
    let answer = if head.starts_with("POST") {
        // The fence streams the body: it comes in chunks, and ends with an empty one.
        while !request[body_begin..].ends_with(b"0\r\n\r\n")
            && !request[body_begin..].ends_with(b"}")
        {
            stream.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
        }
        let body = String::from_utf8_lossy(&request[body_begin..]).into_owned();
        let from = body.find("\"id\":\"")? + 6;
        let id: Uuid = body[from..from + 36].parse().ok()?;
        state.lock().unwrap().created.push(id);
        answer("201 Created", "", format!(r#"{{"id":"{id}","status":"pending"}}"#).as_bytes())
    } else {
        let path = head.split(' ').nth(1)?;
        let id: Uuid = path.rsplit('/').next()?.parse().ok()?;
        let state = state.lock().unwrap();
        let answers = match state.created.contains(&id) {
            true => &state.answers,
            false => &state.early_answers,
        };
        match answers.get(&id) {
            Some(answer) => answer.clone(),
            None => answer("404 Not Found", "", b""),
        }
    };
    stream.write_all(&answer).await.ok()?;
    stream.shutdown().await.ok()
}

/// The dead letter's reason and, as JSON, its attempts.
fn reason(letter: &Value) -> (&str, String) {
    (letter["reason"].as_str().unwrap(), letter["attempts"].to_string())
}

/// A redirect is not followed; the operator reads where it leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_redirects_names_its_target() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", "1").spawn().await;
    let id = Uuid::now_v7();
    let moved = Reaction::status_code(308).header("location", "https://elsewhere.example/hook");
    app.sandbox.client().script_for(id, vec![moved; 20]);
    app.accept_as(id).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "exhausted");
    let (reason, attempts) = reason(&letter);
    let named = "answered 308 with the Location https://elsewhere.example/hook";
    assert!(reason.contains(named) && attempts.contains(named), "{letter}");
    println!("redirect: {reason}");
    wait_until("the poll can be ended", BOUND, async || {
        app.sandbox.third_party().lookups_of(id) > 1
    })
    .await;
}
