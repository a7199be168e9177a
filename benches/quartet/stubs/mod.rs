//! The third party and the client, as cheap as can be, in this process.
//!
//! One server plays both: `POST /transaction` and `GET /transaction/{id}` are the third party,
//! `PUT /callback` is the client. Everything seen goes into a [`Ledger`].

mod ledger;
mod webhooks;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quartet::signature::Secret;
use serde::Deserialize;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use uuid::Uuid;

pub use self::ledger::{Ledger, Record};
use crate::{
    error::{BenchError, Doing},
    http::Inbox,
};

const TRANSACTIONS: &str = "/transaction";
const CALLBACK: &str = "/callback";
/// Longest wait for creates that are to be answered together.
const TOGETHER: Duration = Duration::from_secs(45);

/// How the third party lets a transaction end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The answer to the create says `completed`.
    Answer,
    /// The answer says `pending`, a webhook follows at once.
    Webhook,
    /// The answer says `pending`, and so do the first `pending_polls` polls; the next one says
    /// `completed`.
    Poll { pending_polls: u32 },
    /// It stays pending for ever.
    Never,
    /// Of ten transactions six end by the answer, two by webhook and two by the first poll.
    Mixed,
}

impl Ending {
    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Webhook => "webhook",
            Self::Poll { .. } => "poll",
            Self::Never => "never",
            Self::Mixed => "mixed",
        }
    }

    /// How this transaction ends; always the same for one id.
    fn of(self, id: Uuid) -> Self {
        match self {
            // The last bits of a version 7 id are random.
            Self::Mixed => match id.as_u128() % 10 {
                0..=5 => Self::Answer,
                6..=7 => Self::Webhook,
                _ => Self::Poll { pending_polls: 0 },
            },
            one => one,
        }
    }
}

/// What the stubs do.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub ending: Ending,
    /// How long the third party takes to answer a create, and to show it.
    pub create_takes: Duration,
    /// That time begins only when so many creates have arrived.
    pub together: usize,
}

impl From<Ending> for Script {
    /// At once.
    fn from(ending: Ending) -> Self {
        Self { ending, create_takes: Duration::ZERO, together: 0 }
    }
}

/// The running stubs; dropped, they end.
pub struct Stubs {
    address: SocketAddr,
    /// Where the second third party listens.
    second_address: SocketAddr,
    /// Whether it lets its callers wait without an answer.
    second_hangs: watch::Sender<bool>,
    pub ledger: Ledger,
    pub secret: Secret,
    webhooks: mpsc::UnboundedSender<webhooks::Order>,
    _tasks: JoinSet<()>,
}

impl Stubs {
    /// Listens on a free port.
    pub async fn start(script: Script) -> Result<Self, BenchError> {
        let (listener, address) = listen().await?;
        let (second_listener, second_address) = listen().await?;
        let second_hangs = watch::Sender::new(false);
        let ledger = Ledger::default();
        let secret = Secret::generate();
        let (webhooks, orders) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(webhooks::send(orders, secret.clone(), ledger.clone()));
        let together = Arc::new(Semaphore::new(0));
        let server = Server {
            script,
            ledger: ledger.clone(),
            webhooks: webhooks.clone(),
            together,
            hangs: None,
        };
        let second = Server { hangs: Some(second_hangs.subscribe()), ..server.clone() };
        tasks.spawn(server.accept(listener));
        tasks.spawn(second.accept(second_listener));
        let _tasks = tasks;
        Ok(Self { address, second_address, second_hangs, ledger, secret, webhooks, _tasks })
    }

    /// Where the third party is.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where a further third party is, which has the same transactions.
    pub fn second_base_url(&self) -> String {
        format!("http://{}", self.second_address)
    }

    /// Makes the further third party hang: it takes requests and does nothing about them. Once it
    /// hangs no more, it closes the connections that they came over.
    pub fn hang_second(&self, hangs: bool) {
        self.second_hangs.send_replace(hangs);
    }

    /// Where the client is told.
    pub fn callback_url(&self) -> String {
        format!("http://{}{CALLBACK}", self.address)
    }

    /// Sends webhooks to Quartet at `address` from now on.
    pub fn webhooks_to(&self, address: SocketAddr) {
        // The receiver lives as long as the stubs.
        let _ = self.webhooks.send(webhooks::Order::To(address));
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr), BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.doing("listen for the stubs")?;
    let address = listener.local_addr().doing("read the stubs' address")?;
    Ok((listener, address))
}

#[derive(Deserialize)]
struct Create {
    id: Uuid,
}

#[derive(Deserialize)]
struct Told {
    id: Uuid,
    version: i32,
}

#[derive(Clone)]
struct Server {
    script: Script,
    ledger: Ledger,
    webhooks: mpsc::UnboundedSender<webhooks::Order>,
    /// Closed once as many creates have arrived as are to be answered together.
    together: Arc<Semaphore>,
    /// Whether it hangs now, if it ever does.
    hangs: Option<watch::Receiver<bool>>,
}

