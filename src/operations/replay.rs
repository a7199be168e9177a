//! Replaying dead letters: a preview of what each replay would do, and replaying many.
//!
//! A preview asks the third party what it shows about each transaction, a few at a time and within
//! a bound, and changes nothing. A bulk replay is one SQL transaction for each dead letter: killed
//! half-way it leaves some replayed and the others open, never one that is both.

use std::{collections::HashSet, fmt, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use uuid::Uuid;

pub use super::replay_plan::{AtThirdParty, ItemOutcome};
use super::{Operations, replay_plan::plan_replay};
use crate::{
    domain::{CircuitState, DeadLetterKind, JobKind, ReportedStatus, Status},
    outbound::{
        ThirdPartyClient,
        third_party::{Lookup, LookupError},
    },
    store::{
        StoreError,
        audit::Actor,
        circuit::{self, Circuits},
        clients::{self, Callback},
        dead_letter_actions::{self, DeadLetterError},
        dead_letters::{self, DeadLetter, Filter},
        provider_webhooks,
        transactions::{self, Transaction},
    },
};

/// Most dead letters of one bulk replay or preview.
pub const MAX_BULK: u32 = 1_000;
/// Lookups of a preview at once.
const LOOKUPS_AT_ONCE: usize = 16;
/// How long the lookups of a preview may take in all; what is left then is not asked.
const PREVIEW_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for the database in one step: a connection that swallows packets must not hold an
/// operator's request for ever.
const DATABASE_LIMIT: Duration = Duration::from_secs(5);

/// Which dead letters to replay: open ones alone, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These, instead of all that match the rest.
    pub ids: Option<Vec<Uuid>>,
    pub kind: Option<DeadLetterKind>,
    pub client_id: Option<Uuid>,
    /// Opened before.
    pub created_before: Option<DateTime<Utc>>,
    /// At most [`MAX_BULK`].
    pub limit: u32,
}

/// What a replay would do.
#[derive(Debug, Clone)]
pub struct Preview {
    pub letter: DeadLetter,
    /// The calls that it would make.
    pub call: Option<String>,
    pub at_third_party: AtThirdParty,
    /// The status there, if its answer had one.
    pub third_party_status: Option<ReportedStatus>,
    /// The transaction's status after it, as far as is known now.
    pub resulting_status: Option<Status>,
    /// What it would do, or why it is refused.
    pub effect: String,
    pub outcome: ItemOutcome,
}

/// What became of one dead letter.
#[derive(Debug, Clone)]
pub struct Replayed {
    pub letter: DeadLetter,
    pub outcome: ItemOutcome,
    /// Why it was refused.
    pub reason: Option<String>,
}

/// How many dead letters a selection comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// All that match.
    pub matched: usize,
    /// Those that are previewed or replayed: the first of them, up to the limit.
    pub selected: usize,
}

impl Count {
    /// As many of those that were selected are not there.
    fn leave_out(&mut self, missing: usize) {
        self.matched -= missing;
        self.selected -= missing;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dead letters match", self.matched)?;
        if self.matched > self.selected {
            write!(f, " and the first {} would be replayed (limit)", self.selected)?;
        }
        Ok(())
    }
}

/// What was previewed or done of a selection, and its size.
#[derive(Debug, Clone)]
pub struct Selected<T> {
    pub count: Count,
    pub items: Vec<T>,
}

