//! Job 3: finds out how the transaction ended, by polling.
//!
//! Polls at accept + `first`, then + `second`, then exponentially up to `max_delay`, until a final
//! status, a webhook (which ends this job in its own SQL transaction) or the deadline. Waits under
//! one second are slept here; longer ones are stored as the row's `run_at`, a snooze that costs no
//! attempt. Before each poll it looks whether the transaction is still pending.
//!
//! At the deadline it polls once more; then the job ends with a `deadline` dead letter, and the
//! transaction stays pending: a late webhook still settles it.
//!
//! A crash loses nothing but the count of the polls since the last snooze.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use serde_json::json;

use super::{Job, JobContext, transaction_missing};
use crate::{
    clients::third_party::Lookup,
    config::Config,
    domain::{DeadLetterKind, EvidenceKind, PollSchedule, ReportedStatus, SettledBy, Status},
    store::{
        StoreError,
        outcomes::{Next, Outcome, SnoozeCount},
        transactions::{self, Transaction},
    },
};

/// From this wait on a job gives its slot back instead of sleeping.
const SNOOZE_FROM: Duration = Duration::from_secs(1);

/// The longest that one run may take: its polls, each as slow as it may be, and the waits between.
pub fn longest_run(config: &Config) -> Duration {
    let schedule = schedule(config);
    let (mut total, mut polls) = (config.third_party.lookup_timeout, 1);
    while total < config.poll.deadline {
        let gap = schedule.gap(polls, 0.0);
        if gap >= SNOOZE_FROM {
            break;
        }
        total += gap + config.third_party.lookup_timeout;
        polls += 1;
    }
    total
}

fn schedule(config: &Config) -> PollSchedule {
    let poll = &config.poll;
    PollSchedule { second: poll.second, factor: poll.factor, max_delay: poll.max_delay }
}

/// Runs the job.
pub async fn run(context: Arc<JobContext>, job: Job) -> Result<Outcome, StoreError> {
    let id = job.transaction_id();
    let schedule = schedule(&context.config);
    let mut polls = job.claimed.polls;
    let mut seen_pending: u32 = 0;
    let mut outcome = loop {
        let Some(transaction) = transactions::get(&context.pool, id).await? else {
            return Ok(transaction_missing(&context, &job));
        };
        if transaction.status.is_final() {
            break Outcome::done();
        }
        // The deadline is looked at before the poll: so the last poll comes after it.
        let left = time_left(&context, &job, &transaction);
        let answer = context.third_party.look_up(id).await;
        polls += 1;

        let mut gap = schedule.gap(polls, rand::random());
        match answer {
            Ok(Lookup::Found { status: Some(status) }) if status != ReportedStatus::Pending => {
                break settled(status, polls);
            }
            Ok(Lookup::Found { status: Some(_) }) => seen_pending += 1,
            Ok(Lookup::Found { status: None } | Lookup::Absent) => {}
            Err(error) => {
                tracing::debug!(transaction_id = %id, polls, "{error}");
                gap = gap.max(error.retry_after.unwrap_or_default());
            }
        }
        let Some(left) = left else { break deadline_passed(&context, polls) };
        let wait = gap.min(left);
        if wait >= SNOOZE_FROM {
            break Outcome::new(Next::Snooze {
                delay: wait,
                count: Some(SnoozeCount::Polls(polls)),
            });
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // The process stops: give the job back rather than hold its shutdown up.
            () = context.stopping.cancelled() => {
                break Outcome::new(Next::Snooze { delay: wait, count: Some(SnoozeCount::Polls(polls)) });
            }
        }
    };
    if seen_pending == 0 {
        return Ok(outcome);
    }
    let detail = json!({ "status": Status::Pending.as_str(), "polls": seen_pending });
    outcome.evidence.insert(0, (EvidenceKind::PollStatus, detail));
    Ok(outcome)
}

/// `None` once the deadline has passed.
fn time_left(context: &JobContext, job: &Job, transaction: &Transaction) -> Option<Duration> {
    let since = job.claimed.poll_since.unwrap_or(transaction.created_at);
    let waited = (Utc::now() - since).to_std().unwrap_or_default();
    context.config.poll.deadline.checked_sub(waited).filter(|left| !left.is_zero())
}

fn settled(status: ReportedStatus, polls: u32) -> Outcome {
    let detail = json!({ "status": status.as_str(), "polls": 1, "poll": polls });
    Outcome::done()
        .with_evidence(EvidenceKind::PollStatus, detail)
        .with_report(Status::from(status), SettledBy::Poll)
}

fn deadline_passed(context: &JobContext, polls: u32) -> Outcome {
    let deadline = humantime::format_duration(context.config.poll.deadline);
    Outcome::new(Next::Dead {
        kind: DeadLetterKind::Deadline,
        reason: format!("no final status within {deadline}, after {polls} polls"),
        error: None,
    })
}
