//! Webhooks against polls, against the accept, against each other; and two workers on one queue.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;
use quartet::{
    config::Role,
    sandbox::{LookupStep, SendWebhook, Status},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    jobs::{BOUND, patient, quiet_app},
    wait_for, wait_until,
};

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Accepts a transaction whose first poll says `status` after `delay`.
async fn accept_polled(app: &TestApp, status: Status, delay: Duration) -> Uuid {
    let id = Uuid::now_v7();
    let answer = LookupStep::answer(json!({ "id": id, "status": status })).delay(delay);
    // The first lookup is the create job's.
    app.sandbox.third_party().script_lookups_for(id, vec![LookupStep::normal(), answer]);
    app.sandbox.third_party().store(id, Status::Pending);
    app.accept_as(id).await;
    id
}

/// Races a webhook `completed` against the poll that is under way; returns its outcome.
async fn race(app: &TestApp, status: Status, delay: Duration) -> (Uuid, Value) {
    let id = accept_polled(app, status, delay).await;
    wait_until("the poll is under way", BOUND, async || {
        app.sandbox.third_party().lookups_of(id) > 1
    })
    .await;
    let (_, answer) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    (id, answer["outcome"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_and_a_poll_that_agree_settle_once() {
    let app = quiet_app().await.spawn().await;
    let races = (0..16).map(|nth| race(&app, Status::Completed, millis(nth * 4)));
    let mut ids = Vec::new();
    for (id, outcome) in join_all(races).await {
        let transaction = app.wait_told(id, BOUND).await;
        let first = if outcome == "settled" { "webhook" } else { "poll" };
        assert_eq!(transaction["settled_by"], first, "webhook: {outcome}");
        assert_eq!(transaction["version"], 2);
        assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
        ids.push(id);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_and_a_poll_that_differ_settle_once_and_conflict_once() {
    let app = quiet_app().await.spawn().await;
    let races = (0..16).map(|nth| race(&app, Status::Declined, millis(nth * 4)));
    let mut ids = Vec::new();
    for (id, outcome) in join_all(races).await {
        let transaction = app.wait_told(id, BOUND).await;
        let (status, by) = match outcome.as_str() {
            Some("settled") => ("completed", "webhook"),
            Some("conflict") => ("declined", "poll"),
            _ => panic!("{outcome}"),
        };
        assert_eq!(
            (&transaction["status"], &transaction["settled_by"]),
            (&json!(status), &json!(by))
        );
        assert_eq!(transaction["version"], 2);
        let letters = wait_for("the conflict is a dead letter", BOUND, async || {
            Some(app.operator().open_dead_letters(id).await).filter(|letters| !letters.is_empty())
        })
        .await;
        let kinds: Vec<_> = letters.iter().map(|letter| &letter["kind"]).collect();
        assert_eq!(kinds, ["status_conflict"]);
        ids.push(id);
    }
    app.rest(&ids).await;
    for id in ids {
        assert_eq!(app.operator().open_dead_letters(id).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_races_the_accept_is_applied_or_kept() {
    let app = quiet_app().await.spawn().await;
    let races = (0..16).map(async |nth: u32| {
        let id = Uuid::now_v7();
        let webhook = app.send_webhook(SendWebhook::new(id, "completed"));
        let (_, (status, answer)) = if nth.is_multiple_of(2) {
            tokio::join!(app.accept_as(id), webhook)
        } else {
            let (answer, ()) = tokio::join!(webhook, app.accept_as(id));
            ((), answer)
        };
        assert_eq!(status, 200);
        (id, answer["outcome"].clone())
    });
    let mut ids = Vec::new();
    for (id, outcome) in join_all(races).await {
        let letters = app.operator().open_dead_letters(id).await;
        match outcome.as_str() {
            Some("settled") => assert_eq!(letters, [] as [Value; 0]),
            Some("unknown_transaction") => {
                assert_eq!(letters.len(), 1, "{letters:?}");
                assert_eq!(letters[0]["kind"], "unknown_transaction");
                app.replay(&letters[0]).await;
            }
            _ => panic!("{outcome}"),
        }
        let transaction = app.wait_told(id, BOUND).await;
        assert_eq!(
            (&transaction["status"], &transaction["settled_by"]),
            (&json!("completed"), &json!("webhook"))
        );
        ids.push(id);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_webhooks_at_once_one_settles() {
    let app = quiet_app().await.spawn().await;
    let id = app.client().accept().await;
    let webhooks = (0..40).map(async |nth: u32| {
        let status = if nth.is_multiple_of(2) { "completed" } else { "declined" };
        let (code, answer) = app.send_webhook(SendWebhook::new(id, status)).await;
        assert_eq!((code, &answer["duplicate"]), (200, &json!(false)), "{answer}");
        (status, answer["outcome"].as_str().unwrap().to_owned())
    });
    let outcomes = join_all(webhooks).await;
    let of = |wanted: &str| outcomes.iter().filter(|(_, outcome)| outcome == wanted).count();
    assert_eq!((of("settled"), of("unchanged"), of("conflict")), (1, 19, 20), "{outcomes:?}");
    let winner = outcomes.iter().find(|(_, outcome)| outcome == "settled").unwrap().0;
    for (status, outcome) in &outcomes {
        assert_eq!(outcome == "conflict", *status != winner, "{outcomes:?}");
    }
    let letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "one for one cause: {letters:?}");
    assert_eq!(app.wait_told(id, BOUND).await["status"], winner);
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_webhook_sent_many_times_at_once_one_is_no_duplicate() {
    let app = quiet_app().await.spawn().await;
    let id = app.client().accept().await;
    let webhooks = (0..20).map(async |_| {
        let webhook = SendWebhook::new(id, "declined").webhook_id("evt_once");
        let (code, answer) = app.send_webhook(webhook).await;
        assert_eq!((code, &answer["outcome"]), (200, &json!("settled")), "{answer}");
        answer["duplicate"].as_bool().unwrap()
    });
    let duplicates = join_all(webhooks).await;
    assert_eq!(duplicates.iter().filter(|duplicate| !**duplicate).count(), 1);
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "webhook").count(), 1, "{kinds:?}");
    app.wait_told(id, BOUND).await;
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_on_a_queue_run_each_job_once() {
    let world = World::new().await;
    let app = patient(world.app()).spawn().await;
    let other = patient(app.sibling()).role(Role::Worker).spawn().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        // No more at once than the small pool of a test serves on a busy machine.
        ids.extend(join_all((0..10).map(async |_| app.client().accept().await)).await);
    }
    let bound = BOUND * 2;
    for id in &ids {
        app.wait_told(*id, bound).await;
    }
    other.wait_at_rest(bound).await;
    other.assert_invariants(&ids).await;

    let workers = "SELECT count(*) FROM apalis.workers";
    let workers: i64 = sqlx::query_scalar(workers).fetch_one(&app.pool).await.unwrap();
    assert_eq!(workers, 8);
    let repeated = "SELECT job_type || ' ' || status || ' ' || attempts FROM apalis.jobs
        WHERE attempts > 1 OR status <> 'Done'";
    let repeated: Vec<String> = sqlx::query_scalar(repeated).fetch_all(&app.pool).await.unwrap();
    assert_eq!(repeated, [] as [String; 0]);
    assert_eq!(app.sandbox.stats().third_party.creates_received, 100);
    let deliveries = app.sandbox.client().deliveries();
    let versions: HashSet<_> =
        deliveries.iter().map(|delivery| (delivery.id, delivery.version)).collect();
    assert_eq!(versions.len(), deliveries.len(), "a version was delivered twice");
}
