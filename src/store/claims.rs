//! Claiming due jobs: one statement for all queues that want some (see [`super::coalesce`]).

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    StoreError, clients,
    coalesce::{BY_INDEX, Batch, Locked, spread},
    jobs::{ClaimedJob, Lease},
    transactions,
};
use crate::domain::JobKind;

/// What a worker wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub queue: &'static str,
    pub worker: String,
    /// Most jobs.
    pub most: usize,
    /// The claims that the worker knows of, where there may be others: after a claim that was not
    /// answered. What else is claimed for the worker is given back first.
    pub holds: Option<Vec<(String, DateTime<Utc>)>>,
}

/// Leases due jobs to workers, with what the jobs are about. Fails on the foreign key when a worker is
/// no longer registered, which is what it must learn.
#[derive(Debug)]
pub struct Claims;

impl Batch for Claims {
    type Request = Wanted;
    type Answer = Claim;

    const MOST: usize = JobKind::ALL.len();
    // A few statements, and the way there.
    const LIMIT: Duration = Duration::from_secs(10);
    // One that is not answered may have claimed: the worker must know, and says what it holds.
    const PATIENCE: Duration = Duration::ZERO;
    const SESSION: &'static [(&'static str, &'static str)] = &[
        BY_INDEX[0],
        BY_INDEX[1],
        BY_INDEX[2],
        // The plan is the same for all that is wanted, and takes longer to make than to use.
        ("plan_cache_mode", "force_generic_plan"),
    ];

    async fn run(
        &self,
        conn: &mut PgConnection,
        wanted: &[Wanted],
        _: Locked,
    ) -> Result<Vec<Option<Claim>>, StoreError> {
        // A worker that takes over from one that has just ended waits for the next batch.
        let mut queues = HashSet::new();
        let taken: Vec<usize> =
            (0..wanted.len()).filter(|index| queues.insert(wanted[*index].queue)).collect();
        let batch: Vec<&Wanted> = taken.iter().map(|index| &wanted[*index]).collect();
        for wanted in &batch {
            if let Some(holds) = &wanted.holds {
                release_unknown(&mut *conn, &wanted.worker, holds).await?;
            }
        }
        let claims = claim(conn, &batch).await?;
        Ok(spread(wanted, taken, claims.into_iter().map(Some).collect()))
    }
}

/// What a claim gave.
#[derive(Debug)]
pub struct Claim {
    pub jobs: Vec<ClaimedJob>,
    /// How long until the next job of the queue falls due, of those that were not due yet; `None`
    /// where none waits or the queue is paused.
    pub next_due: Option<Duration>,
}

