//! Job 3: finds out how the transaction ended, by polling.
//!
//! Polls at accept + `first`, then + `second`, then exponentially up to `max_delay`, until a final
//! status, a webhook (which ends this job in its own SQL transaction) or the deadline. Waits under
//! one second are slept here; longer ones are stored as the row's `run_at`, a snooze that costs no
//! attempt. Before each poll it looks whether the transaction is still pending.
//!
//! While it sleeps it holds no slot, so that slots count polls under way: runs that sleep would
//! otherwise keep out those that have something to ask.
//!
//! At the deadline it polls once more; then the job ends with a `deadline` dead letter, and the
//! transaction stays pending: a late webhook still settles it.
//!
//! Where the third party has a budget of calls that others use up, the job is postponed and that
//! time does not count towards the deadline either.
//!
//! While the third party's circuit is open no poll is made and the job is postponed. Such time does
//! not count towards the deadline: the third party had no chance, and the create may wait as well.
//!
//! The row keeps the last different answers, for the operator who reads it or its dead letter.
//!
//! A crash loses nothing but the count of the polls since the last snooze.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    Job, JobContext, Slot,
    circuit::{CircuitAdmission, FREE_PROBES},
    longest_calls, longest_wait, transaction_missing,
};
use crate::{
    config::Config,
    domain::{
        CircuitCause, DeadLetterKind, EvidenceKind, JobKind, LastAnswers, PollSchedule,
        ReportedStatus, SettledBy, Status,
    },
    outbound::third_party::{Lookup, LookupError, StatusReport},
    store::{
        StoreError,
        jobs::outcomes::{Next, Outcome, SnoozeCount},
        queues, sent_creates,
        transactions::Transaction,
    },
};

/// While one of these is paused, nothing can be found out.
const THIRD_PARTY_QUEUES: [JobKind; 2] = [JobKind::CreateAtThirdParty, JobKind::UpdateStatus];
/// From this wait on a job gives its slot back instead of sleeping.
const SNOOZE_FROM: Duration = Duration::from_secs(1);

/// For each slot this many runs may be between two polls without one. Each costs a few kilobytes
/// of memory.
const SLEEPERS_PER_SLOT: usize = 4;

/// Maximum number of polls whose delays are added up; after more, the deadline ends the run.
const POLLS_ADDED: u32 = 1_000;

/// The longest that one run may take: its polls, each as slow as it may be, and the waits between.
pub fn longest_run(config: &Config) -> Duration {
    let schedule = schedule(config);
    let lookup = super::longest_of_all(config, |third_party| {
        longest_calls(third_party, third_party.lookup_timeout)
    });
    let (mut total, mut polls) = (lookup, 1);
    let deadlines = config.all_third_parties().map(|(name, _)| config.poll_deadline(&name));
    let deadline = deadlines.fold(config.poll.deadline, Duration::max);
    while total < deadline && polls < POLLS_ADDED {
        let gap = schedule.gap(polls, 0.0);
        if gap >= SNOOZE_FROM {
            return total;
        }
        total += gap + lookup;
        polls += 1;
    }
    // After the deadline comes one poll more.
    total.max(deadline + SNOOZE_FROM + lookup)
}

fn schedule(config: &Config) -> PollSchedule {
    let poll = &config.poll;
    PollSchedule { second: poll.second, factor: poll.factor, max_delay: poll.max_delay }
}

/// The runs that have no slot between two polls, of which there is a limit: with more, a run
/// keeps its slot while it sleeps, and new jobs are claimed later.
#[derive(Debug, Clone)]
pub struct Sleepers(Arc<Semaphore>);

impl Sleepers {
    /// For a worker with this many slots.
    pub fn new(slots: u32) -> Self {
        let most = (slots as usize).saturating_mul(SLEEPERS_PER_SLOT);
        Self(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))))
    }

    /// Sleeps, without a slot where that is possible, and holds one again afterwards.
    async fn sleep(&self, slot: &Slot, wait: Duration) {
        // Kept until the run holds a slot again: it bounds all runs without one.
        let sleeper = self.0.try_acquire();
        if sleeper.is_ok() {
            slot.release();
        }
        tokio::time::sleep(wait).await;
        slot.reacquire().await;
    }
}

