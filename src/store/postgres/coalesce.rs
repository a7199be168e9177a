//! Coalescing writers: what waits while a statement is under way goes into the next one, together.
//!
//! Most of what a small statement costs is the way to the database and its commit. A [`Coalescer`]
//! gives many concurrent requests of one kind to a few writers, each with a connection of its own.
//! A writer that is free takes whatever is there, and what comes meanwhile is the next batch. Some
//! writers pause after a batch of several, so that the next one is larger. So one request at a time
//! is as fast as without it, and the busier the process is, the cheaper is each request.
//!
//! One request of a batch cannot spoil the others: a batch that the database refuses is done again
//! one by one, and a request that somebody else's lock holds up is left for the next batch, and in
//! the end done alone, on a connection of the pool. While the database is away a batch is tried
//! again for as long as anybody waits for it, after waits that double and stay long until something
//! is written; requests must be such that a second try, after a commit whose answer was lost, is
//! harmless.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{
    database::{STATEMENT_LIMIT, in_time_of},
    dedicated_session::Session,
};
use crate::store::{Database, StoreError, postgres::congestion::Congestion};

/// Requests that may wait for a writer; more wait for room.
const QUEUE_CAPACITY: usize = 4_096;
/// First and longest wait before a database that is away is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long a request that is done alone may take, with the wait for a connection.
const ALONE_LIMIT: Duration = Duration::from_secs(30);
/// How long a statement of a writer waits for a lock before its requests are done alone.
const LOCK_TIMEOUT: &str = "200ms";
/// SQLSTATE of a statement that waited too long for a lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A session whose statements look rows up by index, however few there were when the statement was
/// planned: a plan is kept while the table grows. Statements name the rows by an array (`= ANY`),
/// so that what is joined then is small, and is hashed rather than compared with each other. If a
/// disabled plan type is the only one possible, Postgres gives it a huge cost, which would start
/// the JIT compiler: so that is off too.
pub(in crate::store) const BY_INDEX: &[(&str, &str)] =
    &[("enable_seqscan", "off"), ("enable_nestloop", "off"), ("jit", "off")];

/// So long a request whose rows are locked is left for the next batch, before it is done alone.
/// Most such locks are those of another batch, which is soon over.
const SKIPPED: Duration = Duration::from_millis(200);
/// How long a writer with nothing else to do waits for such a lock.
const SKIPPED_WAIT: Duration = Duration::from_millis(3);

/// From this number of requests on a batch shows that more are coming.
const SEVERAL: usize = 3;
/// After a batch of several, the next one of its writer begins no sooner than this after it began.
const SPACING: Duration = Duration::from_millis(3);

/// The pause after a batch of this many requests that took this long, of a kind that comes in
/// numbers: the next batch is larger for it, and each of its requests cheaper. A request that comes
/// alone is followed by no pause, nor is a batch that took long: meanwhile enough have come.
pub(in crate::store) fn gathering_pause(requests: usize, took: Duration) -> Duration {
    if requests >= SEVERAL { SPACING.saturating_sub(took) } else { Duration::ZERO }
}

/// What becomes of a request whose rows somebody else has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It is left out of the batch.
    Skip,
    /// It waits.
    Wait,
}

/// The answers to `requests`, of which those at `taken` were done and the others left out.
pub(in crate::store) fn spread<Q, A>(
    requests: &[Q],
    taken: Vec<usize>,
    done: Vec<Option<A>>,
) -> Vec<Option<A>> {
    let mut answers: Vec<Option<A>> = requests.iter().map(|_| None).collect();
    for (index, answer) in taken.into_iter().zip(done) {
        answers[index] = answer;
    }
    answers
}

/// What a coalescer does with a batch.
pub trait Batch: Send + Sync + 'static {
    type Request: Send + Sync + 'static;
    type Answer: Send + 'static;
    /// What is done once a batch is committed; `()` for nothing.
    type AfterCommit: AfterCommit;

    /// Most requests of one batch.
    const MAX_BATCH: usize;
    /// How long a batch may take. One that the database has neither done nor refused by then is
    /// tried again on another connection. Longer than its statements may take.
    const LIMIT: Duration = STATEMENT_LIMIT;
    /// How long a request waits for an unavailable database before it fails. HTTP requests have a
    /// shorter limit of their own.
    const MAX_WAIT: Duration = Duration::MAX;
    /// Settings of the writers' sessions.
    const SESSION: &'static [(&'static str, &'static str)];

    /// Most requests of the next batch.
    fn most(&self) -> usize {
        Self::MAX_BATCH
    }

    /// A batch was done. On average its requests took this long, with their wait for a writer, and
    /// without those that had been left out of an earlier batch because of somebody else's lock.
    fn answered(&self, _took: Duration) {}

    /// A batch was committed, whether or not its requests are still waited for.
    fn committed(&self, _requests: &[Self::Request], _answers: &[Option<Self::Answer>]) {}

    /// How long a writer leaves the database to others after a batch of this many requests that
    /// took this long.
    fn pause_after(&self, _requests: usize, _took: Duration) -> Duration {
        Duration::ZERO
    }

    /// Does all of `requests`, or nothing. Answers in their order; `None` for one that was left out
    /// ([`Locked::Skip`]). What is to be done once they are committed goes into `after`.
    fn run(
        &self,
        conn: &mut PgConnection,
        requests: &[Self::Request],
        locked: Locked,
        after: &mut Self::AfterCommit,
    ) -> impl Future<Output = Result<Vec<Option<Self::Answer>>, StoreError>> + Send;
}