/// What each of `wanted` gets; they are of different queues.
async fn claim(conn: &mut PgConnection, wanted: &[&Wanted]) -> Result<Vec<Claim>, StoreError> {
    let queues: Vec<&str> = wanted.iter().map(|wanted| wanted.queue).collect();
    let workers: Vec<&str> = wanted.iter().map(|wanted| wanted.worker.as_str()).collect();
    let most: Vec<i64> = wanted.iter().map(|wanted| wanted.most as i64).collect();
    let rows = sqlx::query!(
        r#"
        WITH wanted AS (
            SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (queue, worker, most)
        ), claimed AS (
            UPDATE apalis.jobs
            SET status = 'Running', lock_at = now(),
                lock_by = ($2::text[])[array_position($1::text[], job_type)]
            -- An array rather than a join: Postgres then looks the few ids up, where it would plan
            -- to hash the table for a LIMIT it does not know. SKIP LOCKED: what another worker is
            -- just claiming is its own.
            WHERE id = ANY (ARRAY(
                SELECT due.id
                FROM wanted CROSS JOIN LATERAL (
                    SELECT id
                    FROM apalis.jobs
                    WHERE job_type = wanted.queue AND status = 'Pending' AND run_at <= now()
                        AND NOT EXISTS (SELECT FROM queue_pauses WHERE queue = wanted.queue)
                    ORDER BY run_at
                    LIMIT wanted.most
                    FOR UPDATE SKIP LOCKED
                ) AS due
            ))
            RETURNING *
        ), next AS (
            SELECT wanted.queue, (
                SELECT run_at
                FROM apalis.jobs
                WHERE job_type = wanted.queue AND status = 'Pending' AND run_at > now()
                    AND NOT EXISTS (SELECT FROM queue_pauses WHERE queue = wanted.queue)
                ORDER BY run_at
                LIMIT 1
            ) AS run_at
            FROM wanted
        )
        SELECT
            next.queue AS "queue!", id AS "id?", job AS "job?", attempts AS "attempts?",
            max_attempts AS "max_attempts?", lock_by AS "lock_by?", lock_at AS "lock_at?",
            idempotency_key AS "idempotency_key?",
            -- As text: one row with a strange value must not fail the claim of all the others.
            metadata -> 'polls' AS polls, metadata -> 'waits' AS waits,
            metadata -> 'probes' AS probes,
            metadata -> 'poll_since' AS poll_since, metadata -> 'traceparent' AS traceparent,
            -- Epochs rather than a difference of times: run_at may be infinite.
            (extract(epoch FROM now()) - extract(epoch FROM claimed.run_at))::float8 AS late,
            (extract(epoch FROM next.run_at) - extract(epoch FROM now()))::float8 AS next_due
        -- One row at least for each queue, which tells when its next job is due.
        FROM next
        LEFT JOIN claimed ON claimed.job_type = next.queue
        "#,
        &queues as &[&str],
        &workers as &[&str],
        &most
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut jobs: HashMap<String, Vec<ClaimedJob>> = HashMap::new();
    let mut next_due: HashMap<String, Duration> = HashMap::new();
    for row in rows {
        if let Some(due) = row.next_due {
            next_due.insert(row.queue.clone(), seconds(due));
        }
        let (Some(job_id), Some(worker), Some(locked_at)) = (row.id, row.lock_by, row.lock_at)
        else {
            continue;
        };
        jobs.entry(row.queue).or_default().push(ClaimedJob {
            lease: Lease { job_id, worker, locked_at },
            payload: row.job.unwrap_or_default(),
            attempts: row.attempts.unwrap_or_default(),
            max_attempts: row.max_attempts.unwrap_or_default(),
            idempotency_key: row.idempotency_key,
            polls: row.polls.and_then(|polls| polls.parse().ok()).unwrap_or_default(),
            waits: row.waits.and_then(|waits| waits.parse().ok()).unwrap_or_default(),
            probes: row.probes.and_then(|probes| probes.parse().ok()).unwrap_or_default(),
            poll_since: row.poll_since.and_then(|since| since.parse().ok()),
            traceparent: row.traceparent,
            // Out of range for a job that an import made due at the beginning of time.
            late: row
                .late
                .and_then(|late| Duration::try_from_secs_f64(late).ok())
                .unwrap_or_default(),
            transaction: None,
            callback: None,
        });
    }
    add_transactions(conn, &mut jobs).await?;
    let claim = |queue: &str| Claim {
        jobs: jobs.remove(queue).unwrap_or_default(),
        next_due: next_due.remove(queue),
    };
    Ok(queues.into_iter().map(claim).collect())
}

/// A time span that may be far out of range.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

/// What the jobs of each queue are about, as it is after they were claimed.
async fn add_transactions(
    conn: &mut PgConnection,
    jobs: &mut HashMap<String, Vec<ClaimedJob>>,
) -> Result<(), StoreError> {
    let ids = |jobs: &[ClaimedJob]| {
        jobs.iter().filter_map(ClaimedJob::transaction_id).collect::<HashSet<Uuid>>()
    };
    let all: HashSet<Uuid> = jobs.values().flat_map(|jobs| ids(jobs)).collect();
    let transactions =
        transactions::get_all(&mut *conn, &all.into_iter().collect::<Vec<_>>()).await?;
    let told = jobs.get(JobKind::NotifyClient.as_str()).map(|jobs| ids(jobs)).unwrap_or_default();
    let clients: HashSet<Uuid> =
        told.iter().filter_map(|id| transactions.get(id)).map(|found| found.client_id).collect();
    let callbacks = match clients.is_empty() {
        true => HashMap::new(),
        false => clients::callbacks(conn, &clients.into_iter().collect::<Vec<_>>()).await?,
    };
    for (queue, jobs) in jobs {
        for job in jobs {
            job.transaction = job.transaction_id().and_then(|id| transactions.get(&id).cloned());
            if queue == JobKind::NotifyClient.as_str() {
                let client = job.transaction.as_ref().map(|transaction| transaction.client_id);
                job.callback = client.and_then(|id| callbacks.get(&id).cloned());
            }
        }
    }
    Ok(())
}

/// Gives back the running jobs of `worker` other than those it `holds` (job id and time of claim):
/// they were claimed by a statement whose answer never came. No handler has seen them: this costs
/// neither an attempt nor time. Returns how many there were.
async fn release_unknown(
    executor: impl PgExecutor<'_>,
    worker: &str,
    holds: &[(String, DateTime<Utc>)],
) -> Result<u64, StoreError> {
    let (ids, times): (Vec<String>, Vec<DateTime<Utc>>) = holds.iter().cloned().unzip();
    let released = sqlx::query!(
        r#"
        UPDATE apalis.jobs
        SET status = 'Pending', lock_by = NULL, lock_at = NULL
        WHERE lock_by = $1 AND NOT EXISTS (
            SELECT FROM unnest($2::text[], $3::timestamptz[]) AS held (id, locked_at)
            WHERE held.id = jobs.id AND held.locked_at = jobs.lock_at
        )
        "#,
        worker,
        &ids,
        &times,
    )
    .execute(executor)
    .await?;
    Ok(released.rows_affected())
}
