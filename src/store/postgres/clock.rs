//! Reads the database's clock, and reports a wall clock of this machine that differs from it.
//!
//! Each process reads it once a heartbeat ([`follow`]). A skew of more than 5 s is logged, again
//! when it has changed by as much, and once more when it is gone; the metric
//! `quartet_clock_skew_seconds` always says how large it is. Where the database is away the last
//! reading goes on.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgExecutor;
use tokio::time::MissedTickBehavior;

use super::{columns::Time, database::in_time};
use crate::{
    domain::clock::{BootInstant, ClockReading, DatabaseClock, is_notable},
    store::{Database, StoreError},
    telemetry::Metrics,
};

/// The database's time.
pub async fn now(executor: impl PgExecutor<'_>) -> Result<DateTime<Utc>, StoreError> {
    let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!: Time""#);
    Ok(now.fetch_one(executor).await?.at())
}

/// Reads the database's clock beside the one of this process. Over a connection, rather than a pool
/// whose connection must be waited for, it is right to half a round trip.
pub async fn read(executor: impl PgExecutor<'_>) -> Result<ClockReading, StoreError> {
    let (asked, wall) = (BootInstant::now(), Utc::now());
    let database = now(executor).await?;
    Ok(ClockReading::answered(asked, wall, database))
}

/// How far the wall clock of this process is ahead of the database's; negative where it is behind.
pub async fn clock_skew(executor: impl PgExecutor<'_>) -> Result<TimeDelta, StoreError> {
    Ok(read(executor).await?.skew())
}

/// Keeps `clock` right, without end: it reads the database's clock every `interval`.
pub async fn follow(pool: &Database, clock: &DatabaseClock, interval: Duration, metrics: &Metrics) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut logged = TimeDelta::zero();
    loop {
        ticks.tick().await;
        let reading = match in_time(read_once(pool)).await {
            Ok(reading) => reading,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the database's clock could not be read");
                continue;
            }
        };
        if !clock.set(reading) {
            continue;
        }
        let skew = reading.skew();
        metrics.clock_skew(skew);
        if is_notable(skew - logged) || (is_notable(logged) && !is_notable(skew)) {
            log(skew);
            logged = skew;
        }
    }
}

/// On a connection that is there before the question is asked.
async fn read_once(pool: &Database) -> Result<ClockReading, StoreError> {
    let mut tx = crate::store::begin(pool).await?;
    let reading = read(&mut *tx).await?;
    tx.commit().await?;
    Ok(reading)
}

fn log(skew: TimeDelta) {
    if is_notable(skew) {
        tracing::warn!(skew_seconds = skew.num_seconds(), "{}", describe(skew));
    } else {
        tracing::info!("the clock of this process agrees with the database's again");
    }
}

/// One sentence about a skew, for operators.
pub fn describe(skew: TimeDelta) -> String {
    let (seconds, side) = match skew.num_seconds() {
        ahead @ 0.. => (ahead, "ahead of"),
        behind => (-behind, "behind"),
    };
    let span = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
    format!("the clock of this process is {span} {side} the database's, which is gone by")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_is_described_with_its_side() {
        assert_eq!(
            describe(TimeDelta::minutes(20)),
            "the clock of this process is 20m ahead of the database's, which is gone by"
        );
        assert!(describe(TimeDelta::seconds(-90)).contains("1m 30s behind the database's"));
    }
}
