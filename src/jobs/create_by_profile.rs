//! What a create does where a profile describes the third party: which step is next, the request,
//! and what is noted of it.
//!
//! Where the next step depends on it, a create is noted before it is sent (`store::sent_creates`):
//! this is the one thing that a handler writes by itself, because after a crash nobody else knows
//! it. The third party's id is written as soon as an answer names it, for the same reason.
//!
//! What only an operator may decide ends as `exhausted`: the transaction stays as it is, because it
//! may exist.

use std::time::Duration;

use super::{
    CalledThirdParty, JobContext,
    create_run::{CreateRun, ambiguous},
    longest_calls,
};
use crate::{
    domain::{DeadLetterKind, Subject},
    outbound::{
        profile::{PreparedCreate, ProfileClient},
        third_party::{CreateError, Lookup, LookupError, StatusReport},
    },
    profiles::{CreateStep, LookupMeans, RenderError, Sent},
    store::{
        StoreError,
        jobs::outcomes::{Next, Outcome},
        sent_creates::{self, LearnedId, NotedCreate, SentCreates},
        transactions::Transaction,
    },
};

/// The creates of a transaction so far, as the profile's rules need them.
#[derive(Debug, Default)]
pub(super) struct History {
    pub sent: Sent,
    stored: Option<SentCreates>,
}

impl History {
    /// Of Quartet's own contract nothing needs to be known: its lookups say everything.
    pub async fn read(
        context: &JobContext,
        party: &CalledThirdParty,
        transaction: &Transaction,
    ) -> Result<Self, StoreError> {
        let Some(client) = party.client.profile() else { return Ok(Self::default()) };
        let stored = match client.profile().depends_on_sent_creates() {
            true => sent_creates::get(&context.pool, transaction.id).await?,
            false => None,
        };
        let longest = longest_calls(&party.settings, party.settings.timeout);
        let sent = Sent {
            since_first: stored.as_ref().map(|stored| stored.since_first),
            // From when it had certainly left, and not from before its token and its connection.
            since_last: stored.as_ref().map(|stored| stored.since_last.saturating_sub(longest)),
            has_provider_id: transaction.provider_id.is_some(),
        };
        Ok(Self { sent, stored })
    }

    /// How a try begins.
    pub fn begin(&self, party: &CalledThirdParty) -> CreateStep {
        match party.client.profile() {
            Some(client) => client.profile().begin_create(&self.sent),
            None => CreateStep::LookUp,
        }
    }

    /// How it goes on after a lookup.
    pub fn after_lookup(
        &self,
        party: &CalledThirdParty,
        answer: &Result<Lookup, LookupError>,
    ) -> CreateStep {
        let means = match answer {
            Ok(Lookup::Found(_)) => LookupMeans::Found,
            Ok(Lookup::Absent) => LookupMeans::Absent,
            Ok(Lookup::Unclear { .. }) => LookupMeans::Unclear,
            Err(_) => LookupMeans::NoAnswer,
        };
        match (party.client.profile(), means) {
            (Some(client), means) => client.profile().after_lookup(&self.sent, means),
            (None, LookupMeans::Found) => CreateStep::Done,
            (None, LookupMeans::Absent) => CreateStep::Post,
            (None, _) => CreateStep::Wait,
        }
    }

    /// How long ago the last create was sent.
    pub fn since_create(&self) -> Option<Duration> {
        self.sent.since_last
    }
}

/// A create that ended, and what was noted of it.
pub(super) struct Created {
    pub answer: Result<StatusReport, CreateError>,
    noted: Option<NotedCreate>,
}

/// Sends a create, or says how the run ends without one.
pub(super) async fn send(
    run: &CreateRun<'_>,
    history: &History,
    step: CreateStep,
    client: &ProfileClient,
) -> Result<Result<Created, Outcome>, StoreError> {
    let CreateRun { context, party, job, transaction, turn } = *run;
    let prepared = match prepare(run, history, step, client) {
        Ok(prepared) => prepared,
        Err(outcome) => return Ok(Err(*outcome)),
    };
    let mut noted = None;
    if client.profile().depends_on_sent_creates() {
        let is_repeated = client.profile().repeats_creates();
        let keys = &context.config.secrets.master_keys;
        let sealed = is_repeated.then(|| keys.seal_request(transaction.id, prepared.to_bytes()));
        let within = client.profile().repeat_within();
        let note =
            sent_creates::note(&context.pool, transaction.id, sealed.as_deref(), within).await?;
        // Another worker has sent one since this one looked: that one's bytes are to be repeated.
        if step == CreateStep::Post && is_repeated && !note.is_first {
            return Ok(Err(Outcome::snooze(party.settings.create_backoff)));
        }
        noted = Some(note);
    }
    let fence = job.lease.fence();
    let third_party = &party.client;
    let id = transaction.id;
    let answer = third_party.create_by_profile(client, id, &prepared, turn, fence).await;
    Ok(Ok(Created { answer, noted }))
}

