//! What operators read: the schemas of dead letters, jobs, queues, and the audit.

use chrono::{DateTime, Utc};
use poem_openapi::{Object, types::Any};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::{CircuitState, DeadLetterKind, DeadLetterState, JobKind, JobState, SettledBy, Status},
    http::{api::transaction_schema::Event, api_enum::ApiEnum, page::list_object},
    store::{
        audit::{OperatorAction, Recorded},
        circuit, dead_letters,
        jobs::job_list::JobRow,
        postgres::columns::Time,
        queues::QueueStats,
        transaction_list::TransactionRow,
    },
};

/// A case that needs a human decision.
#[derive(Debug, Clone, Object)]
pub struct DeadLetter {
    /// Its id.
    pub id: Uuid,
    /// Why it is here.
    pub kind: ApiEnum<DeadLetterKind>,
    /// `open`, then `replayed`, `resolved` or `discarded`.
    pub state: ApiEnum<DeadLetterState>,
    /// The transaction, where known.
    pub transaction_id: Option<Uuid>,
    /// The name of the transaction's client, where known.
    pub client: Option<String>,
    /// The job it came from; null for one that a webhook or a conflict opened.
    pub job_id: Option<String>,
    /// That job's queue.
    pub queue: Option<String>,
    /// That job's row as it was.
    pub job: Option<Any<Value>>,
    /// One sentence.
    pub reason: String,
    /// The reported statuses, where it is about one.
    pub detail: Any<Value>,
    /// The attempts' errors: `[{attempt, at, error}]`, oldest first.
    pub attempts: Any<Value>,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
    /// When it was closed.
    pub closed_at: Option<DateTime<Utc>>,
    /// Who closed it.
    pub closed_by: Option<String>,
    /// Why it was closed.
    pub note: Option<String>,
}

impl From<dead_letters::DeadLetter> for DeadLetter {
    fn from(row: dead_letters::DeadLetter) -> Self {
        Self {
            id: row.id,
            kind: ApiEnum(row.kind),
            state: ApiEnum(row.state),
            transaction_id: row.transaction_id,
            client: row.client,
            job_id: row.job_id,
            queue: row.queue,
            job: row.job.map(Any),
            reason: row.reason,
            detail: Any(row.detail),
            attempts: Any(row.attempts),
            opened_at: row.opened_at.at(),
            closed_at: row.closed_at,
            closed_by: row.closed_by,
            note: row.note,
        }
    }
}

/// A dead letter with its whole story.
#[derive(Debug, Object)]
pub struct DeadLetterStory {
    /// The dead letter.
    #[oai(flatten)]
    pub letter: DeadLetter,
    /// The evidence about its transaction, oldest first.
    pub evidence: Vec<Event>,
    /// What operators did to it, newest first.
    pub actions: Vec<Action>,
}

list_object! {
    /// A page of dead letters.
    DeadLetterList {
        /// Newest first.
        items: DeadLetter
    }
}

/// An action of an operator that took place.
#[derive(Debug, Object)]
#[oai(rename = "OperatorAction")]
pub struct Action {
    /// Grows with the order of writing.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub operator: String,
    /// What.
    pub action: ApiEnum<OperatorAction>,
    /// The transaction that it was about.
    pub transaction_id: Option<Uuid>,
    /// The dead letter that was acted on.
    pub dead_letter_id: Option<Uuid>,
    /// The job that was acted on.
    pub job_id: Option<String>,
    /// The queue that was acted on, or that of the job.
    pub queue: Option<String>,
    /// Why.
    pub note: Option<String>,
    /// What changed.
    pub detail: Any<Value>,
}

impl From<Recorded> for Action {
    fn from(row: Recorded) -> Self {
        Self {
            id: row.id,
            at: row.at,
            operator: row.operator,
            action: ApiEnum(row.action),
            transaction_id: row.transaction_id,
            dead_letter_id: row.dead_letter_id,
            job_id: row.job_id,
            queue: row.queue,
            note: row.note,
            detail: Any(row.detail),
        }
    }
}

list_object! {
    /// The audit, a page of it.
    #[oai(rename = "OperatorActionList")]
    ActionList {
        /// Newest first.
        items: Action
    }
}

/// The right to run a job.
#[derive(Debug, Clone, Object)]
pub struct JobLease {
    /// The worker that holds it.
    pub worker: String,
    /// When it began.
    pub since: Option<DateTime<Utc>>,
    /// When it ends unless the worker renews it, as it does while it lives.
    pub until: Option<DateTime<Utc>>,
}

/// A job.
#[derive(Debug, Clone, Object)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Its queue.
    pub queue: ApiEnum<JobKind>,
    /// Where it stands.
    pub state: ApiEnum<JobState>,
    /// The transaction that it is about; null where its row names none.
    pub transaction_id: Option<Uuid>,
    /// Attempts that ended.
    pub attempts: i32,
    /// At this many attempts without success it becomes a dead letter.
    pub max_attempts: i32,
    /// When it is or was due.
    pub run_at: DateTime<Utc>,
    /// When it was done, failed or cancelled.
    pub done_at: Option<DateTime<Utc>>,
    /// The last attempt's error.
    pub last_error: Option<String>,
    /// The attempts' errors: `[{attempt, at, error}]`, oldest first.
    pub errors: Any<Value>,
    /// `update_status`: polls that were made, as of the last wait of a second or more.
    pub polls: Option<i32>,
    /// Who runs it, while it runs.
    pub lease: Option<JobLease>,
}

