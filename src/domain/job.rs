//! The four kinds of job: their stored names.

super::words! {
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
}
