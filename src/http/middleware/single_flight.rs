//! Concurrent requests for the same result share one piece of work.
//!
//! A scrape of the metrics and a readiness check need no key, and cost a read of the database. So
//! that any number of them costs what one costs, a request that comes while the work is done waits
//! for that, and has the same result; and after each piece the next one rests for `REST_FACTOR`
//! times as long as it took, `MAX_REST` at most. A single caller sees no difference.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// How many times as long as it took the work rests, while requests wait for it.
const REST_FACTOR: u32 = 4;
/// The longest rest.
const MAX_REST: Duration = Duration::from_millis(100);

/// Work whose result is shared. Cheap to clone.
#[derive(Debug)]
pub struct SingleFlight<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    /// `None` in the result of work that panicked.
    under_way: Option<Shared<BoxFuture<'static, Option<T>>>>,
    rests_until: Option<Instant>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { under_way: None, rests_until: None })))
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// The result of the work that is under way, or else of `work`, which is done to its end also
    /// where nobody waits for it any more. `None` where it panicked.
    pub async fn run<F>(&self, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let under_way = {
            let mut state = self.state();
            match &state.under_way {
                Some(under_way) => under_way.clone(),
                None => {
                    let begun = self.begin(state.rests_until.take(), work());
                    state.under_way = Some(begun.clone());
                    begun
                }
            }
        };
        under_way.await
    }

    fn begin<F>(
        &self,
        rests_until: Option<Instant>,
        work: F,
    ) -> Shared<BoxFuture<'static, Option<T>>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let done = Done { state: Self(self.0.clone()), began: None };
        let task = tokio::spawn(async move {
            let mut done = done;
            if let Some(until) = rests_until {
                tokio::time::sleep_until(until.into()).await;
            }
            done.began = Some(Instant::now());
            work.await
        });
        // An error is a panic of the work, which was logged.
        async move { task.await.ok() }.boxed().shared()
    }
}

impl<T> SingleFlight<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for the next piece of work when one has ended, also by a panic.
struct Done<T> {
    state: SingleFlight<T>,
    began: Option<Instant>,
}

impl<T> Drop for Done<T> {
    fn drop(&mut self) {
        let mut state = self.state.state();
        state.under_way = None;
        state.rests_until = self.began.map(|began| {
            let took = began.elapsed();
            Instant::now() + took.saturating_mul(REST_FACTOR).min(MAX_REST)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn those_that_wait_at_the_same_time_have_one_result() {
        let (flight, counter) = (SingleFlight::default(), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let counter = counter.clone();
            flight.run(move || async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                counter.fetch_add(1, Ordering::Relaxed)
            })
        };
        let first = futures_util::future::join_all((0..1_000).map(|_| ask())).await;
        assert_eq!(first, vec![Some(0); 1_000]);
        assert_eq!(ask().await, Some(1), "work that has ended is not shared");
    }

    #[tokio::test]
    async fn one_after_the_other_rests() {
        let flight = SingleFlight::default();
        let work = || async { tokio::time::sleep(Duration::from_millis(10)).await };
        let began = Instant::now();
        for _ in 0..3 {
            flight.run(work).await.unwrap();
        }
        // Three pieces of 10 ms, and two rests.
        assert!(began.elapsed() >= Duration::from_millis(3 * 10 + 2 * 40));
    }

    #[tokio::test]
    async fn work_that_panics_is_no_result_and_blocks_nothing() {
        let flight = SingleFlight::default();
        let result = flight.run(|| async { panic!("on purpose") }).await;
        assert_eq!(result, None::<u32>);
        assert_eq!(flight.run(|| async { 1 }).await, Some(1));
    }

    #[tokio::test]
    async fn work_goes_on_when_those_who_asked_are_gone() {
        let flight = SingleFlight::default();
        let (done, is_done) = tokio::sync::oneshot::channel();
        let asked = flight.run(move || async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            done.send(()).unwrap();
        });
        let _ = tokio::time::timeout(Duration::from_millis(1), asked).await;
        is_done.await.unwrap();
    }
}
