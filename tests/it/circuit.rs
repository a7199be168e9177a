//! The third party's circuit breaker: it opens for all processes, probes with single lookups,
//! postpones jobs without using up attempts, and closes by itself.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use quartet::{
    config::Role,
    domain::{CircuitCause, CircuitState},
    sandbox::{CreateStep, LookupStep, Status},
    store::circuit::{self, Circuit, Probe},
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    app::AppBuilder,
    job_rows::job_row,
    jobs::{BOUND, patient, quiet_app},
    process::{Process, ProcessBuilder},
    spawn_api, transaction, wait_for, wait_until,
};

const CREATE: &str = "create_at_third_party";
const POLL: &str = "update_status";
/// Few enough calls for a test, and a ratio that answers in between do not hide.
const SETTINGS: [(&str, &str); 4] = [
    ("QUARTET_CIRCUIT__MIN_CALLS", "6"),
    ("QUARTET_CIRCUIT__FAILURE_RATIO", "0.5"),
    ("QUARTET_CIRCUIT__OPEN_FOR", "300ms"),
    ("QUARTET_CIRCUIT__MAX_OPEN_FOR", "600ms"),
];

fn with_circuit(app: AppBuilder) -> AppBuilder {
    SETTINGS.iter().fold(app, |app, (variable, value)| app.set(variable, value))
}

async fn read(pool: &PgPool) -> Circuit {
    circuit::get(pool, &Default::default()).await.unwrap()
}

async fn wait_state(pool: &PgPool, state: CircuitState) -> Circuit {
    wait_for(&format!("the circuit is {state}"), BOUND, async || {
        let circuit = read(pool).await;
        (circuit.state == state).then_some(circuit)
    })
    .await
}

/// The third party answers nothing but 503.
fn break_down(world: &World) {
    let third_party = world.sandbox.third_party();
    third_party.set_lookup_default(LookupStep::status_code(503));
    third_party.set_create_default(CreateStep::service_unavailable(0));
}

/// It answers again, and what is created ends at once.
fn recover(world: &World) {
    let third_party = world.sandbox.third_party();
    third_party.set_lookup_default(LookupStep::normal());
    third_party.set_create_default(CreateStep::created_final(Status::Completed));
}

async fn post(app: &TestApp, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = Uuid::now_v7();
        app.client().post_transaction(&transaction(id)).await.expect(202);
        ids.push(id);
    }
    ids
}

/// Everything that waits for the third party is due now.
async fn make_due(pool: &PgPool) {
    let due = "UPDATE apalis.jobs SET run_at = now()
        WHERE status = 'Pending' AND job_type = ANY ($1)";
    sqlx::query(due).bind([CREATE, POLL]).execute(pool).await.unwrap();
}

async fn count(pool: &PgPool, what: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {what}")))
        .fetch_one(pool)
        .await
        .unwrap()
}

/// The attempts of all jobs that call the third party.
async fn attempts(pool: &PgPool) -> i64 {
    let query = "SELECT COALESCE(sum(attempts), 0)::bigint FROM apalis.jobs
        WHERE job_type = ANY ($1)";
    sqlx::query_scalar(query).bind([CREATE, POLL]).fetch_one(pool).await.unwrap()
}

