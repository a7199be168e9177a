//! Job 2: creates the transaction at the third party, without ever asking twice for an id that its
//! lookup shows.
//!
//! A try is a lookup and, if the id is absent there, a `POST`. An ambiguous answer (504, timeout,
//! broken connection, 5xx) is neither a failure nor a success: after `create_backoff` the next try
//! looks the id up first. After the last try it waits once more and looks up a last time, because
//! a third party may store a timed-out transaction minutes late; only then it gives up.
//!
//! Attempts 1 to `create_retries + 1` are tries, the one after them is the last lookup. A lease
//! that was lost costs a try and waits `create_backoff` from the rescue (`store::jobs::leases`).
//!
//! A call that found no place on a connection was not sent: the job is postponed without using an
//! attempt, and the circuit counts nothing.
//!
//! Where the third party has a budget of calls, a run begins only where a call is likely free soon;
//! else the job is postponed in the same way. The create goes next after its lookup.
//!
//! Where a profile describes the third party its rules say what comes next (`create_by_profile`):
//! one that cannot be looked up by our id is posted to at once, and an ambiguous create repeated
//! byte for byte.
//!
//! Both calls ask the circuit breaker before. If it denies the call, nothing is sent and the job is
//! postponed without using an attempt. The same holds, up to `FREE_PROBES` times in a row, if the
//! lookup fails as an outage and the circuit is open then. The probe is the lookup, except where
//! creates alone are refused (401, 403) or no lookup by our id exists: there the create itself
//! probes.
//!
//! A crash leaves the leased row; before the `POST` it is harmless, after it it is ambiguous, and
//! treated as such.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    CalledThirdParty, Job, JobContext,
    circuit::{CircuitAdmission, FREE_PROBES, Permit},
    create_by_profile::{self, History},
    create_run::{CreateRun, ambiguous},
    credentials::CreateRefusal,
    transaction_missing,
};
use crate::{
    domain::{
        CircuitCause, DeadLetterKind, EvidenceKind, ReportedStatus, SettledBy, Status, Subject,
    },
    outbound::third_party::{CreateError, Lookup, LookupError, StatusReport},
    profiles::{CreateMeans, CreateStep},
    store::{
        StoreError, evidence, jobs,
        jobs::outcomes::{Next, Outcome, SnoozeCount},
        transactions::Transaction,
    },
};

/// The shortest wait of a job whose call found no place on a connection.
const QUEUE_DELAY: Duration = Duration::from_secs(1);

/// The first try, the retries, and the last lookup.
pub fn max_attempts(create_retries: u32) -> u32 {
    create_retries + 2
}

/// The wait of a job that is held, where the circuit does not say one.
const HELD: Duration = Duration::from_secs(1);

/// Runs the job.
pub async fn run(context: Arc<JobContext>, job: Job) -> Result<Outcome, StoreError> {
    let Some(transaction) = job.transaction() else {
        return Ok(transaction_missing(&context, &job));
    };
    if needs_no_create(transaction) {
        return Ok(Outcome::done());
    }
    // Any column: nobody can say what else of such a row is not as it was accepted.
    if let Some(unreadable) = transaction.unreadable.first() {
        return Ok(super::unreadable(unreadable));
    }
    let party = match context.third_parties.of(transaction) {
        Ok(party) => party,
        Err(missing) => {
            let outcome = waiting(missing.wait, job.claimed.probes, missing.answer());
            return Ok(missing.mark(outcome));
        }
    };
    let turn = match party.client.turn(transaction.client_id) {
        Ok(turn) => turn,
        Err(wait) => return Ok(waiting(wait, job.claimed.probes, party.over_budget())),
    };
    let _place = match party.creates.take(transaction.client_id) {
        Ok(place) => place,
        Err(wait) => return Ok(Outcome::snooze(wait)),
    };
    let history = History::read(&context, &party, transaction).await?;
    let this = CreateRun { context: &context, party: &party, job: &job, transaction, turn: &turn };
    match history.begin(&party) {
        CreateStep::LookUp => match this.look_up_first(&history).await? {
            LookedUp::Ended(outcome) => Ok(*outcome),
            LookedUp::Absent(permit) => this.create(&history, CreateStep::Post, permit).await,
        },
        CreateStep::Post if job.claimed.is_last_attempt() => {
            give_up(&context, &job, "none of them was sent").await
        }
        step @ (CreateStep::Post | CreateStep::Repeat) => {
            // There is no lookup that could find out whether the third party answers again.
            let longest = super::longest_calls(&party.settings, party.settings.timeout);
            match party.circuit.pass_or_probe_create(longest).await? {
                CircuitAdmission::Granted(permit) => this.create(&history, step, permit).await,
                CircuitAdmission::Denied { wait } => Ok(Outcome::snooze(wait)),
            }
        }
        CreateStep::Operator(why) => Ok(create_by_profile::operator(why)),
        // No try begins so.
        CreateStep::Done | CreateStep::Refused | CreateStep::Wait | CreateStep::Hold => {
            Ok(Outcome::retry(party.settings.create_backoff, "nothing to do"))
        }
    }
}

