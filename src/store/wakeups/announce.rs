//! Announces to the other processes when jobs fall due, by `NOTIFY`.
//!
//! What a request has committed is announced on the channel `quartet_due` after the commit, by a
//! task of its own: at once, and then at most every 5 ms, so that the cost does not grow with the
//! rate. Jobs that are due later, and that a worker of this process awaits, are not announced. A
//! trigger announces what others write into the job table. Nothing depends on it: a process that
//! hears nothing, as behind a pooler that keeps no sessions, looks by itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{
    PgConnection, PgExecutor,
    postgres::{PgListener, PgNotification},
};
use tokio::sync::Notify;
use ulid::Ulid;

use super::Wakeups;
use crate::{
    domain::JobKind,
    store::{
        Database, StoreError,
        postgres::{
            database::{in_time, in_time_of},
            session::CONNECT_LIMIT,
        },
    },
};

const CHANNEL: &str = "quartet_due";
/// The shortest time between two announcements.
const SPACING: Duration = Duration::from_millis(5);
/// Longest delay that is announced: by then everybody has looked.
const HORIZON: Duration = Duration::from_secs(2);
/// Stands between a queue and the earliest `run_at` of its jobs, in microseconds since 1970.
const RUN_AT: char = '@';
/// Stands for jobs of which it is not known when they are due.
const CHANGE: &str = "change";
/// Wait after an announcement that failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Unsent {
    queues: HashMap<&'static str, Earliest>,
    /// Jobs were changed, and it is not known when they are due.
    change: bool,
}

/// Of the jobs of a queue.
#[derive(Debug, Clone, Copy)]
struct Earliest {
    due: Instant,
    run_at: DateTime<Utc>,
}

/// Announces what this process commits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Announcer {
    shared: Arc<Shared>,
    wakeups: Wakeups,
}

#[derive(Debug)]
struct Shared {
    /// Distinguishes this process's announcements from those of others.
    sender: String,
    /// What was not announced yet.
    unsent: Mutex<Unsent>,
    changed: Notify,
}

impl Announcer {
    /// Announces to the others, and to `wakeups` of this process.
    pub fn new(wakeups: Wakeups) -> Self {
        let shared = Shared {
            sender: Ulid::generate().to_string(),
            unsent: Mutex::default(),
            changed: Notify::new(),
        };
        Self { shared: Arc::new(shared), wakeups }
    }

    /// A job of `queue` with this `run_at` is due after `delay`; call this after the commit.
    pub fn announce(&self, queue: &'static str, run_at: DateTime<Utc>, delay: Duration) {
        self.wakeups.committed(queue, run_at, delay);
        // A worker of this process awaits what is due later. If it cannot take it then, the others
        // find it by themselves.
        let is_awaited = !delay.is_zero() && self.wakeups.has(queue);
        if is_awaited || delay > HORIZON {
            return;
        }
        let earliest = Earliest { due: Instant::now() + delay, run_at };
        self.unsent()
            .queues
            .entry(queue)
            .and_modify(|known| {
                known.due = known.due.min(earliest.due);
                known.run_at = known.run_at.min(earliest.run_at);
            })
            .or_insert(earliest);
        self.shared.changed.notify_one();
    }

    /// Jobs of any queue may be due now: all processes look. Call this after the commit.
    pub fn announce_change(&self) {
        for kind in JobKind::ALL {
            self.wakeups.hint(kind.as_str(), Duration::ZERO);
        }
        self.unsent().change = true;
        self.shared.changed.notify_one();
    }

