//! The kinds of evidence kept about a transaction (table `transaction_events`).

super::string_enum! {
    /// What was observed or decided about a transaction.
    EvidenceKind {
        Accepted = "accepted",
        FoundAtThirdParty = "found_at_third_party",
        CreatedAtThirdParty = "created_at_third_party",
        CreateAmbiguous = "create_ambiguous",
        PollStatus = "poll_status",
        Webhook = "webhook",
        Settled = "settled",
        Conflict = "conflict",
        ClientNotified = "client_notified",
        ClientRefused = "client_refused",
        DeadLetterOpened = "dead_letter_opened",
        DeadLetterClosed = "dead_letter_closed",
        Operator = "operator",
    }
}
