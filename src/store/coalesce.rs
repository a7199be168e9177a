//! Coalescing writers: what waits while a statement is under way goes into the next one, together.
//!
//! Most of what a small statement costs is the way to the database and its commit. A [`Coalescer`]
//! gives many concurrent requests of one kind to a few writers, each with a connection of its own.
//! A request never waits for company: a writer that is free takes whatever is there, and what comes
//! meanwhile is the next batch. So one request at a time is as fast as without it, and the busier
//! the process is, the cheaper is each request.
//!
//! One request of a batch cannot spoil the others: a batch that the database refuses is done again
//! one by one, and a request that somebody else's lock holds up is left for the next batch, and in
//! the end done alone, on a connection of the pool. While the database is away a batch is tried again for as long as anybody waits for
//! it; requests must be such that a second try, after a commit whose answer was lost, is harmless.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::StoreError;

/// Requests that may wait for a writer; more wait for room.
const ROOM: usize = 4_096;
/// First and longest wait before a database that is away is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A batch that the database has neither done nor refused by then is tried again elsewhere. Longer
/// than any statement may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a statement of a writer waits for a lock before its requests are done alone.
const LOCK_TIMEOUT: &str = "200ms";
/// SQLSTATE of a statement that waited too long for a lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A session whose statements look rows up by index, however few there were when the statement was
/// planned: a plan is kept while the table grows. Statements name the rows by an array (`= ANY`),
/// so that what is joined then is small, and is hashed rather than compared with each other. What is
/// switched off counts as very dear where there is no other way, which would start the compiler.
pub(super) const BY_INDEX: &[(&str, &str)] =
    &[("enable_seqscan", "off"), ("enable_nestloop", "off"), ("jit", "off")];

/// So long a request whose rows are locked is left for the next batch, before it is done alone. Most
/// such locks are those of another batch, which is soon over.
const SKIPPED: Duration = Duration::from_millis(200);
/// How long a writer with nothing else to do waits for such a lock.
const SKIPPED_WAIT: Duration = Duration::from_millis(3);

/// What becomes of a request whose rows somebody else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It is left out of the batch.
    Skip,
    /// It waits.
    Wait,
}

/// The answers to `requests`, of which those at `taken` were done and the others left out.
pub(super) fn spread<Q, A: Clone>(
    requests: &[Q],
    taken: Vec<usize>,
    done: Vec<Option<A>>,
) -> Vec<Option<A>> {
    let mut answers = vec![None; requests.len()];
    for (index, answer) in taken.into_iter().zip(done) {
        answers[index] = answer;
    }
    answers
}

/// What a coalescer does with a batch.
pub trait Batch: Send + Sync + 'static {
    type Request: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// Most requests of one batch.
    const MOST: usize;
    /// Settings of the writers' sessions.
    const SESSION: &'static [(&'static str, &'static str)];

    /// Does all of `requests`, or nothing. Answers in their order; `None` for one that was left out
    /// ([`Locked::Skip`]).
    fn run(
        &self,
        conn: &mut PgConnection,
        requests: &[Self::Request],
        locked: Locked,
    ) -> impl Future<Output = Result<Vec<Option<Self::Answer>>, StoreError>> + Send;
}

/// The way to the writers of one kind of batch. Cheap to clone; the writers end with the last clone.
#[derive(Debug)]
pub struct Coalescer<B: Batch> {
    waiting: mpsc::Sender<Waiting<B>>,
}

#[derive(Debug)]
struct Waiting<B: Batch> {
    request: B::Request,
    reply: oneshot::Sender<Result<B::Answer, StoreError>>,
    /// Until when it may be left for the next batch.
    skip_until: Instant,
}

impl<B: Batch> Waiting<B> {
    fn answer(self, answer: Result<B::Answer, StoreError>) {
        // Whoever stopped waiting does not need it.
        let _ = self.reply.send(answer);
    }
}

impl<B: Batch> Clone for Coalescer<B> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone() }
    }
}

impl<B: Batch> Coalescer<B> {
    /// Starts `writers` writers. They connect on first use; what must be done alone is done on
    /// connections of `pool`.
    pub fn start(batch: B, writers: u32, pool: &PgPool) -> Self {
        let options = (*pool.connect_options()).clone();
        let options =
            options.options([("lock_timeout", LOCK_TIMEOUT)]).options(B::SESSION.iter().copied());
        let (sender, receiver) = mpsc::channel(ROOM);
        let (batch, receiver) = (Arc::new(batch), Arc::new(Mutex::new(receiver)));
        for _ in 0..writers {
            let writer = Writer {
                batch: batch.clone(),
                waiting: receiver.clone(),
                options: options.clone(),
                pool: pool.clone(),
                conn: None,
                skipped: Vec::new(),
            };
            tokio::spawn(writer.run());
        }
        Self { waiting: sender }
    }

