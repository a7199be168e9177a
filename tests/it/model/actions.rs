//! What can happen next, in a state.

use quartet::domain::{DeadLetterKind, JobKind, ReportedStatus, Status};

use super::state::{Answer, Fate, KINDS, Letter, Row, Run, State};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The client's post is answered 202.
    Accept,
    /// A worker claims the job.
    Claim(JobKind),
    /// Its handler calls, and learns this.
    Call(JobKind, Answer),
    /// A handler whose job ended meanwhile calls all the same: it has not heard of it.
    CallStale(Run, Answer),
    /// Its outcome is written. Where that is not answered, it will be written again.
    Write {
        kind: JobKind,
        is_answered: bool,
    },
    /// An outcome is written without a lease.
    WriteStale(Run),
    /// The job's worker is taken for dead. Where it was only frozen, it will write its outcome.
    Rescue {
        kind: JobKind,
        is_frozen: bool,
    },
    /// The third party comes to the end of it.
    Settle,
    /// A create that had been answered 504 reaches the third party's books.
    Arrive,
    /// This webhook comes, for the first time or again.
    Webhook(usize),
    /// What operators do.
    Replay(Letter),
    Resolve(Letter, Option<Status>),
    Discard(Letter),
    Cancel(JobKind),
    Retry(JobKind),
}

/// What a model is about: the truth, and which faults there are.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How the third party ends it.
    pub truth: ReportedStatus,
    /// Whether it may refuse the create.
    pub refuses: bool,
    /// Whether the client may answer 410.
    pub client_leaves: bool,
    /// Whether webhooks may come before the post.
    pub is_early: bool,
    /// Whether polls that show no end are steps: they change nothing, and cost many states.
    pub polls_idly: bool,
    /// The most attempts of each job, in the order of [`KINDS`].
    pub max_attempts: [u8; 3],
    pub start: State,
}

impl Scenario {
    pub fn max_attempts(&self, kind: JobKind) -> u8 {
        let position = KINDS.iter().position(|other| *other == kind);
        self.max_attempts[position.unwrap()]
    }

    /// Everything that can happen in `state`.
    pub fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        if !state.is_accepted {
            actions.push(Action::Accept);
        }
        if state.is_accepted || self.is_early {
            let left = state.webhooks.iter().enumerate().filter(|(_, sent)| sent.left > 0);
            actions.extend(left.map(|(nth, _)| Action::Webhook(nth)));
        }
        if !state.is_accepted {
            return actions;
        }
        if state.third_party == Some(ReportedStatus::Pending) {
            actions.push(Action::Settle);
        }
        if state.is_arriving {
            actions.push(Action::Arrive);
        }
        for kind in KINDS {
            self.job_actions(state, kind, &mut actions);
        }
        for run in &state.stale {
            match run.answer {
                Some(_) => actions.push(Action::WriteStale(*run)),
                None => {
                    let answers = self.answers(state, run);
                    actions
                        .extend(answers.into_iter().map(|answer| Action::CallStale(*run, answer)));
                }
            }
        }
        if state.budget.operator > 0 {
            operator_actions(state, &mut actions);
        }
        actions
    }

    fn job_actions(&self, state: &State, kind: JobKind, actions: &mut Vec<Action>) {
        let job = state.job(kind);
        // The backoff is longer than a create may be on its way.
        let waits = kind == JobKind::CreateAtThirdParty && state.is_arriving;
        if job.row == Row::Pending && !waits {
            actions.push(Action::Claim(kind));
        }
        let Some(run) = &job.run else { return };
        match run.answer {
            None => {
                let answers = self.answers(state, run);
                actions.extend(answers.into_iter().map(|answer| Action::Call(kind, answer)));
            }
            Some(_) => {
                actions.push(Action::Write { kind, is_answered: true });
                if state.budget.lost_answers > 0 {
                    actions.push(Action::Write { kind, is_answered: false });
                }
            }
        }
        if state.budget.rescues > 0 {
            actions.push(Action::Rescue { kind, is_frozen: false });
            if run.answer.is_some() {
                actions.push(Action::Rescue { kind, is_frozen: true });
            }
        }
    }

    /// What a handler can learn.
    fn answers(&self, state: &State, run: &Run) -> Vec<Answer> {
        let has_outages = state.budget.outages > 0;
        match run.kind {
            JobKind::CreateAtThirdParty => {
                if run.saw.is_known {
                    return vec![Answer::NotNeeded];
                }
                let is_last = run.attempts + 1 >= self.max_attempts(run.kind);
                let mut answers = match state.third_party {
                    Some(status) => vec![Answer::Found(status)],
                    None if is_last => vec![Answer::Absent],
                    None => {
                        let mut answers = vec![
                            Answer::Created(ReportedStatus::Pending),
                            Answer::Created(self.truth),
                        ];
                        if self.refuses {
                            answers.push(Answer::Refused);
                        }
                        if has_outages {
                            let fates = [Fate::Stored, Fate::StoredLater, Fate::Lost];
                            answers.extend(fates.map(Answer::Ambiguous));
                        }
                        answers
                    }
                };
                if has_outages {
                    let may_be_there = is_last && state.has_ambiguous_create;
                    answers.push(Answer::Silence { may_be_there });
                }
                answers
            }
            JobKind::UpdateStatus if run.saw.is_final => vec![Answer::NotNeeded],
            JobKind::UpdateStatus => {
                let idle = match state.third_party {
                    Some(ReportedStatus::Pending) => Answer::Found(ReportedStatus::Pending),
                    Some(status) => return vec![Answer::Found(status)],
                    None => Answer::Absent,
                };
                if self.polls_idly {
                    vec![idle, Answer::DeadlinePassed]
                } else {
                    vec![Answer::DeadlinePassed]
                }
            }
            _ => {
                let mut answers = vec![Answer::Told];
                if state.budget.refusals > 0 {
                    answers.push(Answer::NotTold);
                    if self.client_leaves {
                        answers.push(Answer::Gone);
                    }
                }
                answers
            }
        }
    }
}

/// What operators can do, and what is not refused.
fn operator_actions(state: &State, actions: &mut Vec<Action>) {
    let is_running = |kind| state.job(kind).row == Row::Running;
    for letter in state.letters() {
        let (kind, queue) = match letter {
            Letter::Job(kind) => (state.letter_of(kind).unwrap(), Some(kind.as_str())),
            Letter::Conflict(_) => (DeadLetterKind::StatusConflict, None),
            Letter::Unknown(_) => (DeadLetterKind::UnknownTransaction, None),
        };
        let replays = match letter {
            Letter::Job(kind) => !is_running(kind),
            Letter::Unknown(_) => true,
            Letter::Conflict(_) => false,
        };
        if replays {
            actions.push(Action::Replay(letter));
        }
        actions.push(Action::Discard(letter));
        actions.push(Action::Resolve(letter, None));
        if kind.allows_status(queue) && !is_running(JobKind::CreateAtThirdParty) {
            for status in [Status::Completed, Status::Declined, Status::Failed] {
                actions.push(Action::Resolve(letter, Some(status)));
            }
        }
    }
    for kind in KINDS {
        match state.job(kind).row {
            Row::Running => {}
            Row::Pending => actions.push(Action::Cancel(kind)),
            Row::Done if kind == JobKind::CreateAtThirdParty => {}
            Row::Done | Row::Failed | Row::Killed => actions.push(Action::Retry(kind)),
        }
    }
}