/// Runs the job.
pub async fn run(
    context: Arc<JobContext>,
    job: Job,
    sleepers: Sleepers,
) -> Result<Outcome, StoreError> {
    let id = job.transaction_id();
    let schedule = schedule(&context.config);
    let mut polls = job.claimed.polls;
    let mut answers = job.claimed.answers.clone();
    let mut strange = Vec::new();
    let mut seen_pending: u32 = 0;
    let mut transaction = job.transaction().cloned();
    let mut outcome = loop {
        let Some(current) = transaction else {
            return Ok(transaction_missing(&context, &job));
        };
        if current.status.is_final() {
            break Outcome::done();
        }
        // Any column, as in the create: an operator looks at the row before anything is decided. A
        // webhook still settles it.
        if let Some(unreadable) = current.unreadable.first() {
            break super::unreadable(unreadable);
        }
        let party = match context.third_parties.of(&current) {
            Ok(party) => party,
            Err(missing) => {
                answers.add(polls, context.clock.now(), &missing.answer(), true);
                let wait = missing.wait;
                break missing.mark(left_alone(&job, &current, wait, polls, 0, answers));
            }
        };
        // The deadline is looked at before the poll: so the last poll comes after it.
        let left = time_left(&context, &job, &current).await?;
        // Its id there is not known yet: the create finds it out, or a webhook.
        if party.client.profile().is_some_and(|client| !client.can_look_up(&current.subject())) {
            // While nothing is sent, the create cannot find it out.
            if let Some(wait) = party.circuit.wait() {
                break left_alone(&job, &current, wait, polls, job.claimed.probes, answers);
            }
            polls = polls.saturating_add(1);
            let why = "not asked: its id at the third party is not known";
            answers.add(polls, context.clock.now(), why, true);
            let Some(left) = left else {
                break deadline_passed(&context, &current, polls, answers);
            };
            let wait = schedule.gap(polls, rand::random()).min(left).max(SNOOZE_FROM);
            break postponed(wait, polls, answers);
        }
        let turn = match party.client.turn(current.client_id) {
            Ok(turn) => turn,
            Err(wait) => {
                answers.add(polls, context.clock.now(), &party.over_budget(), true);
                break left_alone(&job, &current, wait, polls, job.claimed.probes, answers);
            }
        };
        let place = match party.polls.take(current.client_id) {
            Ok(place) => place,
            Err(wait) => {
                break left_alone(&job, &current, wait, polls, job.claimed.probes, answers);
            }
        };
        let longest = party.settings.lookup_timeout + longest_wait(&party.settings);
        let permit = match party.circuit.pass_or_probe(longest).await? {
            CircuitAdmission::Granted(permit) => permit,
            CircuitAdmission::Denied { wait } => {
                break left_alone(&job, &current, wait, polls, job.claimed.probes, answers);
            }
        };
        let answer = party.client.look_up_in_turn(id, || current.subject(), &turn).await;
        drop(place);
        if answer.as_ref().is_err_and(LookupError::is_over_budget) {
            answers.add(polls, context.clock.now(), &party.over_budget(), true);
            let (wait, probes) = (party.over_budget_wait(), job.claimed.probes);
            break left_alone(&job, &current, wait, polls, probes, answers);
        }
        polls = polls.saturating_add(1);
        let contradiction = match &answer {
            Ok(Lookup::Found(report)) => learn(&context, &current, report).await,
            _ => None,
        };
        let (said, is_strange) = match &contradiction {
            Some(why) => (why.clone(), true),
            None => describe(&answer),
        };
        if answers.add(polls, context.clock.now(), &said, is_strange) && is_strange {
            strange.push(json!({ "answer": said, "poll": polls }));
        }
        if answer.is_ok() {
            party.credentials.lookup_taken();
        }
        if let Err(error) = &answer
            && error.is_unauthorized()
            && party.credentials.are_refused(error, &party.client).await
        {
            let cause = CircuitCause::LookupRefused;
            party.circuit.refuse(permit, cause, &said).await;
            // Whatever it has waited for already: this is no transaction's fault.
            let wait = party.circuit.wait().unwrap_or(SNOOZE_FROM);
            break left_alone(&job, &current, wait, polls, 0, answers);
        }
        let outage = answer.as_ref().err().filter(|error| error.is_outage());
        // What was not sent says nothing of the third party.
        if !answer.as_ref().is_err_and(LookupError::is_inconclusive) {
            party.circuit.record(permit, outage.map(|error| error.reason.as_str())).await;
        }

        let mut gap = schedule.gap(polls, rand::random());
        if let Some(LookupError { retry_after, .. }) = outage
            && let Some(wait) = party.circuit.wait()
        {
            let wait = wait.max(retry_after.unwrap_or_default());
            if left.is_none() && job.claimed.probes >= FREE_PROBES {
                break deadline_passed(&context, &current, polls, answers);
            }
            let probes = job.claimed.probes.saturating_add(1);
            break left_alone(&job, &current, wait, polls, probes, answers);
        }
        match answer {
            Ok(Lookup::Found(_)) if contradiction.is_some() => {}
            Ok(Lookup::Found(report)) => match report.status {
                Some(ReportedStatus::Pending) => seen_pending = seen_pending.saturating_add(1),
                Some(status) => break settled(status, polls, report.rule),
                None => {}
            },
            Ok(Lookup::Absent | Lookup::Unclear { .. }) => {}
            Err(error) => {
                tracing::debug!(transaction_id = %id, polls, "{error}");
                gap = gap.max(error.retry_after.unwrap_or_default());
            }
        }
        let Some(left) = left else {
            break deadline_passed(&context, &current, polls, answers);
        };
        let wait = gap.min(left);
        if wait >= SNOOZE_FROM {
            break postponed(wait, polls, answers);
        }
        tokio::select! {
            () = sleepers.sleep(&job.slot, wait) => {}
            // The process stops: give the job back rather than hold its shutdown up.
            () = context.stopping.cancelled() => {
                break postponed(wait, polls, answers);
            }
        }
        transaction = context.reads.submit(id).await?;
    };
    if seen_pending > 0 {
        strange.insert(0, json!({ "status": Status::Pending.as_str(), "polls": seen_pending }));
    }
    let seen = strange.into_iter().map(|detail| (EvidenceKind::PollStatus, detail));
    outcome.evidence.splice(0..0, seen);
    Ok(outcome)
}

