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
    clock::{Moment, now},
    error::{BenchError, Doing},
    http::{self, Connection},
    serve::API_KEY,
    stubs::Ledger,
};

/// Connections of an open loop: those that a quarter of a second of accepts needs, within bounds.
const OPEN_CONNECTIONS: (usize, usize) = (8, 256);
const OPEN_LATENCY: f64 = 0.25;

/// How often an accept is sent that is refused each time.
const TRIES: usize = 100;
/// What sections say whose clients do so.
pub const SENT_AGAIN: &str = "An accept that is refused (503) is sent again after `Retry-After`; its latency is that of all \
     tries";

/// Where accepts go and are noted.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub ledger: Ledger,
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

/// What is done about an accept that is refused because there is too much to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusals {
    /// It is sent again, and its latency goes on.
    SendAgain,
    Count,
}

/// How one accept ended; nanoseconds since it was intended.
enum Answered {
    Accepted(u64),
    Refused(u64),
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
                    let answered = load.accept(&mut connection, now(), Refusals::SendAgain).await?;
                    if let Answered::Accepted(latency) = answered {
                        latencies.push(latency);
                    }
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
        due: Arc<Mutex<mpsc::UnboundedReceiver<Moment>>>,
        refusals: Refusals,
    ) -> Result<Offered, BenchError> {
        let mut offered = Offered::default();
        loop {
            // The others wait for the lock meanwhile, and one of them gets the next moment.
            let next = due.lock().await.recv().await;
            let Some(intended) = next else { return Ok(offered) };
            match self.accept(&mut connection, intended, refusals).await? {
                Answered::Accepted(latency) => offered.accepted.push(latency),
                Answered::Refused(latency) => offered.refused.push(latency),
            }
        }
    }

    /// One accept.
    async fn accept(
        &self,
        connection: &mut Connection,
        intended: Moment,
        refusals: Refusals,
    ) -> Result<Answered, BenchError> {
        let id = Uuid::now_v7();
        let mut tries = 0;
        loop {
            let answer =
                connection.send(&accept_request(id)).await.doing("accept a transaction")?;
            tries += 1;
            match (answer.status, refusals) {
                (202, _) => break,
                // One that was refused may have been written for all that.
                (200, Refusals::SendAgain) if tries > 1 => break,
                (503, Refusals::Count) => return Ok(Answered::Refused(now() - intended)),
                (503, Refusals::SendAgain) if tries < TRIES => {
                    let Some(wait) = answer.retry_after() else {
                        return Err(BenchError::Refused {
                            what: "an accept, without Retry-After".to_owned(),
                            status: answer.status,
                            body: answer.text(),
                        });
                    };
                    tokio::time::sleep(wait).await;
                }
                (status, _) => {
                    let body = answer.text();
                    return Err(BenchError::Refused { what: "an accept".to_owned(), status, body });
                }
            }
        }
        let answered = now();
        self.ledger.accepted(id, intended, answered);
        Ok(Answered::Accepted(answered - intended))
    }
}

fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> Result<T, BenchError> {
    ended.map_err(std::io::Error::other).doing("run a connection to its end")
}

fn accept_request(id: Uuid) -> Vec<u8> {
    let headers = format!("authorization: Bearer {API_KEY}\r\ncontent-type: application/json\r\n");
    let body =
        format!(r#"{{"id":"{id}","amount":1250,"currency":"EUR","reference":"Invoice 117"}}"#);
    http::request("POST /v1/transactions", &headers, &body)
}

/// Sends the moments at which accepts are due, evenly spaced, when they come.
fn pace(rate: f64, elapsed: Duration, due: &mpsc::UnboundedSender<Moment>) {
    let (start, base) = (Instant::now(), now());
    let gap = Duration::from_secs_f64(1.0 / rate);
    for index in 0..(rate * elapsed.as_secs_f64()) as u32 {
        let offset = gap * index;
        thread::sleep(offset.saturating_sub(start.elapsed()));
        if due.send(base + crate::clock::nanos(offset)).is_err() {
            return;
        }
    }
}
