//! The periodic tasks (table `maintenance_tasks`) and what reconciliation finds (table
//! `reconcile_findings`).

super::string_enum! {
    /// A task that runs in one process at a time.
    MaintenanceTask {
        /// Looks up at the third party what is open here.
        Reconcile = "reconcile",
        /// Removes by age what has ended.
        Retention = "retention",
    }
}

super::string_enum! {
    /// How what the third party shows stands to what is here.
    Finding {
        /// Open here, and not there.
        MissingThere = "missing_there",
        /// There, and not here.
        MissingHere = "missing_here",
        /// `failed` here, and there; or two different final statuses.
        StatusDiffers = "status_differs",
        /// Still pending there, past our deadline.
        Late = "late",
        /// The lookup was not answered: neither absence nor presence.
        Unanswered = "unanswered",
        /// Both sides say the same.
        Agreed = "agreed",
    }
}
