//! Learns of jobs that other processes wrote or changed, and finds those that claims pass over.
//!
//! On a connection of its own it hears what others announce ([`crate::store::wakeups::announce`]),
//! and looks once a second for the earliest job of every queue that has become due since the last
//! look or is about to, in one statement: a job whose announcement was lost is found then. What is
//! due later is awaited to the millisecond.
//!
//! If no notification arrives, because a pooler keeps no sessions, it polls every
//! `WORKER__POLL_INTERVAL` instead. To find that out it sends itself a notification with each
//! heartbeat. Where the configuration says that there is such a pooler, and no
//! way around it, it does not try to listen.
//!
//! Claims start at a floor in the order of `run_at` ([`crate::domain::claim_plan`]). What waits
//! below it, because it was written before this process started or became due unnoticed, is looked
//! for from the oldest entry on: about once a second, and less often the longer that takes, as
//! while somebody holds a snapshot (see `stragglers`).
//!
//! About once a second it also reads the [`circuit`](super::circuit)s' shared state.
//!
//! When the database is away it tries again, with a wait that doubles up to 2 s.

mod stragglers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use self::stragglers::StragglerLooks;
use super::JobContext;
use crate::{
    domain::{Backoff, Retries},
    store::{
        self, StoreError, circuit,
        jobs::look,
        wakeups::announce::{Heard, Listener},
    },
};

/// Waits before the database is tried again.
const RECONNECT: Backoff =
    Backoff { base: Duration::from_millis(100), max_delay: Duration::from_secs(2) };
/// How often it looks while it hears.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A look goes back to the last one, and by this much more: a job may be committed after it is due.
const LOOK_OVERLAP: Duration = Duration::from_secs(1);
/// A look sees what is due until the next one.
const LOOK_AHEAD: Duration = Duration::from_secs(2);
/// If no echo arrives within this time, NOTIFY does not reach this process.
const DEAF_AFTER: Duration = Duration::from_secs(1);

/// Watches `queues` until the process stops.
pub async fn run(context: Arc<JobContext>, queues: Vec<&'static str>) {
    let mut looks = Looks::new(&context, queues);
    let mut retries = Retries::new(RECONNECT);
    loop {
        let watched = tokio::select! {
            () = context.stopping.cancelled() => return,
            watched = async {
                if context.watch_pool.shares_sessions() {
                    watch_without_hearing(&context, &mut looks, &mut retries).await
                } else {
                    watch(&context, &mut looks, &mut retries).await
                }
            } => watched,
        };
        if let Err(error) = watched {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "due jobs cannot be read");
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(retries.next_delay(rand::random())) => {}
        }
    }
}

async fn watch(
    context: &JobContext,
    looks: &mut Looks<'_>,
    retries: &mut Retries,
) -> Result<(), StoreError> {
    let mut listener = context.announcer.listen(&context.watch_pool).await?;
    let mut hearing = Hearing::default();
    loop {
        if hearing.is_due(context.config.worker.heartbeat) {
            listener.probe().await?;
            hearing.sent_at = Some(Instant::now());
        }
        let looked = async { looks.look(listener.connection().await?).await };
        store::in_time(looked).await?;
        retries.reset();
        looks.look_for_stragglers(listener.connection().await?).await?;
        let pause = if hearing.hears {
            LOOK_INTERVAL.min(context.third_parties.refresh_interval())
        } else {
            context.config.worker.poll_interval
        };
        tokio::select! {
            heard = listen_for(pause, &mut listener, &mut hearing) => heard?,
            () = context.wakeups.look_wanted() => {}
        }
    }
}

async fn watch_without_hearing(
    context: &JobContext,
    looks: &mut Looks<'_>,
    retries: &mut Retries,
) -> Result<(), StoreError> {
    loop {
        {
            let mut tx = store::begin(&context.watch_pool).await?;
            looks.look(&mut tx).await?;
            tx.commit().await?;
        }
        if looks.stragglers.is_due() {
            let mut tx = store::begin(&context.watch_pool).await?;
            looks.look_for_stragglers(&mut tx).await?;
            tx.commit().await?;
        }
        retries.reset();
        tokio::select! {
            () = tokio::time::sleep(context.config.worker.poll_interval) => {}
            () = context.wakeups.look_wanted() => {}
        }
    }
}

