//! The job rows in `apalis.jobs`: planning the four, giving back, restoring what was pruned.
//!
//! A claim ([`super::jobs::claims`]) gives a [`Lease`]: the worker's name and the moment of the
//! claim. Whatever ends a job matches both, so that a worker whose lease was given to another (or
//! to its own later self) changes nothing.

pub mod claims;
pub mod floors;
pub mod hinted_polls;
pub mod holdups;
mod job_backlog;
pub(in crate::store) mod job_control;
pub mod job_latency;
pub mod job_list;
pub mod leases;
pub mod look;
pub mod outcomes;
pub mod rescue;

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};
use ulid::Ulid;
use uuid::Uuid;

use super::{StoreError, clients::Callback, transactions::Transaction};
use crate::domain::{JobKind, LastAnswers, NewTransaction, ThirdPartyName};

/// When each of the four jobs is first due, and how often each may be attempted.
#[derive(Debug, Clone)]
pub struct JobPlan {
    terms: [JobTerms; 4],
    /// Of creates at each third party that this process knows.
    creates: Arc<HashMap<ThirdPartyName, CreateTerms>>,
}

/// The terms of creates at one third party.
#[derive(Debug, Clone, Copy)]
pub struct CreateTerms {
    pub max_attempts: u32,
    /// No create is tried sooner than this after one that may have gone through.
    pub backoff: Duration,
}

/// A create is not tried again here.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "its third party {0} is not configured in this process, which does not know how long the \
     create has to wait: set {setting}, or let a process do it that has it",
    setting = .0.setting()
)]
pub struct UnknownThirdParty(pub ThirdPartyName);

/// The terms of one kind of job.
#[derive(Debug, Clone, Copy)]
pub struct JobTerms {
    /// Counted from the accept.
    pub delay: Duration,
    /// At this many attempts without success the job becomes a dead letter.
    pub max_attempts: u32,
}

/// The columns of job rows, for `unnest`: four rows for each transaction.
#[derive(Debug, Default)]
pub(in crate::store) struct JobRows {
    pub transaction_ids: Vec<Uuid>,
    pub ids: Vec<String>,
    pub kinds: Vec<&'static str>,
    pub payloads: Vec<Vec<u8>>,
    pub max_attempts: Vec<i32>,
    pub delays: Vec<f64>,
}

impl JobRows {
    /// Rows for each transaction.
    pub const EACH: usize = JobKind::ALL.len();

    /// Capacity for the rows of this number of transactions.
    pub fn with_capacity(transactions: usize) -> Self {
        let rows = transactions * Self::EACH;
        Self {
            transaction_ids: Vec::with_capacity(rows),
            ids: Vec::with_capacity(rows),
            kinds: Vec::with_capacity(rows),
            payloads: Vec::with_capacity(rows),
            max_attempts: Vec::with_capacity(rows),
            delays: Vec::with_capacity(rows),
        }
    }

    /// Adds the four rows of a transaction.
    pub fn push(&mut self, plan: &JobPlan, new: &NewTransaction) {
        for kind in JobKind::ALL {
            let terms = plan.terms(*kind);
            self.transaction_ids.push(new.id);
            self.ids.push(Ulid::generate().to_string());
            self.kinds.push(kind.as_str());
            self.payloads.push(JobPayload::for_kind(*kind, new).encode());
            let is_create = *kind == JobKind::CreateAtThirdParty;
            let create = plan.create(&new.route.third_party).filter(|_| is_create);
            // Of a third party that is not known here only rows that are done are written; nothing
            // here runs them again.
            let max_attempts = create.map_or(terms.max_attempts, |create| create.max_attempts);
            self.max_attempts.push(i32::try_from(max_attempts).unwrap_or(i32::MAX));
            self.delays.push(terms.delay.as_secs_f64());
        }
    }
}

impl JobPlan {
    /// A plan from the terms of each kind, and from those of creates at each third party.
    pub fn new(
        creates: HashMap<ThirdPartyName, CreateTerms>,
        terms: impl Fn(JobKind) -> JobTerms,
    ) -> Self {
        let terms = std::array::from_fn(|index| terms(JobKind::ALL[index]));
        Self { terms, creates: Arc::new(creates) }
    }

