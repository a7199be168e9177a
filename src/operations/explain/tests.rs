//! Whatever the snapshot, an explanation hangs together.

use chrono::{DateTime, Utc};
use proptest::{prelude::*, sample::select, strategy::ValueTree};
use serde_json::json;

use super::*;
use crate::domain::{CircuitCause, CircuitState, Status};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_428_000 + seconds, 0).unwrap()
}

fn job(queue: JobKind, state: JobState, failed: bool) -> JobRow {
    let running = state == JobState::Running;
    JobRow {
        id: queue.to_string(),
        queue,
        state,
        transaction_id: None,
        attempts: failed.into(),
        max_attempts: 5,
        run_at: at(if state == JobState::Scheduled { 30 } else { -5 }).into(),
        done_at: None,
        last_error: failed.then(|| "answered 504".to_owned()),
        errors: json!([]),
        worker: running.then(|| "worker".to_owned()),
        leased_at: running.then(|| at(-1).into()),
        worker_seen_at: running.then(|| at(-1)),
        polls: None,
    }
}

prop_compose! {
    fn snapshots()(
        status in select(Status::ALL),
        is_notified in any::<bool>(),
        states in proptest::collection::vec((select(JobState::ALL), any::<bool>()), 4),
        pruned in prop::bool::weighted(0.1),
        paused in proptest::collection::vec(select(JobKind::ALL), 0..3),
        circuit in select(CircuitState::ALL),
        alive in proptest::collection::vec(select(JobKind::ALL), 0..4),
        shares in (0i64..5, 0i64..5, 0i64..5).prop_map(|(own, most_of_another, rest)| {
            RunningShares { own, others: most_of_another + rest, most_of_another }
        }),
        postponed in any::<bool>(),
        not_configured in prop::option::weighted(0.2, Just("acme".to_owned())),
    ) -> Snapshot {
        let version = if status.is_final() { 2 } else { 1 };
        let opened = circuit != CircuitState::Closed;
        let jobs: Vec<JobRow> = JobKind::ALL
            .iter()
            .zip(states)
            .map(|(queue, (state, failed))| job(*queue, state, failed))
            .collect();
        let lease_ends = jobs
            .iter()
            .filter(|job| job.worker.is_some())
            .map(|job| (job.id.clone(), at(14)))
            .collect();
        Snapshot {
            transaction: Transaction {
                id: Uuid::nil(),
                client_id: Uuid::nil(),
                content_hash: Vec::new(),
                amount: None,
                currency: None,
                reference: None,
                metadata: None,
                status,
                version,
                notified_version: if is_notified { version } else { version - 1 },
                settled_at: status.is_final().then(|| at(0)),
                settled_by: None,
                created_at: at(-60).into(),
                updated_at: at(0),
                third_party: Default::default(),
                provider_id: None,
                unreadable: Vec::new(),
            },
            jobs: if pruned { Vec::new() } else { jobs },
            dead_letters: Vec::new(),
            evidence: Vec::new(),
            pauses: paused
                .into_iter()
                .map(|queue| (queue, Pause { at: at(-9), by: "operator".to_owned(), note: None }))
                .collect(),
            circuit: Circuit {
                state: circuit,
                opened_at: opened.then(|| at(-20)),
                open_until: opened.then(|| at(if circuit == CircuitState::Open { 40 } else { -1 })),
                open_for: None,
                reason: None,
                cause: CircuitCause::Outage,
                trips: 1,
                probe: None,
                changed_at: at(-20),
                open_left: Default::default(),
                probe_left: Default::default(),
            },
            shares,
            postponement: postponed.then(|| Postponement {
                since: Some(at(-50)),
                error: "no answer in time".to_owned(),
                waits: 3,
            }),
            not_configured,
            alive,
            lease_ends,
            now: at(0),
        }
    }
}

