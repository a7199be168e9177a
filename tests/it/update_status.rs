//! Job 3: when update_status polls, and what ends it.

use std::time::Duration;

use chrono::Utc;
use futures_util::future::join_all;
use quartet::sandbox::{CallKind, LookupStep, Reaction, SendWebhook, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestApp,
    jobs::{BOUND, gaps, quiet_app},
    wait_until,
};

const JOB: &str = "update_status";
/// By how much the quickest of several may be late.
const SLACK: Duration = Duration::from_millis(150);
/// On a machine that is busy all are late for a while, and more are polled.
const ROUNDS: usize = 8;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Accepts a transaction that the third party has already: the create job looks once, and all
/// further calls are polls.
async fn accept(app: &TestApp) -> Uuid {
    let id = Uuid::now_v7();
    app.sandbox.third_party().store(id, Status::Pending);
    app.accept_as(id).await;
    id
}

async fn wait_polls(app: &TestApp, id: Uuid, polls: usize) {
    wait_until(&format!("{id} is polled {polls} times"), BOUND, async || {
        app.sandbox.third_party().lookups_of(id) > polls
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_come_at_200_ms_then_10_ms_then_doubled_up_to_the_cap() {
    let app = quiet_app().await.set("QUARTET_POLL__MAX_DELAY", "400ms").spawn().await;
    let expected = [10, 20, 40, 80, 160, 320, 400, 400].map(millis);
    let poll = async || {
        let id = accept(&app).await;
        wait_polls(&app, id, 1 + expected.len()).await;
        let accepted = app.client().get_transaction(id).await.body["created_at"].clone();
        let accepted: chrono::DateTime<Utc> = serde_json::from_value(accepted).unwrap();
        let calls = app.calls(id);
        assert!(calls.iter().all(|call| call.kind == CallKind::Lookup));
        let first = (calls[1].time - accepted).to_std().unwrap();
        let mut delays = vec![first];
        delays.extend(gaps(&calls[1..=1 + expected.len()]));
        (id, delays)
    };
    let due: Vec<Duration> = [millis(200)].into_iter().chain(expected).collect();
    let mut quickest = vec![Duration::MAX; due.len()];
    let mut ids = Vec::new();
    let is_late = |(delay, due): (&Duration, &Duration)| *delay > *due + SLACK;
    for _ in 0..ROUNDS {
        for (id, delays) in join_all((0..4).map(|_| poll())).await {
            ids.push(id);
            for (quickest, delay) in quickest.iter_mut().zip(delays) {
                *quickest = delay.min(*quickest);
            }
        }
        assert!(quickest.iter().zip(&due).all(|(delay, due)| delay >= due), "{quickest:?}");
        if !quickest.iter().zip(&due).any(is_late) {
            break;
        }
    }
    assert!(!quickest.iter().zip(&due).any(is_late), "{quickest:?}, due after {due:?}");
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_that_a_poll_finds_settles() {
    let app = quiet_app().await.spawn().await;
    let mut ids = Vec::new();
    for status in [Status::Completed, Status::Declined] {
        let id = accept(&app).await;
        wait_polls(&app, id, 2).await;
        app.sandbox.third_party().set_status(id, status);
        let transaction = app.wait_told(id, BOUND).await;
        assert_eq!(transaction["status"], status.as_str());
        assert_eq!(transaction["settled_by"], "poll");
        let job = app.job(JOB, id).await;
        assert_eq!((job.status.as_str(), job.lock_by), ("Done", None));
        let kinds = app.client().event_kinds(id).await;
        assert!(kinds.contains(&"poll_status".to_owned()), "{kinds:?}");
        assert_eq!(app.told(id).last(), Some(&(status.to_string(), 2)));
        ids.push(id);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_ends_polling() {
    let app = quiet_app().await.set("QUARTET_POLL__MAX_DELAY", "40ms").spawn().await;
    let (id, other) = (accept(&app).await, accept(&app).await);
    wait_polls(&app, id, 3).await;
    let (_, answer) = app.send_webhook(SendWebhook::new(id, "declined")).await;
    let polls = app.sandbox.third_party().lookups_of(id);
    assert_eq!(answer["outcome"], "settled");
    let job = app.job(JOB, id).await;
    assert_eq!((job.status.as_str(), job.lock_by), ("Done", None), "in the webhook's transaction");
    // Meanwhile the other one is polled on and on.
    wait_polls(&app, other, app.sandbox.third_party().lookups_of(other) + 5).await;
    let since = app.sandbox.third_party().lookups_of(id) - polls;
    assert!(since <= 1, "{since} polls after the webhook");
    assert_eq!(app.wait_told(id, BOUND).await["settled_by"], "webhook");
    app.settle_by_webhook(&[other]).await;
    app.rest(&[id, other]).await;
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_opens_a_dead_letter_that_a_late_webhook_resolves() {
    let app = quiet_app().await.set("QUARTET_POLL__DEADLINE", "600ms").spawn().await;
    let id = accept(&app).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!("deadline"), &json!(JOB)), "{letter}");
    assert_eq!(app.job(JOB, id).await.status, "Failed");
    let transaction = app.client().get_transaction(id).await.body;
    assert_eq!((&transaction["status"], &transaction["version"]), (&json!("pending"), &json!(1)));
    let time =
        |value: &Value| -> chrono::DateTime<Utc> { value.as_str().unwrap().parse().unwrap() };
    let waited = time(&letter["opened_at"]) - time(&transaction["created_at"]);
    assert!(waited.to_std().unwrap() >= millis(600), "{waited}");
    app.rest(&[id]).await;

    app.settle_by_webhook(&[id]).await;
    let letter = app.dead_letter(&letter).await;
    assert_eq!((&letter["state"], &letter["closed_by"]), (&json!("resolved"), &json!("webhook")));
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    assert_eq!(app.told(id).last(), Some(&("completed".to_owned(), 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_wait_is_stored_and_costs_no_attempt() {
    let app = quiet_app().await;
    let app = app.set("QUARTET_POLL__SECOND", "1250ms").set("QUARTET_POLL__MAX_DELAY", "1250ms");
    let app = app.spawn().await;
    let id = accept(&app).await;
    for polls in 1..=2 {
        wait_until("the poll is noted", BOUND, async || {
            app.snoozes("polls", JOB, id).await == polls
        })
        .await;
        let job = app.job(JOB, id).await;
        assert_eq!((job.status.as_str(), job.attempts, &job.lock_by), ("Pending", 0, &None));
        assert!(job.run_at > Utc::now() + millis(200), "{job:?}");
        assert_eq!(app.sandbox.third_party().lookups_of(id) as i32, 1 + polls);
    }
    // Jitter takes up to a fifth off.
    let gap = gaps(&app.calls(id)[1..])[0];
    assert!(gap >= millis(1000), "{gap:?}");
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_without_an_answer_end_nothing() {
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "1s");
    let app = app.spawn().await;
    let id = Uuid::now_v7();
    let busy = LookupStep::React(Reaction::retry_after(429, 1));
    // The first one is the create job's.
    let lookups = vec![
        LookupStep::normal(),
        LookupStep::status_code(500),
        LookupStep::reset(),
        LookupStep::hang(),
        LookupStep::not_found(),
        LookupStep::answer(json!({ "id": Uuid::now_v7(), "status": "completed" })),
        busy,
    ];
    app.sandbox.third_party().script_lookups_for(id, lookups);
    app.sandbox.third_party().store(id, Status::Pending);
    app.accept_as(id).await;
    wait_polls(&app, id, 7).await;
    let transaction = app.client().get_transaction(id).await.body;
    assert_eq!(transaction["status"], "pending", "another id's status says nothing");
    app.sandbox.third_party().set_status(id, Status::Declined);
    assert_eq!(app.wait_told(id, BOUND).await["settled_by"], "poll");
    let gap = gaps(&app.calls(id))[6];
    assert!(gap >= millis(1000), "Retry-After counts: {gap:?}");
    assert_eq!(app.job(JOB, id).await.attempts, 1, "only the successful end counts");
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_contradicts_the_status_is_a_conflict() {
    let app = quiet_app().await.spawn().await;
    let id = Uuid::now_v7();
    let declined = LookupStep::answer(json!({ "id": id, "status": "declined" }));
    let lookups = vec![LookupStep::normal(), declined.delay(millis(400))];
    app.sandbox.third_party().script_lookups_for(id, lookups);
    app.sandbox.third_party().store(id, Status::Pending);
    app.accept_as(id).await;
    wait_polls(&app, id, 1).await;
    let (_, answer) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(answer["outcome"], "settled", "the poll is under way");
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "status_conflict", "{letter}");
    let transaction = app.wait_told(id, BOUND).await;
    assert_eq!((&transaction["status"], &transaction["version"]), (&json!("completed"), &json!(2)));
    assert_eq!(transaction["settled_by"], "webhook");
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "conflict").count(), 1, "{kinds:?}");
    app.rest(&[id]).await;
}
