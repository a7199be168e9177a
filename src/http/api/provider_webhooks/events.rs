//! What the events of a webhook do, each with an outcome of its own.
//!
//! - A final word that is proved settles, through the same writer as every webhook: repeats are
//!   recognised there, and events that wait together are written in one SQL transaction.
//! - One that contradicts what the client posted settles nothing, and is an operator's.
//! - An event that proves nothing, or has no final word, makes the transaction's poll due. Where the
//!   transaction has ended here otherwise, reconciliation looks it up again: a payment may have been
//!   taken back.
//! - One that names the third party's id alone, which no transaction has yet, is kept until one has
//!   it ([`super::waiting`]). If nothing proves who sent it, it is not kept: the poll finds out.
//! - One that cannot be used is kept among the rejected webhooks, and stops none of the others.
//!
//! Everything here may be done twice: where one event cannot be stored the whole webhook is answered
//! with 503, and the third party sends it again.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use poem::Request;
use sha2::{Digest, Sha256};
use tracing::{Span, field::display};
use uuid::Uuid;

use super::ProviderWebhooks;
use crate::{
    domain::{JobKind, ReportedStatus, Status, ThirdPartyName},
    http::{ApiState, api::webhooks, problem::Problem},
    profiles::webhook::{About, Claim, Event, EventProblem, MAX_ID_CHARS, Report, Trust},
    store::{
        jobs::hinted_polls,
        provider_webhooks::{self, WaitingWebhook},
        reconcile,
        rejected_webhooks::WebhookRejection,
        sent_creates, transactions,
        webhooks::{Compared, Comparison, Webhook},
    },
    telemetry::labels::WebhookResult,
};

/// What an event says, whatever it is about.
#[derive(Debug)]
struct Said {
    /// What a repeat has in common with it; `None`: repeats are not recognised.
    webhook_id: Option<String>,
    /// `Pending` where it has no word, or one that is not known.
    status: ReportedStatus,
    /// What of the profile decided that.
    rule: String,
    claims: Vec<Claim>,
    /// Whether the profile knows its word. What it does not know may be about something else of the
    /// same transaction, such as a refund, whose id is another one.
    has_known_word: bool,
}

/// What an event says about a transaction of ours.
#[derive(Debug)]
pub(super) struct Reported {
    said: Said,
    transaction_id: Uuid,
    /// The third party's id, where it names that too.
    provider_id: Option<String>,
}

/// What makes a poll of a transaction due, with its status; `None` where it has no word that is known.
type Hint = (Uuid, Option<Status>);

/// Deals with the events of one webhook. An error means that it should be sent again.
pub(super) async fn receive(
    state: &ApiState,
    webhooks: &ProviderWebhooks,
    request: &Request,
    events: Vec<Event>,
) -> Result<(), Problem> {
    let (mut reported, mut by_provider_id) = (Vec::new(), Vec::new());
    for event in events {
        let Event { event_id, dedupe_key, claims, report, .. } = event;
        match report {
            Ok(report) => {
                let said = Said::new(webhooks, dedupe_key, &report, claims);
                match report.about {
                    About::Id(id) => reported.push(said.about(id, None)),
                    About::Both { id, provider_id } => {
                        reported.push(said.about(id, Some(provider_id)));
                    }
                    About::ProviderId(provider_id) => by_provider_id.push((said, provider_id)),
                }
            }
            Err(problem) => {
                let detail = format!("{}: {problem}", webhooks.name());
                let (id, reason) = (event_id.as_deref(), reason(&problem));
                state.rejected_webhooks.note_event(request, id, reason, &detail);
                state.metrics.webhook(WebhookResult::Invalid);
            }
        }
    }
    let provider_ids: Vec<String> = by_provider_id.iter().map(|(_, id)| id.clone()).collect();
    let ids = provider_webhooks::ids_of(&state.pool, &webhooks.third_party, &provider_ids);
    let ids = state.within_limit(ids).await?;
    let mut waiting = Vec::new();
    for (said, provider_id) in by_provider_id {
        match ids.get(&provider_id) {
            Some(id) => reported.push(said.about(*id, Some(provider_id))),
            // Anybody may have sent it, so it must not leave a row.
            None if !webhooks.receiver.needs_key() => state.metrics.webhook(WebhookResult::Hint),
            None => waiting.push(said.waiting(webhooks, provider_id)),
        }
    }
    state.within_limit(provider_webhooks::keep(&state.pool, &waiting)).await?;
    waiting.iter().for_each(|_| state.metrics.webhook(WebhookResult::Waiting));
    if let [only] = &reported[..] {
        Span::current().record("transaction_id", display(only.transaction_id));
    }
    apply(state, webhooks, reported).await
}

