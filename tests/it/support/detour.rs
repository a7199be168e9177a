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

#[derive(Debug)]
struct Faults {
    /// What goes wrong does so after a question with this text.
    text: &'static str,
    wrong: Wrong,
    heals: AtomicBool,
    count: AtomicUsize,
}

#[derive(Debug)]
enum Wrong {
    /// The answer to that question comes this much later.
    Late(Duration),
    /// The question prepares a statement; what comes next executes it, and the connection is cut
    /// before the answer.
    Lost,
}

/// What a connection has asked for.
#[derive(Debug, Default)]
struct Asked {
    prepared: AtomicBool,
    wrong_answer: AtomicBool,
}

impl Detour {
    /// Answers to questions that contain `text` are late until [`heal`](Self::heal).
    pub async fn late_answers(url: &str, text: &'static str, late: Duration) -> Self {
        Self::start(url, text, Wrong::Late(late)).await
    }

    /// Answers to prepared statements that contain `text` are lost until [`heal`](Self::heal).
    pub async fn lost_answers(url: &str, text: &'static str) -> Self {
        Self::start(url, text, Wrong::Lost).await
    }

    async fn start(database_url: &str, text: &'static str, wrong: Wrong) -> Self {
        let faults =
            Faults { text, wrong, heals: AtomicBool::default(), count: AtomicUsize::default() };
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

    /// How many answers were late or lost.
    pub fn wrong_answers(&self) -> usize {
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
            let holds = question.windows(self.text.len()).any(|part| part == self.text.as_bytes());
            match self.wrong {
                Wrong::Late(_) => asked.wrong_answer.store(holds, Ordering::SeqCst),
                Wrong::Lost if asked.prepared.load(Ordering::SeqCst) => {
                    asked.wrong_answer.store(true, Ordering::SeqCst);
                }
                Wrong::Lost => asked.prepared.store(holds, Ordering::SeqCst),
            }
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
            if asked.wrong_answer.load(Ordering::SeqCst) && !self.heals.load(Ordering::SeqCst) {
                self.count.fetch_add(1, Ordering::SeqCst);
                match self.wrong {
                    Wrong::Late(late) => tokio::time::sleep(late).await,
                    Wrong::Lost => return,
                }
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
