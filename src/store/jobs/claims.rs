//! Claiming due jobs: one statement for all queues that want some (see
//! [`crate::store::postgres::coalesce`]).

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{
    ClaimedJob, Lease,
    job_latency::{JobLatency, Step},
};
use crate::{
    domain::{BootInstant, JobKind, LastAnswers, claim_plan::ClaimScans},
    store::{
        StoreError, clients,
        holds::{Known, UNSURE},
        postgres::{
            batch::{BY_INDEX, Batch, Locked, spread},
            columns::Time,
        },
        transactions,
    },
};

/// A SQL transaction may have begun this long before it was known that it would lease something:
/// its leases are as old as that.
const BEGAN_BEFORE: Duration = Duration::from_secs(30);

/// What a worker wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub queue: &'static str,
    pub worker: String,
    /// What is looked at, and how much of it is taken.
    pub scans: ClaimScans,
    /// Only what has been due for this long is claimed.
    pub lag: Duration,
    /// Whether to look when the next job falls due that is not due yet.
    pub seeks_next: bool,
    /// What the worker knows of, where there may be other leases: after a statement that was not
    /// answered. What else is leased to the worker is given back first.
    pub holds: Option<Known>,
}

/// Leases due jobs to workers, with what the jobs are about. Fails on the foreign key when a worker
/// is no longer registered, which is what it must learn.
#[derive(Debug)]
pub struct Claims {
    /// How long claims take.
    pub latency: JobLatency,
}

impl Batch for Claims {
    type Request = Wanted;
    type Owner = ();
    type Answer = Claim;
    type AfterCommit = ();

