//! A line to the database that is counted, and that can be long, fall silent, be cut, or lose what
//! is announced (`NOTIFY`), as a pooler does that keeps no sessions.
//!
//! A silent line is what a connection is whose packets are lost: nothing comes, and nothing says
//! so. When it speaks again, what was open before may be dead for good, as after a failover to
//! another machine under the same address.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use url::Url;

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Silent,
    Cut,
}

/// Carries connections to a database; ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Line {
    url: Url,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    connections: AtomicUsize,
    /// The connections before this one are dead.
    first_alive: AtomicUsize,
    questions: AtomicUsize,
    loses_announcements: AtomicBool,
    /// What each way takes, in microseconds.
    delay: AtomicU64,
}

impl Line {
    pub async fn to(database_url: &str) -> Self {
        let mut url: Url = database_url.parse().unwrap();
        let port = url.port().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let shared = Shared {
            state: watch::Sender::new(State::Open),
            connections: AtomicUsize::default(),
            first_alive: AtomicUsize::default(),
            questions: AtomicUsize::default(),
            loses_announcements: AtomicBool::default(),
            delay: AtomicU64::default(),
        };
        let line = Self { url, shared: Arc::new(shared) };
        let shared = line.shared.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                // Dropped at once where it is cut.
                if *shared.state.borrow() != State::Cut {
                    tokio::spawn(shared.clone().connect(near, port, number));
                }
            }
        });
        line
    }

    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// From now on nothing comes through, on new connections neither.
    pub fn fall_silent(&self) {
        self.shared.state.send_replace(State::Silent);
    }

    /// Ends all connections, and the new ones as they come.
    pub fn cut(&self) {
        self.shared.state.send_replace(State::Cut);
    }

    /// Whatever was held back comes through now.
    pub fn open(&self) {
        self.shared.state.send_replace(State::Open);
    }

    /// New connections come through; those before stay silent for good.
    pub fn open_anew(&self) {
        let connections = self.shared.connections.load(Ordering::SeqCst);
        self.shared.first_alive.store(connections, Ordering::SeqCst);
        self.open();
    }

    /// From now on a question and its answer take this much longer together.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay.store(delay.as_micros() as u64 / 2, Ordering::SeqCst);
    }

    /// Whether announcements are lost.
    pub fn lose_announcements(&self, lose: bool) {
        self.shared.loses_announcements.store(lose, Ordering::SeqCst);
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How often something was asked so far, on all connections; one statement is two such at most.
    pub fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn connect(self: Arc<Self>, near: TcpStream, port: u16, number: usize) {
        if !self.comes_through(number).await {
            return;
        }
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
        let ((near_read, near_write), (far_read, far_write)) =
            (near.into_split(), far.into_split());
        let mut cut = self.state.subscribe();
        tokio::select! {
            () = self.carry_questions(near_read, far_write, number) => {}
            () = self.carry_answers(far_read, near_write, number) => {}
            _ = cut.wait_for(|state| *state == State::Cut) => {}
        }
    }

    async fn carry_questions(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        number: usize,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.questions.fetch_add(1, Ordering::SeqCst);
            self.travel().await;
            if !self.comes_through(number).await || to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
        // The end does not come through either.
        self.comes_through(number).await;
    }

    async fn carry_answers(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: usize) {
        let mut messages = Messages::default();
        while let Ok(1..) = from.read_buf(&mut messages.unread).await {
            let carried = messages.take(self.loses_announcements.load(Ordering::SeqCst));
            self.travel().await;
            if !self.comes_through(number).await || to.write_all(&carried).await.is_err() {
                return;
            }
        }
        self.comes_through(number).await;
    }

    async fn travel(&self) {
        let delay = self.delay.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
    }

    /// Waits until something may be carried; a dead connection waits for ever, and holds what it
    /// has. Returns false where the line is cut.
    async fn comes_through(&self, number: usize) -> bool {
        let mut state = self.state.subscribe();
        let state = *state.wait_for(|state| *state != State::Silent).await.unwrap();
        if state == State::Open && number < self.first_alive.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        state == State::Open
    }
}

/// What the server sends, message by message.
#[derive(Default)]
struct Messages {
    unread: Vec<u8>,
    /// The answer to the question for TLS, one byte, has been read.
    began: bool,
}

impl Messages {
    /// The messages that have come whole, without the announcements where those are lost.
    fn take(&mut self, lose_announcements: bool) -> Vec<u8> {
        let mut taken = Vec::new();
        if !self.began && self.unread.first() == Some(&b'N') {
            taken.push(self.unread.remove(0));
        }
        self.began = true;
        // A type, and a length that includes itself.
        while let [kind, a, b, c, d, ..] = self.unread[..] {
            let end = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
            if self.unread.len() < end {
                break;
            }
            let message = self.unread.drain(..end);
            if kind != b'A' || !lose_announcements {
                taken.extend(message);
            }
        }
        taken
    }
}
