//! The life of one transaction as a model, searched exhaustively: answers, polls, webhooks, deaths
//! of workers, lost commits and operators, in every order.
//!
//! [`rules`] drives the code that decides; [`search`] goes through every state of a scenario and
//! checks [`properties`]; [`on_the_database`] ties the rules that are SQL to the SQL, by walking
//! the model and the real thing side by side.

mod actions;
mod on_the_database;
mod properties;
mod real;
mod rules;
mod search;
mod state;

use std::time::Instant;

use quartet::domain::{Decision, ReportedStatus, SettledBy, Status};

use self::{
    actions::Scenario,
    properties::check_one_truth,
    rules::Rules,
    search::{Counterexample, Searched, search},
    state::{Budget, State},
};

const COMPLETED: ReportedStatus = ReportedStatus::Completed;
const DECLINED: ReportedStatus = ReportedStatus::Declined;
const PENDING: ReportedStatus = ReportedStatus::Pending;

const NO_FAULTS: Budget =
    Budget { rescues: 0, lost_answers: 0, operator: 0, outages: 0, refusals: 0 };

/// A third party that ends it `completed`, with these webhooks and how often each comes.
fn scenario(webhooks: &[(ReportedStatus, u8)], budget: Budget) -> Scenario {
    Scenario {
        truth: COMPLETED,
        refuses: false,
        client_leaves: false,
        is_early: false,
        polls_idly: false,
        max_attempts: [3, 2, 2],
        start: State::new(webhooks, budget),
    }
}

fn check(name: &str, scenario: &Scenario, also: impl Fn(&State) -> Result<(), &'static str>) {
    let began = Instant::now();
    match search(scenario, &Rules::REAL, also) {
        Ok(searched) => {
            let Searched { states, steps, at_rest } = searched;
            let took = began.elapsed();
            println!("{name}: {states} states, {at_rest} at rest, {steps} steps in {took:?}");
            assert!(states > 1_000 && at_rest > 0, "{name} is no scenario");
        }
        Err(wrong) => panic!("{name}: {wrong}"),
    }
}

fn anything(_: &State) -> Result<(), &'static str> {
    Ok(())
}

/// One more of a fault where `QUARTET_TEST_DEEP` is set: minutes rather than seconds.
fn upto(count: u8) -> u8 {
    count + u8::from(std::env::var_os("QUARTET_TEST_DEEP").is_some())
}

/// Duplicates, a dead or frozen worker, a commit whose answer is lost.
#[test]
fn one_truth_has_one_end_in_any_order() {
    let budget = Budget { rescues: upto(1), lost_answers: 1, ..NO_FAULTS };
    let scenario = scenario(&[(COMPLETED, 2)], budget);
    check("one truth", &scenario, |state| check_one_truth(state, COMPLETED));
}

#[test]
fn a_late_pending_takes_nothing_back() {
    let budget = Budget { rescues: upto(0), ..NO_FAULTS };
    let scenario = scenario(&[(COMPLETED, 1), (PENDING, 2)], budget);
    check("late pending", &scenario, |state| check_one_truth(state, COMPLETED));
}

/// A create that was answered 504 and stored, late or never; lookups that are not answered.
#[test]
fn an_ambiguous_create_is_no_failure() {
    let budget = Budget { outages: upto(2), rescues: 1, ..NO_FAULTS };
    let scenario = scenario(&[], budget);
    check("ambiguous", &scenario, |state| match state.status {
        // It may be told so where the third party never had it.
        Status::Failed => Ok(()),
        _ => check_one_truth(state, COMPLETED),
    });
}

/// Two webhooks, a poll and the answers to a create, which do not agree.
#[test]
fn reports_that_differ_settle_once_and_keep_the_contradiction() {
    let webhooks = [(COMPLETED, 1), (DECLINED, 1)];
    let budget = Budget { operator: upto(1), ..NO_FAULTS };
    check("conflict", &scenario(&webhooks, budget), anything);
    let budget = Budget { rescues: upto(1), ..NO_FAULTS };
    check("conflict, and a rescue", &scenario(&webhooks[1..], budget), anything);
}

/// A refused create, and an operator who has it tried again, or decides.
#[test]
fn what_was_given_up_is_not_taken_back_by_a_machine() {
    let budget = Budget { operator: upto(1), ..NO_FAULTS };
    let scenario = Scenario { refuses: true, ..scenario(&[(COMPLETED, 1)], budget) };
    check("given up", &scenario, anything);
}

/// A client that refuses or leaves, while the status changes under the notification.
#[test]
fn a_client_hears_the_last_version_or_an_operator_hears_of_it() {
    let budget = Budget { refusals: upto(2), rescues: 1, operator: 1, ..NO_FAULTS };
    let mut scenario = Scenario { client_leaves: true, ..scenario(&[(COMPLETED, 1)], budget) };
    scenario.start = scenario.start.created();
    check("client", &scenario, anything);
}

/// A webhook before the post that it is about.
#[test]
fn a_webhook_that_comes_too_early_is_kept() {
    let budget = Budget { operator: upto(1), ..NO_FAULTS };
    let mut scenario =
        Scenario { is_early: true, ..scenario(&[(COMPLETED, 2), (DECLINED, 1)], budget) };
    scenario.start = scenario.start.created();
    check("early", &scenario, anything);
}

/// What the search finds where a rule is broken.
fn broken(rules: Rules) -> Box<Counterexample> {
    let budget = Budget { rescues: 1, operator: 1, ..NO_FAULTS };
    let scenario = scenario(&[(COMPLETED, 1), (DECLINED, 1)], budget);
    let wrong = search(&scenario, &rules, anything).expect_err("the search sees nothing wrong");
    println!("{wrong}");
    wrong
}

#[test]
fn the_search_finds_a_final_status_that_is_overwritten() {
    fn decide(current: Status, reported: Status, by: SettledBy) -> Decision {
        match current.decide(reported, by) {
            Decision::Conflict if reported.is_final() => Decision::Settle,
            decision => decision,
        }
    }
    let wrong = broken(Rules { decide, ..Rules::REAL });
    assert_eq!(wrong.violated, "a final status was overwritten");
}

#[test]
fn the_search_finds_an_acknowledgement_whose_version_is_not_compared() {
    let wrong = broken(Rules { compares_versions: false, ..Rules::REAL });
    assert!(wrong.violated.starts_with("the client has not heard the last version"));
}

#[test]
fn the_search_finds_an_outcome_without_a_lease() {
    let wrong = broken(Rules { fences: false, ..Rules::REAL });
    assert_eq!(wrong.violated, "an outcome was written without its lease");
}

#[test]
fn the_search_finds_a_change_that_wakes_nobody() {
    let wrong = broken(Rules { wakes_notify: false, ..Rules::REAL });
    assert!(wrong.violated.starts_with("the client has not heard the last version"));
}

#[test]
fn the_search_finds_a_contradiction_that_is_dropped() {
    let wrong = broken(Rules { keeps_conflicts: false, ..Rules::REAL });
    assert!(wrong.violated.starts_with("the open conflicts are not"));
}
