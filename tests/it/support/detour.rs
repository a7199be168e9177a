//! A way to the database on which things go wrong that do not on the local one.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use url::Url;

/// Carries connections to a database; ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Detour {
    url: Url,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Added to each direction.
    delay: Duration,
    /// A statement with this text is carried out, and its connection cut before the answer.
    lost: Option<&'static str>,
    heals: AtomicBool,
    count: AtomicUsize,
}

/// What a connection has asked for.
#[derive(Debug, Default)]
struct Asked {
    /// The statement that loses its answer was prepared; what follows executes it.
    prepared: AtomicBool,
    executes: AtomicBool,
}

impl Detour {
    /// Everything takes `delay` each way, so that a call can be given up in the middle.
    pub async fn slow(database_url: &str, delay: Duration) -> Self {
        Self::start(database_url, Faults { delay, ..Faults::default() }).await
    }

    /// The answers to statements that contain `text` are lost until [`heal`](Self::heal).
    pub async fn losing_answers(database_url: &str, text: &'static str) -> Self {
        Self::start(database_url, Faults { lost: Some(text), ..Faults::default() }).await
    }

    async fn start(database_url: &str, faults: Faults) -> Self {
        let mut url: Url = database_url.parse().unwrap();
        let port = url.port().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let detour = Self { url, faults: Arc::new(faults) };
        let faults = detour.faults.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                    continue;
                };
                let ((near_read, near_write), (far_read, far_write)) =
                    (near.into_split(), far.into_split());
                let asked = Arc::new(Asked::default());
                tokio::spawn(faults.clone().carry_questions(near_read, far_write, asked.clone()));
                tokio::spawn(faults.clone().carry_answers(far_read, near_write, asked));
            }
        });
        detour
    }

    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.faults.heals.store(true, Ordering::SeqCst);
    }

    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.faults.count.load(Ordering::SeqCst)
    }
}

impl Faults {
    async fn carry_questions(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: Arc<Asked>,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let question = &buffer[..read];
            if asked.prepared.load(Ordering::SeqCst) {
                asked.executes.store(true, Ordering::SeqCst);
            } else if let Some(text) = self.lost {
                let holds = question.windows(text.len()).any(|part| part == text.as_bytes());
                asked.prepared.store(holds, Ordering::SeqCst);
            }
            tokio::time::sleep(self.delay).await;
            if to.write_all(question).await.is_err() {
                return;
            }
        }
    }

    async fn carry_answers(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: Arc<Asked>,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if asked.executes.load(Ordering::SeqCst) && !self.heals.load(Ordering::SeqCst) {
                self.count.fetch_add(1, Ordering::SeqCst);
                return;
            }
            tokio::time::sleep(self.delay).await;
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
