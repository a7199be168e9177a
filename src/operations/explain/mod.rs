//! Why a transaction waits: what is next, when, and what holds it up.
//!
//! Everything is read in one snapshot of the database; the rules are a pure function of it. The
//! transaction's own state says which of its jobs matters: while it is pending the create, and then
//! the polls; afterwards the notification.

mod cause;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Operations;
use crate::{
    domain::{DeadLetterState, JobKind, JobState, string_enum},
    store::{
        StoreError,
        circuit::{self, Circuit},
        dead_letters::{self, DeadLetter},
        evidence::{self, Evidence},
        jobs::{
            holdups::{self, Postponement, RunningShares},
            job_list::{self, JobFilter, JobRow},
            leases,
        },
        queues::{self, Pause},
        transactions::{self, Transaction},
    },
};

string_enum! {
    /// Whom a transaction waits for.
    WaitsFor {
        /// It has ended: final, and the client was notified.
        Nothing = "nothing",
        /// The third party, to create it or to say how it ended.
        ThirdParty = "third_party",
        /// The client, to acknowledge its status.
        Client = "client",
        /// An operator: no job goes on by itself.
        Operator = "operator",
    }
}

string_enum! {
    /// What holds a transaction up.
    CauseKind {
        /// Nothing: it has ended.
        Finished = "finished",
        /// A worker runs the job now.
        Running = "running",
        /// The job is due and waits for a worker.
        Due = "due",
        /// The job is due, and waits until others of its client have ended.
        ClientShare = "client_share",
        /// The job's next time has not come.
        Schedule = "schedule",
        /// The job failed and is tried again later.
        Backoff = "backoff",
        /// An operator paused the queue.
        PausedQueue = "paused_queue",
        /// The third party's circuit is open.
        CircuitOpen = "circuit_open",
        /// The third party refuses our credentials.
        CredentialsRefused = "credentials_refused",
        /// The third party is not configured in the process that was to call it.
        ThirdPartyNotConfigured = "third_party_not_configured",
        /// The third party is called as often as its budget allows.
        CallBudget = "call_budget",
        /// The client's callback host does not answer.
        CallbackHostDown = "callback_host_down",
        /// No worker of the queue is alive.
        NoWorker = "no_worker",
        /// The job stopped.
        DeadLetter = "dead_letter",
        /// An operator cancelled the job.
        Cancelled = "cancelled",
        /// The job was done without an end: only a webhook or an operator goes on.
        NothingScheduled = "nothing_scheduled",
    }
}

/// What a transaction waits for.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub waits_for: WaitsFor,
    /// One sentence.
    pub summary: String,
    pub next_action: Option<NextAction>,
    pub cause: Cause,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextAction {
    pub queue: JobKind,
    /// What that job will do.
    pub action: &'static str,
    /// When, at the earliest; in the past where it is due or running.
    pub at: DateTime<Utc>,
}

/// What holds it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub kind: CauseKind,
    /// One sentence.
    pub detail: String,
}

/// Everything that an explanation goes by.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub transaction: Transaction,
    /// The four job rows; none where they were pruned.
    pub jobs: Vec<JobRow>,
    /// Newest first.
    pub dead_letters: Vec<DeadLetter>,
    /// Oldest first.
    pub evidence: Vec<Evidence>,
    pub pauses: Vec<(JobKind, Pause)>,
    pub circuit: Circuit,
    /// Who runs in the queue of the job that it waits for, by client.
    pub shares: RunningShares,
    /// Why its notify_client job was postponed, where it was.
    pub postponement: Option<Postponement>,
    /// The third party that the job it waits for did not find configured, where that is so.
    pub not_configured: Option<String>,
    /// The queues that have a live worker.
    pub alive: Vec<JobKind>,
    /// When a worker's lease ends that is not renewed.
    pub lease_ends: Vec<(String, DateTime<Utc>)>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// Maximum number of dead letters in one explanation.
const MAX_DEAD_LETTERS: i64 = 50;

impl Operations {
    /// Reads what is known about a transaction and explains it; `None` where there is none.
    pub async fn explain(&self, id: Uuid) -> Result<Option<(Snapshot, Explanation)>, StoreError> {
        let Some(snapshot) = self.snapshot(id).await? else { return Ok(None) };
        let explanation = explain(&snapshot);
        Ok(Some((snapshot, explanation)))
    }

    async fn snapshot(&self, id: Uuid) -> Result<Option<Snapshot>, StoreError> {
        let mut tx = crate::store::begin_snapshot(&self.pool).await?;
        let Some(transaction) = transactions::get(&mut *tx, id).await? else { return Ok(None) };
        let of_transaction = JobFilter { transaction_id: Some(id), ..JobFilter::default() };
        let jobs = job_list::list(&mut *tx, &of_transaction, JobKind::ALL.len() as i64).await?;
        let about = dead_letters::Filter { transaction_id: Some(id), ..Default::default() };
        let dead_letters = dead_letters::list(&mut *tx, &about, MAX_DEAD_LETTERS).await?;
        let evidence = evidence::list(&mut *tx, id).await?;
        let pauses = queues::pauses(&mut *tx).await?;
        let circuit = circuit::get(&mut *tx, &transaction.third_party).await?;
        let alive = leases::count_alive(&mut *tx, self.dead_after).await?;
        let now = crate::store::now(&mut *tx).await?;
        let dead_after = chrono::Duration::from_std(self.dead_after).unwrap_or_default();
        let lease_ends = jobs
            .iter()
            .filter_map(|job| Some((job.id.clone(), job.worker_seen_at? + dead_after)))
            .collect();
        let alive = alive.iter().filter_map(|alive| alive.queue.parse().ok()).collect();
        let client_id = transaction.client_id;
        let queue = decisive_queue(&transaction, &jobs);
        let shares = holdups::running_shares(&mut *tx, queue.as_str(), client_id).await?;
        let postponement = match jobs.iter().find(|job| job.queue == JobKind::NotifyClient) {
            Some(job) => holdups::postponement(&mut *tx, &job.id).await?,
            None => None,
        };
        let not_configured = match jobs.iter().find(|job| job.queue == queue) {
            Some(job) if queue.asks_third_party() => {
                holdups::not_configured(&mut *tx, &job.id).await?
            }
            _ => None,
        };
        Ok(Some(Snapshot {
            transaction,
            jobs,
            dead_letters,
            evidence,
            pauses,
            circuit,
            shares,
            postponement,
            not_configured,
            alive,
            lease_ends,
            now,
        }))
    }
}