impl Job {
    /// From its row; a worker that is silent for `dead_after` loses its leases.
    pub fn new(row: JobRow, dead_after: std::time::Duration) -> Self {
        let dead_after = chrono::Duration::from_std(dead_after).unwrap_or_default();
        Self {
            id: row.id,
            queue: ApiEnum(row.queue),
            state: ApiEnum(row.state),
            transaction_id: row.transaction_id,
            attempts: row.attempts,
            max_attempts: row.max_attempts,
            run_at: row.run_at.at(),
            done_at: row.done_at.map(Time::at),
            last_error: row.last_error,
            errors: Any(row.errors),
            polls: row.polls,
            lease: row.worker.map(|worker| JobLease {
                worker,
                since: row.leased_at.map(Time::at),
                until: row.worker_seen_at.map(|seen| seen + dead_after),
            }),
        }
    }
}

list_object! {
    /// A page of jobs.
    JobList {
        /// `due` and `scheduled` ones by when they are due, `running` ones by when they began, all
        /// others newest first.
        items: Job
    }
}

/// A queue.
#[derive(Debug, Clone, Object)]
pub struct Queue {
    /// Its name, a `job_type`.
    pub queue: ApiEnum<JobKind>,
    /// Jobs that wait for a worker. Counted up to 10,000.
    pub due: i64,
    /// Jobs whose time has not come. Counted up to 10,000.
    pub scheduled: i64,
    /// Jobs that a worker runs.
    pub running: i64,
    /// Jobs that stopped. Counted up to 10,000.
    pub failed: i64,
    /// Jobs done in the last full minute.
    pub done_per_minute: i64,
    /// How long the longest waiting due job has been due, in milliseconds; null without one.
    pub oldest_due_age_ms: Option<i64>,
    /// Whether it is paused: no process begins a job of it.
    pub paused: bool,
    /// When it was paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// Why it was paused.
    pub pause_note: Option<String>,
}

impl From<QueueStats> for Queue {
    fn from(figures: QueueStats) -> Self {
        let oldest = figures.oldest_due_age;
        let (paused_at, paused_by, pause_note) = match figures.paused {
            Some(pause) => (Some(pause.at), Some(pause.by), pause.note),
            None => (None, None, None),
        };
        Self {
            queue: ApiEnum(figures.queue),
            due: figures.due,
            scheduled: figures.scheduled,
            running: figures.running,
            failed: figures.failed,
            done_per_minute: figures.done_per_minute,
            oldest_due_age_ms: oldest.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            paused: paused_at.is_some(),
            paused_at,
            paused_by,
            pause_note,
        }
    }
}

/// The queues.
#[derive(Debug, Object)]
pub struct QueueList {
    /// In the order of a transaction's life.
    pub items: Vec<Queue>,
    /// Always null: there are four.
    pub next_cursor: Option<String>,
}

/// A third party's circuit breaker, shared by all processes.
#[derive(Debug, Clone, Object)]
pub struct Circuit {
    /// `closed`: calls are made; `open`: none is; `half_open`: one at a time, to try.
    pub state: ApiEnum<CircuitState>,
    /// When it opened; null while it is closed.
    pub opened_at: Option<DateTime<Utc>>,
    /// From then on one call is tried; null while it is closed.
    pub open_until: Option<DateTime<Utc>>,
    /// Why it is open, or last was.
    pub reason: Option<String>,
    /// How often it has opened.
    pub trips: i32,
}

impl From<circuit::Circuit> for Circuit {
    fn from(circuit: circuit::Circuit) -> Self {
        Self {
            state: ApiEnum(circuit.state),
            opened_at: circuit.opened_at,
            open_until: circuit.open_until,
            reason: circuit.reason,
            trips: circuit.trips,
        }
    }
}

/// A transaction in an operator's list.
#[derive(Debug, Clone, Object)]
pub struct OperatorTransaction {
    /// Its id.
    pub id: Uuid,
    /// The client's name.
    pub client: String,
    /// Name of the third party that creates it.
    pub third_party: String,
    /// The third party's own id of it, once that is known.
    pub provider_id: Option<String>,
    /// `pending`, then once `completed`, `declined` or `failed`.
    pub status: ApiEnum<Status>,
    /// Starts at 1 and grows by one with each status change.
    pub version: i32,
    /// The last version that the client acknowledged; 0 = none yet.
    pub notified_version: i32,
    /// Minor units of the currency.
    pub amount: Option<i64>,
    /// ISO 4217 alphabetic code.
    pub currency: Option<String>,
    /// The client's free text.
    pub reference: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When the status became final.
    pub settled_at: Option<DateTime<Utc>>,
    /// What settled it.
    pub settled_by: Option<ApiEnum<SettledBy>>,
}

impl From<TransactionRow> for OperatorTransaction {
    fn from(row: TransactionRow) -> Self {
        Self {
            id: row.id,
            client: row.client,
            third_party: row.third_party,
            provider_id: row.provider_id,
            status: ApiEnum(row.status),
            version: row.version,
            notified_version: row.notified_version,
            amount: row.amount,
            currency: row.currency,
            reference: row.reference,
            created_at: row.created_at.at(),
            settled_at: row.settled_at,
            settled_by: row.settled_by.map(ApiEnum),
        }
    }
}

list_object! {
    /// A page of transactions of all clients.
    OperatorTransactionList {
        /// Newest first.
        items: OperatorTransaction
    }
}