/// What the watcher looks for, and when it did so last.
struct Looks<'a> {
    context: &'a JobContext,
    queues: Vec<String>,
    /// When the last look began that succeeded.
    looked_at: Option<Instant>,
    stragglers: StragglerLooks,
}

impl<'a> Looks<'a> {
    fn new(context: &'a JobContext, queues: Vec<&'static str>) -> Self {
        Self {
            context,
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            looked_at: None,
            stragglers: StragglerLooks::new(queues),
        }
    }

    /// Looks for the earliest job of every queue that became due since the last look, or is about
    /// to; and reads the circuits' state, where that is due.
    async fn look(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let began = Instant::now();
        let since = self.looked_at.map_or(Duration::ZERO, |at| began - at);
        let waiting =
            look::recent(&mut *conn, &self.queues, since + LOOK_OVERLAP, LOOK_AHEAD).await?;
        self.looked_at = Some(began);
        for (queue, waiting) in self.queues.iter().zip(waiting) {
            if let Some(waiting) = waiting {
                self.context.wakeups.committed(queue, waiting.run_at, waiting.delay);
                self.context.wakeups.seen(queue, Instant::now() + waiting.delay);
            }
        }
        if self.context.third_parties.is_stale() {
            let asked = Instant::now();
            self.context.third_parties.see(asked, &circuit::get_all(conn).await?);
        }
        Ok(())
    }

    async fn look_for_stragglers(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let lag = self.context.latency.lag(Instant::now());
        self.stragglers.look(conn, &self.context.wakeups, lag).await
    }
}

/// Whether announcements reach this process.
#[derive(Debug, Default)]
struct Hearing {
    hears: bool,
    /// When something was last sent that must be heard.
    sent_at: Option<Instant>,
    /// Whether that was heard.
    heard: bool,
}

impl Hearing {
    /// Whether it is time to try again.
    fn is_due(&mut self, interval: Duration) -> bool {
        let Some(sent_at) = self.sent_at else { return true };
        if !self.heard && sent_at.elapsed() >= DEAF_AFTER {
            self.hears = false;
        }
        let is_due = sent_at.elapsed() >= interval.max(DEAF_AFTER);
        if is_due {
            self.heard = false;
        }
        is_due
    }

    fn hear_own(&mut self) {
        (self.hears, self.heard) = (true, true);
    }
}

/// Listens for as long as nothing says that it is time to look, but for `pause` at most.
async fn listen_for(
    pause: Duration,
    listener: &mut Listener,
    hearing: &mut Hearing,
) -> Result<(), StoreError> {
    let end = tokio::time::sleep(pause);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            heard = listener.hear() => match heard? {
                Heard::Announcement => {}
                Heard::Own => {
                    let heard_before = hearing.hears;
                    hearing.hear_own();
                    if !heard_before {
                        return Ok(());
                    }
                }
                Heard::Change => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn ago(seconds: u64) -> Option<Instant> {
        Instant::now().checked_sub(Duration::from_secs(seconds))
    }

    #[test]
    fn before_the_first_probe_nothing_is_heard() {
        let mut hearing = Hearing::default();
        assert!(hearing.is_due(INTERVAL));
        assert!(!hearing.hears);
    }

    #[test]
    fn what_was_heard_counts_until_something_is_not() {
        let mut hearing = Hearing { sent_at: ago(0), ..Hearing::default() };
        hearing.hear_own();
        hearing.sent_at = ago(3);
        assert!(!hearing.is_due(INTERVAL));
        assert!(hearing.hears);

        hearing.sent_at = ago(6);
        assert!(hearing.is_due(INTERVAL), "time to try again");
        assert!(hearing.hears, "until the answer is late");
        hearing.sent_at = ago(2);
        assert!(!hearing.is_due(INTERVAL));
        assert!(!hearing.hears, "not heard within a second");
    }
}
