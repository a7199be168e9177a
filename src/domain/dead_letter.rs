//! The kinds and states of dead letters (table `failed_jobs`).

use super::JobKind;

/// What a replay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Its job is due now, with fresh attempts; refused where it has none.
    RunsJob,
    /// The status in the webhook that opened it is applied.
    AppliesWebhook,
    /// Nothing: it is refused.
    Nothing,
}

/// Declares each kind with what it means, for an operator who sees it for the first time, and what
/// may be done with it. The rest of the code asks, so that a new kind is decided about here.
macro_rules! dead_letter_kinds {
    ($($kind:ident = $word:literal {
        means: $meaning:literal,
        replay: $replay:ident,
        concerns_status: $concerns_status:literal,
    })+) => {
        super::string_enum! {
            /// Why something is in front of an operator.
            DeadLetterKind {
                $(#[doc = $meaning] $kind = $word,)+
            }
        }

        impl DeadLetterKind {
            /// What it means, in a sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => $meaning,)+
                }
            }

            /// What a replay of one of this kind does.
            pub const fn replay(self) -> Replay {
                match self {
                    $(Self::$kind => Replay::$replay,)+
                }
            }

            /// Whether the transaction's status is in question, where its job is about that.
            pub const fn concerns_status(self) -> bool {
                match self {
                    $(Self::$kind => $concerns_status,)+
                }
            }
        }
    };
}

dead_letter_kinds! {
    Exhausted = "exhausted" {
        means: "The attempts of its job are used up.",
        replay: RunsJob,
        concerns_status: true,
    }
    Rejected = "rejected" {
        means: "The third party refused the transaction, or the client answered 410 (gone).",
        replay: RunsJob,
        concerns_status: true,
    }
    CreationFailure = "creation_failure" {
        means: "The attempts to create it at the third party are used up; the transaction is failed.",
        replay: RunsJob,
        concerns_status: true,
    }
    Deadline = "deadline" {
        means: "No final status was reported within the deadline. It is still pending; a late \
            webhook settles it.",
        replay: RunsJob,
        concerns_status: true,
    }
    StatusConflict = "status_conflict" {
        means: "A different final status was reported. Ours stands until you resolve this.",
        replay: Nothing,
        concerns_status: true,
    }
    UnknownTransaction = "unknown_transaction" {
        means: "A verified webhook names a transaction that does not exist here.",
        replay: AppliesWebhook,
        concerns_status: false,
    }
    Poison = "poison" {
        means: "Its job or the transaction's row cannot be read, or the job killed its worker.",
        replay: RunsJob,
        concerns_status: true,
    }
}

impl DeadLetterKind {
    /// What an operator does about one whose job is of `queue`.
    pub fn advice(self, queue: Option<&str>) -> &'static str {
        let notifies = queue == Some(JobKind::NotifyClient.as_str());
        match (self, notifies) {
            (Self::Exhausted, true) => "have the client's callback repaired, then replay",
            (Self::Exhausted, false) => "replay when the third party answers: it looks up first",
            (Self::Rejected, true) => "agree with the client, replay or discard",
            (Self::Rejected, false) => "read the reason; discard, or replay once the cause is gone",
            (Self::CreationFailure, _) => {
                "look it up there, then resolve or discard; replay it only to have it created \
                 after all"
            }
            (Self::Deadline, _) => {
                "replay to poll again, or resolve with the status that the third party confirms"
            }
            (Self::StatusConflict, _) => {
                "ask the third party which one is right, and resolve with that status; if it is \
                 ours, resolve without one"
            }
            (Self::UnknownTransaction, _) => "replay once the id exists, else discard",
            (Self::Poison, _) => "repair the cause, replay, or discard",
        }
    }

    /// Whether an operator may set the transaction's status when resolving one of this kind whose
    /// job is of `queue`: where the status itself is in question. Whether a client was notified, or
    /// a transaction is here at all, is no such question.
    pub fn allows_status(self, queue: Option<&str>) -> bool {
        let asks = |queue: &str| queue.parse().is_ok_and(JobKind::asks_third_party);
        self.concerns_status() && queue.is_none_or(asks)
    }
}

super::string_enum! {
    /// Where a dead letter stands.
    DeadLetterState {
        Open = "open",
        Replayed = "replayed",
        Resolved = "resolved",
        Discarded = "discarded",
    }
}
