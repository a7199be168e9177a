//! The figures per minute, `minute_figures`: what the operators' console draws its charts from.
//!
//! Every process adds what it has counted since it last did, so that the rows are sums over all of
//! them and a reader never counts a history. They are figures and no evidence: a killed process
//! takes its last seconds with it, and an addition whose answer was lost may be made twice. The
//! view `operator.queues` reads the last full minute of them too.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{StoreError, postgres::columns::Time};

/// How often something was counted since it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// `accepted`, `jobs` or `final`.
    pub figure: &'static str,
    /// What the figure is about; see the column's comment.
    pub label: String,
    /// Above zero.
    pub value: i64,
}

/// A row of `minute_figures`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinuteFigure {
    /// When the minute began.
    pub minute: DateTime<Utc>,
    /// `accepted`; `jobs`; `final`.
    pub figure: String,
    /// `accepted`: empty. `jobs`: `{queue}/{outcome}`. `final`: `{settled_by}/{upper bound in ms}`,
    /// `inf` for the last bucket; a bucket does not hold the ones below it.
    pub label: String,
    pub value: i64,
}

/// Adds to the present minute.
pub async fn add(executor: impl PgExecutor<'_>, deltas: &[Delta]) -> Result<(), StoreError> {
    let figures: Vec<String> = deltas.iter().map(|delta| delta.figure.to_owned()).collect();
    let labels: Vec<String> = deltas.iter().map(|delta| delta.label.clone()).collect();
    let values: Vec<i64> = deltas.iter().map(|delta| delta.value).collect();
    sqlx::query!(
        r#"
        INSERT INTO minute_figures (minute, figure, label, value)
        SELECT date_trunc('minute', now(), 'UTC'), delta.figure, delta.label, delta.value
        FROM unnest($1::text[], $2::text[], $3::bigint[]) AS delta (figure, label, value)
        -- In one order, so that two processes wait for each other instead of deadlocking.
        ORDER BY delta.figure, delta.label
        ON CONFLICT (minute, figure, label)
            DO UPDATE SET value = LEAST(minute_figures.value, 1000000000000000) + excluded.value
        "#,
        &figures,
        &labels,
        &values,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The figures of the present minute and the `minutes` - 1 before it, oldest first.
pub async fn since(
    executor: impl PgExecutor<'_>,
    minutes: u32,
) -> Result<Vec<MinuteFigure>, StoreError> {
    Ok(sqlx::query_as!(
        MinuteFigure,
        r#"
        SELECT minute AS "minute: Time", figure, label, value
        FROM minute_figures
        WHERE minute > date_trunc('minute', now(), 'UTC') - make_interval(mins => $1)
            AND minute <= now()
        ORDER BY minute, figure, label
        "#,
        i32::try_from(minutes).unwrap_or(i32::MAX),
    )
    .fetch_all(executor)
    .await?)
}

/// Deletes what is older than a day and an hour; returns how many rows.
pub async fn prune(executor: impl PgExecutor<'_>) -> Result<u64, StoreError> {
    let pruned = sqlx::query!("DELETE FROM minute_figures WHERE minute < now() - interval '25 h'")
        .execute(executor)
        .await?;
    Ok(pruned.rows_affected())
}
