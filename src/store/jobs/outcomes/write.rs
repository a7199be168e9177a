//! Writing outcomes: those that wait together are written together (see
//! [`crate::store::postgres::coalesce`]).

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    Due, End, EndedRun, Next, Notified, Written, decide,
    ended_jobs::{Decided, EndedAt, end_jobs},
};
use crate::{
    domain::{Decision, JobKind},
    store::{
        StoreError,
        direct_leases::{DirectLeases, HandOver},
        jobs::job_latency::{JobLatency, Step},
        postgres::batch::{BY_INDEX, Batch, Locked, gathering_pause, spread},
        settle::{self, Settlement},
        transactions,
    },
};

/// Writes outcomes. One that was written, without its answer having come, finds its lease gone.
#[derive(Debug)]
pub struct Outcomes {
    /// How long it takes until an outcome is written.
    pub latency: JobLatency,
    /// This process's workers.
    pub direct_leases: DirectLeases,
}

impl Batch for Outcomes {
    type Request = EndedRun;
    type Owner = ();
    type Answer = Written;
    type AfterCommit = HandOver;

    const MAX_BATCH: usize = 500;
    // Many statements, each of which may be slow.
    const LIMIT: Duration = Duration::from_secs(15);
    const SESSION: &'static [(&'static str, &'static str)] = BY_INDEX;

    fn owner(_: &EndedRun) {}

    fn answered(&self, took: Duration) {
        self.latency.report(Step::Outcome, took, Instant::now());
    }

    fn pause_after(&self, requests: usize, took: Duration) -> Duration {
        self.latency.wrote_outcomes(requests, took, Instant::now());
        gathering_pause(requests, took)
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        runs: &[EndedRun],
        locked: Locked,
        after: &mut HandOver,
    ) -> Result<Vec<Option<Written>>, StoreError> {
        // Settling changes other jobs of the transaction: of those that may be among them, one
        // each.
        let mut transactions = HashSet::new();
        let taken: Vec<usize> = (0..runs.len())
            .filter(|index| runs[*index].locks().is_none_or(|id| transactions.insert(id)))
            .collect();
        let batch = taken.iter().map(|index| &runs[*index]);
        let written = if batch.clone().all(EndedRun::is_plain) {
            self.write(conn, batch, locked, after).await?
        } else {
            let mut tx = conn.begin().await?;
            let written = self.write(&mut tx, batch, locked, after).await?;
            tx.commit().await?;
            written
        };
        Ok(spread(runs, taken, written))
    }
}

impl EndedRun {
    /// The transaction whose row must be locked to write this: it decides or changes, or settling
    /// it may change this job's row.
    fn locks(&self) -> Option<Uuid> {
        let settles = self.queue != JobKind::CreateTransaction.as_str();
        self.job.transaction_id().filter(|_| settles || !self.is_plain())
    }

    /// Whether this changes the job row alone, whatever becomes of the transaction.
    fn is_plain(&self) -> bool {
        let outcome = &self.outcome;
        let changes_row = match outcome.next {
            Next::Done | Next::Snooze { .. } => true,
            Next::Retry { .. } => !self.job.is_last_attempt(),
            Next::Dead { .. } | Next::GiveUp { .. } => false,
        };
        self.queue == JobKind::CreateTransaction.as_str()
            && changes_row
            && outcome.evidence.is_empty()
            && outcome.report.is_none()
            && outcome.notified.is_none()
    }
}

