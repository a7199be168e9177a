//! Coalescing writers: what waits while a statement is under way goes into the next one, together.
//!
//! Most of what a small statement costs is the way to the database and its commit. A [`Coalescer`]
//! gives many concurrent requests of one kind to a few writers, each with a connection of its own.
//! A free writer takes all that waits, and what arrives meanwhile is the next batch; where that is
//! more than a batch, owners take turns. Some writers pause after a batch of several, so that
//! the next one is larger. So one request at a time is as fast as without it, and the busier the
//! process is, the cheaper is each request.
//!
//! One request of a batch cannot spoil the others: a batch that fails because of one of them, or of
//! their number, is done again one by one, and a request that somebody else's lock holds up is left
//! for the next batch, and in the end done alone, on a connection of the pool. While the database
//! is away, or refuses the role or the schema, a batch is tried again for as long as anybody waits
//! for it, after waits that double and stay long until something is written; requests must be such
//! that a second try, after a commit whose answer was lost, is harmless.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::oneshot;

use super::{
    batch::{AfterCommit, Batch, Locked},
    database::in_time_of,
    dedicated_session::Session,
    line::Line,
};
use crate::{
    domain::{Backoff, Retries},
    store::{Database, StoreError, postgres::congestion::Congestion},
};

/// Waits before a database that is away is tried again.
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(20), max_delay: Duration::from_secs(1) };
/// How long a request that is done alone may take, with the wait for a connection.
const ALONE_LIMIT: Duration = Duration::from_secs(30);
/// How long a statement of a writer waits for a lock before its requests are done alone.
const LOCK_TIMEOUT: &str = "200ms";
/// SQLSTATE of a statement that waited too long for a lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// So long a request whose rows are locked is left for the next batch, before it is done alone. Most
/// such locks are those of another batch, which is soon over, or it was left out for another request
/// of its own batch that is about the same row.
const SKIPPED: Duration = Duration::from_millis(200);
/// How long a writer with nothing else to do waits for such a lock.
const SKIPPED_WAIT: Duration = Duration::from_millis(3);

/// The way to the writers of one kind of batch. Cheap to clone; the writers end with the last
/// clone.
#[derive(Debug)]
pub struct Coalescer<B: Batch> {
    entrance: Arc<Entrance<B>>,
    congestion: Option<Arc<Congestion>>,
}

type WriterLine<B> = Line<<B as Batch>::Owner, Waiting<B>>;

/// Where requests are put in; nothing comes any more once it is dropped.
#[derive(Debug)]
struct Entrance<B: Batch>(Arc<WriterLine<B>>);

impl<B: Batch> Drop for Entrance<B> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where writers take requests out; those that are left are not answered once it is dropped.
struct Exit<B: Batch>(Arc<WriterLine<B>>);

impl<B: Batch> Drop for Exit<B> {
    fn drop(&mut self) {
        self.0.close();
        self.0.clear();
    }
}

#[derive(Debug)]
struct Waiting<B: Batch> {
    request: B::Request,
    reply: oneshot::Sender<Result<B::Answer, StoreError>>,
    /// When it arrived.
    asked: Instant,
    /// When a batch first left it out.
    skipped_at: Option<Instant>,
}

impl<B: Batch> Waiting<B> {
    fn answer(self, answer: Result<B::Answer, StoreError>) {
        // Its caller has stopped waiting, and does not need it.
        let _ = self.reply.send(answer);
    }
}

impl<B: Batch> Clone for Coalescer<B> {
    fn clone(&self) -> Self {
        Self { entrance: self.entrance.clone(), congestion: self.congestion.clone() }
    }
}

impl<B: Batch> Coalescer<B> {
    /// Starts `writers` writers. They connect on first use; what must be done alone is done on
    /// connections of `pool`.
    ///
    /// `longest_wait`: how long a request may wait, where more of them are refused
    /// ([`Self::refuse`]).
    pub fn start(batch: B, writers: u32, pool: &Database, longest_wait: Option<Duration>) -> Self {
        let settings = [&[("lock_timeout", LOCK_TIMEOUT)][..], B::SESSION].concat();
        let line = Arc::new(Line::default());
        let (batch, exit) = (Arc::new(batch), Arc::new(Exit(line.clone())));
        let congestion = longest_wait.map(|wait| Arc::new(Congestion::new(wait, Instant::now())));
        for _ in 0..writers {
            let writer = Writer {
                batch: batch.clone(),
                exit: exit.clone(),
                congestion: congestion.clone(),
                session: Session::new(pool, settings.clone()),
                pool: pool.clone(),
                retries: Retries::new(RETRY),
                skipped: Vec::new(),
            };
            tokio::spawn(writer.run());
        }
        Self { entrance: Arc::new(Entrance(line)), congestion }
    }