/// What the lookup before a create comes to.
enum LookedUp {
    /// The run ends with it.
    Ended(Box<Outcome>),
    /// It is not there: it may be created with this permit.
    Absent(Permit),
}

impl From<Outcome> for LookedUp {
    fn from(outcome: Outcome) -> Self {
        Self::Ended(Box::new(outcome))
    }
}

impl CreateRun<'_> {
    async fn look_up_first(&self, history: &History) -> Result<LookedUp, StoreError> {
        let Self { context, party, job, transaction, turn } = *self;
        let id = transaction.id;
        let third_party = &party.settings;
        let backoff = third_party.create_backoff;
        let is_last_lookup = job.claimed.is_last_attempt();

        let longest =
            third_party.lookup_timeout + third_party.timeout + super::longest_wait(third_party);
        let permit = match party.circuit.pass_or_probe_create(longest).await? {
            CircuitAdmission::Granted(permit) => permit,
            CircuitAdmission::Denied { wait } => return Ok(Outcome::snooze(wait).into()),
        };
        let subject = || Subject { since_create: history.since_create(), ..transaction.subject() };
        let answer = party.client.look_up_in_turn(id, subject, turn).await;
        if answer.is_ok() {
            party.credentials.lookup_taken();
        }
        if let Err(error) = &answer
            && error.is_unauthorized()
            && party.credentials.are_refused(error, &party.client).await
        {
            party.circuit.refuse(permit, CircuitCause::LookupRefused, &error.reason).await;
            return Ok(held(party, job.claimed.probes, error.reason.clone()).into());
        }
        if answer.as_ref().is_err_and(LookupError::is_over_budget) {
            let wait = party.over_budget_wait();
            return Ok(waiting(wait, job.claimed.probes, party.over_budget()).into());
        }
        if answer.as_ref().is_err_and(LookupError::is_inconclusive) {
            return Ok(Outcome::snooze(queue_delay()).into());
        }
        let next = history.after_lookup(party, &answer);
        let outage = answer.as_ref().err().filter(|error| error.is_outage());
        let goes_on = next == CreateStep::Post && !is_last_lookup;
        // A probe that is to find out about creates has not ended with its lookup.
        let mut probe = None;
        if goes_on && permit.probes_creates() {
            probe = Some(permit);
        } else {
            party.circuit.record(permit, outage.map(|error| error.reason.as_str())).await;
        }
        if let Some(LookupError { retry_after, .. }) = outage
            && job.claimed.probes < FREE_PROBES
            && let Some(wait) = party.circuit.wait()
        {
            let outcome = Outcome::new(Next::Snooze {
                delay: wait.max(retry_after.unwrap_or_default()),
                count: Some(SnoozeCount::Probes(job.claimed.probes.saturating_add(1))),
            });
            return Ok(outcome.into());
        }

        match (answer, next) {
            (Ok(Lookup::Found(report)), _) => {
                let ended = create_by_profile::learn(self, &report).await;
                return Ok(ended.unwrap_or_else(|| found(report)).into());
            }
            (Ok(Lookup::Unclear { reason }), CreateStep::Operator(why)) => {
                return Ok(create_by_profile::operator(&format!("{why}: it {reason}")).into());
            }
            (_, CreateStep::Operator(why)) => return Ok(create_by_profile::operator(why).into()),
            (Ok(Lookup::Absent), _) if is_last_lookup => {
                let why = "it is not at the third party after the last try";
                return Ok(give_up(context, job, why).await?.into());
            }
            (Ok(Lookup::Absent), CreateStep::Post) => {}
            // Its id there is known, so that it exists.
            (Err(error), _) if is_last_lookup && history.sent.has_provider_id => {
                return Ok(Outcome::retry(Duration::ZERO, error.to_string()).into());
            }
            (Err(error), _) if is_last_lookup => {
                return Ok(last_lookup_unanswered(context, job, error).await?.into());
            }
            (Err(LookupError { reason, retry_after, .. }), _) => {
                let delay = backoff.max(retry_after.unwrap_or_default());
                let why = format!("the lookup got no answer: {reason}");
                return Ok(Outcome::retry(delay, why).into());
            }
            (Ok(Lookup::Absent | Lookup::Unclear { .. }), _) => {
                return Ok(Outcome::retry(backoff, "the lookup is not clear").into());
            }
        }

        Ok(match probe {
            Some(probe) => LookedUp::Absent(probe),
            None => match party.circuit.pass().await? {
                CircuitAdmission::Granted(permit) => LookedUp::Absent(permit),
                CircuitAdmission::Denied { wait } => Outcome::snooze(wait).into(),
            },
        })
    }

    async fn create(
        &self,
        history: &History,
        step: CreateStep,
        permit: Permit,
    ) -> Result<Outcome, StoreError> {
        let Self { context, party, job, transaction, turn } = *self;
        let backoff = party.settings.create_backoff;
        let created = match party.client.profile() {
            None => {
                let (id, content) = (transaction.id, transaction.content());
                party.client.create(id, &content, turn, job.lease.fence()).await
            }
            Some(client) => {
                let sent = create_by_profile::send(self, history, step, client).await?;
                match sent {
                    Ok(created) => {
                        created.forget_unless_sent(context, transaction).await;
                        created.answer
                    }
                    Err(outcome) => return Ok(outcome),
                }
            }
        };
        match created {
            Err(CreateError::NoToken { reason }) => return Ok(self.hold(permit, reason).await),
            Err(CreateError::Unauthorized { reason }) => {
                return self.refused(history, permit, reason).await;
            }
            _ => {}
        }
        if !matches!(&created, Err(error) if error.says_nothing()) {
            if matches!(
                created,
                Ok(_) | Err(CreateError::AlreadyExists(_) | CreateError::Rejected { .. })
            ) {
                party.credentials.create_taken();
            }
            let outage = created.as_ref().err().filter(|error| error.is_outage());
            party.circuit.record(permit, outage.map(ToString::to_string).as_deref()).await;
        }
        if let Ok(report) | Err(CreateError::AlreadyExists(report)) = &created
            && let Some(ended) = create_by_profile::learn(self, report).await
        {
            return Ok(ended);
        }
        Ok(match created {
            Ok(report) => exists(EvidenceKind::CreatedAtThirdParty, report),
            Err(CreateError::AlreadyExists(report)) => found(report),
            Err(CreateError::Unclear { reason }) => {
                create_by_profile::operator(&format!("something exists there: it {reason}"))
            }
            // Frozen or cut off from the database for too long: another worker may have the job, and
            // may be past its own lookup.
            Err(CreateError::Stale) => Outcome::snooze(backoff),
            Err(CreateError::NotSent { .. }) => Outcome::snooze(queue_delay()),
            Err(CreateError::Ambiguous { reason, .. }) => ambiguous(backoff, None, reason),
            Err(CreateError::Unreachable { reason } | CreateError::NoToken { reason }) => {
                Outcome::retry(backoff, reason)
            }
            Err(CreateError::Busy { reason, retry_after, may_be_lost, .. }) => match may_be_lost {
                true => ambiguous(backoff, retry_after, reason),
                false => Outcome::retry(backoff.max(retry_after.unwrap_or_default()), reason),
            },
            Err(CreateError::Unauthorized { reason } | CreateError::Rejected { reason }) => {
                return self.rejected_after(history, reason).await;
            }
        })
    }

    /// Refused, which is final unless an earlier create may have gone through: it may be refused for
    /// that one's sake, in words that the profile does not know.
    async fn rejected_after(
        &self,
        history: &History,
        reason: String,
    ) -> Result<Outcome, StoreError> {
        let Self { context, party, transaction, .. } = *self;
        let Some(client) = party.client.profile() else { return Ok(rejected(reason)) };
        let next = client.profile().after_create(&history.sent, CreateMeans::Refused);
        if let CreateStep::Operator(why) = next {
            return Ok(create_by_profile::operator(&format!("{why}: it {reason}")));
        }
        if evidence::has_ambiguous_create(&context.pool, transaction.id).await? {
            let backoff = party.settings.create_backoff;
            let why = format!("an earlier create may exist, and this one {reason}");
            return Ok(ambiguous(backoff, None, why));
        }
        Ok(rejected(reason))
    }

    /// Our credentials are refused for creates: holds them all, without an attempt.
    async fn hold(&self, permit: Permit, reason: String) -> Outcome {
        let Self { party, job, .. } = *self;
        party.circuit.refuse(permit, CircuitCause::CreateRefused, &reason).await;
        held(party, job.claimed.probes, reason)
    }

    /// 401, 403 or 407 for the create: the credentials' fault, unless the others are taken.
    async fn refused(
        &self,
        history: &History,
        permit: Permit,
        reason: String,
    ) -> Result<Outcome, StoreError> {
        let Self { party, job, .. } = *self;
        let backoff = party.settings.create_backoff;
        let before = job.claimed.probes;
        Ok(match party.credentials.judge_create(before, backoff) {
            CreateRefusal::Credentials => self.hold(permit, reason).await,
            CreateRefusal::Unclear => {
                party.circuit.record(permit, None).await;
                let count =
                    SnoozeCount::Refused { probes: before.saturating_add(1), answer: reason };
                Outcome::new(Next::Snooze { delay: backoff, count: Some(count) })
            }
            CreateRefusal::Transaction => {
                party.circuit.record(permit, None).await;
                self.rejected_after(history, reason).await?
            }
        })
    }
}