impl Outcomes {
    /// Writes all of `runs`, which lock different transactions.
    async fn write<'a>(
        &self,
        conn: &mut PgConnection,
        runs: impl Iterator<Item = &'a EndedRun> + Clone,
        locked: Locked,
        after: &mut HandOver,
    ) -> Result<Vec<Option<Written>>, StoreError> {
        let ids: Vec<Uuid> = runs.clone().filter_map(EndedRun::locks).collect();
        let transactions = transactions::lock_all(conn, &ids, locked).await?;
        let mut decided = Vec::new();
        for run in runs {
            let current = run.locks().and_then(|id| transactions.get(id));
            let is_left_out = run.locks().is_some_and(|id| transactions.is_skipped(id));
            decided.push((!is_left_out).then(|| {
                let (end, report) = decide(run, current);
                Decided { run, current, end, report }
            }));
        }

        let ended = end_jobs(conn, decided.iter().flatten()).await?;
        let mut settlements = Vec::new();
        let mut delivered = Vec::new();
        let mut written = Vec::new();
        for decided in &decided {
            let Some(Decided { run, current, end, report }) = decided else {
                written.push(None);
                continue;
            };
            let at = ended.get(run.job.lease.job_id.as_str());
            let is_ended = at.is_some();
            let mut settled = None;
            if let (Some(current), Some((status, by))) = (current, *report) {
                match current.decide(status, by) {
                    Decision::Settle if is_ended => {
                        let source = run.queue;
                        settlements.push(Settlement { current, status, by, source });
                        settled = Some((by, current.created_at.at()));
                    }
                    // Also without a lease: it is a fact about the third party.
                    Decision::Conflict if is_ended || run.outcome.report.is_some() => {
                        settle::open_conflict(conn, current, status, by, run.queue).await?;
                    }
                    _ => {}
                }
            }
            let Some(at) = at else {
                written.push(Some(Written::LeaseLost));
                continue;
            };
            if let (Some(current), Some(Notified { version, delivered: true })) =
                (current, run.outcome.notified)
            {
                delivered.push((current.id, version, *run));
            }
            written.push(Some(Written::Applied {
                due: due(run.queue, end, settled.is_some(), at),
                run: end.outcome(),
                settled,
            }));
        }
        after.reserve(settle::reserve(&self.direct_leases, &settlements));
        let leased = settle::settle(conn, &settlements, after.reservation()).await?;
        for (decided, written) in decided.iter().zip(&mut written) {
            let current = decided.as_ref().and_then(|decided| decided.current);
            if let (Some(current), Some(Written::Applied { due, settled: Some(_), .. })) =
                (current, written)
                && leased.contains(&current.id)
            {
                // It waits for nobody.
                due.retain(|due| due.queue != JobKind::NotifyClient.as_str());
            }
        }
        record_delivered(conn, &delivered).await?;
        Ok(written)
    }
}

/// Jobs of this process's queues that are due after a delay.
fn due(queue: &'static str, end: &End<'_>, settled: bool, at: &EndedAt) -> Vec<Due> {
    let mut due = Vec::new();
    if settled {
        let queue = JobKind::NotifyClient.as_str();
        due.push(Due { queue, run_at: at.now, delay: Duration::ZERO });
    }
    let delay = match end {
        End::Again => Duration::ZERO,
        End::Snooze { delay, .. } | End::Retry { delay, .. } => *delay,
        End::Dead { .. } if at.run_at.is_some() => Duration::MAX,
        End::Done | End::Dead { .. } => return due,
    };
    let run_at = at.run_at.unwrap_or(at.now);
    // A hint may have made it due sooner.
    let delay = delay.min((run_at - at.now).to_std().unwrap_or_default());
    due.push(Due { queue, run_at, delay });
    due
}

/// Records that clients acknowledged versions, and closes the dead letters of those jobs.
async fn record_delivered(
    conn: &mut PgConnection,
    delivered: &[(Uuid, i32, &EndedRun)],
) -> Result<(), StoreError> {
    if delivered.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = delivered.iter().map(|(id, ..)| *id).collect();
    let versions: Vec<i32> = delivered.iter().map(|(_, version, _)| *version).collect();
    let jobs = delivered.iter().map(|(.., run)| run.job.lease.job_id.as_str());
    let jobs: Vec<&str> = jobs.collect();
    sqlx::query!(
        r#"
        WITH updated AS (
            UPDATE transactions
            SET notified_version = GREATEST(notified_version, acknowledged.version)
            FROM unnest($1::uuid[], $2::int[]) AS acknowledged (id, version)
            WHERE transactions.id = acknowledged.id AND transactions.id = ANY ($1)
        ), closed AS (
            UPDATE failed_jobs
            SET state = 'resolved', closed_at = clock_timestamp(), closed_by = queue
            WHERE transaction_id = ANY ($1) AND closed_at IS NULL AND job_id = ANY ($3::text[])
            RETURNING id, kind, queue, transaction_id
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT transaction_id, 'dead_letter_closed', queue,
            jsonb_build_object('dead_letter_id', id, 'kind', kind, 'state', 'resolved')
        FROM closed
        WHERE transaction_id IS NOT NULL
        "#,
        &ids,
        &versions,
        &jobs as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