/// What is answered.
struct Reply {
    status: &'static str,
    body: String,
    answers: Call,
}

/// What a reply answers, as far as something happens with it.
enum Call {
    Lookup(Uuid),
    Create(Uuid),
    Other,
}

impl Reply {
    fn new(status: &'static str, body: String) -> Self {
        Self { status, body, answers: Call::Other }
    }
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let _: AbortHandle = connections.spawn(self.clone().serve(stream));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve(self, mut stream: TcpStream) {
        // A connection that breaks is Quartet's to notice.
        if let Err(error) = self.answer_all(&mut stream).await
            && !matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        {
            self.ledger.violated(format!("a stub could not answer: {error}"));
        }
    }

    async fn answer_all(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut inbox = Inbox::default();
        loop {
            while let Some(message) = inbox.next()? {
                if self.hung().await {
                    return Ok(());
                }
                let Reply { status, body, answers } =
                    self.reply(inbox.head(&message), inbox.body(&message));
                match answers {
                    Call::Lookup(id) => self.ledger.lookup_answered(id),
                    Call::Create(id) => {
                        self.take_time().await;
                        let completed = self.script.ending.of(id) == Ending::Answer;
                        self.ledger.create_answered(id, completed);
                    }
                    Call::Other => {}
                }
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                    content-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await?;
                if let Call::Create(id) = answers
                    && self.script.ending.of(id) == Ending::Webhook
                {
                    // The receiver lives as long as the stubs.
                    let _ = self.webhooks.send(webhooks::Order::Completed(id));
                }
            }
            if !inbox.fill(stream).await? {
                return Ok(());
            }
        }
    }

    /// Waits while it hangs; whether it did.
    async fn hung(&self) -> bool {
        let Some(mut hangs) = self.hangs.clone() else { return false };
        let hung = *hangs.borrow();
        // Ends with an error when the stubs end.
        let _ = hangs.wait_for(|hangs| !hangs).await;
        hung
    }

    /// Waits as long as a create takes.
    async fn take_time(&self) {
        if self.ledger.most_creates_in_flight() >= self.script.together {
            self.together.close();
        }
        // Ends with an error, for all that wait, when the others have arrived.
        let _ = tokio::time::timeout(TOGETHER, self.together.acquire()).await;
        if !self.script.create_takes.is_zero() {
            tokio::time::sleep(self.script.create_takes).await;
        }
    }

    fn reply(&self, head: &[u8], body: &[u8]) -> Reply {
        let mut words = head.split(|byte| *byte == b' ');
        let (method, path) = (words.next(), words.next());
        let path = path.and_then(|path| str::from_utf8(path).ok()).unwrap_or_default();
        match method {
            Some(b"GET") => self.look_up(path),
            Some(b"POST") if path == TRANSACTIONS => self.create(body),
            Some(b"PUT") if path == CALLBACK => self.tell(body),
            _ => self.bad_request(head),
        }
    }

    fn bad_request(&self, bytes: &[u8]) -> Reply {
        self.ledger.violated(format!("a stub was asked: {}", String::from_utf8_lossy(bytes)));
        Reply::new("400 Bad Request", String::new())
    }

    fn look_up(&self, path: &str) -> Reply {
        let id = path.strip_prefix(TRANSACTIONS).and_then(|rest| rest.strip_prefix('/'));
        let Some(id) = id.and_then(|id| Uuid::try_parse(id).ok()) else {
            return self.bad_request(path.as_bytes());
        };
        let pending_polls = match self.script.ending.of(id) {
            Ending::Poll { pending_polls } => Some(pending_polls),
            _ => None,
        };
        let reply = match self.ledger.looked_up(id, pending_polls) {
            None => Reply::new("404 Not Found", String::new()),
            Some(completed) => Reply::new("200 OK", transaction(id, completed)),
        };
        Reply { answers: Call::Lookup(id), ..reply }
    }

    fn create(&self, body: &[u8]) -> Reply {
        let Ok(Create { id }) = serde_json::from_slice(body) else {
            return self.bad_request(body);
        };
        self.ledger.create_arrived(id);
        let completed = self.script.ending.of(id) == Ending::Answer;
        Reply { answers: Call::Create(id), ..Reply::new("201 Created", transaction(id, completed)) }
    }

    fn tell(&self, body: &[u8]) -> Reply {
        let Ok(Told { id, version }) = serde_json::from_slice(body) else {
            return self.bad_request(body);
        };
        self.ledger.told(id, version);
        Reply::new("200 OK", String::new())
    }
}

fn transaction(id: Uuid, completed: bool) -> String {
    let status = if completed { "completed" } else { "pending" };
    format!(r#"{{"id":"{id}","status":"{status}"}}"#)
}
