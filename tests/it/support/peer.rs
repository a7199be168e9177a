//! A peer that answers by hand: whatever bytes a test wants, and what it was asked.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Listens on this machine for as long as the test's runtime lives.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    /// Reads each request whole, and lets `answer` write what it likes; then the connection ends.
    pub async fn start(answer: fn(TcpStream) -> BoxFuture<'static, ()>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let peer = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = peer.asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = asked.clone();
                tokio::spawn(async move {
                    if let Some(line) = read_request(&mut stream).await {
                        asked.lock().unwrap().push(line);
                        answer(stream).await;
                    }
                });
            }
        });
        peer
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The request lines so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// The request line, once head and body are read.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).await.ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).await.ok()?;
    Some(first.trim().to_owned()).filter(|line| !line.is_empty())
}
