//! The one place where a transaction's status changes.
//!
//! A report (an answer, a poll, a webhook, giving up) is applied to the locked row. Settling
//! changes the status, ends update_status, makes notify_client due and closes the dead letters that
//! the report explains, in one statement, for any number of transactions; a contradiction opens a
//! dead letter and changes nothing.
//!
//! Where a worker of this process has a slot for it, the statement leases notify_client to that
//! worker rather than leave it due ([`super::direct_leases`]).

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError,
    clients::Callback,
    dead_letters::{self, NewDeadLetter},
    direct_leases::{DirectLeases, Reservation},
    evidence::{self, NewEvidence},
    jobs::{self, ClaimedJob, JobPlan, Lease},
    postgres::columns::Time,
    transactions::{Transaction, Unreadable},
};
use crate::domain::{
    DeadLetterKind, Decision, EvidenceKind, JobKind, LastAnswers, SettledBy, Status,
};

/// With an open dead letter of these kinds a notify_client job stays stopped, whatever the status.
const STOPPED_FOR_GOOD: [DeadLetterKind; 2] = [DeadLetterKind::Rejected, DeadLetterKind::Poison];

/// Applies a report to `current`, which the caller holds locked ([`super::transactions::lock`]).
/// `source` is who reports, for the evidence.
pub async fn apply(
    conn: &mut PgConnection,
    current: &Transaction,
    reported: Status,
    by: SettledBy,
    source: &'static str,
) -> Result<Decision, StoreError> {
    let decision = current.decide(reported, by);
    match decision {
        Decision::Unchanged => {}
        Decision::Settle => {
            let settlement = Settlement { current, status: reported, by, source };
            settle(conn, &[settlement], None).await?;
        }
        Decision::Conflict => open_conflict(conn, current, reported, by, source).await?,
    }
    Ok(decision)
}

/// Gives `current` the final status that an operator decided on; nothing where it has it. Job rows
/// that were pruned are written again, so that the client is notified.
pub async fn set_by_operator(
    conn: &mut PgConnection,
    current: &Transaction,
    status: Status,
    plan: &JobPlan,
) -> Result<(), StoreError> {
    if current.status == status {
        return Ok(());
    }
    jobs::restore(conn, current, plan).await?;
    let by = SettledBy::Operator;
    settle(conn, &[Settlement { current, status, by, source: "operator" }], None).await?;
    Ok(())
}

/// A status that leaves `pending`, or that an operator sets.
#[derive(Debug)]
pub(super) struct Settlement<'a> {
    /// The transaction as it is.
    pub current: &'a Transaction,
    pub status: Status,
    pub by: SettledBy,
    /// Who reports, for the evidence.
    pub source: &'static str,
}

