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
//! Both calls ask the circuit breaker before. Denied, nothing is sent and the job is postponed
//! without an attempt; so it is after a lookup that shared in opening the circuit, or that was its
//! probe. A create never probes: only an answered lookup goes before it.
//!
//! A crash leaves the leased row; before the `POST` it is harmless, after it it is ambiguous, and
//! treated as such.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Job, JobContext,
    circuit::{Admission, FREE_PROBES, Permit},
    credentials::CreateRefusal,
    transaction_missing,
};
use crate::{
    domain::{CircuitCause, DeadLetterKind, EvidenceKind, ReportedStatus, SettledBy, Status},
    outbound::third_party::{CreateError, Lookup, LookupError, StatusReport},
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
    let id = job.transaction_id();
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
    let backoff = context.config.third_party.create_backoff;
    let is_last_lookup = job.claimed.is_last_attempt();

    let lookup_timeout = context.config.third_party.lookup_timeout;
    let longest = lookup_timeout + context.config.third_party.timeout;
    let permit = match context.circuit.pass_or_probe_create(longest).await? {
        Admission::Granted(permit) => permit,
        Admission::Denied { wait } => return Ok(Outcome::snooze(wait)),
    };
    let answer = context.third_party.look_up(id).await;
    if let Err(error) = &answer
        && error.is_unauthorized()
        && context.credentials.are_refused(&context.third_party).await
    {
        context.circuit.refuse(permit, CircuitCause::LookupRefused, &error.reason).await;
        return Ok(held(&context, job.claimed.probes, error.reason.clone()));
    }
    if answer.as_ref().is_err_and(LookupError::is_inconclusive) {
        return Ok(Outcome::snooze(queue_delay()));
    }
    let outage = answer.as_ref().err().filter(|error| error.is_outage());
    let goes_on = matches!(answer, Ok(Lookup::Absent)) && !is_last_lookup;
    // A probe that is to find out about creates has not ended with its lookup.
    let mut probe = None;
    if goes_on && permit.probes_creates() {
        probe = Some(permit);
    } else {
        context.circuit.record(permit, outage.map(|error| error.reason.as_str())).await;
    }
    if let Some(LookupError { retry_after, .. }) = outage
        && job.claimed.probes < FREE_PROBES
        && let Some(wait) = context.circuit.wait()
    {
        return Ok(Outcome::new(Next::Snooze {
            delay: wait.max(retry_after.unwrap_or_default()),
            count: Some(SnoozeCount::Probes(job.claimed.probes.saturating_add(1))),
        }));
    }

    match answer {
        Ok(Lookup::Found(report)) => return Ok(found(report)),
        Ok(Lookup::Absent) if is_last_lookup => {
            let why = "it is not at the third party after the last try";
            return give_up(&context, &job, why).await;
        }
        Ok(Lookup::Absent) => {}
        Err(error) if is_last_lookup => return last_lookup_unanswered(&context, &job, error).await,
        Err(LookupError { reason, retry_after, .. }) => {
            let delay = backoff.max(retry_after.unwrap_or_default());
            return Ok(Outcome::retry(delay, format!("the lookup got no answer: {reason}")));
        }
    }

    let permit = match probe {
        Some(probe) => probe,
        None => match context.circuit.pass().await? {
            Admission::Granted(permit) => permit,
            Admission::Denied { wait } => return Ok(Outcome::snooze(wait)),
        },
    };
    let created = context.third_party.create(id, &transaction.content(), job.lease.fence()).await;
    if let Err(CreateError::Unauthorized { reason }) = created {
        return Ok(refused(&context, &job, permit, reason).await);
    }
    if !matches!(&created, Err(error) if error.says_nothing()) {
        if matches!(created, Ok(_) | Err(CreateError::AlreadyExists | CreateError::Rejected { .. }))
        {
            context.credentials.create_taken();
        }
        let outage = created.as_ref().err().filter(|error| error.is_outage());
        context.circuit.record(permit, outage.map(ToString::to_string).as_deref()).await;
    }
    Ok(match created {
        Ok(report) => exists(EvidenceKind::CreatedAtThirdParty, report),
        Err(CreateError::AlreadyExists) => found(StatusReport::default()),
        // Frozen or cut off from the database for too long: another worker may have the job, and
        // may be past its own lookup.
        Err(CreateError::Stale) => Outcome::snooze(backoff),
        Err(CreateError::NotSent { .. }) => Outcome::snooze(queue_delay()),
        Err(CreateError::Ambiguous { reason, .. }) => ambiguous(backoff, reason),
        Err(CreateError::Unreachable { reason }) => Outcome::retry(backoff, reason),
        Err(CreateError::Busy { reason, retry_after, may_be_lost }) => {
            let delay = backoff.max(retry_after.unwrap_or_default());
            if may_be_lost { ambiguous(delay, reason) } else { Outcome::retry(delay, reason) }
        }
        Err(CreateError::Unauthorized { reason } | CreateError::Rejected { reason }) => {
            rejected(reason)
        }
    })
}

fn rejected(reason: String) -> Outcome {
    Outcome::new(Next::GiveUp {
        kind: DeadLetterKind::Rejected,
        reason: format!("the third party refused the transaction: it {reason}"),
        error: Some(reason),
    })
}

/// 401 or 403 for the create: the credentials' fault, unless the others are taken.
async fn refused(context: &JobContext, job: &Job, permit: Permit, reason: String) -> Outcome {
    let backoff = context.config.third_party.create_backoff;
    let before = job.claimed.probes;
    match context.credentials.judge_create(before, backoff) {
        CreateRefusal::Credentials => {
            context.circuit.refuse(permit, CircuitCause::CreateRefused, &reason).await;
            held(context, before, reason)
        }
        CreateRefusal::Unclear => {
            context.circuit.record(permit, None).await;
            let count = SnoozeCount::Refused { probes: before.saturating_add(1), answer: reason };
            Outcome::new(Next::Snooze { delay: backoff, count: Some(count) })
        }
        CreateRefusal::Transaction => {
            context.circuit.record(permit, None).await;
            rejected(reason)
        }
    }
}

/// Waits without an attempt until the third party takes our credentials again.
fn held(context: &JobContext, probes: u32, answer: String) -> Outcome {
    let delay = context.circuit.wait().unwrap_or(HELD);
    let count = SnoozeCount::Refused { probes, answer };
    Outcome::new(Next::Snooze { delay, count: Some(count) })
}

/// How long a job waits whose call found no place on a connection. Spread, so that those that wait
/// do not all come back at once.
fn queue_delay() -> Duration {
    QUEUE_DELAY.mul_f64(1.0 + rand::random::<f64>())
}

fn ambiguous(delay: Duration, reason: String) -> Outcome {
    let detail = json!({ "error": reason });
    Outcome::retry(delay, reason).with_evidence(EvidenceKind::CreateAmbiguous, detail)
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
fn exists(evidence: EvidenceKind, StatusReport { status, unusable }: StatusReport) -> Outcome {
    let mut detail = json!({ "status": status.map(ReportedStatus::as_str) });
    if let Some(answer) = unusable {
        detail["answer"] = answer.into();
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
