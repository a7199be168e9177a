//! The load generator: accepts over keep-alive connections, closed loop or open loop.
//!
//! Closed loop: each connection sends the next accept when the last one is answered, so that the
//! rate is the most that is possible with this number of connections. Open loop: accepts are due at
//! moments that do not depend on the answers, and latency counts from the moment that was intended:
//! a stall is seen by all that were due meanwhile (no coordinated omission).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{
    clock::{Moment, nanos, now},
    error::{BenchError, Doing},
    http::{self, Connection},
    serve::API_KEY,
    stubs::Ledger,
};

/// Connections of an open loop: those that a quarter of a second of accepts needs, within bounds.
const OPEN_CONNECTIONS: (usize, usize) = (8, 256);
const OPEN_LATENCY: f64 = 0.25;

/// How often a post is sent that is refused each time.
const MAX_TRIES: usize = 100;
/// What sections say whose clients do so.
pub const SENT_AGAIN: &str = "A post that is refused (503) is sent again after its \
    `Retry-After`, and its latency is that of all tries";

/// Where accepts go and are noted.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub ledger: Ledger,
    /// The third party that the posts name; the client's own where it is `None`.
    pub third_party: Option<&'static str>,
}

/// When a closed loop ends: whichever comes first.
#[derive(Clone)]
pub struct Until {
    pub elapsed: Duration,
    pub accepts: usize,
    /// Bounds how many transactions are under way, where set.
    pub window: Option<Arc<Semaphore>>,
}

impl Until {
    /// After this time.
    pub fn elapsed(elapsed: Duration) -> Self {
        Self { elapsed, accepts: usize::MAX, window: None }
    }
}

/// What was accepted.
#[derive(Debug, Default)]
pub struct Accepted {
    /// From intended to answered, nanoseconds.
    pub latencies: Vec<u64>,
    /// From the first accept to the last answer.
    pub took: Duration,
}

impl Accepted {
    /// Accepts per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

/// What became of accepts that may be refused.
#[derive(Debug, Default)]
pub struct Offered {
    /// From intended to answered, nanoseconds, where it was accepted.
    pub accepted: Vec<u64>,
    /// The same where it was refused (503).
    pub refused: Vec<u64>,
    /// From the first one to the last answer.
    pub took: Duration,
}

/// What is done about a post that is refused because there is too much to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusals {
    /// It is sent again, and its latency goes on.
    SendAgain,
    Count,
}

/// One post, until it is accepted.
struct Post {
    id: Uuid,
    intended: Moment,
    tries: usize,
}

/// How a post was answered; nanoseconds since it was intended.
enum Answered {
    Accepted(u64),
    Refused {
        after: u64,
        /// What `Retry-After` says.
        wait: Option<Duration>,
    },
}

/// A post of an open loop that is due now.
struct Due {
    post: Post,
    /// Where it goes once more after it was refused. The loop ends with the last of these: when all
    /// moments have come and no post waits any more.
    again: mpsc::UnboundedSender<Due>,
}

impl Post {
    fn new(intended: Moment) -> Self {
        Self { id: Uuid::now_v7(), intended, tries: 0 }
    }

    /// How long to wait before it is sent again.
    fn wait(&self, retry_after: Option<Duration>) -> Result<Duration, BenchError> {
        let wait = retry_after.filter(|_| self.tries < MAX_TRIES);
        wait.ok_or_else(|| BenchError::Refused {
            what: format!("a post, at its try {}", self.tries),
            status: 503,
            body: format!("Retry-After: {retry_after:?}"),
        })
    }
}

