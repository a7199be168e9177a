//! The budgets of calls that all processes share, table `call_budgets`, a row for each third party
//! that has one: up to when its times are leased, by the database's clock.
//!
//! A lease is one statement. Two processes that lease at the same moment wait for the row's lock,
//! so that no time is leased twice. Nothing of a lease is ever given back: what a process does not use
//! is lost.

use std::time::Duration;

use sqlx::PgExecutor;

use super::StoreError;
use crate::domain::{CallRate, ThirdPartyName};

/// What is to be leased.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTerms {
    pub rate: CallRate,
    /// How many times, where the first one lies no further ahead than `near`.
    pub all: u32,
    pub near: Duration,
    /// How many where it lies further ahead, but no further than `far`.
    pub next: u32,
    pub far: Duration,
}

/// Times that were leased. All are microseconds since 1970 on the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeasedTimes {
    pub now: i64,
    /// The first one; where there is none, the next one that nobody has.
    pub start: i64,
    pub count: u32,
}

/// A row that says more than this beyond the furthest lease is wrong: the database's clock was set
/// back, or somebody wrote it. It counts as the present, or nobody would call for as long.
const MAX_LEAD: Duration = Duration::from_secs(60);

/// Leases the next times. `None`: the third party has no row yet.
pub async fn lease(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
    terms: &LeaseTerms,
) -> Result<Option<LeasedTimes>, StoreError> {
    let LeaseTerms { rate, all, near, next, far } = terms;
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let leased = sqlx::query!(
        r#"
        WITH line AS MATERIALIZED (
            SELECT
                third_party, at, start,
                CASE
                    WHEN start <= at + make_interval(secs => $3) THEN $2::int
                    WHEN start <= at + make_interval(secs => $5) THEN $4::int
                    ELSE 0
                END AS count
            FROM (
                SELECT
                    third_party, at,
                    -- Never before now: times that nobody asked for are not saved up.
                    GREATEST(at, CASE
                        WHEN next_at <= at + make_interval(secs => $7) THEN next_at
                    END) AS start
                FROM (
                    SELECT third_party, next_at, clock_timestamp() AS at
                    FROM call_budgets WHERE third_party = $1
                    -- The second of two waits here, and then sees what the first one has leased.
                    FOR UPDATE
                ) AS locked
            ) AS placed
        ), leased AS (
            UPDATE call_budgets
            SET next_at = line.start + make_interval(secs => line.count * $6::float8)
            FROM line
            WHERE call_budgets.third_party = line.third_party AND line.count > 0
        )
        SELECT
            (extract(epoch FROM at) * 1000000)::bigint AS "now!",
            (extract(epoch FROM start) * 1000000)::bigint AS "start!",
            count AS "count!"
        FROM line
        "#,
        third_party.as_str(),
        count(*all),
        near.as_secs_f64(),
        count(*next),
        far.as_secs_f64(),
        rate.gap().as_secs_f64(),
        (*far.max(near) + MAX_LEAD).as_secs_f64(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(leased.map(|row| LeasedTimes {
        now: row.now,
        start: row.start,
        count: u32::try_from(row.count).unwrap_or_default(),
    }))
}

/// Adds the row of a third party, where there is none.
pub async fn add(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        INSERT INTO call_budgets (third_party, next_at) VALUES ($1, clock_timestamp())
        ON CONFLICT (third_party) DO NOTHING
        "#,
        third_party.as_str(),
    )
    .execute(executor)
    .await?;
    Ok(())
}