/// Why a bulk replay did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error("{0}: nothing was replayed; confirm {selected}", selected = .0.selected)]
    Unconfirmed(Count),
    #[error(
        "{found}, not {expected}: nothing was replayed; confirm {selected}",
        selected = .found.selected
    )]
    CountChanged { expected: u32, found: Count },
    #[error("interrupted: {replayed} of {matched} dead letters were replayed, the others are open")]
    Interrupted {
        replayed: usize,
        matched: usize,
        #[source]
        source: StoreError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Operations {
    /// What replaying each selected dead letter would do. Changes nothing.
    pub async fn preview(&self, selection: &Selection) -> Result<Selected<Preview>, StoreError> {
        let Selected { mut count, items: ids } = self.select(selection).await?;
        // A third party that is down is left alone by previews, too.
        let circuits = bounded(circuit::get_all(&self.pool)).await?;
        let deadline = Instant::now() + PREVIEW_LIMIT;
        let items: Vec<Preview> = stream::iter(ids)
            .map(|id| self.preview_one(id, &circuits, deadline))
            .buffered(LOOKUPS_AT_ONCE)
            // One that is not there, or has vanished since it was selected, is left out.
            .try_filter_map(|preview| async move { Ok(preview) })
            .try_collect()
            .await?;
        count.leave_out(count.selected - items.len());
        Ok(Selected { count, items })
    }

    /// Replays the selected dead letters, if `expected` of them are selected: the number that the
    /// operator has seen and confirms. Only a selection of ids may do without. `each` is called
    /// with every one.
    pub async fn replay_many(
        &self,
        selection: &Selection,
        expected: Option<u32>,
        actor: Actor<'_>,
        mut each: impl FnMut(&Replayed),
    ) -> Result<Selected<Replayed>, BulkError> {
        let Selected { mut count, items: ids } = self.select(selection).await?;
        match expected {
            Some(expected) if expected as usize != count.selected => {
                return Err(BulkError::CountChanged { expected, found: count });
            }
            None if selection.ids.is_none() => return Err(BulkError::Unconfirmed(count)),
            _ => {}
        }
        let matched = ids.len();
        let (mut items, mut replayed) = (Vec::with_capacity(matched), 0);
        for id in ids {
            let interrupted = |source| BulkError::Interrupted { replayed, matched, source };
            let item = match bounded(self.replay_dead_letter(id, actor)).await {
                Ok(letter) => {
                    replayed += 1;
                    Replayed { letter, outcome: ItemOutcome::Replayed, reason: None }
                }
                Err(DeadLetterError::Store(error)) => return Err(interrupted(error)),
                Err(refused) => {
                    let letter = bounded(dead_letters::get(&self.pool, id)).await;
                    let letter = letter.map_err(interrupted)?;
                    let Some(letter) = letter else {
                        count.leave_out(1);
                        continue;
                    };
                    let reason = Some(refused.to_string());
                    Replayed { letter, outcome: ItemOutcome::Refused, reason }
                }
            };
            each(&item);
            items.push(item);
        }
        Ok(Selected { count, items })
    }

    async fn select(&self, selection: &Selection) -> Result<Selected<Uuid>, StoreError> {
        if let Some(ids) = &selection.ids {
            let mut seen = HashSet::new();
            let items: Vec<Uuid> = ids.iter().copied().filter(|id| seen.insert(*id)).collect();
            let count = Count { matched: items.len(), selected: items.len() };
            return Ok(Selected { count, items });
        }
        let filter = Filter {
            kind: selection.kind,
            client_id: selection.client_id,
            opened_before: selection.created_before,
            ..Filter::default()
        };
        let limit = selection.limit.min(MAX_BULK).into();
        let (matched, items) = bounded(dead_letters::open_ids(&self.pool, &filter, limit)).await?;
        Ok(Selected { count: Count { matched, selected: items.len() }, items })
    }

    async fn preview_one(
        &self,
        id: Uuid,
        circuits: &Circuits,
        deadline: Instant,
    ) -> Result<Option<Preview>, StoreError> {
        let read = async {
            let Some(letter) = dead_letters::get(&self.pool, id).await? else { return Ok(None) };
            let transaction_id = match letter.transaction_id {
                Some(transaction_id) => Some(transaction_id),
                None => provider_webhooks::named_by(&self.pool, &letter.detail).await?,
            };
            let transaction = match transaction_id {
                Some(transaction_id) => transactions::get(&self.pool, transaction_id).await?,
                None => None,
            };
            Ok::<_, StoreError>(Some((letter, transaction)))
        };
        let Some((letter, transaction)) = bounded(read).await? else { return Ok(None) };
        let transaction_id =
            letter.transaction_id.or(transaction.as_ref().map(|transaction| transaction.id));
        let (at_third_party, third_party_status) = match transaction_id {
            Some(transaction_id) if concerns_third_party(&letter) => {
                let third_party = match &transaction {
                    Some(transaction) => transaction.third_party.clone(),
                    None => dead_letter_actions::third_party_of(&letter).to_owned().into(),
                };
                let is_open = circuits.of(&third_party).state == CircuitState::Open;
                match self.third_parties.get(&third_party).filter(|_| !is_open) {
                    Some(client) => {
                        look_up_until(client, transaction_id, transaction.as_ref(), deadline).await
                    }
                    None => (AtThirdParty::NotAsked, None),
                }
            }
            _ => (AtThirdParty::NotAsked, None),
        };
        let seen = (at_third_party, third_party_status);
        let plan = plan_replay(self, &letter, transaction.as_ref(), seen);
        let call = match (plan.outcome, &transaction) {
            (ItemOutcome::Planned, Some(transaction)) => {
                bounded(self.describe_call(&letter, transaction)).await?
            }
            _ => None,
        };
        Ok(Some(Preview {
            letter,
            call,
            at_third_party,
            third_party_status,
            resulting_status: plan.status,
            effect: plan.effect,
            outcome: plan.outcome,
        }))
    }

    /// The calls that the dead letter's job makes.
    async fn describe_call(
        &self,
        letter: &DeadLetter,
        transaction: &Transaction,
    ) -> Result<Option<String>, StoreError> {
        let queue = dead_letter_actions::queue_of(letter);
        Ok(match (queue, self.third_parties.get(&transaction.third_party)) {
            (Some(JobKind::NotifyClient), _) => {
                let client = transaction.client_id;
                let callbacks = clients::callbacks(&self.pool, &[client]).await?;
                callbacks.get(&client).map(|Callback { url, .. }| {
                    format!("PUT {url} (version {})", transaction.version)
                })
            }
            (Some(JobKind::CreateAtThirdParty), Some(third_party)) => Some(format!(
                "GET {}, and if it is not there POST {}",
                third_party.lookup_url(transaction.id),
                third_party.create_url()
            )),
            (Some(JobKind::UpdateStatus), Some(third_party)) => {
                Some(format!("GET {}", third_party.lookup_url(transaction.id)))
            }
            _ => None,
        })
    }
}

async fn look_up_until(
    third_party: &ThirdPartyClient,
    id: Uuid,
    transaction: Option<&Transaction>,
    deadline: Instant,
) -> (AtThirdParty, Option<ReportedStatus>) {
    if Instant::now() >= deadline {
        return (AtThirdParty::NotAsked, None);
    }
    match tokio::time::timeout_at(deadline, look_up(third_party, id, transaction)).await {
        Ok(Ok(Lookup::Found(report))) => (AtThirdParty::Found, report.status),
        Ok(Ok(Lookup::Absent)) => (AtThirdParty::Absent, None),
        Ok(Ok(Lookup::Unclear { .. }) | Err(_)) | Err(_) => (AtThirdParty::Unanswered, None),
    }
}

async fn look_up(
    third_party: &ThirdPartyClient,
    id: Uuid,
    transaction: Option<&Transaction>,
) -> Result<Lookup, LookupError> {
    match transaction {
        Some(transaction) => third_party.look_up(id, || transaction.subject()).await,
        None => third_party.look_up_unknown(id).await,
    }
}

/// Waits for the database, but not without end.
async fn bounded<T, E: From<StoreError>>(
    query: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let timed_out = |_| StoreError::from(sqlx::Error::PoolTimedOut);
    tokio::time::timeout(DATABASE_LIMIT, query).await.map_err(timed_out)?
}

/// Whether what the third party shows matters; without a job a webhook or a contradiction opened it.
fn concerns_third_party(letter: &DeadLetter) -> bool {
    dead_letter_actions::queue_of(letter).is_none_or(JobKind::asks_third_party)
}
