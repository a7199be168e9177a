//! Who reads next: clients take turns at the pool's connections.
//!
//! A burst of one client's reads would otherwise take all connections and have everybody's requests
//! wait behind it. What a client asks the database for takes a turn: the lookup of its key, its reads,
//! and the lookup of a post that was there before. Operators are one client among the others. Where
//! there are two connections or more, one is left to what takes no turn: webhooks and readiness.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::FairQueue;

/// Whose read it is, by the hash of its key; `None` for those of operators.
pub(super) type Reader = Option<[u8; 32]>;

/// The turns of one pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadTurns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: FairQueue<Reader, oneshot::Sender<ReadTurn>>,
}

/// The right to one read; the next one's turn comes when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct ReadTurn(Option<ReadTurns>);

impl ReadTurns {
    /// The turns of a pool of this many connections.
    pub fn new(connections: u32) -> Self {
        let free = connections.saturating_sub(1).max(1) as usize;
        Self(Arc::new(Mutex::new(State { free, waiting: FairQueue::default() })))
    }

    /// Waits for a turn.
    pub async fn take(&self, reader: Reader) -> ReadTurn {
        let given = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return ReadTurn(Some(self.clone()));
            }
            let (give, given) = oneshot::channel();
            state.waiting.push(reader, give);
            given
        };
        // The sender is dropped only after it has sent, or together with the queue, which `self`
        // keeps.
        given.await.expect("who waits is given a turn")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadTurn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        let mut state = turns.lock();
        while let Some(next) = state.waiting.pop_wanted(|next| !next.is_closed()) {
            match next.send(Self(Some(turns.clone()))) {
                Ok(()) => return,
                // It waits no more, and the turn is still ours.
                Err(mut turn) => turn.0 = None,
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn a_burst_of_one_reader_is_behind_itself_alone() {
        let (turns, one, other) = (ReadTurns::new(4), Some([1; 32]), Some([2; 32]));
        let held = join_all((0..3).map(|_| turns.take(one))).await;
        let mut burst: Vec<_> = (0..100).map(|_| Box::pin(turns.take(one))).collect();
        assert!(burst.iter_mut().all(|read| read.now_or_never().is_none()), "no more than three");
        let mut late = Box::pin(turns.take(other));
        assert!((&mut late).now_or_never().is_none());
        let mut held = held.into_iter();
        drop(held.next());
        let first = (&mut burst[0]).now_or_never().expect("the first of the burst");
        drop(held.next());
        let of_other = (&mut late).now_or_never().expect("it waited for one turn of the burst");
        drop((first, of_other, held));
        assert_eq!(burst[1..].iter_mut().filter_map(FutureExt::now_or_never).count(), 99);
    }

    #[tokio::test]
    async fn the_turn_of_one_that_gave_up_goes_to_the_next() {
        let turns = ReadTurns::new(1);
        let held = turns.take(None).await;
        let (mut first, mut second) = (Box::pin(turns.take(None)), Box::pin(turns.take(None)));
        let mut third = Box::pin(turns.take(None));
        for read in [&mut first, &mut second, &mut third] {
            assert!(read.now_or_never().is_none());
        }
        drop(first);
        drop(held);
        // It has been given its turn, and does not take it.
        drop(second);
        assert!(third.now_or_never().is_some());
        assert!(turns.take(None).now_or_never().is_some(), "all are free");
    }
}
