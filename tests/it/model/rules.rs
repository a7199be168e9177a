//! What each step does. Where the decision is pure, the real code decides: [`Status::decide`] and
//! [`outcomes::decide`]. Where it is made in SQL, the rule is stated here, and
//! [`super::on_the_database`] compares it with what the SQL does.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use quartet::{
    domain::{DeadLetterKind, Decision, EvidenceKind, JobKind, ReportedStatus, SettledBy, Status},
    store::{
        jobs::{
            ClaimedJob, Lease,
            outcomes::{self, End, EndedRun, Next, Outcome},
        },
        transactions::Transaction,
        webhooks::WebhookOutcome,
    },
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    actions::{Action, Scenario},
    state::{Answer, Fate, Job, Letter, Row, Run, Saw, State},
};

/// The rules that can be broken on purpose, to see that the check notices.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What a report does to a status.
    pub decide: fn(Status, Status, SettledBy) -> Decision,
    /// Whether the version that was sent is compared when a notification ends.
    pub compares_versions: bool,
    /// Whether an outcome without its lease is refused.
    pub fences: bool,
    /// Whether a change of status makes notify_client due.
    pub wakes_notify: bool,
    /// Whether a contradiction is kept as a dead letter.
    pub keeps_conflicts: bool,
}

impl Rules {
    /// As they are.
    pub const REAL: Self = Self {
        decide: Status::decide,
        compares_versions: true,
        fences: true,
        wakes_notify: true,
        keeps_conflicts: true,
    };
}

/// What a handler that learned `answer` returns.
pub fn outcome(run: &Run, is_last: bool) -> Outcome {
    let nothing = Value::Null;
    let give_up =
        |kind| Outcome::new(Next::GiveUp { kind, reason: "given up".to_owned(), error: None });
    let retry = || Outcome::retry(Duration::from_secs(1), "failed");
    let version = i32::from(run.saw.version);
    let answer = run.answer.expect("a run ends after its call");
    match (run.kind, answer) {
        (_, Answer::NotNeeded) => Outcome::done(),
        (JobKind::UpdateStatus, Answer::Found(status)) if status != ReportedStatus::Pending => {
            Outcome::done().with_report(status.into(), SettledBy::Poll)
        }
        (JobKind::UpdateStatus, Answer::DeadlinePassed) => Outcome::new(Next::Dead {
            kind: DeadLetterKind::Deadline,
            reason: "the deadline passed".to_owned(),
            error: None,
        }),
        (JobKind::UpdateStatus, _) => Outcome::snooze(Duration::from_secs(2)),
        (_, Answer::Found(status) | Answer::Created(status)) => {
            Outcome::done().with_report(status.into(), SettledBy::ThirdPartyResponse)
        }
        (_, Answer::Absent) => give_up(DeadLetterKind::CreationFailure),
        (_, Answer::Silence { may_be_there: false }) if is_last => {
            give_up(DeadLetterKind::CreationFailure)
        }
        (_, Answer::Silence { .. }) => retry(),
        (_, Answer::Ambiguous(_)) => retry().with_evidence(EvidenceKind::CreateAmbiguous, nothing),
        (_, Answer::Refused) => give_up(DeadLetterKind::Rejected),
        (_, Answer::Told) => Outcome::done().with_notified(version, true),
        (_, Answer::NotTold) => retry().with_notified(version, false),
        (_, Answer::Gone) => Outcome::new(Next::Dead {
            kind: DeadLetterKind::Rejected,
            reason: "the client is gone".to_owned(),
            error: None,
        })
        .with_notified(version, false),
        (_, Answer::DeadlinePassed) => panic!("{run:?} has no deadline"),
    }
}