impl Load {
    /// As many accepts as `connections` can do, one after another on each.
    pub async fn closed(&self, connections: usize, until: &Until) -> Result<Accepted, BenchError> {
        let mut opened = Vec::with_capacity(connections);
        for _ in 0..connections {
            opened.push(Connection::open(self.address).await.doing("connect to Quartet")?);
        }
        let sent = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for mut connection in opened {
            let (load, until, sent) = (self.clone(), until.clone(), sent.clone());
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < until.elapsed {
                    if sent.fetch_add(1, Ordering::Relaxed) >= until.accepts {
                        break;
                    }
                    if let Some(window) = &until.window {
                        let left = until.elapsed.saturating_sub(start.elapsed());
                        // The ledger gives the permit back when the client hears the end.
                        match tokio::time::timeout(left, window.acquire()).await {
                            Ok(Ok(permit)) => permit.forget(),
                            _ => break,
                        }
                    }
                    latencies.push(load.accept(&mut connection).await?);
                }
                Ok::<_, BenchError>(latencies)
            });
        }
        let mut accepted = Accepted::default();
        while let Some(ended) = tasks.join_next().await {
            accepted.latencies.extend(joined(ended)??);
        }
        accepted.took = start.elapsed();
        Ok(accepted)
    }

    /// Accepts at a steady `rate` per second for `elapsed`.
    pub async fn open(&self, rate: f64, elapsed: Duration) -> Result<Accepted, BenchError> {
        let (least, most) = OPEN_CONNECTIONS;
        let connections = ((rate * OPEN_LATENCY) as usize).clamp(least, most);
        let offered = self.send(rate, elapsed, connections, Refusals::SendAgain).await?;
        Ok(Accepted { latencies: offered.accepted, took: offered.took })
    }

    /// The same over so many connections; an accept that is refused is counted as that.
    pub async fn offer(
        &self,
        rate: f64,
        elapsed: Duration,
        connections: usize,
    ) -> Result<Offered, BenchError> {
        self.send(rate, elapsed, connections, Refusals::Count).await
    }

    async fn send(
        &self,
        rate: f64,
        elapsed: Duration,
        connections: usize,
        refusals: Refusals,
    ) -> Result<Offered, BenchError> {
        let (sender, due) = mpsc::unbounded_channel();
        let due = Arc::new(Mutex::new(due));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let connection = Connection::open(self.address).await.doing("connect to Quartet")?;
            let (load, due) = (self.clone(), due.clone());
            tasks.spawn(async move { load.send_due(connection, due, refusals).await });
        }
        let start = Instant::now();
        // A thread of its own: it sleeps more exactly than the runtime's timer, by milliseconds.
        let pacer = thread::spawn(move || pace(rate, elapsed, &sender));
        let mut offered = Offered::default();
        while let Some(ended) = tasks.join_next().await {
            let Offered { accepted, refused, .. } = joined(ended)??;
            offered.accepted.extend(accepted);
            offered.refused.extend(refused);
        }
        offered.took = start.elapsed();
        // It has ended: the tasks end with its channel.
        let _ = pacer.join();
        Ok(offered)
    }

    async fn send_due(
        &self,
        mut connection: Connection,
        due: Arc<Mutex<mpsc::UnboundedReceiver<Due>>>,
        refusals: Refusals,
    ) -> Result<Offered, BenchError> {
        let mut offered = Offered::default();
        loop {
            // The others wait for the lock meanwhile, and one of them gets the next post.
            let next = due.lock().await.recv().await;
            let Some(mut next) = next else { return Ok(offered) };
            match self.attempt(&mut connection, &mut next.post).await? {
                Answered::Accepted(after) => offered.accepted.push(after),
                Answered::Refused { after, wait } => {
                    offered.refused.push(after);
                    if refusals == Refusals::SendAgain {
                        let wait = next.post.wait(wait)?;
                        // The connection is for others meanwhile.
                        tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            let again = next.again.clone();
                            // Where nobody takes it, the loop has failed.
                            let _ = again.send(next);
                        });
                    }
                }
            }
        }
    }

    /// Posts until it is accepted; the latency.
    async fn accept(&self, connection: &mut Connection) -> Result<u64, BenchError> {
        let mut post = Post::new(now());
        loop {
            match self.attempt(connection, &mut post).await? {
                Answered::Accepted(after) => return Ok(after),
                Answered::Refused { wait, .. } => tokio::time::sleep(post.wait(wait)?).await,
            }
        }
    }

    /// Posts once.
    async fn attempt(
        &self,
        connection: &mut Connection,
        post: &mut Post,
    ) -> Result<Answered, BenchError> {
        let request = accept_request(post.id, self.third_party);
        let answer = connection.send(&request).await.doing("accept a transaction")?;
        post.tries += 1;
        let answered = now();
        let after = answered - post.intended;
        match answer.status {
            202 => {}
            // One that was refused may have been written for all that.
            200 if post.tries > 1 => {}
            503 => {
                self.ledger.refused();
                return Ok(Answered::Refused { after, wait: answer.retry_after() });
            }
            status => {
                let body = answer.text();
                return Err(BenchError::Refused { what: "a post".to_owned(), status, body });
            }
        }
        self.ledger.accepted(post.id, self.third_party, post.intended, answered);
        Ok(Answered::Accepted(after))
    }
}

fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> Result<T, BenchError> {
    ended.map_err(std::io::Error::other).doing("run a connection to its end")
}

fn accept_request(id: Uuid, third_party: Option<&str>) -> Vec<u8> {
    let headers = format!("authorization: Bearer {API_KEY}\r\ncontent-type: application/json\r\n");
    let third_party = third_party.map(|name| format!(r#","third_party":"{name}""#));
    let body = format!(
        r#"{{"id":"{id}","amount":1250,"currency":"EUR","reference":"Invoice 117"{}}}"#,
        third_party.unwrap_or_default()
    );
    http::request("POST /v1/transactions", &headers, &body)
}

/// Sends posts when they are due, at evenly spaced moments.
fn pace(rate: f64, elapsed: Duration, due: &mpsc::UnboundedSender<Due>) {
    let (start, base) = (Instant::now(), now());
    let gap = Duration::from_secs_f64(1.0 / rate);
    for index in 0..(rate * elapsed.as_secs_f64()) as u32 {
        let offset = gap * index;
        thread::sleep(offset.saturating_sub(start.elapsed()));
        let post = Post::new(base + nanos(offset));
        if due.send(Due { post, again: due.clone() }).is_err() {
            return;
        }
    }
}
