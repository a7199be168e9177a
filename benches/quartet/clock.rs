//! One clock for load generator, stubs and database: nanoseconds since the benchmark began.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, Utc};

static START: LazyLock<(Instant, SystemTime)> =
    LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// A moment, in nanoseconds since the benchmark began; 0 stands for "not yet".
pub type Moment = u64;

/// Now.
pub fn now() -> Moment {
    // At least 1, so that it is never "not yet".
    nanos(START.0.elapsed()).max(1)
}

/// The wall clock's time, such as `created_at`, on this clock. Both are of the same machine.
pub fn moment(at: DateTime<Utc>) -> Moment {
    nanos(SystemTime::from(at).duration_since(START.1).unwrap_or_default()).max(1)
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// From `earlier` to `later` in milliseconds; negative where it is the other way round.
pub fn millis_between(earlier: Moment, later: Moment) -> f64 {
    (later as f64 - earlier as f64) / 1e6
}