proptest! {
    /// It waits for an operator exactly where nothing goes on by itself, and for nothing exactly
    /// where all is done; what is next is a job that has not ended.
    #[test]
    fn an_explanation_hangs_together(snapshot in snapshots()) {
        let explained = explain(&snapshot);
        let transaction = &snapshot.transaction;
        let finished = transaction.status.is_final()
            && transaction.notified_version == transaction.version;
        prop_assert_eq!(explained.waits_for == WaitsFor::Nothing, finished);
        prop_assert_eq!(explained.cause.kind == CauseKind::Finished, finished);
        let stopped = matches!(
            explained.cause.kind,
            CauseKind::DeadLetter | CauseKind::Cancelled | CauseKind::NothingScheduled
        );
        prop_assert_eq!(explained.waits_for == WaitsFor::Operator, stopped);
        prop_assert_eq!(explained.next_action.is_none(), stopped || finished);
        if let Some(next) = &explained.next_action {
            let job = snapshot.job(next.queue).unwrap();
            let goes_on = [JobState::Due, JobState::Scheduled, JobState::Running];
            prop_assert!(goes_on.contains(&job.state));
            prop_assert!(next.at >= job.run_at.at());
            let notifies = next.queue == JobKind::NotifyClient;
            prop_assert_eq!(notifies, transaction.status.is_final());
            prop_assert_eq!(notifies, explained.waits_for == WaitsFor::Client);
        }
        prop_assert!(explained.summary.ends_with('.') && explained.cause.detail.ends_with('.'));
    }

    /// A pause is named before anything else that holds a waiting job up.
    #[test]
    fn a_pause_is_the_first_cause(mut snapshot in snapshots()) {
        let pause = Pause { at: at(-9), by: "operator".to_owned(), note: None };
        snapshot.pauses = JobKind::ALL.iter().map(|queue| (*queue, pause.clone())).collect();
        let explained = explain(&snapshot);
        if let Some(next) = &explained.next_action
            && snapshot.job(next.queue).unwrap().state != JobState::Running
        {
            prop_assert_eq!(explained.cause.kind, CauseKind::PausedQueue);
        }
    }
}

#[test]
fn an_open_circuit_moves_the_next_action() {
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    let mut snapshot = snapshots().new_tree(runner).unwrap().current();
    snapshot.transaction.status = Status::Pending;
    snapshot.jobs = JobKind::ALL.iter().map(|queue| job(*queue, JobState::Due, false)).collect();
    snapshot.pauses.clear();
    snapshot.circuit.state = CircuitState::Open;
    snapshot.circuit.open_until = Some(at(40));
    let explained = explain(&snapshot);
    assert_eq!(explained.cause.kind, CauseKind::CircuitOpen);
    assert_eq!(explained.next_action.unwrap().at, at(40));
}

/// A final transaction whose notify_client job waits, with nothing else in its way.
fn waiting_to_notify(state: JobState) -> Snapshot {
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    let mut snapshot = snapshots().new_tree(runner).unwrap().current();
    snapshot.transaction.status = Status::Completed;
    (snapshot.transaction.version, snapshot.transaction.notified_version) = (2, 0);
    snapshot.jobs = JobKind::ALL.iter().map(|queue| job(*queue, state, false)).collect();
    snapshot.pauses.clear();
    snapshot.alive = JobKind::ALL.to_vec();
    (snapshot.shares, snapshot.postponement) = (RunningShares::default(), None);
    snapshot
}

#[test]
fn a_due_job_waits_for_its_clients_share_where_no_other_client_has_more() {
    let mut snapshot = waiting_to_notify(JobState::Due);
    assert_eq!(explain(&snapshot).cause.kind, CauseKind::Due, "nobody runs");
    for (own, others, most_of_another, expected) in [
        (7, 0, 0, CauseKind::ClientShare),
        (7, 9, 7, CauseKind::ClientShare),
        (7, 9, 8, CauseKind::Due),
        (0, 9, 8, CauseKind::Due),
    ] {
        snapshot.shares = RunningShares { own, others, most_of_another };
        let cause = explain(&snapshot).cause;
        assert_eq!(cause.kind, expected, "{:?}", snapshot.shares);
        let names_share = cause.detail.contains("waits for its client's share");
        assert_eq!(names_share, expected == CauseKind::ClientShare, "{}", cause.detail);
    }
    snapshot.shares = RunningShares { own: 7, others: 0, most_of_another: 0 };
    snapshot.now = at(-5);
    assert_eq!(explain(&snapshot).cause.kind, CauseKind::Due, "it has just fallen due");
}

#[test]
fn a_postponed_notification_names_the_host_and_its_error() {
    let mut snapshot = waiting_to_notify(JobState::Scheduled);
    snapshot.postponement = Some(Postponement {
        since: Some(at(-50)),
        error: "no answer in time".to_owned(),
        waits: 3,
    });
    let explained = explain(&snapshot);
    assert_eq!(explained.cause.kind, CauseKind::CallbackHostDown);
    assert_eq!(explained.waits_for, WaitsFor::Client);
    let detail = &explained.cause.detail;
    assert!(detail.contains("does not answer since") && detail.contains("no answer in time"));
    assert_eq!(explained.next_action.unwrap().at, at(30));
}
