//! What is written together: requests of one kind, of which a [`Batch`] says how.
//!
//! A [`super::coalesce::Coalescer`] gathers them.

use std::{hash::Hash, time::Duration};

use sqlx::PgConnection;

use super::database::STATEMENT_LIMIT;
use crate::store::StoreError;

/// A session whose statements look rows up by index, however few there were when the statement was
/// planned: a plan is kept while the table grows. Statements name the rows by an array (`= ANY`),
/// so that what is joined then is small, and is hashed rather than compared with each other. If a
/// disabled plan type is the only one possible, Postgres gives it a huge cost, which would start
/// the JIT compiler: so that is off too.
pub(in crate::store) const BY_INDEX: &[(&str, &str)] =
    &[("enable_seqscan", "off"), ("enable_nestloop", "off"), ("jit", "off")];

/// From this number of requests on a batch shows that more are coming, and a claim that finds as many
/// jobs too.
pub const SEVERAL: usize = 3;
/// After a small batch of several, the next one of its writer begins no sooner than this after it
/// began; nor does a claim after some that found little.
pub const SPACING: Duration = Duration::from_millis(5);
/// The longest time in which requests gather after a batch, and what falls due after such a claim.
pub const LONGEST_GATHERING: Duration = Duration::from_millis(20);

/// From this number of requests on a batch is large: more of them would be little cheaper.
const LARGE: usize = 64;

/// The pause after a batch of this many requests that took this long, of a kind that comes in
/// numbers: the next batch is larger for it, and each of its requests cheaper. It is as long as the
/// batch took, so that a request waits for no more than twice as long. A request that comes alone is
/// followed by no pause, nor is a large batch.
pub(in crate::store) fn gathering_pause(requests: usize, took: Duration) -> Duration {
    match requests {
        SEVERAL..LARGE => took.min(LONGEST_GATHERING).max(SPACING.saturating_sub(took)),
        _ => Duration::ZERO,
    }
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
    /// Owners take turns; `()` where that does not matter.
    type Owner: Clone + Eq + Hash + Send + Sync + 'static;
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

    /// Whose request it is.
    fn owner(request: &Self::Request) -> Self::Owner;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_gather_for_as_long_as_a_small_batch_took() {
        let pause = |requests, ms| gathering_pause(requests, Duration::from_millis(ms)).as_millis();
        assert_eq!([1, 4, 12, 500].map(|took| pause(8, took)), [4, 4, 12, 20]);
        assert_eq!([SEVERAL - 1, LARGE].map(|requests| pause(requests, 12)), [0, 0]);
    }
}
