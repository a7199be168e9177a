//! The job rows of runs that ended: done, due again, or dead.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{End, EndedRun, SnoozeCount};
use crate::{
    domain::{DeadLetterKind, SettledBy, Status},
    store::{
        StoreError, dead_letters,
        evidence::{self, NewEvidence},
        jobs::Lease,
        postgres::columns::Time,
        transactions::Transaction,
    },
};

/// From this number on, the jobs of one claim that are simply done get a statement of their own: it
/// names the lease once, and costs half.
const OF_ONE_CLAIM: usize = 50;

/// One run, with what was decided about it.
pub(super) struct Decided<'a> {
    pub run: &'a EndedRun,
    pub current: Option<&'a Transaction>,
    pub end: End<'a>,
    pub report: Option<(Status, SettledBy)>,
}

/// When a run was ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndedAt {
    /// The time of the SQL transaction.
    pub now: DateTime<Utc>,
    /// When the job is due again, where it is.
    pub run_at: Option<DateTime<Utc>>,
}

/// Ends the runs of the job rows, with their evidence; returns the jobs whose lease was still held.
pub(super) async fn end_jobs<'a>(
    conn: &mut PgConnection,
    decided: impl Iterator<Item = &'a Decided<'a>> + Clone + Send,
) -> Result<HashMap<String, EndedAt>, StoreError> {
    let mut done: HashMap<(&str, DateTime<Utc>), Vec<&Decided<'_>>> = HashMap::new();
    let mut rows = EndRows::default();
    for decided in decided.clone() {
        let Lease { worker, locked_at, .. } = &decided.run.job.lease;
        if matches!(decided.end, End::Done) && decided.run.outcome.evidence.is_empty() {
            done.entry((worker, *locked_at)).or_default().push(decided);
        } else {
            rows.push(decided);
        }
    }
    let mut ended = HashMap::new();
    for ((worker, locked_at), done) in done {
        if done.len() < OF_ONE_CLAIM {
            done.into_iter().for_each(|decided| rows.push(decided));
            continue;
        }
        let ids = done.iter().map(|decided| decided.run.job.lease.job_id.as_str()).collect();
        ended.extend(end_done(conn, worker, locked_at, ids).await?);
    }
    ended.extend(rows.write(conn).await?);
    for decided in decided {
        if let End::Dead { kind, reason, error } = &decided.end {
            let dead = DeadEnd { kind: *kind, reason, error: *error };
            if let Some(ended_at) = end_dead(conn, decided, &dead).await? {
                ended.insert(decided.run.job.lease.job_id.clone(), ended_at);
            }
        }
    }
    Ok(ended)
}

/// Ends jobs of one claim that are done, and nothing else; returns those whose lease was held.
async fn end_done(
    conn: &mut PgConnection,
    worker: &str,
    locked_at: DateTime<Utc>,
    ids: Vec<&str>,
) -> Result<Vec<(String, EndedAt)>, StoreError> {
    let ended = sqlx::query!(
        r#"
        UPDATE apalis.jobs
        SET status = 'Done', attempts = LEAST(attempts, 2147483646) + 1,
            done_at = clock_timestamp(), lock_by = NULL, lock_at = NULL,
            last_result = CASE
                WHEN jsonb_typeof(last_result) = 'object' THEN last_result - 'Err' ELSE '{}'
            END || '{"Ok": null}'
        WHERE id = ANY ($1::text[]) AND status = 'Running'
            AND lock_by IS NOT DISTINCT FROM $2 AND lock_at = $3
        RETURNING id, now() AS "now!: Time"
        "#,
        &ids as _,
        worker,
        locked_at,
    )
    .fetch_all(conn)
    .await?;
    Ok(ended.into_iter().map(|row| (row.id, EndedAt { now: row.now.at(), run_at: None })).collect())
}

/// The rows that end otherwise than dead, as columns.
#[derive(Default)]
struct EndRows<'a> {
    ids: Vec<&'a str>,
    workers: Vec<&'a str>,
    locked_at: Vec<DateTime<Utc>>,
    ends: Vec<&'static str>,
    delays: Vec<f64>,
    errors: Vec<Option<&'a str>>,
    counts: Vec<Option<String>>,
    transaction_ids: Vec<Option<Uuid>>,
    queues: Vec<&'static str>,
    evidence: Vec<Value>,
}

