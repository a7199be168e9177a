//! One transaction as the model sees it: what the database, the third party and the client hold,
//! and what the workers have in hand.
//!
//! Time is left out. Whatever is due later may run now, a backoff has passed when the next claim
//! comes, and a deadline may pass at any moment: so every interleaving is one of the model's.

use std::collections::BTreeSet;

use quartet::{
    domain::{DeadLetterKind, JobKind, ReportedStatus, SettledBy, Status},
    store::webhooks::WebhookOutcome,
};

/// The jobs that decide something. create_transaction writes a row or finds it there.
pub const KINDS: [JobKind; 3] =
    [JobKind::CreateAtThirdParty, JobKind::UpdateStatus, JobKind::NotifyClient];

/// Where a job's row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    Pending,
    Running,
    Done,
    Failed,
    Killed,
}

impl Row {
    /// As apalis writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Done => "Done",
            Self::Failed => "Failed",
            Self::Killed => "Killed",
        }
    }
}

/// One of a transaction's jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    pub row: Row,
    pub attempts: u8,
    /// The run whose lease the row holds; there exactly while it is running.
    pub run: Option<Run>,
    /// An operator has ended it, or closed its dead letter: nobody expects anything of it.
    pub is_waived: bool,
}

/// One run of a job, between its claim and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    pub kind: JobKind,
    /// Attempts that had ended when it was claimed.
    pub attempts: u8,
    /// The transaction as it was claimed with.
    pub saw: Saw,
    /// What the handler learned; `None` before its call.
    pub answer: Option<Answer>,
}

/// What a handler looks at in the transaction that it was claimed with; what its kind does not look
/// at is left as it was at first, so that fewer states differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Saw {
    /// create_at_third_party: whether somebody has told its end, so that it is not created.
    pub is_known: bool,
    /// update_status.
    pub is_final: bool,
    /// notify_client.
    pub version: u8,
}

/// What a run of a job learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// Nothing needs to be called any more.
    NotNeeded,
    /// The lookup before a create, or a poll, was not answered. `may_be_there`: an earlier try was
    /// ambiguous.
    Silence { may_be_there: bool },
    /// A lookup shows it with this status.
    Found(ReportedStatus),
    /// A lookup does not show it, and nothing is posted: a poll, or the last lookup.
    Absent,
    /// The create was answered 2xx.
    Created(ReportedStatus),
    /// The create was answered 504: stored, to be stored, or lost, nobody knows.
    Ambiguous(Fate),
    /// The create was answered with a 4xx.
    Refused,
    /// A poll after the deadline, that shows no end.
    DeadlinePassed,
    /// The client answered 2xx.
    Told,
    /// The client answered neither 2xx nor 410.
    NotTold,
    /// The client answered 410.
    Gone,
}

/// What becomes of a create whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    Stored,
    StoredLater,
    Lost,
}

/// A webhook that the third party sends, and sends again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sent {
    pub status: ReportedStatus,
    /// How it was first answered; `None` before.
    pub first: Option<WebhookOutcome>,
    /// How often it may still come.
    pub left: u8,
}

/// An open dead letter, by its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Letter {
    Job(JobKind),
    Conflict(Status),
    Unknown(ReportedStatus),
}

/// How much of each fault may still happen: what keeps the model finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Workers that die or freeze, and are rescued.
    pub rescues: u8,
    /// Commits whose answer is lost, so that they are tried again.
    pub lost_answers: u8,
    /// What operators do.
    pub operator: u8,
    /// Calls of the third party that it does not answer, or answers ambiguously.
    pub outages: u8,
    /// Calls that the client does not answer with 2xx.
    pub refusals: u8,
}

