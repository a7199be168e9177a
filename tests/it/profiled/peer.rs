//! A third party with an interface of its own: answers by a function, and keeps what it was asked.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// DER of the client's certificate.
    pub certificate: Option<Vec<u8>>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub enum Reply {
    Answer(u16, Value),
    /// Nothing, ever.
    Silence,
    /// The answer once the test allows it.
    Held(Arc<Semaphore>, u16, Value),
}

type Answers = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// Listens on this machine for as long as the test's runtime lives.
#[derive(Clone)]
pub struct Peer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Calls of `TOKEN_PATH` under way, and the most that ever were.
    tokens: Arc<(AtomicUsize, AtomicUsize)>,
}

/// Where tokens are asked for.
pub const TOKEN_PATH: &str = "/disbursement/token/";

impl Peer {
    pub async fn start(answers: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answers).await
    }

    /// The same over TLS, where there is an acceptor.
    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        answers: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            tokens: Arc::default(),
        };
        let (serving, answers): (_, Answers) = (peer.clone(), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (peer, answers, tls) = (serving.clone(), answers.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return peer.serve(stream, None, &answers).await };
                    // A client that the handshake refuses.
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let certificates = stream.get_ref().1.peer_certificates();
                    let certificate = certificates.and_then(|all| all.first());
                    let certificate = certificate.map(|first| first.to_vec());
                    peer.serve(stream, certificate, &answers).await;
                });
            }
        });
        peer
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far, with this method and a path that begins so.
    pub fn asked(&self, method: &str, path: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        let fits = |asked: &&Asked| asked.method == method && asked.path.starts_with(path);
        asked.iter().filter(fits).cloned().collect()
    }

    /// The most token calls that were under way at once.
    pub fn most_token_calls(&self) -> usize {
        self.tokens.1.load(Ordering::SeqCst)
    }

    async fn serve(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        certificate: Option<Vec<u8>>,
        answers: &Answers,
    ) {
        let Some(mut asked) = read(&mut stream).await else { return };
        asked.certificate = certificate;
        let is_token = asked.path == TOKEN_PATH;
        if is_token {
            let now = self.tokens.0.fetch_add(1, Ordering::SeqCst) + 1;
            self.tokens.1.fetch_max(now, Ordering::SeqCst);
            // So that others would come meanwhile.
            tokio::task::yield_now().await;
        }
        let reply = answers(&asked);
        self.asked.lock().unwrap().push(asked);
        if is_token {
            self.tokens.0.fetch_sub(1, Ordering::SeqCst);
        }
        let (code, body) = match reply {
            Reply::Answer(code, body) => (code, body.to_string()),
            Reply::Silence => return std::future::pending().await,
            Reply::Held(allowed, code, body) => {
                allowed.acquire().await.unwrap().forget();
                (code, body.to_string())
            }
        };
        let head = "content-type: application/json\r\nconnection: close";
        let answer =
            format!("HTTP/1.1 {code} x\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        // The caller may have gone.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).await.ok()?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, path, headers, body: Vec::new(), certificate: None };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    asked.body = vec![0; length];
    reader.read_exact(&mut asked.body).await.ok()?;
    Some(asked)
}