    const MAX_BATCH: usize = JobKind::ALL.len();
    // A few statements, and the way there.
    const LIMIT: Duration = Duration::from_secs(10);
    // Fail at once: a claim whose answer is lost may have leased jobs. The worker must know, so
    // that its next claim lists what it holds.
    const MAX_WAIT: Duration = Duration::ZERO;
    const SESSION: &'static [(&'static str, &'static str)] = &[
        BY_INDEX[0],
        BY_INDEX[1],
        BY_INDEX[2],
        // The plan is the same for all that is wanted, and takes longer to make than to use.
        ("plan_cache_mode", "force_generic_plan"),
    ];

    fn owner(_: &Wanted) {}

    fn answered(&self, took: Duration) {
        self.latency.report(Step::Claim, took, Instant::now());
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        wanted: &[Wanted],
        _: Locked,
        _: &mut Self::AfterCommit,
    ) -> Result<Vec<Option<Claim>>, StoreError> {
        // A worker that takes over from one that has just ended waits for the next batch.
        let mut queues = HashSet::new();
        let taken: Vec<usize> =
            (0..wanted.len()).filter(|index| queues.insert(wanted[*index].queue)).collect();
        let batch: Vec<&Wanted> = taken.iter().map(|index| &wanted[*index]).collect();
        for wanted in &batch {
            if let Some(known) = &wanted.holds {
                release_unknown(&mut *conn, &wanted.worker, known).await?;
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
    /// It looked at what is due until then, by the database's clock; `None` where the queue is
    /// paused.
    pub until: Option<DateTime<Utc>>,
    /// How long until the next job of the queue can be claimed, of those that are due after that;
    /// `None` where none waits or it was not asked for.
    pub next_due: Option<Duration>,
}

/// The scans of several queues, as columns.
#[derive(Default)]
struct Scans {
    queues: Vec<&'static str>,
    workers: Vec<String>,
    most: Vec<i64>,
    most_of_others: Vec<i64>,
    since: Vec<Option<DateTime<Utc>>>,
    /// Array literals: an array of arrays of different lengths cannot be sent.
    excluded: Vec<String>,
    seeks_next: Vec<bool>,
    stragglers: Vec<String>,
    apart_queues: Vec<&'static str>,
    apart_clients: Vec<Uuid>,
    apart_since: Vec<Option<DateTime<Utc>>>,
    apart_most: Vec<i64>,
    apart_positions: Vec<i64>,
    apart_counts: Vec<i64>,
    lag: Vec<f64>,
}

impl Scans {
    fn push(&mut self, wanted: &Wanted) {
        let scans = &wanted.scans;
        self.queues.push(wanted.queue);
        self.workers.push(wanted.worker.clone());
        self.most.push(scans.most as i64);
        self.most_of_others.push(scans.most_of_others as i64);
        self.since.push(scans.since);
        let excluded: Vec<String> = scans.excluded.iter().map(Uuid::to_string).collect();
        self.excluded.push(format!("{{{}}}", excluded.join(",")));
        self.seeks_next.push(wanted.seeks_next);
        self.lag.push(wanted.lag.as_secs_f64());
        self.stragglers.extend(scans.stragglers.iter().cloned());
        for (position, apart) in scans.apart.iter().enumerate() {
            self.apart_queues.push(wanted.queue);
            self.apart_clients.push(apart.client);
            self.apart_since.push(apart.since);
            self.apart_most.push(apart.most as i64);
            self.apart_positions.push(position as i64);
            self.apart_counts.push(scans.apart.len() as i64);
        }
    }
}

/// What each of `wanted` gets; they are of different queues.
async fn claim(conn: &mut PgConnection, wanted: &[&Wanted]) -> Result<Vec<Claim>, StoreError> {
    let mut scans = Scans::default();
    wanted.iter().for_each(|wanted| scans.push(wanted));
    let rows = sqlx::query!(
        r#"
        WITH wanted AS MATERIALIZED (
            -- `until`: what was due then is claimed. While jobs are slow, scheduled ones wait for
            -- the lag on top.
            SELECT wanted.*, now() - make_interval(secs => lag) AS until
            FROM unnest(
                $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[],
                $7::bool[], $15::float8[]
            ) AS wanted
                (queue, worker, most, most_of_others, since, excluded, seeks_next, lag)
            WHERE NOT EXISTS (SELECT FROM queue_pauses WHERE queue_pauses.queue = wanted.queue)
                -- A worker that was taken for dead gets nothing, while its jobs are being rescued.
                AND NOT EXISTS (
                    SELECT FROM apalis.workers WHERE id = wanted.worker AND dead_at IS NOT NULL
                )
        ), others AS MATERIALIZED (
            SELECT wanted.queue, due.id
            FROM wanted CROSS JOIN LATERAL (
                SELECT id
                FROM apalis.jobs
                WHERE job_type = wanted.queue AND status = 'Pending'
                    -- From the floor on: while a snapshot is held, the entries of older jobs stay
                    -- in the index though they have ended. What is older and waits nevertheless is
                    -- found by the watcher.
                    AND run_at >= COALESCE(wanted.since, wanted.until - interval '10 s')
                    AND run_at <= wanted.until
                    AND client_id <> ALL (wanted.excluded::uuid[])
                ORDER BY run_at
                LIMIT wanted.most_of_others
                -- SKIP LOCKED: what another worker is just claiming is its own.
                FOR UPDATE SKIP LOCKED
            ) AS due
        ), shares AS (
            -- What the others leave, split evenly.
            SELECT apart.queue, apart.client_id, apart.since, wanted.until, LEAST(apart.most, (
                wanted.most + apart.clients - 1 - apart.position
                - (SELECT count(*) FROM others WHERE others.queue = wanted.queue)
            ) / apart.clients) AS most
            FROM unnest(
                $9::text[], $10::uuid[], $11::timestamptz[], $12::bigint[], $13::bigint[],
                $14::bigint[]
            ) AS apart (queue, client_id, since, most, position, clients)
            JOIN wanted ON wanted.queue = apart.queue
        ), apart AS MATERIALIZED (
            SELECT due.id
            FROM shares CROSS JOIN LATERAL (
                SELECT id
                FROM apalis.jobs
                WHERE job_type = shares.queue AND status = 'Pending'
                    AND run_at >= COALESCE(shares.since, shares.until - interval '10 s')
                    AND run_at <= shares.until AND client_id = shares.client_id
                ORDER BY run_at
                LIMIT GREATEST(shares.most, 0)
                FOR UPDATE SKIP LOCKED
            ) AS due
        ), stragglers AS MATERIALIZED (
            SELECT id
            FROM apalis.jobs
            -- By their ids. Not `=`: the index of the waiting jobs could be read as a whole.
            WHERE id = ANY ($8::text[]) AND status IS NOT DISTINCT FROM 'Pending'
                AND run_at <= now() AND job_type = ANY (ARRAY(SELECT queue FROM wanted))
            FOR UPDATE SKIP LOCKED
        ), claimed AS (
            UPDATE apalis.jobs
            SET status = 'Running', lock_at = now(),
                lock_by = ($2::text[])[array_position($1::text[], job_type)]
            -- An array rather than a join: Postgres then looks the few ids up, where it would plan
            -- to hash the table for a LIMIT it does not know.
            WHERE id = ANY (ARRAY(
                SELECT id FROM others
                UNION ALL SELECT id FROM apart
                UNION ALL SELECT id FROM stragglers
            ))
            RETURNING *
        ), next AS (
            SELECT wanted.queue, wanted.until, CASE WHEN wanted.seeks_next THEN (
                SELECT run_at
                FROM apalis.jobs
                WHERE job_type = wanted.queue AND status = 'Pending' AND run_at > wanted.until
                ORDER BY run_at
                LIMIT 1
            ) END AS run_at
            FROM wanted
        )
        SELECT
            next.queue AS "queue!", next.until AS "until!: Time", id AS "id?", job AS "job?",
            attempts AS "attempts?", max_attempts AS "max_attempts?", lock_by AS "lock_by?",
            lock_at AS "lock_at?: Time", idempotency_key AS "idempotency_key?",
            client_id AS "client_id?",
            -- An import may have written a time that only Postgres knows: it counts as none.
            CASE
                WHEN claimed.run_at BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN claimed.run_at
            END AS "run_at: Time",
            -- As text: one row with a strange value must not fail the claim of all the others.
            metadata -> 'polls' AS polls, metadata -> 'waits' AS waits,
            metadata -> 'probes' AS probes, metadata -> 'answers' AS answers,
            metadata -> 'poll_since' AS poll_since, metadata -> 'traceparent' AS traceparent,
            -- Epochs rather than a difference of times: run_at may be infinite.
            (extract(epoch FROM now()) - extract(epoch FROM claimed.run_at))::float8 AS late,
            (extract(epoch FROM next.run_at) - extract(epoch FROM next.until))::float8 AS next_due
        -- One row at least for each queue that is not paused.
        FROM next
        LEFT JOIN claimed ON claimed.job_type = next.queue
        "#,
        &scans.queues as &[&str],
        &scans.workers,
        &scans.most,
        &scans.most_of_others,
        &scans.since as _,
        &scans.excluded,
        &scans.seeks_next,
        &scans.stragglers,
        &scans.apart_queues as &[&str],
        &scans.apart_clients,
        &scans.apart_since as _,
        &scans.apart_most,
        &scans.apart_positions,
        &scans.apart_counts,
        &scans.lag,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut jobs: HashMap<String, Vec<ClaimedJob>> = HashMap::new();
    let mut times: HashMap<String, (DateTime<Utc>, Option<Duration>)> = HashMap::new();
    for row in rows {
        let until = row.until.at();
        times.insert(row.queue.clone(), (until, row.next_due.map(seconds)));
        let (Some(job_id), Some(worker), Some(locked_at)) = (row.id, row.lock_by, row.lock_at)
        else {
            continue;
        };
        jobs.entry(row.queue).or_default().push(ClaimedJob {
            lease: Lease { job_id, worker, locked_at: locked_at.at() },
            payload: row.job.unwrap_or_default(),
            attempts: row.attempts.unwrap_or_default(),
            max_attempts: row.max_attempts.unwrap_or_default(),
            idempotency_key: row.idempotency_key,
            client_id: row.client_id.unwrap_or_default(),
            run_at: row.run_at.map(Time::at),
            polls: row.polls.and_then(|polls| polls.parse().ok()).unwrap_or_default(),
            waits: row.waits.and_then(|waits| waits.parse().ok()).unwrap_or_default(),
            probes: row.probes.and_then(|probes| probes.parse().ok()).unwrap_or_default(),
            answers: row.answers.as_deref().map(LastAnswers::parse).unwrap_or_default(),
            // `until` is the database's time, or earlier by the lag.
            poll_since: row.poll_since.and_then(|since| poll_since(&since, until)),
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
    let claim = |wanted: &&Wanted| {
        let times = times.get(wanted.queue);
        Claim {
            jobs: jobs.remove(wanted.queue).unwrap_or_default(),
            until: times.map(|(until, _)| *until),
            next_due: times.and_then(|(_, next_due)| *next_due),
        }
    };
    Ok(wanted.iter().map(claim).collect())
}

/// Where the deadline counts from, as an earlier run wrote it: of these days by the database's
/// clock, which says `now`, or it is not ours.
fn poll_since(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let since: DateTime<Utc> = text.parse().ok()?;
    let is_ours = since >= DateTime::UNIX_EPOCH && since < now + TimeDelta::days(1);
    is_ours.then_some(since)
}

/// A time span that may be far out of range, or no number.
pub(in crate::store) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, 1e9)).unwrap_or_default()
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

/// Gives back the running jobs of `worker` that it does not know: they were leased by a statement
/// whose answer was lost. No handler has seen them, so this costs neither an attempt nor time.
/// Returns how many there were.
async fn release_unknown(
    executor: impl PgExecutor<'_>,
    worker: &str,
    known: &Known,
) -> Result<u64, StoreError> {
    let (ids, times): (Vec<String>, Vec<DateTime<Utc>>) = known.leases.iter().cloned().unzip();
    let expected: Vec<String> = known.expected.iter().map(Uuid::to_string).collect();
    let unanswered = known.unanswered_at.map_or(UNSURE, BootInstant::elapsed);
    let released = sqlx::query!(
        r#"
        UPDATE apalis.jobs
        -- Due now: claims do not look at what was due long ago.
        SET status = 'Pending', run_at = now(), lock_by = NULL, lock_at = NULL
        WHERE lock_by = $1 AND NOT EXISTS (
            SELECT FROM unnest($2::text[], $3::timestamptz[]) AS held (id, locked_at)
            WHERE held.id = jobs.id AND held.locked_at = jobs.lock_at
        )
            AND COALESCE(idempotency_key, '') <> ALL ($4::text[])
            -- The worker knows the older ones. While an old snapshot is held, the index has an
            -- entry for each job that the worker ever held.
            AND lock_at >= now() - make_interval(secs => $5)
        "#,
        worker,
        &ids,
        &times,
        &expected,
        (unanswered + BEGAN_BEFORE).as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(released.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_deadline_counts_from_is_judged_by_the_databases_time() {
        // Far from the time of this process.
        for now in ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00Z"] {
            let now: DateTime<Utc> = now.parse().unwrap();
            for (since, is_ours) in [
                (now - TimeDelta::days(30), true),
                (now, true),
                (now + TimeDelta::hours(23), true),
                (now + TimeDelta::hours(25), false),
                (DateTime::UNIX_EPOCH - TimeDelta::seconds(1), false),
            ] {
                let read = poll_since(&since.to_rfc3339(), now);
                assert_eq!(read, is_ours.then_some(since), "{since} at {now}");
            }
            assert_eq!(poll_since("once", now), None);
        }
    }
}
