//! The cause that holds up one job, decided from the snapshot.

use super::{Cause, CauseKind, Snapshot};
use crate::{
    domain::{
        CircuitState, DeadLetterState, JobKind, JobState, ThirdPartyName, third_party::OVER_BUDGET,
    },
    store::jobs::{
        holdups::{Postponement, RunningShares},
        job_list::JobRow,
    },
};

/// A due job is usually claimed sooner.
const CLAIM_TIME: chrono::Duration = chrono::Duration::seconds(1);

/// What holds `job` up.
pub(super) fn cause(snapshot: &Snapshot, job: &JobRow) -> Cause {
    let (kind, detail) = match job.state {
        JobState::Running => (CauseKind::Running, running(snapshot, job)),
        JobState::Failed => (CauseKind::DeadLetter, stopped(snapshot, job)),
        JobState::Cancelled => {
            (CauseKind::Cancelled, format!("An operator cancelled {}.", job.queue))
        }
        JobState::Done => (CauseKind::NothingScheduled, format!("The {} job is done.", job.queue)),
        JobState::Due | JobState::Scheduled => waiting(snapshot, job),
    };
    Cause { kind, detail }
}

fn waiting(snapshot: &Snapshot, job: &JobRow) -> (CauseKind, String) {
    let queue = job.queue;
    if let Some((_, pause)) = snapshot.pauses.iter().find(|(paused, _)| *paused == queue) {
        let note = pause.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        let since = pause.at.format("%F %T UTC");
        let detail = format!("The queue {queue} is paused since {since} by {}{note}.", pause.by);
        return (CauseKind::PausedQueue, detail);
    }
    let asks_third_party = queue.asks_third_party();
    if job.state == JobState::Scheduled
        && asks_third_party
        && let Some(name) = &snapshot.not_configured
    {
        let name = ThirdPartyName::from(name.clone());
        let remedy = match name.is_default() {
            true => "Set",
            false => "Add its file to",
        };
        let detail = format!(
            "The {queue} job waits without an attempt: its third party {name} is not configured \
             in the process that was to call it. {remedy} {} and start the process again; it then \
             goes on by itself.",
            name.setting()
        );
        return (CauseKind::ThirdPartyNotConfigured, detail);
    }
    if asks_third_party && snapshot.circuit.state != CircuitState::Closed {
        let reason = snapshot.circuit.reason.as_deref().unwrap_or("it did not answer");
        let detail = match (snapshot.circuit.state, snapshot.circuit.open_until) {
            (CircuitState::Open, Some(until)) => {
                let until = until.format("%F %T UTC");
                format!("The third party's circuit is open until {until}: {reason}.")
            }
            _ => format!("The third party's circuit is half-open, one call is tried: {reason}."),
        };
        if snapshot.circuit.refuses_credentials() {
            let detail = format!("{detail} Correct the credentials; it then goes on by itself.");
            return (CauseKind::CredentialsRefused, detail);
        }
        return (CauseKind::CircuitOpen, detail);
    }
    if !snapshot.alive.contains(&queue) {
        let detail = format!("No worker of {queue} is alive: start `quartet serve`.");
        return (CauseKind::NoWorker, detail);
    }
    if job.state == JobState::Due && holds_its_share(snapshot, job) {
        let RunningShares { own, others, .. } = snapshot.shares;
        let detail = format!(
            "The {queue} job is due and waits for its client's share: of {} running jobs of this \
             queue {own} are of the same client.",
            own + others
        );
        return (CauseKind::ClientShare, detail);
    }
    if job.state == JobState::Scheduled
        && asks_third_party
        && let Some(last) = job.last_error.as_deref().filter(|last| last.contains(OVER_BUDGET))
    {
        let at = job.run_at.format("%F %T UTC");
        let detail = format!(
            "The {queue} job waits without an attempt until {at}: {last}, and other calls are before \
             it."
        );
        return (CauseKind::CallBudget, detail);
    }
    if job.state == JobState::Scheduled
        && let (JobKind::NotifyClient, Some(postponement)) = (queue, &snapshot.postponement)
    {
        return (CauseKind::CallbackHostDown, host_down(postponement, job));
    }
    if job.state == JobState::Due {
        return (CauseKind::Due, format!("The {queue} job is due and waits for a free worker."));
    }
    match &job.last_error {
        Some(answer) if queue == JobKind::UpdateStatus && job.polls.is_some() => {
            let polls = job.polls.unwrap_or_default();
            let detail = format!(
                "The next poll's time has not come; {polls} were made, and the last one was not \
                 understood: {answer}."
            );
            (CauseKind::Schedule, detail)
        }
        Some(error) => {
            let (attempts, most) = (job.attempts, job.max_attempts);
            let detail = format!("Attempt {attempts} of {most} failed: {error}.");
            (CauseKind::Backoff, detail)
        }
        None if queue == JobKind::UpdateStatus => {
            let polls = job.polls.unwrap_or_default();
            (CauseKind::Schedule, format!("The next poll's time has not come; {polls} were made."))
        }
        None => (CauseKind::Schedule, "Its time has not come.".to_owned()),
    }
}

/// Whether a due job waits because its client's other jobs run: it has waited longer than a claim
/// takes, and no other client has more running jobs in the queue. Without others only notifications
/// have a share, which leaves places for clients that come later.
fn holds_its_share(snapshot: &Snapshot, job: &JobRow) -> bool {
    let RunningShares { own, others, most_of_another } = snapshot.shares;
    let is_late = snapshot.now - job.run_at.at() > CLAIM_TIME;
    let is_limited = others > 0 || job.queue == JobKind::NotifyClient;
    is_late && is_limited && own > 0 && own >= most_of_another
}

fn host_down(postponement: &Postponement, job: &JobRow) -> String {
    let Postponement { since, error, waits } = postponement;
    let since = since.map(|at| format!(" since {}", at.format("%F %T UTC"))).unwrap_or_default();
    format!(
        "Its client's callback host does not answer{since}: {error}. It was postponed {waits} \
         times, after {} of {} attempts, and is tried again at {}.",
        job.attempts,
        job.max_attempts,
        job.run_at.format("%F %T UTC"),
    )
}

fn running(snapshot: &Snapshot, job: &JobRow) -> String {
    let worker = job.worker.as_deref().unwrap_or("a worker");
    let since = job.leased_at.map(|at| format!(" since {}", at.format("%F %T UTC")));
    let ends = snapshot.lease_ends.iter().find(|(id, _)| *id == job.id);
    let ends = ends.map(|(_, at)| {
        let at_text = at.format("%F %T UTC");
        if *at < snapshot.now {
            format!("; its lease ended at {at_text} and will be taken over")
        } else {
            format!("; its lease holds until {at_text} and is renewed while it lives")
        }
    });
    format!("{worker} runs {}{}{}.", job.queue, since.unwrap_or_default(), ends.unwrap_or_default())
}

fn stopped(snapshot: &Snapshot, job: &JobRow) -> String {
    let letter = snapshot
        .dead_letters
        .iter()
        .find(|letter| letter.job_id.as_deref() == Some(job.id.as_str()));
    match letter {
        Some(letter) if letter.state == DeadLetterState::Open => {
            format!("{} stopped, dead letter {}: {}.", job.queue, letter.kind, letter.reason)
        }
        Some(letter) => format!(
            "{} stopped, its dead letter {} was {}: {}.",
            job.queue, letter.kind, letter.state, letter.reason
        ),
        None => format!(
            "{} stopped: {}.",
            job.queue,
            job.last_error.as_deref().unwrap_or("no error is recorded")
        ),
    }
}
