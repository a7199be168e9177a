//! The four kinds of job, their stored names, the states a job can be in, and how one run of it
//! ends.

super::string_enum! {
    /// The four jobs of a transaction. The word is the `job_type` of the row and the queue's name.
    JobKind {
        CreateTransaction = "create_transaction",
        CreateAtThirdParty = "create_at_third_party",
        UpdateStatus = "update_status",
        NotifyClient = "notify_client",
    }
}

impl JobKind {
    /// Position in [`JobKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it asks the third party, and so finds out the transaction's status.
    pub const fn asks_third_party(self) -> bool {
        match self {
            Self::CreateAtThirdParty | Self::UpdateStatus => true,
            Self::CreateTransaction | Self::NotifyClient => false,
        }
    }
}

super::string_enum! {
    /// Where a job stands, in an operator's words.
    JobState {
        /// Waits for nothing but a worker.
        Due = "due",
        /// Waits for its time.
        Scheduled = "scheduled",
        /// A worker holds its lease.
        Running = "running",
        Done = "done",
        /// Stopped; a dead letter says why.
        Failed = "failed",
        /// Ended by an operator.
        Cancelled = "cancelled",
    }
}

super::string_enum! {
    /// What became of one run of a job, for metrics and traces.
    RunOutcome {
        /// The job is done.
        Done = "done",
        /// It did its work, and is due again at once: the status changed meanwhile.
        Again = "again",
        /// It goes on later, without having failed.
        Snoozed = "snoozed",
        /// It failed and is tried again later.
        Retried = "retried",
        /// It stopped, for an operator.
        Dead = "dead",
        /// It was ended or taken over by somebody else meanwhile; nothing was written.
        LeaseLost = "lease_lost",
    }
}
