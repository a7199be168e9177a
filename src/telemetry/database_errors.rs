//! What keeps the database from serving this process: counted by its cause, and remembered where
//! readiness goes by it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::labels::DatabaseErrorCause;

/// So long after a write that found the disk full this process is not ready.
const REMEMBERED: Duration = Duration::from_secs(5);

/// What went wrong so far in this process.
#[derive(Debug)]
pub struct DatabaseErrors {
    counts: [AtomicU64; DatabaseErrorCause::ALL.len()],
    began: Instant,
    /// When the disk was last found to be full, in ms since the beginning, and 1; 0 for never.
    disk_full_ms: AtomicU64,
}

impl Default for DatabaseErrors {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            began: Instant::now(),
            disk_full_ms: AtomicU64::default(),
        }
    }
}

impl DatabaseErrors {
    /// It happened again.
    pub fn count(&self, cause: DatabaseErrorCause) {
        for (known, count) in DatabaseErrorCause::ALL.iter().zip(&self.counts) {
            if *known == cause {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        if cause == DatabaseErrorCause::DiskFull {
            self.disk_full_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// How often each thing went wrong.
    pub fn counts(&self) -> impl Iterator<Item = (DatabaseErrorCause, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        DatabaseErrorCause::ALL.iter().copied().zip(counts)
    }

    /// Whether a write has found the disk full a moment ago. A process that has heard of none since
    /// is to be tried again.
    pub fn disk_was_full(&self) -> bool {
        match self.disk_full_ms.load(Ordering::Relaxed) {
            0 => false,
            at => self.now_ms().saturating_sub(at) < REMEMBERED.as_millis() as u64,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_remembered() {
        let database_errors = DatabaseErrors::default();
        database_errors.count(DatabaseErrorCause::ReadOnly);
        assert!(!database_errors.disk_was_full());
        database_errors.count(DatabaseErrorCause::DiskFull);
        assert!(database_errors.disk_was_full());
        let counted: Vec<_> = database_errors.counts().filter(|(_, count)| *count > 0).collect();
        let expected = [(DatabaseErrorCause::ReadOnly, 1), (DatabaseErrorCause::DiskFull, 1)];
        assert_eq!(counted, expected);
    }
}