/// Applies what is about transactions of ours. An error means that it should be applied again.
pub(super) async fn apply(
    state: &ApiState,
    webhooks: &ProviderWebhooks,
    reported: Vec<Reported>,
) -> Result<(), Problem> {
    let settles = webhooks.receiver.trust == Trust::Settle;
    // Whose id at the third party may be new.
    let names_another_id = |reported: &&Reported| {
        settles && reported.provider_id.is_some() && reported.said.has_known_word
    };
    let ids = reported.iter().filter(names_another_id).map(|reported| reported.transaction_id);
    let ids: Vec<Uuid> = ids.collect();
    let mut transactions = state.within_limit(transactions::get_all(&state.pool, &ids)).await?;
    // What another third party creates is none of this one's business.
    transactions.retain(|_, known| known.third_party == webhooks.third_party);
    let (mut settling, mut hints) = (Vec::new(), Vec::new());
    for Reported { said, transaction_id, provider_id } in reported {
        let Said { webhook_id, status, rule, claims, has_known_word } = said;
        let said = Status::from(status);
        // Without an id a repeat cannot be recognised: it settles nothing.
        let webhook_id = webhook_id.filter(|_| settles);
        if !said.is_final() || webhook_id.is_none() {
            hints.push((transaction_id, has_known_word.then_some(said)));
        }
        let Some(webhook_id) = webhook_id else {
            state.metrics.webhook(WebhookResult::Hint);
            continue;
        };
        let claimed = claimed(&claims);
        let compared = Compared {
            profile: webhooks.profile.name().to_owned(),
            provider_id: provider_id.clone(),
            claims: Claim::write_all(&claims),
        };
        let mut comparison = webhooks.comparison(provider_id.clone(), claims);
        if let (Some(current), Some(provider_id)) = (transactions.get(&transaction_id), provider_id)
            && current.provider_id.is_none()
            && has_known_word
            && comparison.contradiction(current).is_none()
        {
            // From then on its create is never repeated.
            if let Some(why) = learn(state, transaction_id, &provider_id).await? {
                comparison = Comparison::new(move |_| Some(why.clone()));
            }
        }
        settling.push(Webhook {
            webhook_id,
            third_party: webhooks.third_party.clone(),
            transaction_id,
            status,
            rule: Some(rule),
            claims: claimed,
            compared: Some(compared),
            comparison: Some(comparison),
        });
    }
    // Together, so that the writer takes them together.
    let writes =
        settling.into_iter().map(|webhook| state.within_limit(state.webhooks.submit(webhook)));
    let mut failed = None;
    for received in join_all(writes).await {
        match received {
            Ok(received) => webhooks::note(state, received),
            Err(problem) => failed = Some(problem),
        }
    }
    if let Some(problem) = failed {
        return Err(problem);
    }
    follow(state, webhooks, &hints).await
}

/// Writes the third party's id of a transaction that has none; says why that is not possible.
async fn learn(
    state: &ApiState,
    transaction_id: Uuid,
    provider_id: &str,
) -> Result<Option<String>, Problem> {
    let learn = sent_creates::learn_provider_id(&state.pool, transaction_id, provider_id);
    Ok(state.within_limit(learn).await?.contradiction(provider_id))
}

/// `; /data/amount is "1250"`.
fn claimed(claims: &[Claim]) -> String {
    claims.iter().map(|Claim { at, found, .. }| format!("; {at} is {found:?}")).collect()
}

