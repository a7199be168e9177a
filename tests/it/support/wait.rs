//! Waiting for a condition, with a bound: there are no fixed sleeps in tests.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(15);

/// Polls `condition` until it holds; panics with `what` when it does not within `bound`.
pub async fn wait_until(what: &str, bound: Duration, mut condition: impl AsyncFnMut() -> bool) {
    wait_for(what, bound, async || condition().await.then_some(())).await;
}

/// Polls until there is a value, and returns it; panics with `what` when there is none in `bound`.
pub async fn wait_for<T>(
    what: &str,
    bound: Duration,
    mut find: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
}