/// Explains a snapshot.
pub fn explain(snapshot: &Snapshot) -> Explanation {
    let transaction = &snapshot.transaction;
    if transaction.status.is_final() && transaction.notified_version == transaction.version {
        if let Some(letter) = snapshot.open_letter() {
            return Explanation {
                waits_for: WaitsFor::Operator,
                summary: format!(
                    "It is {} and the client knows, but that is in question.",
                    transaction.status
                ),
                next_action: None,
                cause: Cause {
                    kind: CauseKind::DeadLetter,
                    detail: format!("Dead letter {} is open: {}.", letter.kind, letter.reason),
                },
            };
        }
        return Explanation {
            waits_for: WaitsFor::Nothing,
            summary: format!("It is {} and the client knows.", transaction.status),
            next_action: None,
            cause: Cause {
                kind: CauseKind::Finished,
                detail: "All that was to be done is done.".to_owned(),
            },
        };
    }
    explain_job(snapshot, decisive_queue(transaction, &snapshot.jobs))
}

/// The queue of the job that decides what happens next.
fn decisive_queue(transaction: &Transaction, jobs: &[JobRow]) -> JobKind {
    if transaction.status.is_final() {
        return JobKind::NotifyClient;
    }
    let goes_on =
        |job: &JobRow| matches!(job.state, JobState::Due | JobState::Scheduled | JobState::Running);
    let create = jobs.iter().find(|job| job.queue == JobKind::CreateAtThirdParty);
    if create.is_some_and(goes_on) { JobKind::CreateAtThirdParty } else { JobKind::UpdateStatus }
}

fn explain_job(snapshot: &Snapshot, queue: JobKind) -> Explanation {
    let status = snapshot.transaction.status;
    let Some(job) = snapshot.job(queue) else {
        return Explanation {
            waits_for: WaitsFor::Operator,
            summary: format!("It is {status} and its {queue} job does not exist."),
            next_action: None,
            cause: Cause {
                kind: CauseKind::NothingScheduled,
                detail: "The job row was pruned or deleted.".to_owned(),
            },
        };
    };
    let cause = cause::cause(snapshot, job);
    let stopped = matches!(
        cause.kind,
        CauseKind::DeadLetter | CauseKind::Cancelled | CauseKind::NothingScheduled
    );
    let whom = match queue {
        JobKind::NotifyClient => WaitsFor::Client,
        _ => WaitsFor::ThirdParty,
    };
    let waits_for = if stopped { WaitsFor::Operator } else { whom };
    let next_action = (!stopped).then(|| NextAction {
        queue,
        action: action(queue),
        at: match cause.kind {
            CauseKind::CircuitOpen | CauseKind::CredentialsRefused => snapshot
                .circuit
                .open_until
                .map_or(job.run_at.at(), |until| until.max(job.run_at.at())),
            _ => job.run_at.at(),
        },
    });
    let summary = match (stopped, queue) {
        (true, JobKind::NotifyClient) => {
            format!(
                "It is {status}, but the client was not notified, and nothing goes on by itself."
            )
        }
        (true, _) => "It is pending; a webhook still settles it, but nothing else goes on by \
                      itself."
            .to_owned(),
        (false, JobKind::NotifyClient) => {
            format!("It is {status}; the client has not been notified yet.")
        }
        (false, JobKind::CreateAtThirdParty) => {
            "It is pending: it is still to be created at the third party.".to_owned()
        }
        (false, _) => match snapshot.job(JobKind::CreateAtThirdParty).map(|job| job.state) {
            Some(JobState::Failed) => "It is pending: its create stopped, see its dead letter; \
                                       polling goes on."
                .to_owned(),
            Some(JobState::Cancelled) => {
                "It is pending: its create was cancelled; polling goes on.".to_owned()
            }
            _ => "It is pending: the third party has not said how it ended.".to_owned(),
        },
    };
    Explanation { waits_for, summary, next_action, cause }
}

fn action(queue: JobKind) -> &'static str {
    match queue {
        JobKind::CreateTransaction => "write the transaction if it is not here",
        JobKind::CreateAtThirdParty => {
            "look it up at the third party, and create it if it is absent"
        }
        JobKind::UpdateStatus => "ask the third party how it stands",
        JobKind::NotifyClient => "tell the client its status",
    }
}

impl Snapshot {
    fn open_letter(&self) -> Option<&DeadLetter> {
        self.dead_letters.iter().find(|letter| letter.state == DeadLetterState::Open)
    }

    fn job(&self, queue: JobKind) -> Option<&JobRow> {
        self.jobs.iter().find(|job| job.queue == queue)
    }
}

#[cfg(test)]
mod tests;