    /// Sends what is announced, without end.
    pub async fn run(&self, pool: &Database) {
        loop {
            self.shared.changed.notified().await;
            let unsent = std::mem::take(&mut *self.unsent());
            let now = Instant::now();
            let mut message = self.shared.sender.clone();
            for (queue, Earliest { due, run_at }) in unsent.queues {
                let delay = due.saturating_duration_since(now).as_millis();
                let run_at = run_at.timestamp_micros();
                message.push_str(&format!(" {queue}={delay} {queue}{RUN_AT}{run_at}"));
            }
            if unsent.change {
                message.push_str(&format!(" {CHANGE}"));
            }
            let spacing = match notify(pool, &message).await {
                Ok(()) => SPACING,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "due jobs were not announced");
                    RETRY
                }
            };
            tokio::time::sleep(spacing).await;
        }
    }

    /// Hears what others announce, on a session of its own, which no pooler may share.
    pub async fn listen(&self, pool: &Database) -> Result<Listener, StoreError> {
        let connect = async {
            let mut listener = PgListener::connect_with(&pool.session_pool()).await?;
            // A lost session is noticed rather than replaced: this process looks then.
            listener.eager_reconnect(false);
            let session = sqlx::Acquire::acquire(&mut listener).await?;
            pool.target().configure(session).await?;
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let listener = in_time_of(CONNECT_LIMIT, connect).await?;
        Ok(Listener { listener, announcer: self.clone() })
    }

    fn unsent(&self) -> MutexGuard<'_, Unsent> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.shared.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn notify(executor: impl PgExecutor<'_>, message: &str) -> Result<(), StoreError> {
    sqlx::query!(r#"SELECT pg_notify($1, $2) AS "sent!: ()""#, CHANNEL, message)
        .execute(executor)
        .await?;
    Ok(())
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Another process's jobs: the wake-ups of this one know of them.
    Announcement,
    /// Jobs changed, and it was not said how: look.
    Change,
    /// What this process sent: its session is kept.
    Own,
}

/// A session that hears announcements.
pub struct Listener {
    listener: PgListener,
    announcer: Announcer,
}

impl Listener {
    /// Waits for an announcement. Fails where the session is lost. Nothing is lost where this is
    /// dropped.
    pub async fn hear(&mut self) -> Result<Heard, StoreError> {
        match self.listener.try_recv().await? {
            Some(notification) => Ok(self.read(&notification)),
            None => Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed)),
        }
    }

    /// Sends something that this very session hears, if it is one.
    pub async fn probe(&mut self) -> Result<(), StoreError> {
        let sender = self.announcer.shared.sender.clone();
        in_time(async { notify(self.connection().await?, &sender).await }).await
    }

    /// The session, for a statement.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        Ok(sqlx::Acquire::acquire(&mut self.listener).await?)
    }

    fn read(&self, notification: &PgNotification) -> Heard {
        let mut words = notification.payload().split(' ');
        match words.next() {
            None | Some("") => return Heard::Change,
            Some(sender) if sender == self.announcer.shared.sender => return Heard::Own,
            Some(_) => {}
        }
        let mut delays = HashMap::new();
        for word in words {
            if word == CHANGE {
                return Heard::Change;
            }
            // Whatever a later version of this program may say besides is skipped.
            if let Some((queue, delay)) = word.split_once('=') {
                delays.insert(queue, delay.parse().map(Duration::from_millis));
            } else if let Some((queue, run_at)) = word.split_once(RUN_AT)
                && let Some(Ok(delay)) = delays.remove(queue)
                && let Some(run_at) = run_at.parse().ok().and_then(DateTime::from_timestamp_micros)
            {
                self.announcer.wakeups.committed(queue, run_at, delay);
            }
        }
        // From a process of a release that does not say when its jobs fell due.
        if delays.is_empty() { Heard::Announcement } else { Heard::Change }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_worker_of_this_process_awaits_is_not_announced() {
        let wakeups = Wakeups::new(["update_status"]);
        let announcer = Announcer::new(wakeups.clone());
        let announced = || announcer.unsent().queues.len();
        let delay = Duration::from_millis(1);
        announcer.announce("update_status", Utc::now(), delay);
        assert_eq!(announced(), 0);
        wakeups.due("update_status", || Duration::ZERO).await;
        announcer.announce("notify_client", Utc::now(), delay);
        assert_eq!(announced(), 1, "nobody awaits it here");
        announcer.announce("update_status", Utc::now(), Duration::ZERO);
        assert_eq!(announced(), 2, "due at once: another process may be free");
        announcer.announce("create_transaction", Utc::now(), 2 * HORIZON);
        assert_eq!(announced(), 2);
    }
}
