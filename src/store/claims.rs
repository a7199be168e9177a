//! Claiming due jobs, on a connection that serves nothing else.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgExecutor};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    Database, StoreError, clients,
    coalesce::BY_INDEX,
    database::in_time_of,
    jobs::{ClaimedJob, Lease},
    session::Session,
    transactions,
};
use crate::domain::JobKind;

/// How long a claim may take, a few statements and the way there.
const LIMIT: Duration = Duration::from_secs(10);

/// The connection on which a worker claims.
#[derive(Debug)]
pub struct Claims {
    session: Mutex<Session>,
}

impl Claims {
    /// Connects on first use, as the connections of `pool` do.
    pub fn new(pool: &Database) -> Self {
        Self { session: Mutex::new(Session::new(pool, BY_INDEX)) }
    }

    /// Leases up to `limit` due jobs of `queue` to `worker`, with what they are about. Fails on the
    /// foreign key when the worker is no longer registered, which is what it must learn.
    ///
    /// With `holds`, the claims that the worker knows of, it first gives back what else is claimed
    /// for the worker: that is needed after a claim that was not answered.
    pub async fn claim(
        &self,
        queue: &str,
        worker: &str,
        limit: i64,
        holds: Option<&[(String, DateTime<Utc>)]>,
    ) -> Result<Claim, StoreError> {
        let mut session = self.session.lock().await;
        let claimed = async {
            let mut conn = session.take().await?;
            let claim = match session.begin() {
                None => release_and_claim(&mut conn, queue, worker, limit, holds).await?,
                Some(begin) => {
                    let mut tx = conn.begin_with(begin).await?;
                    let claim = release_and_claim(&mut tx, queue, worker, limit, holds).await?;
                    tx.commit().await?;
                    claim
                }
            };
            session.keep(conn);
            Ok::<_, StoreError>(claim)
        };
        let claimed = in_time_of(LIMIT, claimed).await;
        if let Err(error) = &claimed {
            session.note(error);
        }
        claimed
    }
}

async fn release_and_claim(
    conn: &mut PgConnection,
    queue: &str,
    worker: &str,
    limit: i64,
    holds: Option<&[(String, DateTime<Utc>)]>,
) -> Result<Claim, StoreError> {
    if let Some(holds) = holds {
        release_unknown(&mut *conn, worker, holds).await?;
    }
    claim(conn, queue, worker, limit).await
}

/// What a claim gave.
#[derive(Debug)]
pub struct Claim {
    pub jobs: Vec<ClaimedJob>,
    /// How long until the next job of the queue falls due, of those that were not due yet; `None`
    /// where none waits or the queue is paused.
    pub next_due: Option<Duration>,
}

async fn claim(
    conn: &mut PgConnection,
    queue: &str,
    worker: &str,
    limit: i64,
) -> Result<Claim, StoreError> {
    let rows = sqlx::query!(
        r#"
        WITH claimed AS (
            UPDATE apalis.jobs
            SET status = 'Running', lock_by = $2, lock_at = now()
            -- An array rather than a join: Postgres then looks the few ids up, where it would plan
            -- to hash the table for a LIMIT it does not know. SKIP LOCKED: what another worker is
            -- just claiming is its own.
            WHERE id = ANY (ARRAY(
                SELECT id
                FROM apalis.jobs
                WHERE job_type = $1 AND status = 'Pending' AND run_at <= now()
                    AND NOT EXISTS (SELECT FROM queue_pauses WHERE queue = $1)
                ORDER BY run_at
                LIMIT $3
                FOR UPDATE SKIP LOCKED
            ))
            RETURNING *
        ), next AS (
            SELECT (
                SELECT run_at
                FROM apalis.jobs
                WHERE job_type = $1 AND status = 'Pending' AND run_at > now()
                    AND NOT EXISTS (SELECT FROM queue_pauses WHERE queue = $1)
                ORDER BY run_at
                LIMIT 1
            ) AS run_at
        )
        SELECT
            id AS "id?", job AS "job?", attempts AS "attempts?", max_attempts AS "max_attempts?",
            lock_at AS "lock_at?", idempotency_key AS "idempotency_key?",
            -- As text: one row with a strange value must not fail the claim of all the others.
            metadata -> 'polls' AS polls, metadata -> 'waits' AS waits,
            metadata -> 'probes' AS probes,
            metadata -> 'poll_since' AS poll_since, metadata -> 'traceparent' AS traceparent,
            -- Epochs rather than a difference of times: run_at may be infinite.
            (extract(epoch FROM now()) - extract(epoch FROM claimed.run_at))::float8 AS late,
            (extract(epoch FROM next.run_at) - extract(epoch FROM now()))::float8 AS next_due
        -- One row at least, which tells when the next job is due.
        FROM next
        LEFT JOIN claimed ON true
        "#,
        queue,
        worker,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let next_due = rows.first().and_then(|row| row.next_due);
    let jobs = rows.into_iter().filter_map(|row| {
        Some(ClaimedJob {
            lease: Lease { job_id: row.id?, worker: worker.to_owned(), locked_at: row.lock_at? },
            payload: row.job?,
            attempts: row.attempts?,
            max_attempts: row.max_attempts?,
            idempotency_key: row.idempotency_key,
            polls: row.polls.and_then(|polls| polls.parse().ok()).unwrap_or_default(),
            waits: row.waits.and_then(|waits| waits.parse().ok()).unwrap_or_default(),
            probes: row.probes.and_then(|probes| probes.parse().ok()).unwrap_or_default(),
            poll_since: row.poll_since.and_then(|since| since.parse().ok()),
            traceparent: row.traceparent,
            // Out of range for a job that an import made due at the beginning of time.
            late: Duration::try_from_secs_f64(row.late?).unwrap_or_default(),
            transaction: None,
            callback: None,
        })
    });
    let mut jobs: Vec<ClaimedJob> = jobs.collect();
    add_transactions(conn, queue, &mut jobs).await?;
    Ok(Claim { jobs, next_due: next_due.map(seconds) })
}

/// A time span that may be far out of range.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

/// What the jobs are about, as it is after they were claimed.
async fn add_transactions(
    conn: &mut PgConnection,
    queue: &str,
    jobs: &mut [ClaimedJob],
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = jobs.iter().filter_map(ClaimedJob::transaction_id).collect();
    let mut transactions = transactions::get_all(&mut *conn, &ids).await?;
    let callbacks = if queue == JobKind::NotifyClient.as_str() {
        let clients: HashSet<Uuid> = transactions.values().map(|found| found.client_id).collect();
        clients::callbacks(conn, &clients.into_iter().collect::<Vec<_>>()).await?
    } else {
        HashMap::new()
    };
    for job in jobs {
        job.transaction = job.transaction_id().and_then(|id| transactions.remove(&id));
        let client = job.transaction.as_ref().map(|transaction| transaction.client_id);
        job.callback = client.and_then(|id| callbacks.get(&id).cloned());
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