fn prepare(
    run: &CreateRun<'_>,
    history: &History,
    step: CreateStep,
    client: &ProfileClient,
) -> Result<PreparedCreate, Box<Outcome>> {
    let CreateRun { context, party, transaction, .. } = *run;
    let id = transaction.id;
    let subject = Subject { since_create: history.since_create(), ..transaction.subject() };
    if step != CreateStep::Repeat {
        let prepared = party.client.prepare(client, id, &subject);
        return prepared.map_err(|why| Box::new(unsendable(party, &why)));
    }
    let unrepeatable = |why: &str| Box::new(operator(&format!("it may exist, and {why}")));
    let stored = history.stored.as_ref().and_then(|stored| stored.request.as_deref());
    let first = match stored {
        Some(stored) => context.config.secrets.master_keys.open_request(id, stored),
        None => return Err(unrepeatable("its first request is not kept any more")),
    };
    let first =
        first.map_err(|why| unrepeatable(&format!("its first request cannot be opened: {why}")))?;
    let prepared = party.client.repeat(client, id, &subject, &first);
    prepared.map_err(|why| unrepeatable(&format!("cannot be repeated: {why}")))
}

/// The request cannot be made, and nothing was sent.
fn unsendable(party: &CalledThirdParty, why: &RenderError) -> Outcome {
    if why.is_configuration() {
        tracing::error!(%why, "no request to the third party can be made");
        return Outcome::snooze(party.settings.create_backoff);
    }
    Outcome::new(Next::GiveUp {
        kind: DeadLetterKind::Rejected,
        reason: format!("the transaction cannot be sent to the third party: {why}"),
        error: Some(why.to_string()),
    })
}

/// The end of a create that a machine must not decide.
pub(super) fn operator(why: &str) -> Outcome {
    Outcome::new(Next::Dead {
        kind: DeadLetterKind::Exhausted,
        reason: format!("an operator must decide about the create: {why}"),
        error: Some(why.to_owned()),
    })
}

impl Created {
    /// Forgets the note of a create that certainly did not go through. Where that fails it is taken
    /// to have gone through, which is safe.
    pub async fn forget_unless_sent(&self, context: &JobContext, transaction: &Transaction) {
        let is_certain = match &self.answer {
            Err(
                CreateError::Stale
                | CreateError::NotSent { .. }
                | CreateError::Unreachable { .. }
                | CreateError::Unauthorized { .. }
                | CreateError::NoToken { .. }
                | CreateError::Rejected { .. },
            ) => true,
            Err(CreateError::Busy { may_be_lost, .. }) => !may_be_lost,
            _ => false,
        };
        let Some(noted) = self.noted.filter(|noted| is_certain && noted.is_first) else { return };
        if let Err(error) = sent_creates::forget(&context.pool, transaction.id, noted).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a create that was not sent stays noted");
        }
    }
}

/// Writes the third party's id. `Some`: how the run ends where that is not possible.
pub(super) async fn learn(run: &CreateRun<'_>, report: &StatusReport) -> Option<Outcome> {
    let CreateRun { context, party, transaction, .. } = *run;
    let provider_id = report.provider_id.as_deref()?;
    if transaction.provider_id.as_deref() == Some(provider_id) {
        return None;
    }
    match sent_creates::learn_provider_id(&context.pool, transaction.id, provider_id).await {
        Ok(LearnedId::Known) => None,
        Ok(LearnedId::Other(known)) => Some(operator(&format!(
            "the third party answered with its id {provider_id}, and has named it {known} before: \
             there may be two"
        ))),
        Ok(LearnedId::Taken) => Some(operator(&format!(
            "the third party answered with its id {provider_id}, which is another transaction's"
        ))),
        Err(error) => {
            let backoff = party.settings.create_backoff;
            let why = format!("its id there, {provider_id}, could not be stored: {error}");
            Some(ambiguous(backoff, None, why))
        }
    }
}