    /// Has `request` done, and waits for the answer. Whether a request whose caller stops waiting
    /// is still done is open.
    pub async fn submit(&self, request: B::Request) -> Result<B::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self
            .waiting
            .send(Waiting { request, reply, skip_until: Instant::now() + SKIPPED })
            .await
            .is_err()
        {
            return Err(writer_ended());
        }
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }
}

fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(sqlx::Error::Io(std::io::Error::other(cause)))
}

fn writer_ended() -> StoreError {
    unavailable("the writer has ended")
}

struct Writer<B: Batch> {
    batch: Arc<B>,
    waiting: Arc<Mutex<mpsc::Receiver<Waiting<B>>>>,
    options: PgConnectOptions,
    pool: PgPool,
    conn: Option<PgConnection>,
    /// What the last batch left out.
    skipped: Vec<Waiting<B>>,
}

impl<B: Batch> Writer<B> {
    /// Works until nobody can ask any more.
    async fn run(mut self) {
        loop {
            let mut taken = std::mem::take(&mut self.skipped);
            let room = B::MOST - taken.len().min(B::MOST - 1);
            if taken.is_empty() {
                if self.waiting.lock().await.recv_many(&mut taken, room).await == 0 {
                    break;
                }
            } else {
                let more = async { self.waiting.lock().await.recv_many(&mut taken, room).await };
                // Nothing came: then it is those alone. Nothing is taken out without being kept.
                let _ = tokio::time::timeout(SKIPPED_WAIT, more).await;
            }
            self.work(taken).await;
        }
        if let Some(conn) = self.conn.take() {
            // Nothing is lost where the database does not hear of the end.
            let _ = conn.close().await;
        }
    }

    /// Has `taken` done, for as long as anybody waits for it.
    async fn work(&mut self, taken: Vec<Waiting<B>>) {
        let (mut wait, longest) = RETRY;
        let mut batches = vec![taken];
        while let Some(mut batch) = batches.pop() {
            batch.retain(|waiting| !waiting.reply.is_closed());
            if batch.is_empty() {
                continue;
            }
            let (requests, rest): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|waiting| (waiting.request, (waiting.reply, waiting.skip_until)))
                .unzip();
            let done = self.attempt(&requests).await;
            let mut batch: Vec<_> = requests
                .into_iter()
                .zip(rest)
                .map(|(request, (reply, skip_until))| Waiting { request, reply, skip_until })
                .collect();
            match done {
                Ok(answers) => {
                    let now = Instant::now();
                    for (waiting, answer) in batch.into_iter().zip(answers) {
                        match answer {
                            Some(answer) => waiting.answer(Ok(answer)),
                            None if now < waiting.skip_until => self.skipped.push(waiting),
                            None => self.alone(waiting),
                        }
                    }
                }
                Err(error) if is_lock_timeout(&error) => {
                    batch.into_iter().for_each(|waiting| self.alone(waiting));
                }
                Err(error) if error.is_unavailable() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        requests = batch.len(),
                        "not written yet"
                    );
                    batches.push(batch);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(longest);
                }
                Err(error) if batch.len() == 1 => {
                    if let Some(waiting) = batch.pop() {
                        waiting.answer(Err(error));
                    }
                }
                // One of them is at fault.
                Err(_) => batches.extend(batch.into_iter().map(|waiting| vec![waiting])),
            }
        }
    }

    async fn attempt(
        &mut self,
        requests: &[B::Request],
    ) -> Result<Vec<Option<B::Answer>>, StoreError> {
        let run = async {
            // Taken out, so that a connection of which one does not know how far it came is closed.
            let mut conn = match self.conn.take() {
                Some(conn) => conn,
                None => self.options.connect().await?,
            };
            let answers = self.batch.run(&mut conn, requests, Locked::Skip).await?;
            self.conn = Some(conn);
            Ok(answers)
        };
        // Its connection is gone with it: nothing half-done is seen again.
        let run = AssertUnwindSafe(run).catch_unwind();
        match tokio::time::timeout(ATTEMPT_TIMEOUT, run).await {
            Ok(Ok(done)) => done,
            // Logged by the panic itself. A writer that ended would end all requests of its kind.
            Ok(Err(_)) => Err(StoreError::Query(sqlx::Error::WorkerCrashed)),
            Err(_) => Err(unavailable("the database did not answer in time")),
        }
    }

    /// Has one request done beside the others, however long it waits for locks.
    fn alone(&self, waiting: Waiting<B>) {
        let (batch, pool) = (self.batch.clone(), self.pool.clone());
        // A task of its own, which nobody drops half-way.
        tokio::spawn(async move {
            let done = async {
                let mut conn = pool.acquire().await?;
                let requests = std::slice::from_ref(&waiting.request);
                let answers = batch.run(&mut conn, requests, Locked::Wait).await?;
                answers.into_iter().flatten().next().ok_or_else(writer_ended)
            };
            let done = done.await;
            waiting.answer(done);
        });
    }
}

fn is_lock_timeout(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(sqlx::Error::Database(error)) => {
            error.code().as_deref() == Some(LOCK_NOT_AVAILABLE)
        }
        _ => false,
    }
}
