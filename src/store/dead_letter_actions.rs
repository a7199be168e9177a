//! What operators do to dead letters: replay, resolve, discard. Each is one SQL transaction with
//! its audit; one that is refused changes nothing and says why.

use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    Database, SqlTransaction, StoreError,
    audit::{self, Actor, AuditTarget, OperatorAction},
    dead_letters::{self, DeadLetter},
    jobs::{JobPlan, UnknownThirdParty, job_control},
    provider_webhooks,
    sent_creates::{self, LearnedId},
    settle,
    transactions::{self, Transaction},
    webhooks,
};
use crate::domain::{
    DEFAULT_THIRD_PARTY, DeadLetterState, JobKind, Replay, SettledBy, Status, ThirdPartyName,
};

/// Who reports what a replay applies, for the evidence.
const SOURCE: &str = "operator";

/// Why nothing was done to a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("there is no dead letter with this id")]
    NotFound,
    #[error("the dead letter is {0} already")]
    Closed(DeadLetterState),
    #[error("a status_conflict has nothing to replay: an operator resolves or discards it")]
    NothingToReplay,
    #[error("the transaction that the webhook names is still unknown")]
    StillUnknown,
    #[error(
        "what its webhook says cannot be compared with the transaction: {0} is not configured in \
         this process, or not with the profile that read the webhook"
    )]
    NotComparable(ThirdPartyName),
    #[error("its job row no longer exists")]
    JobGone,
    #[error("its job is running")]
    JobRunning,
    #[error("the transaction is being created at the third party: wait until this try has ended")]
    CreateRunning,
    #[error("a status cannot be set here: this dead letter is not about a transaction's status")]
    StatusNotAllowed,
    #[error(transparent)]
    UnknownThirdParty(#[from] UnknownThirdParty),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for DeadLetterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// An open dead letter and its transaction, which is locked.
struct Opened {
    tx: SqlTransaction,
    letter: DeadLetter,
    transaction: Option<Transaction>,
}

impl Opened {
    async fn begin(pool: &Database, id: Uuid) -> Result<Self, DeadLetterError> {
        let mut tx = super::begin(pool).await?;
        // Lock order: the transaction's row before its jobs, those before the dead letter.
        let letter = dead_letters::get(&mut *tx, id).await?.ok_or(DeadLetterError::NotFound)?;
        let transaction = match letter.transaction_id {
            Some(transaction_id) => transactions::lock(&mut tx, transaction_id).await?,
            None => None,
        };
        Ok(Self { tx, letter, transaction })
    }

    /// Closes the dead letter. If somebody else closed it first, this is an error.
    async fn close(
        &mut self,
        state: DeadLetterState,
        actor: Actor<'_>,
    ) -> Result<(), DeadLetterError> {
        if dead_letters::close(&mut *self.tx, self.letter.id, state, actor).await? {
            return Ok(());
        }
        // Read again: somebody else may have closed it while this waited for the locks.
        let letter = dead_letters::get(&mut *self.tx, self.letter.id).await?;
        Err(DeadLetterError::Closed(letter.map_or(state, |letter| letter.state)))
    }

    /// Records the action and commits; returns the dead letter as it is now.
    async fn commit(
        mut self,
        action: OperatorAction,
        actor: Actor<'_>,
        status: Option<Status>,
    ) -> Result<DeadLetter, DeadLetterError> {
        let mut detail = Map::new();
        detail.insert("kind".to_owned(), self.letter.kind.as_str().into());
        if let Some(status) = status {
            detail.insert("status".to_owned(), status.as_str().into());
            let before = self.transaction.as_ref().map(|before| before.status.as_str());
            detail.insert("status_before".to_owned(), Value::from(before));
        }
        let target = AuditTarget {
            transaction_id: self.letter.transaction_id,
            dead_letter_id: Some(self.letter.id),
            job_id: self.letter.job_id.as_deref(),
            queue: self.letter.queue.as_deref(),
            detail,
        };
        audit::record(&mut self.tx, actor, action, target).await?;
        let closed = dead_letters::get(&mut *self.tx, self.letter.id).await?;
        self.tx.commit().await?;
        closed.ok_or(DeadLetterError::NotFound)
    }
}

/// Replays an open dead letter: its job row becomes due now with fresh attempts, or, for an
/// `unknown_transaction`, the webhook is applied now. A create that may have gone through is due at
/// the end of its backoff. Returns the closed dead letter.
///
/// `contradiction` says why such a webhook is not about the transaction, which is locked then, as
/// the client posted it: with a final status, it is a conflict.
pub async fn replay(
    pool: &Database,
    id: Uuid,
    plan: &JobPlan,
    contradiction: impl Fn(&DeadLetter, &Transaction) -> Result<Option<String>, DeadLetterError>,
    actor: Actor<'_>,
) -> Result<DeadLetter, DeadLetterError> {
    let mut opened = Opened::begin(pool, id).await?;
    if opened.letter.state != DeadLetterState::Open {
        return Err(DeadLetterError::Closed(opened.letter.state));
    }
    let letter = &opened.letter;
    match letter.kind.replay() {
        Replay::Nothing => return Err(DeadLetterError::NothingToReplay),
        Replay::AppliesWebhook if letter.transaction_id.is_none() => {
            // Of a third party with a profile: it is compared with the transaction, and then
            // applied.
            if !provider_webhooks::wait_again(&mut opened.tx, &letter.detail).await? {
                return Err(DeadLetterError::StillUnknown);
            }
        }
        Replay::AppliesWebhook => {
            let transaction = opened.transaction.as_ref();
            let transaction = transaction.filter(|known| is_of_sender(letter, known));
            let transaction = transaction.ok_or(DeadLetterError::StillUnknown)?;
            let reported = reported_status(letter).ok_or(DeadLetterError::NothingToReplay)?;
            let contradiction = contradiction(letter, transaction)?;
            apply_webhook(&mut opened.tx, letter, transaction, reported, contradiction).await?;
        }
        Replay::RunsJob => {
            let job_id = letter.job_id.as_deref().ok_or(DeadLetterError::NothingToReplay)?;
            let backoff = plan.retry_backoff(queue_of(letter), opened.transaction.as_ref())?;
            reactivate(&mut opened.tx, job_id, backoff).await?;
        }
    }
    opened.close(DeadLetterState::Replayed, actor).await?;
    opened.commit(OperatorAction::Replay, actor, None).await
}

/// Does what the webhook of an `unknown_transaction` would do if it arrived now. The transaction is
/// locked.
async fn apply_webhook(
    conn: &mut PgConnection,
    letter: &DeadLetter,
    transaction: &Transaction,
    reported: Status,
    contradiction: Option<String>,
) -> Result<(), StoreError> {
    let mut contradiction = contradiction.filter(|_| reported.is_final());
    if let Some(provider_id) = letter.detail["provider_id"].as_str()
        && contradiction.is_none()
        && reported.is_final()
        && transaction.provider_id.is_none()
    {
        contradiction = learn(conn, transaction.id, provider_id).await?.contradiction(provider_id);
    }
    match contradiction {
        Some(why) => webhooks::open_contradiction(conn, transaction, reported, &why, SOURCE).await,
        None => {
            settle::apply(conn, transaction, reported, SettledBy::Webhook, SOURCE).await?;
            Ok(())
        }
    }
}

/// Writes the third party's id of a transaction that has none.
async fn learn(
    conn: &mut PgConnection,
    transaction_id: Uuid,
    provider_id: &str,
) -> Result<LearnedId, StoreError> {
    // Where another transaction gets the id at the same moment, only this much fails.
    let mut savepoint = conn.begin().await?;
    let learned =
        sent_creates::learn_provider_id(&mut *savepoint, transaction_id, provider_id).await?;
    match learned {
        LearnedId::Known => savepoint.commit().await?,
        LearnedId::Other(_) | LearnedId::Taken => savepoint.rollback().await?,
    }
    Ok(learned)
}

/// The status in the webhook that opened an `unknown_transaction`.
pub fn reported_status(letter: &DeadLetter) -> Option<Status> {
    letter.detail["status"].as_str()?.parse().ok()
}

/// The kind of job that it is about.
pub fn queue_of(letter: &DeadLetter) -> Option<JobKind> {
    letter.queue.as_deref()?.parse().ok()
}

/// The third party whose webhook opened an `unknown_transaction`.
pub fn third_party_of(letter: &DeadLetter) -> &str {
    letter.detail["third_party"].as_str().unwrap_or(DEFAULT_THIRD_PARTY)
}

/// Whether the webhook of an `unknown_transaction` may be about this one: one that another third
/// party created is not.
pub fn is_of_sender(letter: &DeadLetter, transaction: &Transaction) -> bool {
    *transaction.third_party == *third_party_of(letter)
}

/// Makes a stopped job due, with fresh attempts.
async fn reactivate(
    conn: &mut PgConnection,
    job_id: &str,
    create_backoff: Duration,
) -> Result<(), DeadLetterError> {
    match job_control::lock(&mut *conn, job_id).await?.as_deref() {
        None => Err(DeadLetterError::JobGone),
        Some("Running" | "Queued") => Err(DeadLetterError::JobRunning),
        Some(_) => Ok(job_control::reactivate(conn, job_id, create_backoff).await?),
    }
}

/// Resolves an open dead letter. With a `status`, which must be final, the transaction gets it,
/// polling ends, and the client is notified. Where it has that status already, a create that waits
/// is cancelled. This needs a dead letter that is about the status of a transaction that is here.
/// Returns the closed dead letter.
pub async fn resolve(
    pool: &Database,
    id: Uuid,
    status: Option<Status>,
    plan: &JobPlan,
    actor: Actor<'_>,
) -> Result<DeadLetter, DeadLetterError> {
    let mut opened = Opened::begin(pool, id).await?;
    // First: a status explains other dead letters of the transaction, but this one has its own
    // note.
    opened.close(DeadLetterState::Resolved, actor).await?;
    if let Some(status) = status {
        let letter = &opened.letter;
        let transaction = match &opened.transaction {
            Some(transaction) if letter.kind.allows_status(letter.queue.as_deref()) => transaction,
            _ => return Err(DeadLetterError::StatusNotAllowed),
        };
        // Its answer is about to say what an operator can only guess.
        let create = JobKind::CreateAtThirdParty;
        match job_control::lock_of(&mut *opened.tx, transaction.id, create).await? {
            Some((_, job)) if matches!(job.as_str(), "Running" | "Queued") => {
                return Err(DeadLetterError::CreateRunning);
            }
            // Its create was given up, and then replayed.
            Some((id, job)) if job == "Pending" && transaction.status == status => {
                job_control::cancel(&mut *opened.tx, &id).await?;
            }
            _ => {}
        }
        settle::set_by_operator(&mut opened.tx, transaction, status, plan).await?;
    }
    opened.commit(OperatorAction::Resolve, actor, status).await
}

/// Closes an open dead letter without doing anything about it. Returns the closed dead letter.
pub async fn discard(
    pool: &Database,
    id: Uuid,
    actor: Actor<'_>,
) -> Result<DeadLetter, DeadLetterError> {
    let mut opened = Opened::begin(pool, id).await?;
    opened.close(DeadLetterState::Discarded, actor).await?;
    opened.commit(OperatorAction::Discard, actor, None).await
}
