//! 401, 403 and a proxy's 407 concern our credentials, unless they concern one transaction alone.

use std::time::{Duration, Instant};

use quartet::{
    domain::{CircuitCause, CircuitState},
    sandbox::{CreateStep, LookupStep, Status},
    store::circuit,
};
use uuid::Uuid;

use crate::support::{
    TestApp,
    exposition::Exposition,
    jobs::{BOUND, quiet_app},
    transaction, wait_until,
};

/// So short that the deadline passes meanwhile, would its clock not stand still.
const SETTINGS: [(&str, &str); 5] = [
    ("QUARTET_CIRCUIT__OPEN_FOR", "200ms"),
    ("QUARTET_CIRCUIT__MAX_OPEN_FOR", "400ms"),
    ("QUARTET_POLL__DEADLINE", "3s"),
    ("QUARTET_THIRD_PARTY__CREATE_RETRIES", "1"),
    ("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "300ms"),
];

async fn spawn(settings: &[(&str, &str)]) -> TestApp {
    let app = quiet_app().await;
    settings.iter().fold(app, |app, (variable, value)| app.set(variable, value)).spawn().await
}

async fn post(app: &TestApp) -> Uuid {
    let id = Uuid::now_v7();
    app.client().post_transaction(&transaction(id)).await.expect(202);
    id
}

async fn is_held(app: &TestApp, cause: CircuitCause) -> bool {
    let circuit = circuit::get(&app.pool, &Default::default()).await.unwrap();
    circuit.state != CircuitState::Closed && circuit.cause == cause
}

/// Holds for longer than the deadline, is seen everywhere, and goes on by itself.
async fn assert_held_and_released(app: &TestApp, cause: CircuitCause, ids: &[Uuid], code: &str) {
    wait_until("the queues are held", BOUND, async || is_held(app, cause).await).await;
    let began = Instant::now();
    let mut explained = String::new();
    wait_until("it is held for longer than the deadline", BOUND, async || {
        let path = format!("/v1/operator/transactions/{}/explain", ids[0]);
        let answer = app.operator().get(&path).await.expect(200).clone();
        if answer["cause"]["kind"] == "credentials_refused" {
            explained = answer["cause"]["detail"].as_str().unwrap().to_owned();
        }
        began.elapsed() > Duration::from_secs(6) && !explained.is_empty()
    })
    .await;
    println!("explain: {explained}");
    assert!(explained.contains("refuses our credentials") && explained.contains(code));
    assert!(is_held(app, cause).await);
    let ready = app.anonymous().get("/health/ready").await.expect(200).clone();
    assert!(ready["detail"].as_str().unwrap().contains("credentials"), "{ready}");
    let metrics = app.operator().get("/metrics").await.text;
    let metrics = Exposition::read(&metrics);
    assert_eq!(metrics.value("quartet_third_party_credentials_refused", &[]), Some(1.0));
    let call = if cause == CircuitCause::LookupRefused { "lookup" } else { "create" };
    let calls = |result| {
        let labels = [("call", call), ("result", result)];
        metrics.value("quartet_third_party_calls_total", &labels)
    };
    assert!(calls("unauthorized") > Some(0.0));
    // Nor are they counted as what other alerts are about.
    let others = if call == "lookup" { "no_answer" } else { "rejected" };
    assert_eq!(calls(others), Some(0.0));
    for id in ids {
        assert_eq!(app.operator().open_dead_letters(*id).await.len(), 0);
        assert_eq!(app.client().get_transaction(*id).await.body["status"], "pending");
        assert_eq!(app.job("create_at_third_party", *id).await.attempts, 0);
    }
    let third_party = app.sandbox.third_party();
    third_party.set_lookup_default(LookupStep::normal());
    third_party.set_create_default(CreateStep::created_final(Status::Completed));
    for id in ids {
        assert_eq!(app.wait_told(*id, BOUND).await["status"], "completed");
    }
    app.rest(ids).await;
    assert!(!is_held(app, cause).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_lookups_hold_the_third_partys_queues_without_a_cost() {
    for code in [401, 403] {
        let app = spawn(&SETTINGS).await;
        app.sandbox.third_party().set_lookup_default(LookupStep::status_code(code));
        let ids = [post(&app).await, post(&app).await, post(&app).await];
        let cause = CircuitCause::LookupRefused;
        assert_held_and_released(&app, cause, &ids, &code.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_creates_hold_the_third_partys_queues_without_a_cost() {
    for code in [401, 407] {
        let app = spawn(&SETTINGS).await;
        app.sandbox.third_party().set_create_default(CreateStep::rejected(code));
        let ids = [post(&app).await, post(&app).await];
        assert_held_and_released(&app, CircuitCause::CreateRefused, &ids, &code.to_string()).await;
    }
}

/// One transaction that the third party refuses to show comes to its own end, and holds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_is_refused_for_one_id_alone_holds_nothing() {
    let app = spawn(&SETTINGS).await;
    let third_party = app.sandbox.third_party();
    let id = Uuid::now_v7();
    third_party.script_lookups_for(id, vec![LookupStep::status_code(403); 200]);
    third_party.set_create_default(CreateStep::created_final(Status::Completed));
    app.accept_as(id).await;
    let other = post(&app).await;
    assert_eq!(app.wait_told(other, BOUND).await["status"], "completed");
    let letter = app.wait_dead_letter(id).await;
    assert!(letter["reason"].as_str().unwrap().contains("403"), "{letter}");
    assert_eq!(circuit::get(&app.pool, &Default::default()).await.unwrap().trips, 0);
}

/// One transaction that the third party refuses to take is rejected once others are known to be
/// taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_is_refused_while_others_are_taken_is_rejected() {
    // So that others are surely taken between two of its tries.
    let app = spawn(&[("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "2s")]).await;
    let third_party = app.sandbox.third_party();
    third_party.set_create_default(CreateStep::created_final(Status::Completed));
    let first = post(&app).await;
    app.wait_told(first, BOUND).await;
    let id = Uuid::now_v7();
    third_party.script_creates_for(id, vec![CreateStep::rejected(403); 50]);
    app.accept_as(id).await;
    let mut others = vec![first];
    wait_until("it is an operator's", 3 * BOUND, async || {
        others.push(post(&app).await);
        !app.operator().open_dead_letters(id).await.is_empty()
    })
    .await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "rejected", "{letter}");
    assert!(letter["reason"].as_str().unwrap().contains("answered 403"), "{letter}");
    for other in others {
        assert_eq!(app.wait_told(other, BOUND).await["status"], "completed");
    }
    assert_eq!(circuit::get(&app.pool, &Default::default()).await.unwrap().trips, 0);
}