fn rejected(reason: String) -> Outcome {
    Outcome::new(Next::GiveUp {
        kind: DeadLetterKind::Rejected,
        reason: format!("the third party refused the transaction: it {reason}"),
        error: Some(reason),
    })
}

/// Waits without an attempt until the third party takes our credentials again.
fn held(party: &CalledThirdParty, probes: u32, answer: String) -> Outcome {
    waiting(party.circuit.wait().unwrap_or(HELD), probes, answer)
}

/// Waits without an attempt, and says why.
fn waiting(delay: Duration, probes: u32, answer: String) -> Outcome {
    let count = SnoozeCount::Refused { probes, answer };
    Outcome::new(Next::Snooze { delay, count: Some(count) })
}

/// How long a job waits whose call found no place on a connection. Spread, so that those that wait
/// do not all come back at once.
fn queue_delay() -> Duration {
    QUEUE_DELAY.mul_f64(1.0 + rand::random::<f64>())
}

/// The third party has reported a final status, so it has it; or an operator has decided how it
/// ended, so that it must not be sent any more.
fn needs_no_create(transaction: &Transaction) -> bool {
    matches!(
        transaction.settled_by,
        Some(
            SettledBy::ThirdPartyResponse
                | SettledBy::Poll
                | SettledBy::Webhook
                | SettledBy::Operator
        )
    )
}