/// What is done once a batch is committed. Dropped without an end, as after a panic or a time limit,
/// it leaves open whether the batch was.
pub trait AfterCommit: Default + Send {
    /// The batch was committed, or not; the error says whether that is certain.
    fn end(self, done: Result<(), &StoreError>);
}

impl AfterCommit for () {
    fn end(self, _: Result<(), &StoreError>) {}
}

/// The way to the writers of one kind of batch. Cheap to clone; the writers end with the last
/// clone.
#[derive(Debug)]
pub struct Coalescer<B: Batch> {
    waiting: mpsc::Sender<Waiting<B>>,
    congestion: Option<Arc<Congestion>>,
}

#[derive(Debug)]
struct Waiting<B: Batch> {
    request: B::Request,
    reply: oneshot::Sender<Result<B::Answer, StoreError>>,
    /// When it came.
    asked: Instant,
    /// A batch has left it out.
    was_skipped: bool,
}

impl<B: Batch> Waiting<B> {
    fn answer(self, answer: Result<B::Answer, StoreError>) {
        // Whoever stopped waiting does not need it.
        let _ = self.reply.send(answer);
    }
}

impl<B: Batch> Clone for Coalescer<B> {
    fn clone(&self) -> Self {
        Self { waiting: self.waiting.clone(), congestion: self.congestion.clone() }
    }
}

impl<B: Batch> Coalescer<B> {
    /// Starts `writers` writers. They connect on first use; what must be done alone is done on
    /// connections of `pool`.
    ///
    /// `longest_wait`: how long a request may wait, where more of them are refused
    /// ([`Self::is_full`]).
    pub fn start(batch: B, writers: u32, pool: &Database, longest_wait: Option<Duration>) -> Self {
        let settings = [&[("lock_timeout", LOCK_TIMEOUT)][..], B::SESSION].concat();
        let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
        let (batch, receiver) = (Arc::new(batch), Arc::new(Mutex::new(receiver)));
        let congestion = longest_wait.map(|wait| Arc::new(Congestion::new(wait, Instant::now())));
        for _ in 0..writers {
            let writer = Writer {
                batch: batch.clone(),
                waiting: receiver.clone(),
                congestion: congestion.clone(),
                session: Session::new(pool, settings.clone()),
                pool: pool.clone(),
                wait: RETRY.0,
                skipped: Vec::new(),
            };
            tokio::spawn(writer.run());
        }
        Self { waiting: sender, congestion }
    }

    /// Has `request` done, and waits for the answer. Whether a request whose caller stops waiting
    /// is still done is open.
    pub async fn submit(&self, request: B::Request) -> Result<B::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let asked = Instant::now();
        if let Some(congestion) = &self.congestion
            && self.waiting() == 0
        {
            congestion.came_first(asked);
        }
        if self.waiting.send(Waiting { request, reply, asked, was_skipped: false }).await.is_err() {
            return Err(writer_ended());
        }
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    /// Whether a request that came now would have to wait too long: requests come faster than they
    /// are done.
    pub fn is_full(&self) -> bool {
        let congestion = self.congestion.as_ref();
        congestion.is_some_and(|congestion| congestion.is_full(self.waiting(), Instant::now()))
    }

    /// How many requests wait for a writer.
    fn waiting(&self) -> usize {
        self.waiting.max_capacity() - self.waiting.capacity()
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
    congestion: Option<Arc<Congestion>>,
    session: Session,
    pool: Database,
    /// How long it waits after the next attempt that finds the database away.
    wait: Duration,
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
                // Nothing came: then it is those alone. Nothing is taken out without being kept.
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
        let mut waiting = self.waiting.lock().await;
        let count = waiting.recv_many(taken, room).await;
        if count > 0
            && let (Some(congestion), Some(newest)) = (&self.congestion, taken.last())
        {
            congestion.taken(count, waiting.len(), newest.asked, Instant::now());
        }
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
                .map(|Waiting { request, reply, asked, was_skipped }| {
                    (request, (reply, asked, was_skipped))
                })
                .unzip();
            let done = self.attempt(&requests).await;
            let mut batch: Vec<_> = requests
                .into_iter()
                .zip(rest)
                .map(|(request, (reply, asked, was_skipped))| Waiting {
                    request,
                    reply,
                    asked,
                    was_skipped,
                })
                .collect();
            match done {
                Ok(answers) => {
                    self.wait = RETRY.0;
                    self.report(batch.iter().zip(&answers));
                    for (mut waiting, answer) in batch.into_iter().zip(answers) {
                        waiting.was_skipped = answer.is_none();
                        match answer {
                            Some(answer) => waiting.answer(Ok(answer)),
                            None if waiting.asked.elapsed() < SKIPPED => self.skipped.push(waiting),
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
                    let (patient, impatient) = batch
                        .into_iter()
                        .partition(|waiting| waiting.asked.elapsed() < B::MAX_WAIT);
                    batches.push(patient);
                    for waiting in impatient {
                        waiting.answer(Err(unavailable("the database was away for too long")));
                    }
                    tokio::time::sleep(self.wait).await;
                    self.wait = (self.wait * 2).min(RETRY.1);
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

    /// Reports how long requests took that were done.
    fn report<'a>(&self, answered: impl Iterator<Item = (&'a Waiting<B>, &'a Option<B::Answer>)>) {
        let took = answered
            .filter(|(waiting, answer)| answer.is_some() && !waiting.was_skipped)
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
            // Taken out, so that a connection of which one does not know how far it came is closed.
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
                let mut conn = pool.acquire().await?;
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
    let mut tx = conn.begin_with(begin).await?;
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