impl Scenario {
    /// The state after `action`.
    pub fn next(&self, rules: &Rules, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Accept => next.is_accepted = true,
            Action::Claim(kind) => {
                let is_known = !matches!(next.settled_by, None | Some(SettledBy::CreationFailure));
                let saw = Saw {
                    is_known: kind == JobKind::CreateAtThirdParty && is_known,
                    is_final: kind == JobKind::UpdateStatus && next.status.is_final(),
                    version: if kind == JobKind::NotifyClient { next.version } else { 1 },
                };
                let job = next.job_mut(kind);
                job.row = Row::Running;
                job.run = Some(Run { kind, attempts: job.attempts, saw, answer: None });
            }
            Action::Call(kind, answer) => {
                let run = next.job_mut(kind).run.as_mut().unwrap();
                run.answer = Some(answer);
                let version = run.saw.version;
                self.call(&mut next, kind, answer, version);
            }
            Action::CallStale(run, answer) => {
                next.stale.remove(&run);
                next.stale.insert(Run { answer: Some(answer), ..run });
                self.call(&mut next, run.kind, answer, run.saw.version);
            }
            Action::Write { kind, is_answered } => {
                let run = next.job(kind).run.unwrap();
                self.write(rules, &mut next, &run, true);
                if !is_answered {
                    next.budget.lost_answers -= 1;
                    next.stale.insert(run);
                }
            }
            Action::WriteStale(run) => {
                next.stale.remove(&run);
                self.write(rules, &mut next, &run, !rules.fences);
            }
            Action::Rescue { kind, is_frozen } => self.rescue(&mut next, kind, is_frozen),
            Action::Settle => next.third_party = Some(self.truth),
            Action::Arrive => {
                next.is_arriving = false;
                next.third_party.get_or_insert(ReportedStatus::Pending);
            }
            Action::Webhook(nth) => webhook(rules, &mut next, nth),
            Action::Replay(letter) => {
                match letter {
                    Letter::Job(kind) => reactivate(&mut next, kind),
                    Letter::Unknown(status) => {
                        report(rules, &mut next, status.into(), SettledBy::Webhook);
                    }
                    Letter::Conflict(_) => panic!("a conflict has nothing to replay"),
                }
                close(&mut next, letter, false);
                next.budget.operator -= 1;
            }
            Action::Resolve(letter, status) => {
                close(&mut next, letter, true);
                if let Some(status) = status.filter(|status| *status != next.status) {
                    settle(rules, &mut next, status, SettledBy::Operator);
                }
                next.budget.operator -= 1;
            }
            Action::Discard(letter) => {
                close(&mut next, letter, true);
                next.budget.operator -= 1;
            }
            Action::Cancel(kind) => {
                let job = next.job_mut(kind);
                (job.row, job.is_waived) = (Row::Killed, true);
                next.budget.operator -= 1;
            }
            Action::Retry(kind) => {
                reactivate(&mut next, kind);
                *next.letter_of_mut(kind) = None;
                next.budget.operator -= 1;
            }
        }
        next
    }

    /// What a call leaves at the third party and at the client.
    fn call(&self, next: &mut State, kind: JobKind, answer: Answer, version: u8) {
        match answer {
            Answer::Created(status) => next.third_party = Some(status),
            Answer::Ambiguous(fate) => {
                match fate {
                    Fate::Stored => next.third_party = Some(ReportedStatus::Pending),
                    Fate::StoredLater => next.is_arriving = true,
                    Fate::Lost => {}
                }
                next.budget.outages -= 1;
            }
            Answer::Silence { .. } => next.budget.outages -= 1,
            Answer::Told | Answer::NotTold | Answer::Gone => {
                next.sent = version;
                if answer == Answer::Told {
                    next.told = version;
                } else {
                    next.budget.refusals -= 1;
                }
            }
            _ => {}
        }
        debug_assert!(kind != JobKind::CreateTransaction);
    }

    /// Ends a run, as the real code decides; its effects as the SQL of `outcomes::write` has them.
    fn write(&self, rules: &Rules, next: &mut State, run: &Run, is_held: bool) {
        let is_last = run.attempts + 1 >= self.max_attempts(run.kind);
        let ended = EndedRun {
            queue: run.kind.as_str(),
            job: Arc::new(self.claimed(run)),
            outcome: outcome(run, is_last),
        };
        let current = transaction(next);
        let (mut end, reported) = outcomes::decide(&ended, Some(&current));
        if !rules.compares_versions && matches!(end, End::Again) {
            end = End::Done;
        }
        if is_held {
            end_job(next, run.kind, &end);
            let ambiguous = |(kind, _): &(EvidenceKind, _)| *kind == EvidenceKind::CreateAmbiguous;
            next.has_ambiguous_create |= ended.outcome.evidence.iter().any(ambiguous);
        }
        if let Some((status, by)) = reported {
            match (rules.decide)(next.status, status, by) {
                Decision::Settle if is_held => settle(rules, next, status, by),
                Decision::Conflict if is_held || ended.outcome.report.is_some() => {
                    conflict(rules, next, status);
                }
                _ => {}
            }
            if status != Status::Failed && (is_held || ended.outcome.report.is_some()) {
                remember_contradiction(next, current.status, status, by);
            }
        }
        if is_held && ended.outcome.notified.is_some_and(|notified| notified.delivered) {
            next.notified_version = next.notified_version.max(run.saw.version);
            *next.letter_of_mut(run.kind) = None;
        }
    }

    fn claimed(&self, run: &Run) -> ClaimedJob {
        ClaimedJob {
            lease: Lease {
                job_id: String::new(),
                worker: String::new(),
                locked_at: DateTime::UNIX_EPOCH,
            },
            payload: Vec::new(),
            attempts: run.attempts.into(),
            max_attempts: self.max_attempts(run.kind).into(),
            idempotency_key: Some(Uuid::nil().to_string()),
            client_id: Uuid::nil(),
            run_at: None,
            polls: 0,
            waits: 0,
            probes: 0,
            answers: quartet::domain::LastAnswers::default(),
            poll_since: None,
            traceparent: None,
            late: Duration::ZERO,
            transaction: None,
            callback: None,
        }
    }

    /// `rescue::take`.
    fn rescue(&self, next: &mut State, kind: JobKind, is_frozen: bool) {
        let max_attempts = self.max_attempts(kind);
        let job = next.job_mut(kind);
        let run = job.run.take();
        job.attempts += 1;
        let is_used_up = job.attempts >= max_attempts;
        job.row = if is_used_up { Row::Failed } else { Row::Pending };
        if is_used_up {
            *next.letter_of_mut(kind) = Some(DeadLetterKind::Poison);
        }
        if is_frozen {
            next.stale.extend(run);
        }
        next.has_ambiguous_create |= kind == JobKind::CreateAtThirdParty;
        next.budget.rescues -= 1;
    }
}