/// Everything about one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub is_accepted: bool,
    pub status: Status,
    pub version: u8,
    pub notified_version: u8,
    pub settled_by: Option<SettledBy>,
    /// In the order of [`KINDS`].
    pub jobs: [Job; 3],
    /// Runs without a lease: of workers that were rescued, or whose job ended meanwhile.
    pub stale: BTreeSet<Run>,
    /// The kinds of the jobs' open dead letters, in the order of [`KINDS`].
    pub job_letters: [Option<DeadLetterKind>; 3],
    /// The reported statuses of the open conflicts.
    pub conflicts: BTreeSet<Status>,
    /// The reported statuses of webhooks that came before the transaction.
    pub unknown: BTreeSet<ReportedStatus>,
    pub webhooks: Vec<Sent>,
    /// Whether there is evidence of an ambiguous create.
    pub has_ambiguous_create: bool,
    /// What the third party shows; `None`: it does not have the transaction.
    pub third_party: Option<ReportedStatus>,
    /// A create is on its way into the third party's books.
    pub is_arriving: bool,
    /// The last version that was sent to the client, and the last that it acknowledged.
    pub sent: u8,
    pub told: u8,
    pub budget: Budget,
    pub seen: Seen,
}

/// What the properties need to remember, and nothing decides by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    pub machine_settlements: u8,
    pub operator_settlements: u8,
    /// Final reports that contradicted the status when they came, less what an operator closed.
    pub contradictions: BTreeSet<Status>,
}

impl State {
    /// A transaction that was not posted yet.
    pub fn new(webhooks: &[(ReportedStatus, u8)], budget: Budget) -> Self {
        let job = Job { row: Row::Pending, attempts: 0, run: None, is_waived: false };
        let sent = |&(status, left): &_| Sent { status, first: None, left };
        Self {
            is_accepted: false,
            status: Status::Pending,
            version: 1,
            notified_version: 0,
            settled_by: None,
            jobs: [job.clone(), job.clone(), job],
            stale: BTreeSet::new(),
            job_letters: [None; 3],
            conflicts: BTreeSet::new(),
            unknown: BTreeSet::new(),
            webhooks: webhooks.iter().map(sent).collect(),
            has_ambiguous_create: false,
            third_party: None,
            is_arriving: false,
            sent: 0,
            told: 0,
            budget,
            seen: Seen {
                machine_settlements: 0,
                operator_settlements: 0,
                contradictions: BTreeSet::new(),
            },
        }
    }

    /// The same, of one that the third party has, so that its create is no matter any more.
    pub fn created(mut self) -> Self {
        let create = self.job_mut(JobKind::CreateAtThirdParty);
        (create.row, create.attempts) = (Row::Done, 1);
        self.third_party = Some(ReportedStatus::Pending);
        self
    }

    pub fn job(&self, kind: JobKind) -> &Job {
        &self.jobs[position(kind)]
    }

    pub fn job_mut(&mut self, kind: JobKind) -> &mut Job {
        &mut self.jobs[position(kind)]
    }

    pub fn letter_of(&self, kind: JobKind) -> Option<DeadLetterKind> {
        self.job_letters[position(kind)]
    }

    pub fn letter_of_mut(&mut self, kind: JobKind) -> &mut Option<DeadLetterKind> {
        &mut self.job_letters[position(kind)]
    }

    /// The open dead letters.
    pub fn letters(&self) -> Vec<Letter> {
        let of_jobs = KINDS.into_iter().filter(|kind| self.letter_of(*kind).is_some());
        of_jobs
            .map(Letter::Job)
            .chain(self.conflicts.iter().copied().map(Letter::Conflict))
            .chain(self.unknown.iter().copied().map(Letter::Unknown))
            .collect()
    }

    /// Whether no job runs or waits, and no worker has anything in hand.
    pub fn is_at_rest(&self) -> bool {
        let is_at_rest = |job: &Job| !matches!(job.row, Row::Pending | Row::Running);
        self.is_accepted && self.jobs.iter().all(is_at_rest) && self.stale.is_empty()
    }
}

fn position(kind: JobKind) -> usize {
    match kind {
        JobKind::CreateAtThirdParty => 0,
        JobKind::UpdateStatus => 1,
        JobKind::NotifyClient => 2,
        JobKind::CreateTransaction => panic!("create_transaction is not in the model"),
    }
}