/// Writes the third party's id where the transaction has none yet: a webhook may name that alone.
/// Says why the answer cannot be used, as where it has another transaction's id.
async fn learn(
    context: &JobContext,
    transaction: &Transaction,
    report: &StatusReport,
) -> Option<String> {
    let named = report.provider_id.as_deref();
    let provider_id = named.filter(|_| transaction.provider_id.is_none())?;
    match sent_creates::learn_provider_id(&context.pool, transaction.id, provider_id).await {
        Ok(learned) => learned.contradiction(provider_id),
        Err(error) => Some(format!("its id there, {provider_id}, could not be stored: {error}")),
    }
}

/// What a poll was answered, for an operator, and whether it could not be used.
fn describe(answer: &Result<Lookup, LookupError>) -> (String, bool) {
    match answer {
        Ok(Lookup::Found(StatusReport { unusable: Some(unusable), .. })) => {
            (unusable.clone(), true)
        }
        Ok(Lookup::Found(StatusReport { status, .. })) => {
            let status = status.unwrap_or(ReportedStatus::Pending);
            (format!("answered that it is {status}"), false)
        }
        Ok(Lookup::Absent) => ("answered that it is not there".to_owned(), false),
        Ok(Lookup::Unclear { reason }) => (reason.clone(), true),
        Err(error) => (error.reason.clone(), true),
    }
}

/// Goes on after `delay`.
fn postponed(delay: Duration, polls: u32, answers: LastAnswers) -> Outcome {
    Outcome::new(Next::Snooze { delay, count: Some(SnoozeCount::Polls { polls, answers }) })
}

/// Goes on after `delay`, for which the deadline's clock stands still; unless too many of the job's
/// own calls have failed (`probes`), so that it may be the only one that is not answered.
fn left_alone(
    job: &Job,
    transaction: &Transaction,
    delay: Duration,
    polls: u32,
    probes: u32,
    answers: LastAnswers,
) -> Outcome {
    let still = if probes < FREE_PROBES { delay } else { Duration::ZERO };
    let poll_since = poll_since(job, transaction) + still;
    let count = SnoozeCount::LeftAlone { polls, poll_since, probes, answers };
    Outcome::new(Next::Snooze { delay, count: Some(count) })
}

/// Where the deadline counts from.
fn poll_since(job: &Job, transaction: &Transaction) -> DateTime<Utc> {
    job.claimed.poll_since.unwrap_or(transaction.created_at.at())
}

/// `None` once the deadline has passed. Time in which an operator had paused this queue, or that of
/// the creates, does not count.
async fn time_left(
    context: &JobContext,
    job: &Job,
    transaction: &Transaction,
) -> Result<Option<Duration>, StoreError> {
    let since = poll_since(job, transaction);
    let waited = context.clock.since(since);
    let deadline = context.config.poll_deadline(&transaction.third_party);
    let left = |deadline: Duration| deadline.checked_sub(waited).filter(|left| !left.is_zero());
    if let Some(left) = left(deadline) {
        return Ok(Some(left));
    }
    let paused = queues::paused_since(&context.pool, &THIRD_PARTY_QUEUES, since).await?;
    Ok(left(deadline + paused))
}

fn settled(status: ReportedStatus, polls: u32, rule: Option<String>) -> Outcome {
    let mut detail = json!({ "status": status.as_str(), "polls": 1, "poll": polls });
    if let Some(rule) = rule {
        detail["rule"] = rule.into();
    }
    Outcome::done()
        .with_evidence(EvidenceKind::PollStatus, detail)
        .with_report(Status::from(status), SettledBy::Poll)
}

fn deadline_passed(
    context: &JobContext,
    transaction: &Transaction,
    polls: u32,
    answers: LastAnswers,
) -> Outcome {
    let deadline = context.config.poll_deadline(&transaction.third_party);
    let deadline = humantime::format_duration(deadline);
    let last = answers.last().map(|last| match last.times {
        1 => format!("; the last one: {}", last.answer),
        times => format!("; the last {times}: {}", last.answer),
    });
    let last = last.unwrap_or_default();
    let mut outcome = Outcome::new(Next::Dead {
        kind: DeadLetterKind::Deadline,
        reason: format!("no final status within {deadline}, after {polls} polls{last}"),
        error: None,
    });
    outcome.answers = answers;
    outcome
}