/// Makes the polls of these transactions due, as far as hints may, and has those looked up again that
/// have ended here and are said to have ended otherwise.
async fn follow(
    state: &ApiState,
    webhooks: &ProviderWebhooks,
    hints: &[Hint],
) -> Result<(), Problem> {
    let third_party = &webhooks.third_party;
    let ids: Vec<Uuid> = hints.iter().map(|(id, _)| *id).collect();
    let movable = hinted_polls::movable(&state.pool, third_party, &ids);
    let movable = state.within_limit(movable).await?;
    let others: Vec<Hint> = hints.iter().copied().filter(|(id, _)| !movable.contains(id)).collect();
    state.within_limit(reconcile::look_again(&state.pool, third_party, &others)).await?;
    let now = Instant::now();
    let paced = movable.into_iter().map_while(|id| Some((id, webhooks.hint_pace.take(now)?)));
    let paced: Vec<(Uuid, Duration)> = paced.collect();
    for (run_at, delay) in state.within_limit(hinted_polls::hint(&state.pool, &paced)).await? {
        state.announcer.announce(JobKind::UpdateStatus.as_str(), run_at, delay);
    }
    Ok(())
}

impl Said {
    fn new(
        webhooks: &ProviderWebhooks,
        dedupe_key: Option<String>,
        report: &Report,
        claims: Vec<Claim>,
    ) -> Self {
        let word = webhooks.profile.read_event(report);
        if let Some(word) = word.as_ref().filter(|word| word.meaning.is_none()) {
            let third_party = webhooks.name();
            tracing::warn!(third_party, word = word.word, "a webhook has an unknown status");
        }
        Self {
            webhook_id: dedupe_key
                .map(|key| webhook_id(&webhooks.third_party, webhooks.name(), &key)),
            status: word.as_ref().map_or(ReportedStatus::Pending, |word| word.reported()),
            rule: webhooks.profile.event_rule(word.as_ref()),
            has_known_word: word.is_some_and(|word| word.meaning.is_some()),
            claims,
        }
    }

    fn about(self, transaction_id: Uuid, provider_id: Option<String>) -> Reported {
        Reported { said: self, transaction_id, provider_id }
    }

    fn waiting(self, webhooks: &ProviderWebhooks, provider_id: String) -> WaitingWebhook {
        let Self { webhook_id: id, status, rule, claims, .. } = self;
        // Hints about the same id say the same.
        let hint = || {
            let key = format!("hint:{provider_id}");
            webhook_id(&webhooks.third_party, webhooks.name(), &key)
        };
        WaitingWebhook {
            webhook_id: id.unwrap_or_else(hint),
            third_party: webhooks.third_party.to_string(),
            profile: webhooks.profile.name().to_owned(),
            // What proves nothing now proves nothing later, however the profile has changed.
            status: match webhooks.receiver.trust {
                Trust::Settle => status,
                _ => ReportedStatus::Pending,
            },
            rule,
            claims: Claim::write_all(&claims),
            provider_id,
        }
    }
}

impl Reported {
    /// What has waited for `transaction_id`.
    pub(super) fn waited(waiting: WaitingWebhook, transaction_id: Uuid) -> Option<Self> {
        let said = Said {
            webhook_id: Some(waiting.webhook_id),
            status: waiting.status,
            rule: waiting.rule,
            claims: Claim::read_all(&waiting.claims)?,
            // A hint waits without its word.
            has_known_word: waiting.status != ReportedStatus::Pending,
        };
        Some(said.about(transaction_id, Some(waiting.provider_id)))
    }
}

/// Between the name of a third party and its own key. It is no ASCII, which `webhook-id` headers
/// are: no id of the one without a name equals a key of another.
const NAMED: &str = "›";

/// An event's dedupe key among the webhooks of all third parties; the one without a name is called
/// by its profile's `name`.
pub fn webhook_id(third_party: &ThirdPartyName, name: &str, key: &str) -> String {
    let separator = if third_party.is_default() { ":" } else { NAMED };
    let id = format!("{name}{separator}{key}");
    if id.chars().count() <= MAX_ID_CHARS {
        return id;
    }
    format!("{name}{separator}sha256:{}", hex::encode(Sha256::digest(key)))
}

/// The word under which operators find an event that cannot be used.
fn reason(problem: &EventProblem) -> WebhookRejection {
    match problem {
        EventProblem::NotOurs { .. } => WebhookRejection::NotOurs,
        EventProblem::NotSigned(_) => WebhookRejection::BodyNotSigned,
        EventProblem::RepeatedHeader(_) => WebhookRejection::RepeatedHeader,
        EventProblem::Missing(_)
        | EventProblem::Field { .. }
        | EventProblem::TooLong { .. }
        | EventProblem::ControlCharacters(_)
        | EventProblem::AmbiguousFields => WebhookRejection::BadFields,
    }
}
