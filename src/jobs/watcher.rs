//! Learns when jobs fall due that other processes wrote or changed.
//!
//! Every `WORKER__POLL_INTERVAL` one statement reads the earliest waiting job of every queue, on a
//! connection of its own, and passes it to the [`crate::store::wakeups`]. A job that is due later
//! is then awaited to the millisecond; one that another process has just made due is found within
//! the interval. No LISTEN: nothing here depends on a session.
//!
//! About once a second it also reads the [`circuit`](super::circuit)'s shared state.
//!
//! When the database is away it tries again, with a wait that doubles up to 2 s.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, PgConnection};
use tokio::time::MissedTickBehavior;

use super::JobContext;
use crate::store::{StoreError, circuit, jobs};

/// First and longest wait before the database is tried again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Watches `queues` until the process stops.
pub async fn run(context: Arc<JobContext>, queues: Vec<String>) {
    let (mut wait, longest) = RECONNECT;
    loop {
        let watched = tokio::select! {
            () = context.stopping.cancelled() => return,
            watched = watch(&context, &queues, &mut wait) => watched,
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
    let mut connection: PgConnection = context.pool.connect_options().connect().await?;
    let mut ticks = tokio::time::interval(context.config.worker.poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = jobs::next_due(&mut connection, queues).await?;
        *wait = RECONNECT.0;
        for (queue, delay) in queues.iter().zip(due) {
            context.wakeups.read(queue, delay);
        }
        if context.circuit.is_stale() {
            let asked = Instant::now();
            context.circuit.see(asked, &circuit::get(&mut connection).await?);
        }
    }
}
