//! What keeps the database from serving this process: counted by its cause, and remembered where
//! readiness goes by it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::labels::DatabaseTrouble;

/// So long after a write that found the disk full this process is not ready.
const REMEMBERED: Duration = Duration::from_secs(5);

/// What went wrong so far in this process.
#[derive(Debug)]
pub struct Troubles {
    counts: [AtomicU64; DatabaseTrouble::ALL.len()],
    began: Instant,
    /// When the disk was last found to be full, in ms since the beginning, and 1; 0 for never.
    disk_full_ms: AtomicU64,
}

impl Default for Troubles {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            began: Instant::now(),
            disk_full_ms: AtomicU64::default(),
        }
    }
}

impl Troubles {
    /// It happened again.
    pub fn count(&self, trouble: DatabaseTrouble) {
        for (known, count) in DatabaseTrouble::ALL.iter().zip(&self.counts) {
            if *known == trouble {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        if trouble == DatabaseTrouble::DiskFull {
            self.disk_full_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// How often each thing went wrong.
    pub fn counts(&self) -> impl Iterator<Item = (DatabaseTrouble, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        DatabaseTrouble::ALL.iter().copied().zip(counts)
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
        let troubles = Troubles::default();
        troubles.count(DatabaseTrouble::ReadOnly);
        assert!(!troubles.disk_was_full());
        troubles.count(DatabaseTrouble::DiskFull);
        assert!(troubles.disk_was_full());
        let counted: Vec<_> = troubles.counts().filter(|(_, count)| *count > 0).collect();
        let expected = [(DatabaseTrouble::ReadOnly, 1), (DatabaseTrouble::DiskFull, 1)];
        assert_eq!(counted, expected);
    }
}
