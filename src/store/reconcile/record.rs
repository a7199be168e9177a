//! Writing what a lookup showed.
//!
//! What was seen about one transaction is written in one SQL transaction, judged against the row as
//! it is then, locked: what changed since the lookup is respected, and nothing is forced. A dry run
//! does the same and rolls back, so that its report cannot differ.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Action, Checked, Terms, late};
use crate::{
    domain::{
        DeadLetterKind, Decision, EvidenceKind, Finding, Judgement, ReportedStatus, Seen,
        SettledBy, Status, ThirdPartyName,
        reconcile::{self, Here},
    },
    store::{
        self, Database, StoreError,
        evidence::{self, NewEvidence},
        sent_creates, settle,
        transactions::{self, Transaction},
    },
};

const SOURCE: &str = "reconcile";

/// Judges what was `seen` about a transaction at the third party that was `asked`, and writes what
/// follows. Of a transaction of another third party that says nothing: it may have been accepted
/// after it was decided which one to ask. The third party's id is written where the transaction has
/// none yet; an answer with another transaction's id is about that one, and so is no answer.
pub async fn record(
    pool: &Database,
    transaction_id: Uuid,
    asked: &ThirdPartyName,
    mut seen: Seen,
    provider_id: Option<&str>,
    terms: &Terms,
) -> Result<Checked, StoreError> {
    let mut tx = store::begin(pool).await?;
    let locked = lock_unless_busy(&mut tx, transaction_id).await?;
    let current = transactions::get(&mut *tx, transaction_id).await?;
    let ours = current.as_ref().map(|current| current.status);
    // Nor is anything judged of one whose status cannot be read.
    let is_readable =
        current.as_ref().is_none_or(|current| current.unreadable_among(&["status"]).is_none());
    let is_anothers = current.as_ref().is_some_and(|current| current.third_party != *asked);
    if !is_readable || is_anothers || current.is_some() && !locked {
        let (finding, action) = (Finding::Unanswered, Action::Skipped);
        return Ok(Checked { transaction_id, ours, seen, finding, action });
    }
    if let (Some(current), Some(provider_id)) = (&current, provider_id)
        && current.provider_id.is_none()
    {
        let learned =
            sent_creates::learn_provider_id(&mut *tx, transaction_id, provider_id).await?;
        if let Some(why) = learned.contradiction(provider_id) {
            seen = Seen::Unanswered(why);
        }
    }
    let now = store::now(&mut *tx).await?;
    let here = current.as_ref().map(|current| {
        let age = (now - current.created_at.at()).to_std().unwrap_or_default();
        Here {
            status: current.status,
            is_late: age > terms.deadline,
            by_operator: current.settled_by == Some(SettledBy::Operator),
        }
    });
    let Judgement { finding, report } = reconcile::compare(here, &seen);

    let mut action = Action::Noted;
    let mut is_open = finding != Finding::Agreed;
    if let (Some(current), Some((status, by, decision))) = (&current, report) {
        match decision {
            Decision::Settle => action = Action::Settled,
            _ => match conflict_state(&mut tx, transaction_id, status).await? {
                ConflictState::None => action = Action::ConflictOpened,
                ConflictState::Open => {}
                // An operator knows, and has decided.
                ConflictState::Closed => is_open = false,
            },
        }
        if action != Action::Noted {
            apply(&mut tx, current, &seen, (status, by, decision)).await?;
        }
    }
    if action == Action::Settled {
        close(&mut tx, transaction_id).await?;
    } else {
        let is_news = note(&mut tx, transaction_id, finding, is_open, ours, &seen, terms).await?;
        if finding == Finding::Late && is_news {
            append_seen(&mut tx, transaction_id, &seen).await?;
        }
    }
    if let Some(current) = &current {
        resolve_unknown(&mut tx, transaction_id).await?;
        if let Some(late) = terms.late {
            let is_conclusive = match &seen {
                Seen::Absent => current.status.is_final(),
                Seen::Found(Some(theirs)) => Status::from(*theirs).is_final(),
                Seen::Found(None) | Seen::Unanswered(_) => false,
            };
            let recheck = terms.recheck.max(terms.retry_after);
            late::looked_up(&mut *tx, transaction_id, is_conclusive, late, recheck).await?;
        }
    }
    if terms.dry_run {
        tx.rollback().await?
    } else {
        tx.commit().await?
    }
    Ok(Checked { transaction_id, ours, seen, finding, action })
}

/// Locks the transaction unless somebody else has; `false` also where it is not here.
async fn lock_unless_busy(conn: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let locked =
        sqlx::query!("SELECT id FROM transactions WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED", id)
            .fetch_optional(conn)
            .await?;
    Ok(locked.is_some())
}

/// Applies a report, with the evidence of what was seen.
async fn apply(
    conn: &mut PgConnection,
    current: &Transaction,
    seen: &Seen,
    (status, by, decision): (Status, SettledBy, Decision),
) -> Result<(), StoreError> {
    if by == SettledBy::Poll {
        append_seen(conn, current.id, seen).await?;
    } else {
        append_found(conn, current.id, seen).await?;
    }
    match decision {
        // Judged with who set our status, which settling does not look at.
        Decision::Conflict => settle::open_conflict(conn, current, status, by, SOURCE).await,
        _ => settle::apply(conn, current, status, by, SOURCE).await.map(drop),
    }
}

/// Evidence of a status that was seen, or of a presence without one.
async fn append_seen(
    conn: &mut PgConnection,
    transaction_id: Uuid,
    seen: &Seen,
) -> Result<(), StoreError> {
    let Seen::Found(Some(status)) = seen else {
        return append_found(conn, transaction_id, seen).await;
    };
    let polled = NewEvidence {
        kind: EvidenceKind::PollStatus,
        source: SOURCE,
        detail: json!({ "status": status.as_str(), "polls": 1 }),
    };
    evidence::append(conn, transaction_id, &polled).await
}

