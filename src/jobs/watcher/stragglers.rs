//! Looking for due jobs that claims pass over, from the oldest index entry on.
//!
//! While somebody holds a snapshot in the database, such a look walks the entries of all jobs that
//! have ended since. So the next look waits [`COST_SHARE`] times as long as the last one took.
//! After a look that exceeds the statement timeout, the next one goes back less far; older
//! stragglers are found when the snapshot is gone.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::store::{
    self, StoreError,
    jobs::look::{self, StragglerRange},
    wakeups::Wakeups,
};

/// The shortest time between two looks that do not find more than they may.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks this many times passes what the last one took.
const COST_SHARE: u32 = 50;
/// Most jobs that one look finds in a queue.
const LIMIT: usize = 500;
/// How far a look goes back after one that took too long.
const REDUCED_REACH: Duration = Duration::from_secs(3_600);

/// When stragglers are looked for, and how far back.
#[derive(Debug)]
pub(super) struct StragglerLooks {
    queues: Vec<&'static str>,
    due_at: Instant,
    reach: Duration,
    /// The last look found as many as it may.
    is_full: bool,
}

impl StragglerLooks {
    /// Looks in `queues`; the first one is due at once.
    pub(super) fn new(queues: Vec<&'static str>) -> Self {
        Self { queues, due_at: Instant::now(), reach: Duration::MAX, is_full: false }
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.due_at
    }

    /// Looks where that is due, and reports what it finds. `lag`: for how long claims leave due jobs
    /// waiting.
    pub(super) async fn look(
        &mut self,
        conn: &mut PgConnection,
        wakeups: &Wakeups,
        lag: Duration,
    ) -> Result<(), StoreError> {
        if !self.is_due() {
            return Ok(());
        }
        let ranges: Vec<StragglerRange> = self
            .queues
            .iter()
            .map(|queue| (*queue, wakeups.backlog(queue)))
            .filter(|(_, backlog)| !backlog.has_stragglers)
            .map(|(queue, backlog)| StragglerRange { queue, before: backlog.from })
            .collect();
        let began = Instant::now();
        let found = look::stragglers(conn, &ranges, self.reach, lag, LIMIT);
        let found = store::in_time(found).await;
        let took = began.elapsed();
        let mut pause = took * COST_SHARE;
        match found {
            Ok(found) => {
                self.is_full = found.values().any(|found| found.len() >= LIMIT);
                if !self.is_full {
                    pause = pause.max(INTERVAL);
                }
                self.reach = self.reach.saturating_mul(2);
                for (queue, found) in found {
                    wakeups.found(&queue, found);
                }
            }
            Err(error) if error.took_too_long() => {
                self.reach = (self.reach / 2).min(REDUCED_REACH);
                tracing::warn!(
                    reach = %humantime::format_duration(self.reach),
                    "looking for old due jobs took too long: an old snapshot may be held in the \
                     database (see `quartet doctor`)"
                );
            }
            Err(error) => return Err(error),
        }
        self.due_at = Instant::now() + pause;
        Ok(())
    }
}
