//! The kinds and states of dead letters (table `failed_jobs`).

use super::JobKind;

super::string_enum! {
    /// Why something is in front of an operator.
    DeadLetterKind {
        /// The attempts are used up.
        Exhausted = "exhausted",
        /// The third party refused the transaction (4xx), or the client is gone (410).
        Rejected = "rejected",
        /// The tries to create it at the third party are used up; its status is `failed`.
        CreationFailure = "creation_failure",
        /// No final status within the deadline; still `pending`.
        Deadline = "deadline",
        /// Two different final statuses were reported; the first one stands.
        StatusConflict = "status_conflict",
        /// A verified webhook names an id that is not here.
        UnknownTransaction = "unknown_transaction",
        /// The payload or id cannot be read, or the job killed its worker too often.
        Poison = "poison",
    }
}

impl DeadLetterKind {
    /// Whether an operator may set the transaction's status when resolving one of this kind whose
    /// job is of `queue`: where the status itself is in question. Whether a client was notified, or
    /// a transaction is here at all, is no such question.
    pub fn allows_status(self, queue: Option<&str>) -> bool {
        let about_status = |queue: &str| {
            [JobKind::CreateAtThirdParty, JobKind::UpdateStatus]
                .iter()
                .any(|kind| kind.as_str() == queue)
        };
        self != Self::UnknownTransaction && queue.is_none_or(about_status)
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
