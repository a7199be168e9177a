//! The one place where a transaction's status changes.
//!
//! A report (an answer, a poll, a webhook, giving up) is applied to the locked row. Settling
//! changes the status, ends update_status, makes notify_client due and closes the dead letters that
//! the report explains, in one statement, for any number of transactions; a contradiction opens a
//! dead letter and changes nothing.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError,
    dead_letters::{self, NewDeadLetter},
    evidence::{self, NewEvidence},
    jobs::{self, JobPlan},
    transactions::{Transaction, Unreadable},
};
use crate::domain::{DeadLetterKind, Decision, EvidenceKind, SettledBy, Status};

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
            settle(conn, &[Settlement { id: current.id, status: reported, by, source }]).await?;
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
    settle(conn, &[Settlement { id: current.id, status, by, source: "operator" }]).await
}

/// A status that leaves `pending`, or that an operator sets.
#[derive(Debug)]
pub(super) struct Settlement {
    pub id: Uuid,
    pub status: Status,
    pub by: SettledBy,
    /// Who reports, for the evidence.
    pub source: &'static str,
}

/// Settles transactions, each at most once, whose rows the caller holds locked and for which
/// [`Status::decide`] said so.
pub(super) async fn settle(
    conn: &mut PgConnection,
    settlements: &[Settlement],
) -> Result<(), StoreError> {
    if settlements.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = settlements.iter().map(|settlement| settlement.id).collect();
    let keys: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let statuses: Vec<&str> =
        settlements.iter().map(|settlement| settlement.status.as_str()).collect();
    let bys: Vec<&str> = settlements.iter().map(|settlement| settlement.by.as_str()).collect();
    let sources: Vec<&str> = settlements.iter().map(|settlement| settlement.source).collect();
    sqlx::query!(
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
            RETURNING report.*, version
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
        ), notify_client AS (
            -- A running one is left alone: it compares versions when it ends. One whose client is
            -- gone (410) or that kills its worker stays as it is. One that an operator cancelled is
            -- not: what was cancelled was an earlier status.
            UPDATE apalis.jobs
            SET status = 'Pending', run_at = now(), attempts = 0, done_at = NULL,
                last_result = NULL,
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
                        AND job_id IS NOT NULL AND kind IN ('rejected', 'poison')
                ))
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
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT id, 'settled', source,
            jsonb_build_object('status', status, 'version', version, 'settled_by', settled_by)
        FROM settled
        UNION ALL
        SELECT transaction_id, 'dead_letter_closed', source,
            jsonb_build_object('dead_letter_id', id, 'kind', kind, 'state', 'resolved')
        FROM explained
        "#,
        &ids,
        &statuses as _,
        &bys as _,
        &sources as _,
        &keys,
    )
    .execute(conn)
    .await?;
    Ok(())
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
    let opened = dead_letters::open(
        &mut *conn,
        &NewDeadLetter {
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
            detail: detail.clone(),
        },
        source,
    )
    .await?;
    if opened {
        let conflict = NewEvidence { kind: EvidenceKind::Conflict, source, detail };
        evidence::append(conn, current.id, &conflict).await?;
    }
    Ok(())
}
