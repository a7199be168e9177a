//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

use crate::error::BenchError;

const POLL: Duration = Duration::from_millis(5);

/// Polls `condition` until it holds; an error with `what` when it does not within `bound`.
pub async fn wait_until(
    what: &str,
    bound: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool, BenchError>,
) -> Result<(), BenchError> {
    let start = Instant::now();
    while !condition().await? {
        if start.elapsed() > bound {
            return Err(BenchError::TimedOut { what: what.to_owned(), bound });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