/// The polls that are noted.
async fn polls(pool: &PgPool) -> i64 {
    let query = "SELECT COALESCE(sum((metadata -> 'polls')::bigint), 0)::bigint FROM apalis.jobs
        WHERE job_type = 'update_status'";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// Waits for a probe that is not answered at once.
async fn wait_slow_probe(pool: &PgPool) -> Probe {
    wait_for("a slow probe is under way", BOUND, async || {
        let circuit = read(pool).await;
        let slow = Utc::now() - circuit.changed_at > TimeDelta::milliseconds(300);
        circuit.probe.filter(|_| slow && !circuit.probe_left.is_zero())
    })
    .await
}

async fn end(app: &TestApp, ids: &[Uuid]) {
    for id in ids {
        assert_eq!(app.wait_told(*id, BOUND).await["status"], "completed");
    }
    app.rest(ids).await;
    assert_eq!(count(&app.pool, "failed_jobs").await, 0);
    assert_eq!(read(&app.pool).await.state, CircuitState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_opens_it_burns_no_attempts_and_ends_by_itself() {
    // So short that it passes during the outage, would its clock not stand still.
    let app = with_circuit(quiet_app().await).set("QUARTET_POLL__DEADLINE", "2s").spawn().await;
    assert_eq!(read(&app.pool).await.state, CircuitState::Closed);
    break_down(&app);
    let ids = post(&app, 20).await;
    let opened = wait_state(&app.pool, CircuitState::Open).await;
    // Longer, where the first probe has failed already.
    assert!(opened.open_for >= Some(Duration::from_millis(300)), "{opened:?}");
    assert_eq!(opened.trips, 1);
    assert!(opened.opened_at.is_some() && opened.open_until > opened.opened_at, "{opened:?}");
    let reason = opened.reason.unwrap();
    let is_renewed = opened.open_for > Some(Duration::from_millis(300));
    let cause = if is_renewed { "a probe failed" } else { "calls failed within 1m" };
    assert!(reason.contains(cause) && reason.contains("503"), "{reason}");

    // Calls under way when it opened may count; every job has been postponed once.
    wait_until("all jobs wait", BOUND, async || {
        let running = "apalis.jobs WHERE status = 'Running' AND job_type <> 'notify_client'";
        count(&app.pool, running).await == 0
    })
    .await;
    let (began, before) = (Instant::now(), attempts(&app.pool).await);
    wait_until("probes fail for longer than the deadline", BOUND, async || {
        began.elapsed() > Duration::from_millis(2_500)
            && read(&app.pool).await.open_for == Some(Duration::from_millis(600))
    })
    .await;
    let circuit = read(&app.pool).await;
    assert_eq!((circuit.trips, circuit.opened_at), (1, opened.opened_at), "it never closed");
    assert!(circuit.reason.unwrap().starts_with("a probe failed: answered 503"));
    assert_eq!(attempts(&app.pool).await, before, "no attempt is used up");
    assert_eq!(count(&app.pool, "failed_jobs").await, 0);
    assert_eq!(count(&app.pool, "transactions WHERE status <> 'pending'").await, 0);
    let calls: usize = ids.iter().map(|id| app.calls(*id).len()).sum();
    assert!(calls < 60, "left alone: {calls} calls");

    recover(&app);
    end(&app, &ids).await;
    let closed = read(&app.pool).await;
    assert_eq!((closed.trips, closed.opened_at, closed.open_until), (1, None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_party_that_is_not_there_at_all_opens_it() {
    let app = with_circuit(quiet_app().await)
        .set("QUARTET_THIRD_PARTY__BASE_URL", "http://127.0.0.1:1")
        .spawn()
        .await;
    let ids = post(&app, 10).await;
    let opened = wait_state(&app.pool, CircuitState::Open).await;
    assert!(opened.reason.unwrap().contains("no connection"));
    // The same jobs, by a process that knows the way.
    let other = with_circuit(patient(app.sibling())).spawn().await;
    recover(&app);
    let mut app = app;
    app.stop().await;
    end(&other, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_circuit_lets_one_probe_through() {
    let app = with_circuit(quiet_app().await)
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "20s")
        .spawn()
        .await;
    break_down(&app);
    let ids = post(&app, 20).await;
    wait_state(&app.pool, CircuitState::Open).await;
    let sibling = with_circuit(patient(app.sibling())).role(Role::Worker);
    let _sibling = sibling.set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "20s").spawn().await;
    // Probes are slow from now on.
    let third_party = app.sandbox.third_party();
    third_party.set_lookup_default(LookupStep::FromState(Duration::from_secs(3)));
    third_party.set_create_default(CreateStep::created_final(Status::Completed));
    let probe = wait_slow_probe(&app.pool).await;
    let calls = || third_party.stats().lookups + third_party.stats().creates_received;
    let before = wait_for("no other call is under way", BOUND, async || {
        let running = "apalis.jobs WHERE status = 'Running' AND job_type <> 'notify_client'";
        (count(&app.pool, running).await == 1).then(calls)
    })
    .await;
    let polls_before = polls(&app.pool).await;
    let mut rounds = 0;
    loop {
        // 39 jobs ask, of two processes.
        make_due(&app.pool).await;
        wait_until("all have been turned away", BOUND, async || {
            count(&app.pool, "apalis.jobs WHERE status = 'Pending' AND run_at <= now()").await == 0
                && count(&app.pool, "apalis.jobs WHERE status = 'Running'").await <= 1
        })
        .await;
        let (after, polls_after) = (calls(), polls(&app.pool).await);
        let circuit = read(&app.pool).await;
        if circuit.state != CircuitState::HalfOpen {
            break;
        }
        assert_eq!(circuit.probe.as_ref(), Some(&probe), "one probe");
        assert_eq!(after, before, "no call beside the probe");
        assert_eq!(polls_after, polls_before, "what was turned away counts as no poll");
        rounds += 1;
    }
    println!("rounds of waiting jobs during one probe: {rounds}");
    assert!(rounds >= 2, "{rounds} rounds");
    recover(&app);
    end(&app, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_never_called_is_denied_as_well() {
    let mut app = with_circuit(quiet_app().await)
        .set("QUARTET_CIRCUIT__OPEN_FOR", "60s")
        .set("QUARTET_CIRCUIT__MAX_OPEN_FOR", "60s")
        .spawn()
        .await;
    break_down(&app);
    let mut ids = post(&app, 10).await;
    wait_state(&app.pool, CircuitState::Open).await;
    let other = with_circuit(patient(app.sibling())).spawn().await;
    app.stop().await;
    recover(&other);
    let id = post(&other, 1).await[0];
    ids.push(id);
    for queue in [CREATE, POLL] {
        let job = wait_for("the job is postponed", BOUND, async || {
            let job = job_row(&other.pool, id, queue).await;
            (job.status == "Pending" && job.run_at > Utc::now() + Duration::from_secs(10))
                .then_some(job)
        })
        .await;
        assert_eq!((job.attempts, job.lock_by), (0, None));
    }
    assert_eq!(other.calls(id), []);
    assert_eq!(other.snoozes("polls", POLL, id).await, 0);
    assert_eq!(read(&other.pool).await.state, CircuitState::Open);

    let half_open = "UPDATE circuits SET open_until = now()";
    sqlx::query(half_open).execute(&other.pool).await.unwrap();
    // Until the process has seen it, it may turn them away once more.
    wait_until("it closes and no job is turned away any more", BOUND, async || {
        make_due(&other.pool).await;
        read(&other.pool).await.state == CircuitState::Closed
            && count(&other.pool, "transactions WHERE status = 'pending'").await == 0
    })
    .await;
    end(&other, &ids).await;
}

fn worker(api: &TestApp) -> ProcessBuilder {
    let worker = api.process(Role::Worker).set("QUARTET_HTTP__PUBLIC_URL", api.url());
    SETTINGS.iter().fold(worker, |worker, (variable, value)| worker.set(variable, value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_whose_worker_is_killed_is_taken_over() {
    let api = spawn_api().await;
    break_down(&api);
    let ids = post(&api, 10).await;
    let mut victim: Process =
        worker(&api).set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "2s").spawn().await;
    wait_state(&api.pool, CircuitState::Open).await;
    let third_party = api.sandbox.third_party();
    third_party.set_lookup_default(LookupStep::hang());
    let lost = wait_slow_probe(&api.pool).await;
    victim.kill_9();
    recover(&api);
    let _other = worker(&api).spawn().await;
    wait_state(&api.pool, CircuitState::Closed).await;
    let calls = ids.iter().flat_map(|id| api.calls(*id));
    let answered = calls.filter(|call| call.answered.is_some_and(|(_, code)| code < 500));
    let first: DateTime<Utc> = answered.map(|call| call.time).min().unwrap();
    assert!(first >= lost.until, "not before {}: {first}", lost.until);
    for id in &ids {
        assert_eq!(api.wait_told(*id, BOUND).await["status"], "completed");
    }
    api.rest(&ids).await;
    assert_eq!(count(&api.pool, "failed_jobs").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_refuse_do_not_trip_it() {
    let app = with_circuit(quiet_app().await)
        .set("QUARTET_CIRCUIT__FAILURE_RATIO", "0.1")
        // Polls and creates share the scripted lookups, and either may get the worst of them.
        .set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 10)
        .set("QUARTET_POLL__MAX_DELAY", "100ms")
        .spawn()
        .await;
    let third_party = app.sandbox.third_party();
    let ids: Vec<Uuid> = std::iter::repeat_with(Uuid::now_v7).take(10).collect();
    for id in &ids {
        third_party.script_creates_for(*id, vec![CreateStep::too_many_requests(0); 2]);
        let lookups = [429, 404, 405, 501, 403].map(LookupStep::status_code);
        third_party.script_lookups_for(*id, lookups.to_vec());
    }
    third_party.set_create_default(CreateStep::created_final(Status::Completed));
    for id in &ids {
        app.client().post_transaction(&transaction(*id)).await.expect(202);
    }
    end(&app, &ids).await;
    assert_eq!(read(&app.pool).await.trips, 0);
    let refused = ids
        .iter()
        .flat_map(|id| app.calls(*id))
        .filter(|call| call.answered.is_some_and(|(_, code)| code >= 400));
    assert!(refused.count() > 20);
}

#[tokio::test]
async fn of_many_at_once_one_trips_and_one_probes() {
    let world = World::new().await;
    let pool = &world.pool;
    let second = Duration::from_secs(1);
    let name = &Default::default();
    let trip = |trips| circuit::trip(pool, name, trips, 60 * second, CircuitCause::Outage, "test");
    let tripped = join_all((0..8).map(|_| trip(0))).await;
    assert_eq!(tripped.into_iter().filter(|tripped| *tripped.as_ref().unwrap()).count(), 1);
    let take = |by: String| async move { circuit::take_probe(pool, name, &by, 60 * second).await };
    assert_eq!(take("early".to_owned()).await.unwrap(), None, "it is open");

    let half_open = async || {
        sqlx::query("UPDATE circuits SET open_until = now()").execute(pool).await.unwrap();
        assert_eq!(read(pool).await.state, CircuitState::HalfOpen);
    };
    half_open().await;
    let taken = join_all((0..8).map(|n| take(n.to_string()))).await;
    let taken: Vec<usize> =
        (0..8).filter(|n| taken[*n].as_ref().unwrap() == &Some(60 * second)).collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
    let by = taken[0].to_string();
    assert_eq!(read(pool).await.probe.unwrap().by, by);

    // A lost probe is taken over, and its late result changes nothing.
    sqlx::query("UPDATE circuits SET probe_until = now()").execute(pool).await.unwrap();
    assert_eq!(take("next".to_owned()).await.unwrap(), Some(60 * second));
    assert!(!circuit::close(pool, name, &by).await.unwrap());
    assert!(!circuit::reopen(pool, name, &by, second, CircuitCause::Outage, "late").await.unwrap());
    assert!(
        circuit::reopen(pool, name, "next", 120 * second, CircuitCause::Outage, "in time")
            .await
            .unwrap()
    );
    let circuit = read(pool).await;
    assert_eq!((circuit.state, circuit.trips), (CircuitState::Open, 1));
    assert_eq!((circuit.open_for, circuit.probe), (Some(120 * second), None));
    assert!(circuit.open_left > 100 * second, "{:?}", circuit.open_left);

    half_open().await;
    take("last".to_owned()).await.unwrap().unwrap();
    assert!(circuit::close(pool, name, "last").await.unwrap());
    assert!(!trip(0).await.unwrap(), "calls of before the opening say nothing");
    assert!(trip(1).await.unwrap());
    assert_eq!(read(pool).await.trips, 2);
}

/// As a database leaves it whose clock was hours ahead and was set back.
#[tokio::test]
async fn an_opening_and_a_probe_that_end_too_far_ahead_hold_nothing_up() {
    let world = World::new().await;
    let pool = &world.pool;
    let (name, open_for) = (&Default::default(), Duration::from_secs(15));
    circuit::trip(pool, name, 0, open_for, CircuitCause::Outage, "test").await.unwrap();
    assert_eq!(read(pool).await.state, CircuitState::Open);
    let take = |by| circuit::take_probe(pool, name, by, Duration::from_secs(60));
    assert_eq!(take("early").await.unwrap(), None);

    let later = "UPDATE circuits SET open_until = now() + interval '6 hours'";
    sqlx::query(later).execute(pool).await.unwrap();
    let circuit = read(pool).await;
    assert_eq!((circuit.state, circuit.open_left), (CircuitState::HalfOpen, Duration::ZERO));
    let shown = "SELECT state FROM operator.circuit";
    let shown: String = sqlx::query_scalar(shown).fetch_one(pool).await.unwrap();
    assert_eq!(shown, CircuitState::HalfOpen.as_str());
    assert_eq!(take("first").await.unwrap(), Some(open_for));
    assert!(read(pool).await.probe_left > open_for);
    assert_eq!(take("second").await.unwrap(), None, "one probe at a time");

    let later = "UPDATE circuits SET probe_until = now() + interval '6 hours'";
    sqlx::query(later).execute(pool).await.unwrap();
    assert_eq!(read(pool).await.probe_left, Duration::ZERO);
    assert_eq!(take("third").await.unwrap(), Some(open_for));
    assert!(circuit::close(pool, name, "third").await.unwrap());
}

/// A third party that fails for some ids alone: their probes keep the circuit open, and yet each
/// comes to an end in front of an operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_never_answered_come_to_an_end() {
    let app = with_circuit(quiet_app().await)
        .set("QUARTET_CIRCUIT__OPEN_FOR", "40ms")
        .set("QUARTET_CIRCUIT__MAX_OPEN_FOR", "40ms")
        .set("QUARTET_POLL__FIRST", "10ms")
        .set("QUARTET_POLL__MAX_DELAY", "50ms")
        .set("QUARTET_POLL__DEADLINE", "500ms")
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "50ms")
        .spawn()
        .await;
    app.sandbox.third_party().set_lookup_default(LookupStep::status_code(500));
    let ids = post(&app, 2).await;
    wait_until("each is in front of an operator, with nothing left to do", 4 * BOUND, async || {
        let under_way = "apalis.jobs
            WHERE job_type IN ('create_at_third_party', 'update_status') AND status <> 'Failed'
                AND status <> 'Done'";
        count(&app.pool, under_way).await == 0
    })
    .await;
    for id in &ids {
        let letters = app.operator().open_dead_letters(*id).await;
        assert!(!letters.is_empty(), "{id}");
    }
    app.assert_invariants(&ids).await;
}
