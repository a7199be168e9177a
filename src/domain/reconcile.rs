//! Compares a transaction's status here with the one at the third party, and decides what follows.

use super::{Decision, Finding, ReportedStatus, SettledBy, Status};

/// What a lookup at the third party showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It is there; with its status, where the answer had one that is known.
    Found(Option<ReportedStatus>),
    /// It is not there.
    Absent,
    /// Nothing: the lookup was not answered, because of this.
    Unanswered(String),
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    pub finding: Finding,
    /// To be applied to the transaction, with the decision that it leads to.
    pub report: Option<(Status, SettledBy, Decision)>,
}

impl From<Finding> for Judgement {
    fn from(finding: Finding) -> Self {
        Self { finding, report: None }
    }
}

/// What is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    pub status: Status,
    /// Whether its deadline has passed.
    pub is_late: bool,
    /// Whether an operator set the status.
    pub by_operator: bool,
}

impl Here {
    /// Whether the status says that nothing is under way at the third party without its word for
    /// it: it `failed`, or an operator declined it. To be there at all contradicts that.
    fn denies_presence(self) -> bool {
        self.status == Status::Failed || self.by_operator && self.status == Status::Declined
    }
}

/// Compares what is `here` (`None`: not here) with what was `seen`.
pub fn compare(here: Option<Here>, seen: &Seen) -> Judgement {
    match (here, seen) {
        (_, Seen::Unanswered(_)) => Finding::Unanswered.into(),
        (None, Seen::Found(_)) => Finding::MissingHere.into(),
        (None, Seen::Absent) => Finding::Agreed.into(),
        (Some(here), Seen::Absent) if here.denies_presence() => Finding::Agreed.into(),
        (Some(_), Seen::Absent) => Finding::MissingThere.into(),
        (Some(here), Seen::Found(theirs)) => compare_found(here, *theirs),
    }
}

fn compare_found(here: Here, theirs: Option<ReportedStatus>) -> Judgement {
    let (ours, theirs) = (here.status, theirs.map_or(Status::Pending, Status::from));
    let by = if here.denies_presence() { SettledBy::ThirdPartyResponse } else { SettledBy::Poll };
    let decision = match ours.decide(theirs, by) {
        Decision::Unchanged if ours != theirs && here.denies_presence() => Decision::Conflict,
        decision => decision,
    };
    match decision {
        Decision::Settle => {
            Judgement { finding: Finding::Agreed, report: Some((theirs, by, decision)) }
        }
        Decision::Conflict => {
            Judgement { finding: Finding::StatusDiffers, report: Some((theirs, by, decision)) }
        }
        Decision::Unchanged if ours != theirs => Finding::StatusDiffers.into(),
        Decision::Unchanged if ours == Status::Pending && here.is_late => Finding::Late.into(),
        Decision::Unchanged => Finding::Agreed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: fn(ReportedStatus) -> Seen = |status| Seen::Found(Some(status));

    fn here(status: Status, is_late: bool) -> Option<Here> {
        Some(Here { status, is_late, by_operator: false })
    }

    fn finding(ours: Option<Status>, is_late: bool, seen: &Seen) -> Finding {
        compare(ours.and_then(|status| here(status, is_late)), seen).finding
    }

    #[test]
    fn only_a_pending_one_is_settled_and_nothing_final_is_overwritten() {
        for ours in Status::ALL {
            for theirs in ReportedStatus::ALL {
                let judgement = compare(here(*ours, true), &FOUND(*theirs));
                let decision = judgement.report.map(|(_, _, decision)| decision);
                let is_final = Status::from(*theirs).is_final();
                assert_eq!(
                    decision == Some(Decision::Settle),
                    *ours == Status::Pending && is_final,
                    "{ours} {theirs}"
                );
                if *ours == Status::Failed {
                    assert_eq!(decision, Some(Decision::Conflict), "{theirs}");
                    assert_eq!(judgement.finding, Finding::StatusDiffers);
                }
            }
        }
    }

    #[test]
    fn an_unanswered_lookup_is_neither_absence_nor_presence() {
        let unanswered = Seen::Unanswered("no answer in time".to_owned());
        for ours in [None, Some(Status::Pending), Some(Status::Failed)] {
            assert_eq!(finding(ours, true, &unanswered), Finding::Unanswered);
        }
    }

    #[test]
    fn absence_agrees_with_failed_and_with_what_is_unknown_here() {
        assert_eq!(finding(Some(Status::Failed), true, &Seen::Absent), Finding::Agreed);
        assert_eq!(finding(None, false, &Seen::Absent), Finding::Agreed);
        assert_eq!(finding(Some(Status::Pending), true, &Seen::Absent), Finding::MissingThere);
        assert_eq!(finding(None, false, &Seen::Found(None)), Finding::MissingHere);
    }

    #[test]
    fn pending_on_both_sides_is_late_only_past_the_deadline() {
        for seen in [FOUND(ReportedStatus::Pending), Seen::Found(None)] {
            assert_eq!(finding(Some(Status::Pending), true, &seen), Finding::Late);
            assert_eq!(finding(Some(Status::Pending), false, &seen), Finding::Agreed);
        }
    }
    #[test]
    fn what_an_operator_denied_and_is_there_is_a_conflict_unless_it_is_the_same() {
        for status in [Status::Failed, Status::Declined] {
            let here = Some(Here { status, is_late: true, by_operator: true });
            assert_eq!(compare(here, &Seen::Absent), Finding::Agreed.into(), "{status}");
            for theirs in ReportedStatus::ALL {
                let judgement = compare(here, &FOUND(*theirs));
                let conflict = judgement.report.is_some_and(|(reported, _, decision)| {
                    reported == Status::from(*theirs) && decision == Decision::Conflict
                });
                assert_eq!(conflict, status != Status::from(*theirs), "{status} {theirs}");
                let agreed = judgement == Finding::Agreed.into();
                assert_eq!(agreed, !conflict, "{status} {theirs}");
            }
        }
        // What the third party itself declined may be gone there, and reported as pending.
        assert_eq!(finding(Some(Status::Declined), true, &Seen::Absent), Finding::MissingThere);
    }
}