async fn append_found(
    conn: &mut PgConnection,
    transaction_id: Uuid,
    seen: &Seen,
) -> Result<(), StoreError> {
    let Seen::Found(status) = seen else { return Ok(()) };
    let found = NewEvidence {
        kind: EvidenceKind::FoundAtThirdParty,
        source: SOURCE,
        detail: json!({ "status": status.map(ReportedStatus::as_str) }),
    };
    evidence::append(conn, transaction_id, &found).await
}

/// Whether a contradiction is in front of an operator already.
enum ConflictState {
    None,
    Open,
    Closed,
}

async fn conflict_state(
    conn: &mut PgConnection,
    transaction_id: Uuid,
    reported: Status,
) -> Result<ConflictState, StoreError> {
    let is_open = sqlx::query_scalar!(
        r#"
        SELECT bool_or(state = 'open')
        FROM failed_jobs
        WHERE transaction_id = $1 AND kind = $3
            -- Any open one; of the closed ones, one of the same report.
            AND (state = 'open' OR detail ->> 'reported' = $2)
        "#,
        transaction_id,
        reported.as_str(),
        DeadLetterKind::StatusConflict.as_str(),
    )
    .fetch_one(conn)
    .await?;
    Ok(match is_open {
        None => ConflictState::None,
        Some(true) => ConflictState::Open,
        Some(false) => ConflictState::Closed,
    })
}

/// Closes the finding of a transaction that is now settled.
async fn close(conn: &mut PgConnection, transaction_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        UPDATE reconcile_findings
        SET closed_at = clock_timestamp(), last_checked_at = clock_timestamp(), checks = LEAST(checks, 2147483646) + 1
        WHERE transaction_id = $1 AND closed_at IS NULL
        "#,
        transaction_id,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes what was found and when to look again; returns whether it is another finding than before.
async fn note(
    conn: &mut PgConnection,
    transaction_id: Uuid,
    finding: Finding,
    is_open: bool,
    ours: Option<Status>,
    seen: &Seen,
    terms: &Terms,
) -> Result<bool, StoreError> {
    let mut detail = json!({ "ours": ours.map(Status::as_str) });
    match seen {
        Seen::Found(status) => detail["theirs"] = status.map(ReportedStatus::as_str).into(),
        Seen::Absent => {}
        Seen::Unanswered(error) => detail["error"] = error.as_str().into(),
    }
    let is_news = sqlx::query_scalar!(
        r#"
        INSERT INTO reconcile_findings AS known
            (transaction_id, finding, detail, closed_at, next_check_at, first_found_at, last_checked_at)
        -- statement_timestamp(): one time for all of it, which says below what is new.
        VALUES (
            $1, $2, $3, CASE WHEN NOT $4 THEN statement_timestamp() END,
            statement_timestamp() + make_interval(secs => GREATEST($5::float8, $6::float8)),
            statement_timestamp(), statement_timestamp()
        )
        ON CONFLICT (transaction_id) DO UPDATE
        SET (finding, detail, closed_at, first_found_at) = (
                -- No answer takes nothing away from what an earlier one said.
                SELECT known.finding, known.detail, known.closed_at, known.first_found_at
                WHERE excluded.finding = 'unanswered' AND known.closed_at IS NULL
                UNION ALL
                SELECT excluded.finding, excluded.detail,
                    CASE WHEN NOT $4 THEN COALESCE(known.closed_at, excluded.closed_at) END,
                    CASE
                        WHEN known.finding = excluded.finding
                            AND (known.closed_at IS NULL) = (excluded.closed_at IS NULL)
                        THEN known.first_found_at
                        ELSE statement_timestamp()
                    END
                WHERE NOT (excluded.finding = 'unanswered' AND known.closed_at IS NULL)
            ),
            last_checked_at = statement_timestamp(),
            checks = LEAST(known.checks, 2147483646) + 1,
            next_check_at = statement_timestamp() + make_interval(
                secs => GREATEST(LEAST($5::float8 * power(2, LEAST(known.checks, 30)), 86400), $6::float8)
            )
        RETURNING first_found_at = last_checked_at AS "is_news!"
        "#,
        transaction_id,
        finding.as_str(),
        detail,
        is_open,
        terms.recheck.as_secs_f64(),
        terms.retry_after.as_secs_f64(),
    )
    .fetch_one(conn)
    .await?;
    Ok(is_news)
}

/// Resolves the dead letters about webhooks that arrived before their transaction, if it now has
/// the status that they report.
async fn resolve_unknown(conn: &mut PgConnection, transaction_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH explained AS (
            UPDATE failed_jobs
            SET state = 'resolved', closed_at = clock_timestamp(), closed_by = $2
            WHERE transaction_id = $1 AND state = 'open' AND kind = $3
                AND EXISTS (
                    SELECT FROM transactions
                    WHERE id = $1 AND failed_jobs.detail ->> 'status' IN ('pending', status)
                        AND third_party = COALESCE(failed_jobs.detail ->> 'third_party', 'third-party')
                )
            RETURNING id, kind
        )
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT $1, 'dead_letter_closed', $2,
            jsonb_build_object('dead_letter_id', id, 'kind', kind, 'state', 'resolved')
        FROM explained
        "#,
        transaction_id,
        SOURCE,
        DeadLetterKind::UnknownTransaction.as_str(),
    )
    .execute(conn)
    .await?;
    Ok(())
}
