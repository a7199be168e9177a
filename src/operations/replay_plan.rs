//! What the replay of one dead letter comes to, for its preview.

use super::Operations;
use crate::{
    domain::{
        DeadLetterState, Decision, JobKind, Replay, ReportedStatus, SettledBy, Status, string_enum,
    },
    store::{
        dead_letter_actions::{self, DeadLetterError},
        dead_letters::DeadLetter,
        transactions::Transaction,
    },
};

string_enum! {
    /// What the third party shows of a transaction.
    AtThirdParty {
        /// It is there.
        Found = "found",
        /// It is not there, or lookups are not offered.
        Absent = "absent",
        /// No answer: it may be there or not.
        Unanswered = "unanswered",
        /// Nobody asked: it does not matter here, no third party is configured, its circuit is
        /// open, or time was up.
        NotAsked = "not_asked",
    }
}

string_enum! {
    /// What became of a dead letter in a bulk replay.
    ItemOutcome {
        /// Dry run: it would be replayed.
        Planned = "planned",
        /// It was replayed.
        Replayed = "replayed",
        /// It cannot be replayed; nothing was done.
        Refused = "refused",
    }
}

/// What a replay comes to.
pub(super) struct Plan {
    pub outcome: ItemOutcome,
    pub effect: String,
    pub status: Option<Status>,
}

/// What replaying `letter` would do, going by what the third party showed.
pub(super) fn plan_replay(
    operations: &Operations,
    letter: &DeadLetter,
    transaction: Option<&Transaction>,
    (at_third_party, found): (AtThirdParty, Option<ReportedStatus>),
) -> Plan {
    let status = transaction.map(|transaction| transaction.status);
    let refused = |error: DeadLetterError| Plan {
        outcome: ItemOutcome::Refused,
        effect: error.to_string(),
        status,
    };
    let planned = |effect: &str, status| Plan {
        outcome: ItemOutcome::Planned,
        effect: effect.to_owned(),
        status,
    };
    if letter.state != DeadLetterState::Open {
        return refused(DeadLetterError::Closed(letter.state));
    }
    // What a report does to the present status.
    let report = |reported: Status, by| match status.map(|status| status.decide(reported, by)) {
        Some(Decision::Settle) => {
            let effect = format!("the transaction becomes {reported} and the client is notified");
            planned(&effect, Some(reported))
        }
        Some(Decision::Conflict) => {
            planned("the status stays and a status_conflict is opened", status)
        }
        Some(Decision::Unchanged) | None => planned("the status stays", status),
    };
    match letter.kind.replay() {
        Replay::Nothing => return refused(DeadLetterError::NothingToReplay),
        Replay::AppliesWebhook => {
            let is_of_sender =
                |known: &&Transaction| dead_letter_actions::is_of_sender(letter, known);
            let Some(transaction) = transaction.filter(is_of_sender) else {
                return refused(DeadLetterError::StillUnknown);
            };
            let Some(reported) = dead_letter_actions::reported_status(letter) else {
                return refused(DeadLetterError::NothingToReplay);
            };
            return match operations.contradiction(letter, transaction) {
                Ok(Some(why)) if reported.is_final() => {
                    let effect = format!("the status stays and a status_conflict is opened: {why}");
                    planned(&effect, status)
                }
                // One by the third party's id waits for a process that has the profile.
                Err(error) if letter.transaction_id.is_some() => refused(error),
                Ok(_) | Err(_) => report(reported, SettledBy::Webhook),
            };
        }
        Replay::RunsJob => {}
    }
    let queue = dead_letter_actions::queue_of(letter);
    if let Err(unknown) = operations.plan.retry_backoff(queue, transaction) {
        return refused(unknown.into());
    }
    match (queue, at_third_party) {
        (None, _) => refused(DeadLetterError::NothingToReplay),
        (Some(JobKind::CreateTransaction), _) => planned(
            "the transaction is written if it is not here",
            status.or(Some(Status::Pending)),
        ),
        (Some(JobKind::NotifyClient), _) => {
            planned("the client is notified of the present status", status)
        }
        (Some(JobKind::CreateAtThirdParty), AtThirdParty::Found) => {
            let reported = found.map_or(Status::Pending, Status::from);
            report(reported, SettledBy::ThirdPartyResponse)
        }
        (Some(JobKind::CreateAtThirdParty), AtThirdParty::Absent)
            if status == Some(Status::Failed) =>
        {
            // The client was notified of `failed`; an operator's replay does not take that back.
            planned("it is created at the third party, and a status_conflict is opened", status)
        }
        (Some(JobKind::CreateAtThirdParty), AtThirdParty::Absent) => {
            planned("it is created at the third party", status)
        }
        (Some(JobKind::CreateAtThirdParty), _) => {
            planned("it is looked up, and created if it is not there", status)
        }
        (Some(JobKind::UpdateStatus), _) => match found {
            Some(found) if found != ReportedStatus::Pending => {
                report(Status::from(found), SettledBy::Poll)
            }
            _ => planned("it is polled again until a final status or the deadline", status),
        },
    }
}
