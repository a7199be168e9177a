//! The one place where a transaction's status changes.
//!
//! A report (an answer, a poll, a webhook, giving up) is applied to the locked row. Settling
//! changes the status, ends update_status, makes notify_client due and closes the dead letters that
//! the report explains, in one statement; a contradiction opens a dead letter and changes nothing.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError,
    dead_letters::{self, NewDeadLetter},
    evidence::{self, NewEvidence},
    jobs::{self, JobPlan},
    transactions::Transaction,
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
    let decision = current.status.decide(reported, by);
    match decision {
        Decision::Unchanged => {}
        Decision::Settle => settle(conn, current, reported, by, source).await?,
        Decision::Conflict => open_conflict(conn, current, reported, by, source).await?,
    }
    Ok(decision)
}

/// Gives `current` the final status that an operator decided on; nothing where it has it. Job rows
/// that were pruned are written again, so that the client is told.
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
    settle(conn, current, status, SettledBy::Operator, "operator").await
}

async fn settle(
    conn: &mut PgConnection,
    current: &Transaction,
    status: Status,
    by: SettledBy,
    source: &'static str,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH settled AS (
            UPDATE transactions
            SET status = $2, version = version + 1, settled_at = now(), settled_by = $3,
                updated_at = now()
            WHERE id = $1
            RETURNING id, version
        ), update_status AS (
            -- Also when it is running: clearing the lease fences its outcome out.
            UPDATE apalis.jobs
            SET status = 'Done', done_at = now(), lock_by = NULL, lock_at = NULL,
                last_result = '{"Ok": null}'
            WHERE job_type = 'update_status' AND idempotency_key = $1::uuid::text
                AND status IN ('Pending', 'Queued', 'Running', 'Failed')
        ), notify_client AS (
            -- A running one is left alone: it compares versions when it ends. One whose client is
            -- gone (410) or that kills its worker stays as it is. One that an operator cancelled is
            -- not: what was cancelled was an earlier status.
            UPDATE apalis.jobs
            SET status = 'Pending', run_at = now(), attempts = 0, done_at = NULL, last_result = NULL
            WHERE job_type = 'notify_client' AND idempotency_key = $1::uuid::text
                AND status IN ('Pending', 'Done', 'Failed', 'Killed')
                AND NOT EXISTS (
                    SELECT FROM failed_jobs
                    WHERE job_id = apalis.jobs.id AND state = 'open'
                        AND kind IN ('rejected', 'poison')
                )
        ), explained AS (
            UPDATE failed_jobs
            SET state = 'resolved', closed_at = clock_timestamp(), closed_by = $3
            -- Giving up explains nothing about the create that it gives up on.
            WHERE transaction_id = $1 AND state = 'open' AND (
                queue = 'update_status'
                OR queue = 'create_at_third_party' AND $3 <> 'creation_failure'
            )
            RETURNING id, kind
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT id, 'settled', $4, jsonb_build_object('status', $2::text, 'version', version, 'settled_by', $3::text)
        FROM settled
        UNION ALL
        SELECT $1, 'dead_letter_closed', $4,
            jsonb_build_object('dead_letter_id', id, 'kind', kind, 'state', 'resolved')
        FROM explained
        "#,
        current.id,
        status.as_str(),
        by.as_str(),
        source,
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
            reason: format!(
                "the transaction is {} (settled by {}), but {by} reports {reported}",
                current.status,
                current.settled_by.map_or("nothing", SettledBy::as_str),
            ),
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
