//! Learns when jobs fall due that other processes wrote or changed.
//!
//! On a connection of its own it hears what others announce ([`crate::store::announce`]), and looks
//! once a second for the earliest waiting job of every queue, in one statement: so a job whose
//! announcement was lost is found then. What is due later is awaited to the millisecond.
//!
//! Where nothing is heard, because a pooler between here and Postgres keeps no sessions, it looks
//! every `WORKER__POLL_INTERVAL` instead. It finds that out by itself: each heartbeat it sends
//! something that it must hear. Where the configuration says that there is such a pooler, and no
//! way around it, it does not try to listen.
//!
//! About once a second it also reads the [`circuit`](super::circuit)'s shared state.
//!
//! When the database is away it tries again, with a wait that doubles up to 2 s.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgExecutor;

use super::JobContext;
use crate::store::{
    self, StoreError,
    announce::{Heard, Listener},
    circuit, jobs,
};

/// First and longest wait before the database is tried again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often it looks while it hears.
const LOOK: Duration = Duration::from_secs(1);
/// What was sent and is not heard by then is not heard at all.
const DEAF_AFTER: Duration = Duration::from_secs(1);

/// Watches `queues` until the process stops.
pub async fn run(context: Arc<JobContext>, queues: Vec<String>) {
    let (mut wait, longest) = RECONNECT;
    loop {
        let watched = tokio::select! {
            () = context.stopping.cancelled() => return,
            watched = async {
                if context.watch_pool.shares_sessions() {
                    watch_without_hearing(&context, &queues, &mut wait).await
                } else {
                    watch(&context, &queues, &mut wait).await
                }
            } => watched,
        };
        if let Err(error) = watched {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "due jobs cannot be read");
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(longest),
        }
    }
}

async fn watch(
    context: &JobContext,
    queues: &[String],
    wait: &mut Duration,
) -> Result<(), StoreError> {
    let mut listener = context.announcer.listen(&context.watch_pool).await?;
    let mut hearing = Hearing::default();
    loop {
        if hearing.is_due(context.config.worker.heartbeat) {
            listener.probe().await?;
            hearing.sent_at = Some(Instant::now());
        }
        let looked = async {
            look(context, listener.connection().await?, queues).await?;
            look_at_circuit(context, listener.connection().await?).await
        };
        store::in_time(looked).await?;
        *wait = RECONNECT.0;
        let pause = if hearing.hears {
            LOOK.min(context.circuit.refresh_interval())
        } else {
            context.config.worker.poll_interval
        };
        listen_for(pause, &mut listener, &mut hearing).await?;
    }
}

async fn watch_without_hearing(
    context: &JobContext,
    queues: &[String],
    wait: &mut Duration,
) -> Result<(), StoreError> {
    loop {
        look(context, &context.watch_pool, queues).await?;
        look_at_circuit(context, &context.watch_pool).await?;
        *wait = RECONNECT.0;
        tokio::time::sleep(context.config.worker.poll_interval).await;
    }
}

/// Looks for the earliest waiting job of every queue.
async fn look(
    context: &JobContext,
    executor: impl PgExecutor<'_>,
    queues: &[String],
) -> Result<(), StoreError> {
    let due = jobs::next_due(executor, queues).await?;
    for (queue, delay) in queues.iter().zip(due) {
        if let Some(delay) = delay {
            context.wakeups.hint(queue, delay);
        }
    }
    Ok(())
}

/// Reads the circuit's state, where that is due.
async fn look_at_circuit(
    context: &JobContext,
    executor: impl PgExecutor<'_>,
) -> Result<(), StoreError> {
    if context.circuit.is_stale() {
        let asked = Instant::now();
        context.circuit.see(asked, &circuit::get(executor).await?);
    }
    Ok(())
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
    fn whoever_has_not_tried_yet_tries_and_is_deaf() {
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
