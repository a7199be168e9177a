use std::time::Instant;

use super::{
    MOST_WAITING, STALLED,
    pace_bound::PaceBound,
    simulation::{LONGEST_WAIT, PresentRule, Simulation, capacity, capacity_of, ms, seconds},
};

fn simulation() -> Simulation<PresentRule> {
    Simulation::new(Instant::now())
}

#[test]
fn callers_that_wait_for_their_answers_are_never_refused() {
    for callers in [1, 32, 128, 512] {
        let seen = simulation().closed_loop(callers, ms(50), seconds(5));
        assert_eq!(seen.refused, 0, "{callers}: {seen:?}");
        assert!(seen.longest_wait < LONGEST_WAIT, "{callers}: {seen:?}");
    }
}

#[test]
fn more_callers_than_can_be_written_in_the_longest_wait_are_refused_and_all_else_is_done() {
    let seen = simulation().closed_loop(2_048, seconds(1), seconds(10));
    assert!(seen.refused > 0, "{seen:?}");
    assert!(seen.done as f64 > 0.95 * 10.0 * capacity(), "{seen:?}");
}

#[test]
fn what_can_be_written_is_never_refused() {
    for load in [0.3, 0.7, 0.95] {
        let seen = simulation().open_loop(load * capacity(), seconds(20));
        assert_eq!(seen.refused, 0, "{load}: {seen:?}");
    }
}

#[test]
fn after_a_stall_it_is_as_fast_as_before_within_ten_seconds() {
    for (load, stall) in
        [(0.3, 300), (0.3, 900), (0.3, 5_000), (0.7, 300), (0.7, 5_000), (0.95, 300)]
    {
        let mut simulation = simulation();
        let before = simulation.open_loop(load * capacity(), seconds(5));
        simulation.stall(ms(stall));
        simulation.open_loop(load * capacity(), ms(stall) + seconds(10));
        let after = simulation.open_loop(load * capacity(), seconds(5));
        let case = format!("{load}, {stall} ms: {before:?} {after:?}");
        assert_eq!(after.refused, 0, "{case}");
        assert!(after.longest_wait <= before.longest_wait * 2, "{case}");
    }
}

#[test]
fn a_short_stall_refuses_nobody() {
    for load in [0.3, 0.7] {
        let mut simulation = simulation();
        simulation.open_loop(load * capacity(), seconds(2));
        simulation.stall(ms(300));
        let seen = simulation.open_loop(load * capacity(), seconds(5));
        assert_eq!(seen.refused, 0, "{load}: {seen:?}");
    }
}

#[test]
fn twice_the_capacity_is_written_at_capacity_with_bounded_waits() {
    let mut simulation = simulation();
    simulation.open_loop(2.0 * capacity(), seconds(5));
    let seen = simulation.open_loop(2.0 * capacity(), seconds(20));
    assert!(seen.done as f64 > 0.95 * 20.0 * capacity(), "{seen:?}");
    assert!(seen.longest_wait < LONGEST_WAIT * 5 / 4, "{seen:?}");
    // Back to a load that can be written.
    simulation.open_loop(0.5 * capacity(), seconds(2));
    let seen = simulation.open_loop(0.5 * capacity(), seconds(5));
    assert_eq!(seen.refused, 0, "{seen:?}");
    assert!(seen.longest_wait < ms(50), "{seen:?}");
}

#[test]
fn after_too_much_callers_that_wait_for_their_answers_are_not_refused_any_more() {
    for callers in [32, 128, 256] {
        let mut simulation = simulation();
        simulation.open_loop(2.0 * capacity(), seconds(10));
        simulation.closed_loop(callers, ms(50), seconds(3));
        let seen = simulation.closed_loop(callers, ms(50), seconds(5));
        assert_eq!(seen.refused, 0, "{callers}: {seen:?}");
        assert!(seen.done as f64 > 0.8 * 5.0 * capacity_of(callers), "{callers}: {seen:?}");
    }
}

#[test]
fn callers_that_are_refused_and_come_back_keep_nothing_full_that_could_be_written() {
    // After a stall, at 70 %, all that are refused come back after 1 s.
    let mut simulation = simulation();
    simulation.open_loop(0.7 * capacity(), seconds(2));
    simulation.stall(seconds(5));
    simulation.closed_loop(2_048, seconds(1), seconds(5));
    simulation.closed_loop(300, seconds(1), seconds(10));
    let seen = simulation.closed_loop(300, seconds(1), seconds(5));
    assert_eq!(seen.refused, 0, "{seen:?}");
}

#[test]
fn after_a_stall_callers_that_soon_come_back_are_all_answered_within_ten_seconds() {
    for (load, stall) in [(0.3, 300), (0.3, 1_000), (0.7, 300), (0.7, 1_000), (0.95, 300)] {
        let mut simulation = simulation();
        simulation.open_loop_that_comes_back(load * capacity(), ms(50), seconds(3));
        simulation.stall(ms(stall));
        simulation.open_loop_that_comes_back(load * capacity(), ms(50), ms(stall) + seconds(10));
        let seen = simulation.open_loop_that_comes_back(load * capacity(), ms(50), seconds(3));
        assert_eq!(seen.refused, 0, "{load}, {stall} ms: {seen:?}");
        assert!(seen.done as f64 > 0.98 * load * 3.0 * capacity(), "{load}: {seen:?}");
    }
}

#[test]
fn under_a_bound_by_the_pace_a_short_stall_is_never_over() {
    for load in [0.7, 0.95] {
        let mut simulation = Simulation::<PaceBound>::new(Instant::now());
        simulation.open_loop_that_comes_back(load * capacity(), ms(50), seconds(3));
        simulation.stall(ms(300));
        simulation.open_loop_that_comes_back(load * capacity(), ms(50), seconds(30));
        let seen = simulation.open_loop_that_comes_back(load * capacity(), ms(50), seconds(3));
        assert!(seen.refused > seen.done, "{load}: {seen:?}");
        assert!((seen.done as f64) < 0.95 * load * 3.0 * capacity(), "{load}: {seen:?}");
    }
}

#[test]
fn nobody_is_let_in_behind_one_that_nobody_takes() {
    let mut simulation = simulation();
    simulation.stall(seconds(9));
    simulation.tick();
    assert!(simulation.request());
    while simulation.elapsed() < STALLED {
        assert!(simulation.request());
        (0..10).for_each(|_| assert_eq!(simulation.tick(), 0));
    }
    (0..10).for_each(|_| assert_eq!(simulation.tick(), 0));
    assert!(!simulation.request(), "{:?}", simulation.elapsed());
    while simulation.elapsed() < seconds(15) {
        simulation.tick();
    }
    assert!(simulation.request());
}

#[test]
fn there_is_an_end_to_those_that_wait_however_fast_they_are_taken() {
    let mut simulation = simulation();
    simulation.stall(seconds(1));
    simulation.tick();
    (0..MOST_WAITING).for_each(|_| assert!(simulation.request()));
    assert!(!simulation.request());
}
