//! What reconciliation looks up, and writing what it saw: `reconcile_findings`.

mod late;
mod record;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

pub use self::{
    late::{LateStoring, look_again},
    record::record,
};
use super::{
    StoreError,
    postgres::columns::{AnyJson, Column, Time, readable},
    transactions::Cursor,
};
use crate::domain::{
    DeadLetterKind, Finding, ReportedStatus, Seen, Status, ThirdPartyName, string_enum,
};

/// What open dead letters of these kinds are about is looked up; and what those are about whose
/// create has used up its attempts.
const LOOKED_UP: [DeadLetterKind; 3] =
    [DeadLetterKind::Deadline, DeadLetterKind::CreationFailure, DeadLetterKind::UnknownTransaction];
/// With an open dead letter of these kinds a finding stays open.
const IN_QUESTION: [DeadLetterKind; 2] =
    [DeadLetterKind::StatusConflict, DeadLetterKind::UnknownTransaction];

/// What is looked up.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// Those that may be asked now, each with the age from which on a pending transaction is late:
    /// what is open at others must not use up the limit.
    pub third_parties: &'a [(ThirdPartyName, Duration)],
    /// A sweep looks at those that failed, or that an operator decided, within this; at older ones
    /// only where a dead letter is open.
    pub failed_within: Duration,
    /// On demand: everything that is open and began since then, whenever it was last looked up.
    pub since: Option<DateTime<Utc>>,
    pub limit: i64,
}

/// A transaction to look up, and the third party to ask: its own, or where there is no such
/// transaction that of the webhook that named it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub transaction_id: Uuid,
    pub third_party: ThirdPartyName,
}

/// The transactions to look up: first those that never were, then those that wait longest.
pub async fn candidates(
    executor: impl PgExecutor<'_>,
    scope: &Scope<'_>,
) -> Result<Vec<Candidate>, StoreError> {
    let asked = scope.third_parties.iter();
    let (third_parties, deadlines): (Vec<&str>, Vec<f64>) =
        asked.map(|(name, deadline)| (name.as_str(), deadline.as_secs_f64())).unzip();
    let found = sqlx::query!(
        r#"
        -- Each branch is an index range over what is open or recent, never over history: now()
        -- rather than clock_timestamp(), which is no index condition.
        WITH asked AS (
            SELECT third_party, now() - make_interval(secs => deadline) AS late_from
            FROM unnest($5::text[], $1::float8[]) AS each (third_party, deadline)
        ), matter AS (
            SELECT id AS transaction_id, false AS is_due, third_party
            FROM transactions
            JOIN asked USING (third_party)
            WHERE status = 'pending'
                AND created_at < late_from
                -- What no third party is late with is not read.
                AND created_at < (SELECT max(late_from) FROM asked)
                AND created_at >= COALESCE($3, '-infinity'::timestamptz)
            UNION ALL
            SELECT id, false, third_party
            FROM transactions
            WHERE status = 'failed' AND settled_by = 'creation_failure'
                AND created_at >= COALESCE($3, now() - make_interval(secs => $2))
                -- A sweep looks where a create may have gone through after all.
                AND ($3 IS NOT NULL OR pruned_at IS NULL AND EXISTS (
                    SELECT FROM transaction_events
                    WHERE transaction_id = transactions.id AND kind = 'create_ambiguous'
                ))
            UNION ALL
            -- What an operator decided while a create was, or may have been, under way. By the time
            -- of the decision: it may have come long after the transaction.
            SELECT id, false, third_party
            FROM transactions
            WHERE settled_by = 'operator' AND status IN ('failed', 'declined')
                AND settled_at >= COALESCE($3, now() - make_interval(secs => $2))
                AND created_at >= COALESCE($3, '-infinity'::timestamptz)
                AND ($3 IS NOT NULL OR pruned_at IS NULL AND EXISTS (
                    SELECT FROM transaction_events
                    WHERE transaction_id = transactions.id AND kind IN (
                        'create_ambiguous', 'created_at_third_party', 'found_at_third_party'
                    )
                ))
            UNION ALL
            SELECT transaction_id, false,
                COALESCE(third_party, failed_jobs.detail ->> 'third_party', 'third-party')
            FROM failed_jobs
            LEFT JOIN transactions ON transactions.id = transaction_id
            WHERE state = 'open' AND transaction_id IS NOT NULL
                AND opened_at >= COALESCE($3, '-infinity'::timestamptz)
                AND (
                    kind = ANY ($6::text[])
                    OR kind = $7 AND queue = 'create_at_third_party'
                )
            UNION ALL
            -- What ended after a create without an answer, which may be stored late. It has a time of
            -- its own, which no earlier finding puts off.
            SELECT transaction_id, true, third_party
            FROM ambiguous_creates
            JOIN transactions ON id = transaction_id
            WHERE status <> 'pending' AND CASE
                WHEN $3::timestamptz IS NULL THEN look_at <= now()
                ELSE created_at >= $3
            END
        ), each AS (
            -- Webhooks of several may have named one that is not here.
            SELECT transaction_id, bool_or(is_due) AS is_due, min(third_party) AS third_party
            FROM matter
            WHERE third_party = ANY ($5::text[])
            GROUP BY transaction_id
        )
        SELECT transaction_id AS "transaction_id!", third_party AS "third_party!"
        FROM each
        LEFT JOIN reconcile_findings USING (transaction_id)
        WHERE $3 IS NOT NULL OR is_due OR next_check_at IS NULL OR next_check_at <= now()
        ORDER BY next_check_at NULLS FIRST, transaction_id
        LIMIT $4
        "#,
        &deadlines,
        scope.failed_within.as_secs_f64(),
        scope.since,
        scope.limit,
        &third_parties as &[&str],
        &LOOKED_UP.map(DeadLetterKind::as_str) as _,
        DeadLetterKind::Exhausted.as_str(),
    )
    .fetch_all(executor)
    .await?;
    Ok(found
        .into_iter()
        .map(|row| Candidate {
            transaction_id: row.transaction_id,
            third_party: row.third_party.into(),
        })
        .collect())
}