/// The job row of a run that has ended under its lease.
fn end_job(next: &mut State, kind: JobKind, end: &End<'_>) {
    let job: &mut Job = next.job_mut(kind);
    job.run = None;
    (job.row, job.attempts) = match end {
        End::Done => (Row::Done, job.attempts + 1),
        End::Again => (Row::Pending, 0),
        End::Snooze { .. } => (Row::Pending, job.attempts),
        End::Retry { .. } => (Row::Pending, job.attempts + 1),
        End::Dead { .. } => (Row::Failed, job.attempts + 1),
    };
    if let End::Dead { kind: letter, .. } = end {
        *next.letter_of_mut(kind) = Some(*letter);
    }
}

/// `webhooks::receive`.
fn webhook(rules: &Rules, next: &mut State, nth: usize) {
    let (before, is_accepted) = (next.status, next.is_accepted);
    let sent = &mut next.webhooks[nth];
    sent.left -= 1;
    let status = sent.status;
    if sent.first.is_some() {
        return;
    }
    if !is_accepted {
        sent.first = Some(WebhookOutcome::UnknownTransaction);
        next.unknown.insert(status);
        return;
    }
    let decision = (rules.decide)(before, status.into(), SettledBy::Webhook);
    sent.first = Some(decision.into());
    report(rules, next, status.into(), SettledBy::Webhook);
}