impl<'a> EndRows<'a> {
    fn push(&mut self, decided: &'a Decided<'a>) {
        let (delay, error, count) = match &decided.end {
            End::Dead { .. } => return,
            End::Done | End::Again => (Duration::ZERO, None, None),
            End::Snooze { delay, count } => {
                (*delay, None, count.as_ref().map(SnoozeCount::to_hstore))
            }
            End::Retry { delay, error } => (*delay, Some(*error), None),
        };
        let Lease { job_id, worker, locked_at } = &decided.run.job.lease;
        let seen = decided.run.outcome.evidence.iter();
        let seen = seen.map(|(kind, detail)| json!({ "kind": kind.as_str(), "detail": detail }));
        self.ids.push(job_id);
        self.workers.push(worker);
        self.locked_at.push(*locked_at);
        self.ends.push(decided.end.outcome().as_str());
        self.delays.push(delay.as_secs_f64());
        self.errors.push(error);
        self.counts.push(count);
        self.transaction_ids.push(decided.current.map(|current| current.id));
        self.queues.push(decided.run.queue);
        self.evidence.push(seen.collect());
    }

    /// Returns the jobs whose lease was held.
    async fn write(self, conn: &mut PgConnection) -> Result<HashMap<String, EndedAt>, StoreError> {
        if self.ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ended = sqlx::query!(
            r#"
            WITH ended AS (
                UPDATE apalis.jobs
                SET status = CASE run.ended WHEN 'done' THEN 'Done' ELSE 'Pending' END,
                    attempts = CASE run.ended
                        WHEN 'again' THEN 0
                        WHEN 'snoozed' THEN attempts
                        ELSE LEAST(attempts, 2147483646) + 1
                    END,
                    run_at = CASE run.ended
                        WHEN 'done' THEN run_at
                        -- The least of those that are not null.
                        ELSE LEAST(
                            clock_timestamp() + make_interval(secs => run.delay),
                            -- A hint during this run, whose poll may have asked before it.
                            CASE
                                WHEN run.ended = 'snoozed'
                                    AND metadata -> 'hinted_at' ~ '^[0-9]{1,14}$'
                                THEN CASE
                                    WHEN to_timestamp(
                                        (metadata -> 'hinted_at')::bigint / 1000.0
                                    ) > lock_at
                                    THEN GREATEST(clock_timestamp(), to_timestamp(
                                        (metadata -> 'hinted_at')::bigint / 1000.0
                                    ))
                                END
                            END
                        )
                    END,
                    done_at = CASE run.ended WHEN 'done' THEN clock_timestamp() ELSE done_at END,
                    lock_by = NULL, lock_at = NULL,
                    last_result = CASE run.ended
                        WHEN 'done' THEN CASE
                            WHEN jsonb_typeof(last_result) = 'object' THEN last_result - 'Err'
                            ELSE '{}'
                        END || '{"Ok": null}'
                        WHEN 'snoozed' THEN last_result
                        WHEN 'retried' THEN jsonb_build_object(
                            'Err', run.error,
                            'errors', CASE
                                WHEN jsonb_typeof(last_result -> 'errors') = 'array'
                                THEN last_result -> 'errors'
                                ELSE '[]'
                            END || jsonb_build_object(
                                'attempt', LEAST(attempts, 2147483646) + 1,
                                'at', clock_timestamp(), 'error', run.error
                            )
                        )
                    END,
                    -- Waits and probes are counted in a row. Without a count the metadata stays,
                    -- save for what was known of a callback host before it was called.
                    metadata = CASE
                        WHEN run.count IS NOT NULL THEN delete(
                            COALESCE(metadata, ''),
                            ARRAY[
                                'waits', 'probes', 'host_down_since', 'host_error',
                                'answers', 'last_answer', 'not_configured'
                            ]
                        ) || run.count::hstore
                        WHEN run.ended = 'again' THEN
                            delete(
                                metadata,
                                ARRAY[
                                    'waits', 'host_down_since', 'host_error', 'last_answer',
                                    'not_configured'
                                ]
                            )
                        WHEN run.ended = 'retried' THEN
                            delete(
                                metadata,
                                ARRAY[
                                    'host_down_since', 'host_error', 'last_answer', 'not_configured'
                                ]
                            )
                        ELSE metadata
                    END
                FROM unnest(
                    $1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::float8[],
                    $6::text[], $7::text[], $8::uuid[], $9::text[], $10::jsonb[]
                ) WITH ORDINALITY AS run (
                    job_id, worker, locked_at, ended, delay, error, count, transaction_id, queue,
                    evidence, position
                )
                WHERE id = run.job_id AND id = ANY ($1) AND status = 'Running'
                    -- Not `=`: the index of the leased rows would be read as a whole.
                    AND lock_by IS NOT DISTINCT FROM run.worker AND lock_at = run.locked_at
                RETURNING run.*, CASE WHEN run.ended <> 'done' THEN run_at END AS run_at
            ), evidence AS (
                INSERT INTO transaction_events (transaction_id, kind, source, detail)
                SELECT ended.transaction_id, seen ->> 'kind', ended.queue, seen -> 'detail'
                FROM ended, jsonb_array_elements(ended.evidence) WITH ORDINALITY AS seen (seen, nth)
                WHERE ended.transaction_id IS NOT NULL
                ORDER BY ended.position, nth
            )
            SELECT job_id AS "job_id!", now() AS "now!: Time", run_at AS "run_at: Time"
            FROM ended
            "#,
            &self.ids as _,
            &self.workers as _,
            &self.locked_at,
            &self.ends as _,
            &self.delays,
            &self.errors as _,
            &self.counts as _,
            &self.transaction_ids as _,
            &self.queues as _,
            &self.evidence,
        )
        .fetch_all(conn)
        .await?;
        Ok(ended
            .into_iter()
            .map(|row| {
                (row.job_id, EndedAt { now: row.now.at(), run_at: row.run_at.map(Time::at) })
            })
            .collect())
    }
}