fn found(report: StatusReport) -> Outcome {
    exists(EvidenceKind::FoundAtThirdParty, report)
}

/// It is there, so that at least `pending` is reported: the transaction may have been called failed
/// meanwhile, which that contradicts.
fn exists(evidence: EvidenceKind, report: StatusReport) -> Outcome {
    let StatusReport { status, unusable, provider_id, rule, profile_hash } = report;
    let mut detail = json!({ "status": status.map(ReportedStatus::as_str) });
    let more = [
        ("answer", unusable),
        ("provider_id", provider_id),
        ("rule", rule),
        ("profile", profile_hash),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            detail[name] = value.into();
        }
    }
    let status = status.map_or(Status::Pending, Status::from);
    Outcome::done()
        .with_evidence(evidence, detail)
        .with_report(status, SettledBy::ThirdPartyResponse)
}

async fn give_up(context: &JobContext, job: &Job, reason: &str) -> Result<Outcome, StoreError> {
    let last = jobs::last_error(&context.pool, &job.claimed.lease.job_id).await?;
    let last = last.map(|error| format!("; the last try: {error}")).unwrap_or_default();
    let tries = job.claimed.attempts;
    Ok(Outcome::new(Next::GiveUp {
        kind: DeadLetterKind::CreationFailure,
        reason: format!("{tries} tries to create it are used up, and {reason}{last}"),
        error: None,
    }))
}

/// No answer to the last lookup. If every try ended before the `POST` was sent, the transaction
/// cannot be there; otherwise it may be, and it would be wrong to call it failed.
async fn last_lookup_unanswered(
    context: &JobContext,
    job: &Job,
    error: LookupError,
) -> Result<Outcome, StoreError> {
    if evidence::has_ambiguous_create(&context.pool, job.transaction_id()).await? {
        let reason = format!("the third party may have it; {error}");
        return Ok(Outcome::retry(Duration::ZERO, reason));
    }
    give_up(context, job, &format!("it was never sent: {error}")).await
}