    /// The terms of creates at this third party; `None` where it is not configured here.
    pub fn create(&self, third_party: &ThirdPartyName) -> Option<CreateTerms> {
        self.creates.get(third_party).copied()
    }

    /// How long an operator's retry has to wait after a create that may have gone through, where
    /// the job is one of a create. Another third party's backoff may be too short.
    pub fn retry_backoff(
        &self,
        queue: Option<JobKind>,
        transaction: Option<&Transaction>,
    ) -> Result<Duration, UnknownThirdParty> {
        let longest = || self.creates.values().map(|terms| terms.backoff).max();
        match transaction {
            Some(transaction) if queue == Some(JobKind::CreateAtThirdParty) => {
                let third_party = &transaction.third_party;
                let terms = self.create(third_party);
                terms
                    .map(|terms| terms.backoff)
                    .ok_or_else(|| UnknownThirdParty(third_party.clone()))
            }
            _ => Ok(longest().unwrap_or_default()),
        }
    }

    /// The terms of one kind.
    pub fn terms(&self, kind: JobKind) -> JobTerms {
        self.terms[kind.index()]
    }
}

/// What a job row's `job` column holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum JobPayload {
    /// create_transaction: everything that is needed to write the transaction again.
    Create(NewTransaction),
    /// The other three: which transaction they are about.
    Refer { transaction_id: Uuid },
}

impl JobPayload {
    /// The payload of `kind` for a transaction.
    fn for_kind(kind: JobKind, new: &NewTransaction) -> Self {
        match kind {
            JobKind::CreateTransaction => Self::Create(new.clone()),
            _ => Self::Refer { transaction_id: new.id },
        }
    }

    fn encode(&self) -> Vec<u8> {
        // Strings, integers and ids only: such a value always serialises.
        serde_json::to_vec(self).expect("a payload is plain JSON")
    }

    /// The transaction that the job is about.
    pub fn transaction_id(&self) -> Uuid {
        match self {
            Self::Create(new) => new.id,
            Self::Refer { transaction_id } => *transaction_id,
        }
    }
}

/// The right to end one run of a job.
#[derive(Debug, Clone)]
pub struct Lease {
    pub job_id: String,
    pub worker: String,
    pub locked_at: DateTime<Utc>,
}

/// A job that a worker holds.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    pub lease: Lease,
    /// The payload as stored: it may be anything, and is decoded by the worker.
    pub payload: Vec<u8>,
    /// Attempts that ended before this one.
    pub attempts: i32,
    pub max_attempts: i32,
    pub idempotency_key: Option<String>,
    /// Whose job it is, for shares of a queue; all zeros where the row does not say.
    pub client_id: Uuid,
    /// When it fell due; `None` for a time out of range.
    pub run_at: Option<DateTime<Utc>>,
    /// update_status: polls done so far.
    pub polls: u32,
    /// How often in a row it has waited for a transaction that is not there.
    pub waits: u32,
    /// How many of its own calls in a row failed while the third party's circuit was open.
    pub probes: u32,
    /// update_status: the last answers to its polls.
    pub answers: LastAnswers,
    /// update_status: where the deadline counts from, if not from the accept.
    pub poll_since: Option<DateTime<Utc>>,
    /// W3C trace context of the accept, where that was traced.
    pub traceparent: Option<String>,
    /// From when it was due to the claim, by the database's clock.
    pub late: Duration,
    /// What it is about, where that exists, as it was when the job was claimed.
    pub transaction: Option<Transaction>,
    /// notify_client: where and how the transaction's client is notified.
    pub callback: Option<Callback>,
}

impl ClaimedJob {
    /// The id in its idempotency key, where that is one in the form that every query compares.
    pub fn transaction_id(&self) -> Option<Uuid> {
        let key = self.idempotency_key.as_deref()?;
        let id = Uuid::parse_str(key).ok()?;
        let mut form = Uuid::encode_buffer();
        (id.hyphenated().encode_lower(&mut form) == key).then_some(id)
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        u32::try_from(self.attempts).unwrap_or_default().saturating_add(1)
    }

