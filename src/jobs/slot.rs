//! A slot: the right to make one of a worker's concurrent calls.
//!
//! A run begins with one. While a handler only sleeps it may give its slot back, so that slots
//! count calls and not sleeps; before the next call it takes one again, in the order in which runs
//! ask for one: tokio's semaphore is fair, and the claim of new jobs waits in the same line. The
//! time that a run waits for its slot is measured, because it does not count towards the time that
//! the run may take.
//!
//! The slot is free again when this is dropped, at the end of the run.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A run's slot.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    permit: Option<OwnedSemaphorePermit>,
    /// How long the run has waited for a slot, without the present wait.
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Slot {
    /// The slot that `permit` stands for.
    pub fn new(permit: OwnedSemaphorePermit) -> Self {
        let slots = permit.semaphore().clone();
        let state = State { permit: Some(permit), waited: Duration::ZERO, waiting_since: None };
        Self { slots, state: Mutex::new(state) }
    }

    /// Gives the slot back; nothing where that was done already.
    pub fn release(&self) {
        self.state().permit = None;
    }

    /// Takes a slot again; returns at once where the run holds its own.
    pub async fn reacquire(&self) {
        if self.state().permit.is_some() {
            return;
        }
        self.state().waiting_since = Some(Instant::now());
        let _waiting = Waiting(self);
        // Nobody closes the semaphore.
        let permit = self.slots.clone().acquire_owned().await.ok();
        self.state().permit = permit;
    }

    /// How long the run has waited for a slot so far.
    pub fn waited(&self) -> Duration {
        let state = self.state();
        state.waited + state.waiting_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the present wait, also where the waiting future is dropped.
struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let Some(since) = state.waiting_since.take() {
            state.waited += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    async fn slot(slots: &Arc<Semaphore>) -> Slot {
        Slot::new(slots.clone().acquire_owned().await.unwrap())
    }

    #[tokio::test]
    async fn a_slot_that_was_given_back_serves_another_run_meanwhile() {
        let slots = Arc::new(Semaphore::new(1));
        let sleeper = slot(&slots).await;
        assert!(slot(&slots).now_or_never().is_none(), "it is taken");
        sleeper.reacquire().await;
        sleeper.release();
        let other = slot(&slots).await;
        assert!(sleeper.reacquire().now_or_never().is_none(), "the other run has it");
        drop(other);
        sleeper.reacquire().await;
        drop(sleeper);
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn slots_are_taken_again_in_order() {
        let slots = Arc::new(Semaphore::new(1));
        let first = slot(&slots).await;
        first.release();
        let holder = slot(&slots).await;
        let (mut early, mut late) = (Box::pin(first.reacquire()), Box::pin(slot(&slots)));
        assert!((&mut early).now_or_never().is_none());
        assert!((&mut late).now_or_never().is_none());
        drop(holder);
        assert!((&mut late).now_or_never().is_none(), "the one that asked first has it");
        early.await;
        first.release();
        late.await;
    }

    #[tokio::test]
    async fn waits_are_measured_also_while_they_last() {
        let slots = Arc::new(Semaphore::new(1));
        let sleeper = slot(&slots).await;
        assert_eq!(sleeper.waited(), Duration::ZERO);
        sleeper.release();
        let holder = slot(&slots).await;
        {
            let mut waiting = Box::pin(sleeper.reacquire());
            assert!((&mut waiting).now_or_never().is_none());
            std::thread::sleep(Duration::from_millis(2));
            assert!(sleeper.waited() >= Duration::from_millis(2));
        }
        let waited = sleeper.waited();
        assert!(waited >= Duration::from_millis(2));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(sleeper.waited(), waited, "the wait was given up");
        drop(holder);
    }
}
