//! Looking for waiting jobs beside the claims: what other processes wrote, and what claims do not
//! look at any more because it is older than their floor ([`crate::domain::claim_plan`]).

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::claims;
use crate::{
    domain::claim_plan::Straggler,
    store::{StoreError, postgres::columns::Time},
};

/// A waiting job.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    pub run_at: DateTime<Utc>,
    /// How long until it is due; zero when it is.
    pub delay: Duration,
}

/// The earliest waiting job of each queue that was due at most `back` ago, or will be within
/// `ahead`; `None` where none is or the queue is paused. In the order of `queues`.
pub async fn recent(
    executor: impl PgExecutor<'_>,
    queues: &[String],
    back: Duration,
    ahead: Duration,
) -> Result<Vec<Option<Waiting>>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT next.run_at AS "run_at?: Time",
            extract(epoch FROM next.run_at - now())::float8 AS seconds
        FROM unnest($1::text[]) WITH ORDINALITY AS queue (name, position)
        LEFT JOIN LATERAL (
            SELECT run_at
            FROM apalis.jobs
            WHERE job_type = queue.name AND status = 'Pending'
                AND run_at >= now() - make_interval(secs => $2)
                AND run_at <= now() + make_interval(secs => $3)
                AND NOT EXISTS (SELECT FROM queue_pauses WHERE queue_pauses.queue = queue.name)
            ORDER BY run_at
            LIMIT 1
        ) AS next ON true
        ORDER BY queue.position
        "#,
        queues,
        back.as_secs_f64(),
        ahead.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let (run_at, seconds) = row.run_at.zip(row.seconds)?;
            Some(Waiting { run_at: run_at.at(), delay: claims::seconds(seconds) })
        })
        .collect())
}

/// Where the stragglers of a queue are looked for.
#[derive(Debug, Clone)]
pub struct StragglerRange {
    pub queue: &'static str,
    /// The next claims find what was due from then on; `None` where they find nothing that has been
    /// due for 2 s longer than their lag.
    pub before: Option<DateTime<Utc>>,
}

/// The oldest due jobs in each of `ranges` that were due at most `reach` ago, at most `limit` of
/// each queue; of paused queues none. `lag`: for how long claims leave due jobs waiting.
pub async fn stragglers(
    executor: impl PgExecutor<'_>,
    ranges: &[StragglerRange],
    reach: Duration,
    lag: Duration,
    limit: usize,
) -> Result<HashMap<String, Vec<Straggler>>, StoreError> {
    let queues: Vec<&str> = ranges.iter().map(|range| range.queue).collect();
    let before: Vec<Option<DateTime<Utc>>> = ranges.iter().map(|range| range.before).collect();
    let rows = sqlx::query!(
        r#"
        SELECT range.queue AS "queue!", job.id, job.client_id
        FROM unnest($1::text[], $2::timestamptz[]) AS range (queue, before)
        CROSS JOIN LATERAL (
            SELECT id, client_id
            FROM apalis.jobs
            WHERE job_type = range.queue AND status = 'Pending'
                AND run_at < COALESCE(range.before, now() - make_interval(secs => 2 + $5::float8))
                AND run_at >= CASE
                    WHEN $3::float8 < 1e9 THEN now() - make_interval(secs => $3)
                    ELSE '-infinity'
                END
                AND NOT EXISTS (SELECT FROM queue_pauses WHERE queue_pauses.queue = range.queue)
            ORDER BY run_at
            LIMIT $4
        ) AS job
        "#,
        &queues as _,
        &before as _,
        reach.as_secs_f64(),
        limit as i64,
        lag.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    let mut found: HashMap<String, Vec<Straggler>> = HashMap::new();
    for row in rows {
        let straggler = Straggler { job_id: row.id, client: row.client_id };
        found.entry(row.queue).or_default().push(straggler);
    }
    Ok(found)
}