/// Reserves slots for the notifications of what is about to be settled.
pub(super) fn reserve(
    leases: &DirectLeases,
    settlements: &[Settlement<'_>],
) -> Option<Reservation> {
    if settlements.is_empty() {
        return None;
    }
    let currents = settlements.iter().map(|settlement| settlement.current);
    // What cannot be read is looked at when it is claimed.
    let readable = currents.filter(|current| current.unreadable.is_empty());
    let jobs = readable.map(|current| (current.id, current.client_id));
    leases.reserve(JobKind::NotifyClient, jobs)
}

/// Settles transactions, each at most once, whose rows the caller holds locked and for which
/// [`Status::decide`] said so. Returns those whose notify_client is leased, in slots of
/// `reservation`.
pub(super) async fn settle(
    conn: &mut PgConnection,
    settlements: &[Settlement<'_>],
    reservation: Option<&mut Reservation>,
) -> Result<HashSet<Uuid>, StoreError> {
    if settlements.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = settlements.iter().map(|settlement| settlement.current.id).collect();
    let keys: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let statuses: Vec<&str> =
        settlements.iter().map(|settlement| settlement.status.as_str()).collect();
    let bys: Vec<&str> = settlements.iter().map(|settlement| settlement.by.as_str()).collect();
    let sources: Vec<&str> = settlements.iter().map(|settlement| settlement.source).collect();
    let worker = reservation.as_deref().map(Reservation::worker);
    let leased: Vec<String> = match &reservation {
        Some(reservation) => {
            ids.iter().filter(|id| reservation.has(**id)).map(Uuid::to_string).collect()
        }
        None => Vec::new(),
    };
    let rows = sqlx::query!(
        r#"
        WITH report AS (
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
                AS report (id, status, settled_by, source)
        ), settled AS (
            -- It may have been accepted after this SQL transaction began; but not later than now.
            UPDATE transactions
            SET status = report.status, version = GREATEST(LEAST(version, 2147483646), 1) + 1,
                settled_at = GREATEST(now(), LEAST(created_at, clock_timestamp())),
                settled_by = report.settled_by,
                updated_at = GREATEST(now(), LEAST(created_at, clock_timestamp()))
            FROM report
            WHERE transactions.id = report.id AND transactions.id = ANY ($1)
            RETURNING report.*, client_id, version, settled_at, updated_at
        ), update_status AS (
            -- Also when it is running: clearing the lease fences its outcome out.
            UPDATE apalis.jobs
            SET status = 'Done', done_at = now(), lock_by = NULL, lock_at = NULL,
                last_result = '{"Ok": null}'
            WHERE id = ANY (ARRAY(
                    SELECT job.id
                    FROM unnest($5::text[]) AS key
                    -- The limit keeps this a lookup by both columns, one key after the other.
                    CROSS JOIN LATERAL (
                        SELECT id FROM apalis.jobs
                        WHERE job_type = 'update_status' AND idempotency_key = key LIMIT 1
                    ) AS job
                ))
                AND status IN ('Pending', 'Queued', 'Running', 'Failed')
        ), worker AS (
            -- Its row stays until this is committed; then a job names it.
            SELECT id FROM apalis.workers
            WHERE id = $6 AND dead_at IS NULL AND NOT EXISTS (
                SELECT FROM queue_pauses WHERE queue = 'notify_client'
            )
            FOR KEY SHARE
        ), notify_client AS (
            -- A running one is left alone: it compares versions when it ends. One whose client is
            -- gone (410) or that kills its worker stays as it is. One that an operator cancelled is
            -- not: what was cancelled was an earlier status.
            UPDATE apalis.jobs
            SET status = CASE
                    WHEN idempotency_key = ANY ($7::text[]) AND EXISTS (SELECT FROM worker)
                    THEN 'Running'
                    ELSE 'Pending'
                END,
                lock_by = CASE
                    WHEN idempotency_key = ANY ($7) THEN (SELECT id FROM worker)
                END,
                lock_at = CASE
                    WHEN idempotency_key = ANY ($7) AND EXISTS (SELECT FROM worker) THEN now()
                END,
                run_at = now(), attempts = 0, done_at = NULL, last_result = NULL,
                metadata = delete(metadata, ARRAY['waits', 'host_down_since', 'host_error'])
            WHERE id = ANY (ARRAY(
                    SELECT job.id
                    FROM unnest($5) AS key
                    CROSS JOIN LATERAL (
                        SELECT id FROM apalis.jobs
                        WHERE job_type = 'notify_client' AND idempotency_key = key LIMIT 1
                    ) AS job
                ))
                AND status IN ('Pending', 'Done', 'Failed', 'Killed')
                AND id <> ALL (ARRAY(
                    SELECT job_id FROM failed_jobs
                    -- Not `state`: the indexes of the open ones hold all of them.
                    WHERE transaction_id = ANY ($1) AND closed_at IS NULL
                        AND job_id IS NOT NULL AND kind = ANY ($8::text[])
                ))
            RETURNING
                id, job, max_attempts, idempotency_key, client_id, metadata, lock_by, lock_at
        ), explained AS (
            UPDATE failed_jobs
            SET state = 'resolved', closed_at = clock_timestamp(), closed_by = settled_by
            FROM report
            -- Giving up explains nothing about the create that it gives up on.
            WHERE transaction_id = report.id AND transaction_id = ANY ($1) AND closed_at IS NULL AND (
                queue = 'update_status'
                OR queue = 'create_at_third_party' AND settled_by <> 'creation_failure'
            )
            RETURNING failed_jobs.id, kind, transaction_id, source
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source, detail)
            SELECT id, 'settled', source,
                jsonb_build_object('status', status, 'version', version, 'settled_by', settled_by)
            FROM settled
            UNION ALL
            SELECT transaction_id, 'dead_letter_closed', source,
                jsonb_build_object('dead_letter_id', id, 'kind', kind, 'state', 'resolved')
            FROM explained
        )
        SELECT
            job.id AS "job_id!", job.job AS "payload!", job.max_attempts AS "max_attempts!",
            job.lock_by AS "worker!", job.lock_at AS "locked_at!: Time", job.client_id AS "client_id!",
            job.metadata -> 'probes' AS probes, job.metadata -> 'traceparent' AS traceparent,
            settled.id AS "id!", settled.version AS "version!",
            settled.settled_at AS "settled_at!: Time", settled.updated_at AS "updated_at!: Time",
            client.name AS "client?", client.callback_url AS "callback_url?",
            CASE
                WHEN client.id IS NOT NULL THEN client.signing_secret || ARRAY(
                    SELECT retiring.signing_secret
                    FROM client_retiring_secrets AS retiring
                    WHERE retiring.client_id = client.id AND valid_until > now()
                    ORDER BY retiring.id DESC
                )
            END AS "signing_secrets?"
        FROM notify_client AS job
        JOIN settled ON settled.id::text = job.idempotency_key
        -- By an array: all clients would be hashed otherwise.
        LEFT JOIN clients AS client
            ON client.id = settled.client_id
            AND client.id = ANY (ARRAY(SELECT settled.client_id FROM settled))
        WHERE job.lock_by IS NOT NULL
        "#,
        &ids,
        &statuses as _,
        &bys as _,
        &sources as _,
        &keys,
        worker,
        &leased,
        &STOPPED_FOR_GOOD.map(DeadLetterKind::as_str) as _,
    )
    .fetch_all(conn)
    .await?;
    let Some(reservation) = reservation.filter(|_| !rows.is_empty()) else {
        return Ok(HashSet::new());
    };
    let mut leased = HashSet::with_capacity(rows.len());
    for row in rows {
        let settlement = settlements.iter().find(|settlement| settlement.current.id == row.id);
        let Some(Settlement { current, status, by, .. }) = settlement else { continue };
        let locked_at = row.locked_at.at();
        let callback = row.client.zip(row.callback_url).zip(row.signing_secrets);
        let callback = callback.map(|((client, url), signing_secrets)| Callback {
            client,
            url,
            signing_secrets,
        });
        reservation.leased(ClaimedJob {
            lease: Lease { job_id: row.job_id, worker: row.worker, locked_at },
            payload: row.payload,
            attempts: 0,
            max_attempts: row.max_attempts,
            idempotency_key: Some(row.id.to_string()),
            client_id: row.client_id,
            run_at: Some(locked_at),
            polls: 0,
            waits: 0,
            probes: row.probes.and_then(|probes| probes.parse().ok()).unwrap_or_default(),
            answers: LastAnswers::default(),
            poll_since: None,
            traceparent: row.traceparent,
            late: Duration::ZERO,
            transaction: Some(Transaction {
                status: *status,
                version: row.version,
                settled_at: Some(row.settled_at.at()),
                settled_by: Some(*by),
                updated_at: row.updated_at.at(),
                ..(*current).clone()
            }),
            callback,
        });
        leased.insert(row.id);
    }
    Ok(leased)
}

/// Keeps the contradiction for an operator; the status stays.
pub async fn open_conflict(
    conn: &mut PgConnection,
    current: &Transaction,
    reported: Status,
    by: SettledBy,
    source: &'static str,
) -> Result<(), StoreError> {
    let detail = json!({
        "status": current.status.as_str(),
        "reported": reported.as_str(),
        "reported_by": by.as_str(),
    });
    let letter = NewDeadLetter {
        kind: DeadLetterKind::StatusConflict,
        cause: format!("conflict:{}:{reported}", current.id),
        transaction_id: current.id,
        reason: match current.unreadable_among(&["status"]) {
            Some(Unreadable { why, .. }) => format!(
                "the transaction's status cannot be read: it {why}; {by} reports {reported}"
            ),
            None => format!(
                "the transaction is {} (settled by {}), but {by} reports {reported}",
                current.status,
                current.settled_by.map_or("nothing", SettledBy::as_str),
            ),
        },
        detail,
    };
    open_with_evidence(conn, letter, source).await
}

/// Opens the dead letter of a conflict, with evidence of it, unless one of its cause is open.
pub(super) async fn open_with_evidence(
    conn: &mut PgConnection,
    letter: NewDeadLetter,
    source: &'static str,
) -> Result<(), StoreError> {
    if dead_letters::open(&mut *conn, &letter, source).await? {
        let NewDeadLetter { transaction_id, detail, .. } = letter;
        let conflict = NewEvidence { kind: EvidenceKind::Conflict, source, detail };
        evidence::append(conn, transaction_id, &conflict).await?;
    }
    Ok(())
}