/// Most open transactions of third parties that are not known here that are counted.
const MAX_COUNTED: i64 = 10_000;

/// The number of late pending transactions of each third party that is not among `known`; with
/// `since` only of those that began since then.
pub async fn open_elsewhere(
    executor: impl PgExecutor<'_>,
    known: &[ThirdPartyName],
    deadline: Duration,
    since: Option<DateTime<Utc>>,
) -> Result<BTreeMap<ThirdPartyName, i64>, StoreError> {
    let known: Vec<&str> = known.iter().map(ThirdPartyName::as_str).collect();
    let found = sqlx::query!(
        r#"
        SELECT third_party AS "third_party!", count(*) AS "count!"
        FROM (
            SELECT third_party
            FROM transactions
            WHERE status = 'pending' AND created_at < now() - make_interval(secs => $1)
                AND created_at >= COALESCE($4, '-infinity'::timestamptz)
                AND third_party <> ALL ($2::text[])
            LIMIT $3
        ) AS elsewhere
        GROUP BY third_party
        "#,
        deadline.as_secs_f64(),
        &known as &[&str],
        MAX_COUNTED,
        since,
    )
    .fetch_all(executor)
    .await?;
    Ok(found.into_iter().map(|row| (row.third_party.into(), row.count)).collect())
}

/// A row of `reconcile_findings`.
#[derive(Debug, Clone)]
pub struct FindingRow {
    pub transaction_id: Uuid,
    pub finding: Finding,
    pub detail: Value,
    pub first_found_at: Time,
    pub last_checked_at: DateTime<Utc>,
    pub checks: i32,
    pub next_check_at: DateTime<Utc>,
}

/// The open findings, newest first.
pub async fn findings(
    executor: impl PgExecutor<'_>,
    cursor: Option<Cursor>,
    limit: i64,
) -> Result<Vec<FindingRow>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            transaction_id, finding AS "finding: Column<Finding>", detail AS "detail: AnyJson",
            first_found_at AS "first_found_at: Time", last_checked_at AS "last_checked_at: Time",
            checks, next_check_at AS "next_check_at: Time"
        FROM reconcile_findings
        WHERE closed_at IS NULL
            AND (first_found_at, transaction_id) < (COALESCE($1, 'infinity'::timestamptz), $2)
        ORDER BY first_found_at DESC, transaction_id DESC
        LIMIT $3
        "#,
        cursor.map(|cursor| cursor.at) as _,
        cursor.map_or(Uuid::max(), |cursor| cursor.id),
        limit
    )
    .fetch_all(executor)
    .await?;
    Ok(readable(rows, |row| {
        let transaction_id = row.transaction_id;
        Ok(FindingRow {
            transaction_id,
            finding: row.finding.0.map_err(|why| format!("finding {transaction_id}: {why}"))?,
            detail: row.detail.into(),
            first_found_at: row.first_found_at,
            last_checked_at: row.last_checked_at.at(),
            checks: row.checks,
            next_check_at: row.next_check_at.at(),
        })
    }))
}