/// `settle::apply`.
fn report(rules: &Rules, next: &mut State, status: Status, by: SettledBy) {
    let before = next.status;
    match (rules.decide)(before, status, by) {
        Decision::Settle => settle(rules, next, status, by),
        Decision::Conflict => conflict(rules, next, status),
        Decision::Unchanged => {}
    }
    remember_contradiction(next, before, status, by);
}

/// `settle::settle`.
fn settle(rules: &Rules, next: &mut State, status: Status, by: SettledBy) {
    (next.status, next.settled_by) = (status, Some(by));
    next.version += 1;
    if by == SettledBy::Operator {
        next.seen.operator_settlements += 1;
    } else {
        next.seen.machine_settlements += 1;
    }

    let poll = next.job_mut(JobKind::UpdateStatus);
    if matches!(poll.row, Row::Pending | Row::Running | Row::Failed) {
        poll.row = Row::Done;
        let run = poll.run.take();
        next.stale.extend(run);
    }

    let kept = [Some(DeadLetterKind::Rejected), Some(DeadLetterKind::Poison)];
    let stays = kept.contains(&next.letter_of(JobKind::NotifyClient));
    let notify = next.job_mut(JobKind::NotifyClient);
    if rules.wakes_notify && notify.row != Row::Running && !stays {
        *notify = Job { row: Row::Pending, attempts: 0, run: None, is_waived: false };
    }

    *next.letter_of_mut(JobKind::UpdateStatus) = None;
    if by != SettledBy::CreationFailure {
        let create = JobKind::CreateAtThirdParty;
        let explained = next.letter_of_mut(create).take();
        next.job_mut(create).is_waived |= explained.is_some();
    }
}

/// `settle::open_conflict`.
fn conflict(rules: &Rules, next: &mut State, status: Status) {
    if rules.keeps_conflicts {
        next.conflicts.insert(status);
    }
}

/// What the property compares the conflicts with: said without [`Status::decide`].
fn remember_contradiction(next: &mut State, before: Status, reported: Status, by: SettledBy) {
    let is_there = by == SettledBy::ThirdPartyResponse && before == Status::Failed;
    let contradicts = before.is_final() && reported.is_final() && before != reported;
    if contradicts || is_there && reported == Status::Pending {
        next.seen.contradictions.insert(reported);
    }
}

/// `job_control::reactivate`.
fn reactivate(next: &mut State, kind: JobKind) {
    let job = next.job_mut(kind);
    *job = Job { row: Row::Pending, attempts: 0, run: None, is_waived: false };
}

/// An operator closes a dead letter; `waives` where nothing is done about its job.
fn close(next: &mut State, letter: Letter, waives: bool) {
    match letter {
        Letter::Job(kind) => {
            *next.letter_of_mut(kind) = None;
            next.job_mut(kind).is_waived |= waives;
        }
        Letter::Conflict(status) => {
            next.conflicts.remove(&status);
            next.seen.contradictions.remove(&status);
        }
        Letter::Unknown(status) => {
            next.unknown.remove(&status);
        }
    }
}

/// The transaction's row, as far as decisions go by it.
fn transaction(state: &State) -> Transaction {
    let time: DateTime<Utc> = DateTime::UNIX_EPOCH;
    Transaction {
        id: Uuid::nil(),
        client_id: Uuid::nil(),
        content_hash: Vec::new(),
        amount: None,
        currency: None,
        reference: None,
        metadata: None,
        status: state.status,
        version: state.version.into(),
        notified_version: state.notified_version.into(),
        settled_at: state.settled_by.map(|_| time),
        settled_by: state.settled_by,
        created_at: time.into(),
        updated_at: time,
        third_party: Default::default(),
        provider_id: None,
        unreadable: Vec::new(),
    }
}