/// An end for an operator.
struct DeadEnd<'a> {
    kind: DeadLetterKind,
    reason: &'a str,
    error: Option<&'a str>,
}

/// Opens the dead letter and stops the job; `None` when the lease is somebody else's. Where polling
/// ends at its deadline and there was a hint during the last poll, the job polls once more.
async fn end_dead(
    conn: &mut PgConnection,
    decided: &Decided<'_>,
    DeadEnd { kind, reason, error }: &DeadEnd<'_>,
) -> Result<Option<EndedAt>, StoreError> {
    let run = decided.run;
    let Lease { job_id, worker, locked_at } = &run.job.lease;
    let held = sqlx::query!(
        r#"
        SELECT now() AS "now!: Time", CASE
                WHEN metadata -> 'hinted_at' ~ '^[0-9]{1,14}$'
                THEN CASE
                    WHEN to_timestamp((metadata -> 'hinted_at')::bigint / 1000.0) > lock_at
                    THEN to_timestamp((metadata -> 'hinted_at')::bigint / 1000.0)
                END
            END AS "hinted_at: Time"
        FROM apalis.jobs
        WHERE id = $1 AND status = 'Running'
            -- Not `=`: the index of the leased rows would be read as a whole.
            AND lock_by IS NOT DISTINCT FROM $2 AND lock_at = $3
        FOR NO KEY UPDATE
        "#,
        job_id,
        worker,
        locked_at
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(held) = held else { return Ok(None) };
    let now = held.now.at();
    let is_deadline = *kind == DeadLetterKind::Deadline;
    let polls_at = held.hinted_at.filter(|_| is_deadline).map(|hinted_at| hinted_at.at().max(now));
    // The row as it was, before it changes.
    let why =
        dead_letters::JobEnd { kind: *kind, reason, error: *error, answers: &run.outcome.answers };
    dead_letters::open_for_job(conn, job_id, &why, run.queue).await?;
    match polls_at {
        Some(polls_at) => sqlx::query!(
            r#"
            UPDATE apalis.jobs
            SET status = 'Pending', run_at = $2, attempts = 0, done_at = NULL, lock_by = NULL,
                lock_at = NULL, last_result = NULL
            WHERE id = $1
            "#,
            job_id,
            polls_at,
        ),
        None => sqlx::query!(
            r#"
            UPDATE apalis.jobs
            SET status = 'Failed', attempts = LEAST(attempts, 2147483646) + 1,
                done_at = clock_timestamp(), lock_by = NULL, lock_at = NULL,
                last_result = CASE
                    WHEN jsonb_typeof(last_result) = 'object' THEN last_result ELSE '{}'
                END || jsonb_build_object('Err', $2::text)
            WHERE id = $1
            "#,
            job_id,
            error.unwrap_or(reason),
        ),
    }
    .execute(&mut *conn)
    .await?;
    if let Some(current) = decided.current {
        for (kind, detail) in &run.outcome.evidence {
            let seen = NewEvidence { kind: *kind, source: run.queue, detail: detail.clone() };
            evidence::append(&mut *conn, current.id, &seen).await?;
        }
    }
    Ok(Some(EndedAt { now, run_at: polls_at }))
}
