//! Job 4: what the client is told, when, and what happens when it does not listen.

use std::time::Duration;

use chrono::{DateTime, Utc};
use quartet::sandbox::{CreateStep, Delivery, Reaction, SendWebhook, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestApp,
    jobs::{BOUND, quiet_app},
    wait_until,
};

const JOB: &str = "notify_client";
/// A backoff that no test waits for.
const FAR: &str = "50s";
/// By how much the quickest of several may be late on a busy machine.
const SLACK: Duration = Duration::from_millis(60);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Accepts a transaction about which the client answers this.
async fn accept(app: &TestApp, answers: Vec<Reaction>) -> Uuid {
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, answers);
    app.accept_as(id).await;
    id
}

fn deliveries(app: &TestApp, id: Uuid) -> Vec<Delivery> {
    app.sandbox.client().deliveries_of(id)
}

async fn wait_deliveries(app: &TestApp, id: Uuid, count: usize) {
    wait_until(&format!("the client is called {count} times"), BOUND, async || {
        deliveries(app, id).len() >= count
    })
    .await;
}

/// The times between the arrivals.
fn gaps(app: &TestApp, id: Uuid) -> Vec<Duration> {
    deliveries(app, id).windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

fn told(versions: &[(&str, i64)]) -> Vec<(String, i64)> {
    versions.iter().map(|(status, version)| ((*status).to_owned(), *version)).collect()
}

async fn settle(app: &TestApp, id: Uuid) {
    let (_, answer) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(answer["outcome"], "settled", "{answer}");
}

async fn assert_no_dead_letter(app: &TestApp, id: Uuid) {
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_hears_pending_at_200_ms_and_then_the_end() {
    let app = quiet_app().await.spawn().await;
    let (mut ids, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let id = accept(&app, vec![]).await;
        app.wait_notified(id, 1).await;
        settle(&app, id).await;
        let transaction = app.wait_told(id, BOUND).await;
        let time = |field: &str| -> DateTime<Utc> {
            transaction[field].as_str().unwrap().parse().unwrap()
        };
        let heard = deliveries(&app, id);
        assert_eq!(app.told(id), told(&[("pending", 1), ("completed", 2)]));
        for delivery in &heard {
            assert!(delivery.signature_valid);
            assert_eq!(delivery.webhook_id, format!("{id}_{}", delivery.version));
            assert_eq!(delivery.path, "/callback");
        }
        assert_eq!(heard[0].occurred_at, time("created_at"));
        assert_eq!(heard[1].occurred_at, time("settled_at"));
        firsts.push((heard[0].time - time("created_at")).to_std().unwrap());
        ids.push(id);
    }
    let quickest = *firsts.iter().min().unwrap();
    assert!(quickest >= millis(200) && quickest <= millis(200) + SLACK, "{firsts:?}");
    let kinds = app.client().event_kinds(ids[0]).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "client_notified").count(), 2, "{kinds:?}");
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_end_is_all_that_the_client_hears() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__FIRST", FAR).spawn().await;
    let id = Uuid::now_v7();
    let created = CreateStep::created_final(Status::Declined);
    app.sandbox.third_party().script_creates_for(id, vec![created]);
    app.accept_as(id).await;
    app.wait_told(id, BOUND).await;
    app.rest(&[id]).await;
    assert_eq!(app.told(id), told(&[("declined", 2)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_tried_again_with_growing_gaps() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__BASE", "100ms").spawn().await;
    let id = accept(&app, vec![Reaction::status_code(500); 4]).await;
    app.wait_notified(id, 1).await;
    assert_eq!(app.told(id), told(&[("pending", 1); 5]));
    // Jitter takes up to a fifth off.
    let gaps = gaps(&app, id);
    for (gap, least) in gaps.iter().zip([80, 160, 320, 640]) {
        assert!(*gap >= millis(least), "{gaps:?}");
    }
    assert!(gaps[0] < millis(640), "the first gap is not the last one's: {gaps:?}");
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "client_refused").count(), 4, "{kinds:?}");
    assert_eq!(app.wait_job(JOB, id, "Done").await.attempts, 5);
    assert_no_dead_letter(&app, id).await;
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_counts_where_it_is_longer() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__BASE", "100ms").spawn().await;
    let answers = vec![Reaction::retry_after(503, 1), Reaction::retry_after(429, 0)];
    let id = accept(&app, answers).await;
    app.wait_notified(id, 1).await;
    let gaps = gaps(&app, id);
    assert!(gaps[0] >= millis(1000), "{gaps:?}");
    assert!(gaps[1] >= millis(160), "the backoff is longer than Retry-After: {gaps:?}");
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_an_answer_is_tried_again() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__TIMEOUT", "1s").spawn().await;
    let id = accept(&app, vec![Reaction::Hang, Reaction::Reset]).await;
    app.wait_notified(id, 1).await;
    assert_eq!(app.told(id), told(&[("pending", 1); 3]));
    assert!(gaps(&app, id)[0] >= millis(1000 + 40), "timeout and backoff");
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let app = quiet_app().await.spawn().await;
    let elsewhere = format!("{}/elsewhere", app.sandbox.callback_url());
    let redirect = |code| Reaction::status_code(code).header("location", elsewhere.clone());
    let id = accept(&app, vec![redirect(302), redirect(307), redirect(308)]).await;
    app.wait_notified(id, 1).await;
    let paths: Vec<_> = deliveries(&app, id).into_iter().map(|delivery| delivery.path).collect();
    assert_eq!(paths, ["/callback"; 4]);
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_up_attempts_are_a_dead_letter_whose_replay_delivers() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 3).spawn().await;
    app.sandbox.client().set_default(Reaction::status_code(500).text("out of order"));
    let id = accept(&app, vec![]).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!("exhausted"), &json!(JOB)), "{letter}");
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{letter}");
    assert!(attempts[2]["error"].as_str().unwrap().contains("500: out of order"), "{letter}");
    let job = app.job(JOB, id).await;
    assert_eq!((job.status.as_str(), job.attempts), ("Failed", 3));
    assert_eq!(deliveries(&app, id).len(), 3);

    app.sandbox.client().clear_scripts();
    assert_eq!(app.replay(&letter).await["state"], "replayed");
    app.wait_notified(id, 1).await;
    assert_eq!(app.wait_job(JOB, id, "Done").await.attempts, 1, "fresh attempts");
    assert_no_dead_letter(&app, id).await;
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_is_not_called_again_until_an_operator_says_so() {
    let app = quiet_app().await.spawn().await;
    let (id, other) = (accept(&app, vec![Reaction::status_code(410)]).await, Uuid::now_v7());
    let letter = app.wait_dead_letter(id).await;
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!("rejected"), &json!(JOB)), "{letter}");
    assert_eq!(app.job(JOB, id).await.status, "Failed");
    settle(&app, id).await;
    // Another one is settled and told after it; this one is not.
    app.accept_as(other).await;
    app.settle_by_webhook(&[other]).await;
    assert_eq!(app.told(id), told(&[("pending", 1)]));
    assert_eq!(app.operator().open_dead_letters(id).await.len(), 1);

    app.replay(&letter).await;
    app.wait_told(id, BOUND).await;
    assert_eq!(app.told(id), told(&[("pending", 1), ("completed", 2)]));
    app.rest(&[id, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_while_the_client_is_being_told_is_told_next() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__BASE", FAR);
    let app = app.set("QUARTET_NOTIFY__MAX_DELAY", FAR).spawn().await;
    let late = |code| Reaction::status_code(code).delay(millis(500));
    let mut ids = Vec::new();
    for answer in [late(204), late(500)] {
        let id = accept(&app, vec![answer]).await;
        wait_deliveries(&app, id, 1).await;
        settle(&app, id).await;
        assert_eq!(deliveries(&app, id)[0].answered_status, None, "the first call is under way");
        app.wait_told(id, BOUND).await;
        assert_eq!(app.told(id), told(&[("pending", 1), ("completed", 2)]));
        assert!(gaps(&app, id)[0] >= millis(500), "one at a time");
        assert_eq!(app.wait_job(JOB, id, "Done").await.attempts, 1, "fresh attempts");
        ids.push(id);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_during_the_backoff_is_told_at_once_with_fresh_attempts() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__BASE", FAR);
    let app = app.set("QUARTET_NOTIFY__MAX_DELAY", FAR).set("QUARTET_NOTIFY__MAX_ATTEMPTS", 2);
    let app = app.spawn().await;
    let id = accept(&app, vec![Reaction::status_code(500)]).await;
    wait_until("the first attempt is over", BOUND, async || app.job(JOB, id).await.attempts == 1)
        .await;
    let job = app.job(JOB, id).await;
    assert!(job.run_at > Utc::now() + Duration::from_secs(20), "it waits: {job:?}");
    settle(&app, id).await;
    app.wait_told(id, BOUND).await;
    assert_eq!(app.told(id), told(&[("pending", 1), ("completed", 2)]));
    assert_eq!(app.wait_job(JOB, id, "Done").await.attempts, 1);
    assert_no_dead_letter(&app, id).await;
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_that_gets_through_resolves_the_dead_letter_about_pending() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 2).spawn().await;
    let id = accept(&app, vec![Reaction::status_code(500); 2]).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "exhausted", "{letter}");
    app.settle_by_webhook(&[id]).await;
    assert_eq!(app.told(id), told(&[("pending", 1), ("pending", 1), ("completed", 2)]));
    let letter = app.dead_letter(&letter).await;
    assert_eq!((&letter["state"], &letter["closed_by"]), (&json!("resolved"), &json!(JOB)));
    assert_no_dead_letter(&app, id).await;
}
