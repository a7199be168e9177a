//! A third party, and a client's callback host, written by hand over HTTP/1.1: it stores what is
//! created as completed, and ends connections as a test wants.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// How a connection ends instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Close,
    Reset,
}

/// Whether a request is not answered: by its method, and its number on its connection, from 0.
pub type Breaks = fn(method: &str, nth: usize) -> Option<End>;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The path's last part of a lookup, the body's `id` of a create or a notification.
    pub id: String,
    pub is_answered: bool,
}

#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stored: Arc<Mutex<HashSet<String>>>,
}

impl Peer {
    pub async fn start(breaks: Breaks) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = Self { address, requests: Arc::default(), stored: Arc::default() };
        let serving = peer.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream, breaks).await });
            }
        });
        peer
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests with this method so far.
    pub fn requests(&self, method: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.method == method).cloned().collect()
    }

    /// Serves until the other side ends the connection, or it ends as `breaks` says.
    async fn serve(&self, stream: TcpStream, breaks: Breaks) -> Option<()> {
        let mut stream = BufReader::new(stream);
        for nth in 0.. {
            let (method, path, body) = read_request(&mut stream).await?;
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let id = match body["id"].as_str() {
                Some(id) => id.to_owned(),
                None => path.rsplit('/').next()?.to_owned(),
            };
            let end = breaks(&method, nth);
            let is_answered = end.is_none();
            let request = Request { method: method.clone(), id: id.clone(), is_answered };
            self.requests.lock().unwrap().push(request);
            if let Some(end) = end {
                if end == End::Reset {
                    stream.get_ref().set_zero_linger().unwrap();
                }
                return None;
            }
            let (status, body) = match method.as_str() {
                "POST" => {
                    self.stored.lock().unwrap().insert(id.clone());
                    ("201 Created", format!(r#"{{"id":"{id}","status":"pending"}}"#))
                }
                "PUT" => ("200 OK", String::new()),
                _ if self.stored.lock().unwrap().contains(&id) => {
                    ("200 OK", format!(r#"{{"id":"{id}","status":"completed"}}"#))
                }
                _ => ("404 Not Found", "{}".to_owned()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.get_mut().write_all(format!("{head}{body}").as_bytes()).await.ok()?;
        }
        None
    }
}

/// Method, path and body.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let mut words = first.split_ascii_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned(), body))
}
