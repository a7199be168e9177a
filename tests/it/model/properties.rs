//! What must hold: DESIGN section 5 in the model's terms. Nothing here asks the rules.

use quartet::domain::{JobKind, ReportedStatus, Status};

use super::{
    actions::Action,
    state::{Row, State},
};

/// What a step must not do.
pub fn check_step(before: &State, action: Action, after: &State) -> Result<(), &'static str> {
    let is_operators = matches!(action, Action::Resolve(_, Some(_)));
    if before.status.is_final() && after.status != before.status && !is_operators {
        return Err("a final status was overwritten");
    }
    if after.seen.machine_settlements > 1 {
        return Err("a machine settled it twice");
    }
    let settlements = after.seen.machine_settlements + after.seen.operator_settlements;
    if after.version != 1 + settlements {
        return Err("the version is not 1 + the number of settlements");
    }
    if after.status.is_final() != (settlements > 0) {
        return Err("the status does not fit the settlements");
    }
    let may_exist = before.third_party.is_some() || before.is_arriving;
    if before.status == Status::Pending
        && after.status == Status::Failed
        && may_exist
        && !is_operators
    {
        return Err("it was called failed although the third party has it");
    }
    if after.sent < before.sent {
        return Err("the client was sent an older version after a newer one");
    }
    if after.notified_version < before.notified_version {
        return Err("notified_version went down");
    }
    if after.notified_version > after.told {
        return Err("notified_version is a version that the client has not acknowledged");
    }
    if after.conflicts != after.seen.contradictions {
        return Err("the open conflicts are not the contradictions that were reported");
    }
    let row =
        |state: &State| (state.status, state.version, state.notified_version, state.jobs.clone());
    if matches!(action, Action::WriteStale(_)) && row(before) != row(after) {
        return Err("an outcome was written without its lease");
    }
    for job in &after.jobs {
        if (job.row == Row::Running) != job.run.is_some() {
            return Err("a job runs without a lease, or is leased without running");
        }
    }
    Ok(())
}

/// What must hold where nothing runs or waits any more.
pub fn check_rest(state: &State) -> Result<(), &'static str> {
    let is_explained = |kind| state.letter_of(kind).is_some() || state.job(kind).is_waived;
    if state.told != state.version && !is_explained(JobKind::NotifyClient) {
        return Err("the client has not heard the last version, and nothing explains it");
    }
    if state.notified_version != state.version && !is_explained(JobKind::NotifyClient) {
        return Err("notified_version is not the last version, and nothing explains it");
    }
    if state.status == Status::Pending && !is_explained(JobKind::UpdateStatus) {
        return Err("it is pending, and nothing is under way or explains it");
    }
    for (job, letter) in state.jobs.iter().zip(state.job_letters) {
        if job.row == Row::Failed && letter.is_none() && !job.is_waived {
            return Err("a job stopped without a dead letter");
        }
    }
    Ok(())
}

/// Where all that is ever reported is one truth, and no operator says otherwise: what it comes to
/// does not depend on the order.
pub fn check_one_truth(state: &State, truth: ReportedStatus) -> Result<(), &'static str> {
    if !state.conflicts.is_empty() {
        return Err("there is a conflict although there is one truth");
    }
    if state.status.is_final() && state.status != Status::from(truth) {
        return Err("the status is not the truth");
    }
    Ok(())
}