    /// Whether no attempt is left after this one.
    pub fn is_last_attempt(&self) -> bool {
        self.attempts.saturating_add(1) >= self.max_attempts
    }
}

/// The W3C trace context that a transaction's jobs continue, where its accept was traced.
pub async fn traceparent(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
) -> Result<Option<String>, StoreError> {
    let found = sqlx::query_scalar!(
        r#"
        SELECT metadata -> 'traceparent'
        FROM apalis.jobs
        WHERE job_type = $1 AND idempotency_key = $2::uuid::text
        "#,
        JobKind::NotifyClient.as_str(),
        transaction_id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(found.flatten())
}

/// Gives back what `worker` still holds, without costing an attempt. A create that was `started`
/// may have reached the third party: it waits `create_backoff`, and its next run looks it up first.
/// Returns how many were given back.
pub async fn release(
    executor: impl PgExecutor<'_>,
    worker: &str,
    started: &[String],
    create_backoff: Duration,
) -> Result<u64, StoreError> {
    let released = sqlx::query!(
        r#"
        WITH released AS (
            UPDATE apalis.jobs
            SET status = 'Pending', lock_by = NULL, lock_at = NULL,
                -- Never in the past: claims look from the last due job that they know of.
                run_at = now() + make_interval(secs => CASE
                    WHEN job_type = 'create_at_third_party' AND id = ANY ($2::text[])
                    THEN $3::float8
                    ELSE 0
                END)
            WHERE lock_by = $1
            RETURNING id, job_type, idempotency_key
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source, detail)
            SELECT transactions.id, 'create_ambiguous', 'lease',
                jsonb_build_object(
                    'error', 'the worker stopped before an answer came', 'backoff_s', $3::float8
                )
            FROM released
            JOIN transactions ON transactions.id = quartet_uuid(released.idempotency_key)
            WHERE job_type = 'create_at_third_party' AND released.id = ANY ($2::text[])
        )
        SELECT count(*) AS "count!" FROM released
        "#,
        worker,
        started,
        create_backoff.as_secs_f64(),
    )
    .fetch_one(executor)
    .await?;
    Ok(released.count.unsigned_abs())
}

/// The error of a job's last failed attempt.
pub async fn last_error(
    executor: impl PgExecutor<'_>,
    job_id: &str,
) -> Result<Option<String>, StoreError> {
    let error =
        sqlx::query_scalar!("SELECT last_result ->> 'Err' FROM apalis.jobs WHERE id = $1", job_id)
            .fetch_optional(executor)
            .await?;
    Ok(error.flatten())
}

/// Writes those of the four rows of `transaction` that are missing, as done: for an action that
/// needs a job row of a transaction that was pruned. The caller holds the transaction's row locked.
/// Where nothing is missing nothing changes. Returns how many were written.
pub async fn restore(
    conn: &mut PgConnection,
    transaction: &Transaction,
    plan: &JobPlan,
) -> Result<u64, StoreError> {
    let mut jobs = JobRows::default();
    jobs.push(plan, &transaction.as_new());
    let restored = sqlx::query_scalar!(
        r#"
        WITH restored AS (
            INSERT INTO apalis.jobs
                (id, job_type, job, max_attempts, run_at, idempotency_key, client_id, status,
                done_at, last_result)
            -- Done now: retention counts anew from here.
            SELECT
                job.id, job.job_type, job.payload, job.max_attempts, now(), $1::uuid::text, $6,
                'Done', clock_timestamp(), '{"Ok": null}'
            FROM unnest($2::text[], $3::text[], $4::bytea[], $5::int[])
                AS job (id, job_type, payload, max_attempts)
            ON CONFLICT (job_type, idempotency_key) DO NOTHING
            RETURNING id
        ), unpruned AS (
            UPDATE transactions SET pruned_at = NULL WHERE id = $1 AND pruned_at IS NOT NULL
        )
        SELECT count(*) AS "count!" FROM restored
        "#,
        transaction.id,
        &jobs.ids,
        &jobs.kinds as _,
        &jobs.payloads,
        &jobs.max_attempts,
        transaction.client_id,
    )
    .fetch_one(conn)
    .await?;
    Ok(restored.unsigned_abs())
}