/// What a step of [`close_settled`] did.
#[derive(Debug, Clone, Copy)]
pub struct ClosedStep {
    pub closed: i64,
    /// Where the next step goes on.
    pub last: Cursor,
}

/// Closes those of the next `limit` open findings whose matter was settled by something else since:
/// the transaction is final, and no dead letter about its status is open. `None`: there were no
/// more. In steps, because after a long outage there may be more than one statement can take.
pub async fn close_settled(
    executor: impl PgExecutor<'_>,
    after: Option<Cursor>,
    limit: i64,
) -> Result<Option<ClosedStep>, StoreError> {
    let step = sqlx::query!(
        r#"
        WITH step AS MATERIALIZED (
            SELECT first_found_at, transaction_id
            FROM reconcile_findings
            WHERE closed_at IS NULL
                AND (first_found_at, transaction_id) < (COALESCE($1, 'infinity'::timestamptz), $2)
            ORDER BY first_found_at DESC, transaction_id DESC
            LIMIT $3
        ), closed AS (
            UPDATE reconcile_findings
            SET closed_at = clock_timestamp()
            FROM step
            WHERE reconcile_findings.transaction_id = step.transaction_id AND closed_at IS NULL
                AND NOT EXISTS (
                    SELECT FROM transactions
                    WHERE id = step.transaction_id AND status = 'pending'
                )
                AND NOT EXISTS (
                    SELECT FROM failed_jobs
                    WHERE transaction_id = step.transaction_id AND state = 'open' AND (
                        kind = ANY ($4::text[])
                        OR queue IN ('create_at_third_party', 'update_status')
                    )
                )
            RETURNING 1
        )
        SELECT first_found_at AS "first_found_at: Time", transaction_id,
            (SELECT count(*) FROM closed) AS "closed!"
        FROM step
        ORDER BY first_found_at, transaction_id
        LIMIT 1
        "#,
        after.map(|cursor| cursor.at) as _,
        after.map_or(Uuid::max(), |cursor| cursor.id),
        limit,
        &IN_QUESTION.map(DeadLetterKind::as_str) as _,
    )
    .fetch_optional(executor)
    .await?;
    Ok(step.map(|step| ClosedStep {
        closed: step.closed,
        last: Cursor { at: step.first_found_at, id: step.transaction_id },
    }))
}

string_enum! {
    /// What reconciliation did about a transaction.
    Action {
        /// It has the status that the third party reports.
        Settled = "settled",
        /// The contradiction is in front of an operator.
        ConflictOpened = "conflict_opened",
        /// Nothing but noting what was found.
        Noted = "noted",
        /// Nothing: another session has the row locked, or another third party was asked. The next
        /// sweep looks again.
        Skipped = "skipped",
    }
}

/// What was seen and done about one transaction.
#[derive(Debug, Clone)]
pub struct Checked {
    pub transaction_id: Uuid,
    /// The status here before; `None`: not here.
    pub ours: Option<Status>,
    pub seen: Seen,
    pub finding: Finding,
    pub action: Action,
}

impl Checked {
    /// What the third party shows, in a word.
    pub fn theirs(&self) -> &'static str {
        match &self.seen {
            Seen::Found(status) => status.map_or("unknown status", ReportedStatus::as_str),
            Seen::Absent => "absent",
            Seen::Unanswered(_) => "no answer",
        }
    }
}

/// How what was seen is written.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub deadline: Duration,
    /// The first gap between two checks; each further one is twice as long, up to 24 hours.
    pub recheck: Duration,
    /// How long what had a create without an answer is looked up. `None` on demand: the command line
    /// may have other settings, and must not end the lookups.
    pub late: Option<LateStoring>,
    /// No check before this has passed, where the third party asked for it.
    pub retry_after: Duration,
    pub dry_run: bool,
}