    /// Has `request` done, and waits for the answer. Whether a request whose caller stops waiting
    /// is still done is open.
    pub async fn submit(&self, request: B::Request) -> Result<B::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let (owner, asked) = (B::owner(&request), Instant::now());
        let waiting = Waiting { request, reply, asked, skipped_at: None };
        if !self.line().put(owner, waiting, asked) {
            return Err(writer_ended());
        }
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    /// Whether a request that arrived now would have to wait too long, because requests arrive
    /// faster than they are done, or would make others wait that long: then it is to be refused, and
    /// its caller to come back after as many seconds. `owner` says whose it is, if that is known.
    pub fn refuse(&self, owner: impl FnOnce() -> Option<B::Owner>) -> Option<u16> {
        let congestion = self.congestion.as_ref()?;
        let (waiting, oldest) = self.line().standing()?;
        let now = Instant::now();
        let places = congestion.places(waiting, oldest, now)?;
        if owner().is_some_and(|owner| !self.line().has_its_share(&owner, places)) {
            return None;
        }
        Some(congestion.refuse(now))
    }

    fn line(&self) -> &WriterLine<B> {
        &self.entrance.0
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
    exit: Arc<Exit<B>>,
    congestion: Option<Arc<Congestion>>,
    session: Session,
    pool: Database,
    /// Attempts, one after the other, that found the database away.
    retries: Retries,
    /// What the last batch left out.
    skipped: Vec<Waiting<B>>,
}

impl<B: Batch> Writer<B> {
    /// Works until nobody can ask any more.
    async fn run(mut self) {
        loop {
            let mut taken = std::mem::take(&mut self.skipped);
            let most = self.batch.most();
            let room = most - taken.len().min(most - 1);
            if taken.is_empty() {
                if self.take(&mut taken, room).await == 0 {
                    break;
                }
            } else {
                let more = self.take(&mut taken, room);
                // Nothing arrived: then it is those alone. Nothing is taken out without being kept.
                let _ = tokio::time::timeout(SKIPPED_WAIT, more).await;
            }
            let (began, requests) = (Instant::now(), taken.len());
            self.work(taken).await;
            let pause = self.batch.pause_after(requests, began.elapsed());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        self.session.close().await;
    }

    /// Takes up to `room` of those that wait, and waits for the first one; 0 when nobody can ask
    /// any more.
    async fn take(&self, taken: &mut Vec<Waiting<B>>, room: usize) -> usize {
        let Some(more) = self.exit.0.take(room).await else { return 0 };
        let count = more.items.len();
        if let Some(congestion) = &self.congestion {
            congestion.taken(count, more.left, more.newest, Instant::now());
        }
        taken.extend(more.items);
        count
    }

    /// Has `taken` done, for as long as anybody waits for it.
    async fn work(&mut self, taken: Vec<Waiting<B>>) {
        let mut batches = vec![taken];
        while let Some(mut batch) = batches.pop() {
            batch.retain(|waiting| !waiting.reply.is_closed());
            if batch.is_empty() {
                continue;
            }
            let (requests, rest): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|Waiting { request, reply, asked, skipped_at }| {
                    (request, (reply, asked, skipped_at))
                })
                .unzip();
            let done = self.attempt(&requests).await;
            let mut batch: Vec<_> = requests
                .into_iter()
                .zip(rest)
                .map(|(request, (reply, asked, skipped_at))| Waiting {
                    request,
                    reply,
                    asked,
                    skipped_at,
                })
                .collect();
            match done {
                Ok(answers) => {
                    self.retries.reset();
                    self.report(batch.iter().zip(&answers));
                    for (mut waiting, answer) in batch.into_iter().zip(answers) {
                        let Some(answer) = answer else {
                            // Not since it was asked for: where batches take long, each that is left
                            // out would be done alone, which costs as much as a batch.
                            let since = *waiting.skipped_at.get_or_insert_with(Instant::now);
                            match since.elapsed() < SKIPPED {
                                true => self.skipped.push(waiting),
                                false => self.alone(waiting),
                            }
                            continue;
                        };
                        waiting.answer(Ok(answer));
                    }
                }
                Err(error) if is_lock_timeout(&error) => {
                    batch.into_iter().for_each(|waiting| self.alone(waiting));
                }
                Err(error) if !error.may_concern_one() => {
                    let pause = self.note_retry(&error, batch.len());
                    let (patient, impatient) = batch
                        .into_iter()
                        .partition(|waiting| waiting.asked.elapsed() < B::MAX_WAIT);
                    batches.push(patient);
                    for waiting in impatient {
                        waiting.answer(Err(unavailable("the database was away for too long")));
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    // It may concern all of them after all: that must not run hot.
                    let pause =
                        error.is_unavailable().then(|| self.note_retry(&error, batch.len()));
                    if batch.len() > 1 {
                        // One of them is at fault, or they are too many.
                        batches.extend(batch.into_iter().map(|waiting| vec![waiting]));
                    } else if let Some(waiting) = batch.pop() {
                        waiting.answer(Err(error));
                    }
                    if let Some(pause) = pause {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Logs that a batch of this many requests is to be tried again. Returns the wait before that.
    fn note_retry(&mut self, error: &StoreError, requests: usize) -> Duration {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, requests, "not written yet");
        self.retries.next_delay(rand::random())
    }

    /// Reports how long requests took that were done.
    fn report<'a>(&self, answered: impl Iterator<Item = (&'a Waiting<B>, &'a Option<B::Answer>)>) {
        let took = answered
            .filter(|(waiting, answer)| answer.is_some() && waiting.skipped_at.is_none())
            .map(|(waiting, _)| waiting.asked.elapsed());
        let (total, count) =
            took.fold((Duration::ZERO, 0), |(total, count), took| (total + took, count + 1));
        if count > 0 {
            self.batch.answered(total / count);
        }
    }

    async fn attempt(
        &mut self,
        requests: &[B::Request],
    ) -> Result<Vec<Option<B::Answer>>, StoreError> {
        let run = async {
            // Taken out, so that a connection of which one does not know how far it got is closed.
            let mut conn = self.session.take().await?;
            let begin = self.session.begin();
            let answers = run(&*self.batch, &mut conn, begin, requests, Locked::Skip).await?;
            self.session.keep(conn);
            Ok(answers)
        };
        // Its connection is gone with it: nothing half-done is seen again.
        let run = AssertUnwindSafe(run).catch_unwind();
        let run = run.map(|done| {
            // Logged by the panic itself. A writer that ended would end all requests of its kind.
            done.unwrap_or_else(|_| Err(StoreError::Query(sqlx::Error::WorkerCrashed)))
        });
        let done = in_time_of(B::LIMIT, run).await;
        if let Err(error) = &done {
            self.session.note(error);
        }
        done
    }

    /// Has one request done beside the others, however long it waits for locks.
    fn alone(&self, waiting: Waiting<B>) {
        let (batch, pool) = (self.batch.clone(), self.pool.clone());
        let begin = self.session.begin();
        // A task of its own, which nobody drops half-way.
        tokio::spawn(async move {
            let done = async {
                let mut conn = pool.acquire().await.map_err(StoreError::Unavailable)?;
                let requests = std::slice::from_ref(&waiting.request);
                let answers = run(&*batch, conn.risk(), begin, requests, Locked::Wait).await?;
                conn.is_clean();
                answers.into_iter().flatten().next().ok_or_else(writer_ended)
            };
            let done = in_time_of(ALONE_LIMIT, done).await;
            waiting.answer(done);
        });
    }
}

/// Has a batch done, and what follows from it.
async fn run<B: Batch>(
    batch: &B,
    conn: &mut PgConnection,
    begin: Option<AssertSqlSafe<String>>,
    requests: &[B::Request],
    locked: Locked,
) -> Result<Vec<Option<B::Answer>>, StoreError> {
    let mut after = B::AfterCommit::default();
    let done = commit(batch, conn, begin, requests, locked, &mut after).await;
    after.end(done.as_ref().map(drop));
    if let Ok(answers) = &done {
        batch.committed(requests, answers);
    }
    done
}

/// Has a batch done; within a transaction where something must begin one.
async fn commit<B: Batch>(
    batch: &B,
    conn: &mut PgConnection,
    begin: Option<AssertSqlSafe<String>>,
    requests: &[B::Request],
    locked: Locked,
    after: &mut B::AfterCommit,
) -> Result<Vec<Option<B::Answer>>, StoreError> {
    let Some(begin) = begin else { return batch.run(conn, requests, locked, after).await };
    let mut tx = conn.begin_with(begin).await.map_err(StoreError::Unavailable)?;
    let answers = batch.run(&mut tx, requests, locked, after).await?;
    tx.commit().await?;
    Ok(answers)
}

fn is_lock_timeout(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(sqlx::Error::Database(error)) => {
            error.code().as_deref() == Some(LOCK_NOT_AVAILABLE)
        }
        _ => false,
    }
}
