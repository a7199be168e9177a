//! Job 2: what create_at_third_party asks the third party, when, and what it makes of the answers.
//!
//! Polls are put off, so that all calls at the third party are this job's.

use std::time::Duration;

use quartet::sandbox::{
    CallKind::{Create, Lookup},
    CreateStep, LookupStep, Reaction, SendWebhook, Status,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestApp,
    app::AppBuilder,
    jobs::{BOUND, gaps, quiet_app},
    transaction, wait_until,
};

const JOB: &str = "create_at_third_party";
/// The test settings' `CREATE_BACKOFF`.
const BACKOFF: Duration = Duration::from_millis(300);
const SECOND: Duration = Duration::from_secs(1);

async fn build() -> AppBuilder {
    let app = quiet_app().await;
    app.set("QUARTET_POLL__FIRST", "50s")
        .set("QUARTET_POLL__DEADLINE", "60s")
        .set("QUARTET_NOTIFY__FIRST", "50ms")
}

/// Accepts a transaction whose creates and lookups are scripted.
async fn accept(app: &TestApp, creates: Vec<CreateStep>, lookups: Vec<LookupStep>) -> Uuid {
    let id = Uuid::now_v7();
    app.sandbox.third_party().script_creates_for(id, creates);
    app.sandbox.third_party().script_lookups_for(id, lookups);
    app.accept_as(id).await;
    id
}

async fn assert_pending(app: &TestApp, id: Uuid) {
    let transaction = app.client().get_transaction(id).await.body;
    assert_eq!(transaction["status"], "pending", "{transaction}");
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
}

/// Asserts that the transaction was given up: failed, told, polling ended, one dead letter, which
/// is returned.
async fn assert_given_up(app: &TestApp, id: Uuid, kind: &str) -> Value {
    let transaction = app.wait_told(id, BOUND).await;
    assert_eq!(transaction["status"], "failed", "{transaction}");
    assert_eq!(transaction["settled_by"], "creation_failure");
    assert_eq!(transaction["version"], 2);
    assert_eq!(app.told(id).last(), Some(&("failed".to_owned(), 2)));
    assert_eq!(app.job("update_status", id).await.status, "Done");
    assert_eq!(app.job(JOB, id).await.status, "Failed");
    let mut letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = letters.remove(0);
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!(kind), &json!(JOB)), "{letter}");
    letter
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_that_the_lookup_finds_settles() {
    let app = build().await.spawn().await;
    let mut ids = Vec::new();
    for status in [Status::Completed, Status::Declined] {
        let id = Uuid::now_v7();
        app.sandbox.third_party().store(id, status);
        app.accept_as(id).await;
        let transaction = app.wait_told(id, BOUND).await;
        assert_eq!(transaction["status"], status.as_str());
        assert_eq!(transaction["settled_by"], "third_party_response");
        assert_eq!(app.call_kinds(id), [Lookup]);
        let kinds = app.client().event_kinds(id).await;
        assert!(kinds.contains(&"found_at_third_party".to_owned()), "{kinds:?}");
        ids.push(id);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_lookup_finds_is_not_created() {
    let app = build().await.spawn().await;
    let stored = Uuid::now_v7();
    app.sandbox.third_party().store(stored, Status::Pending);
    app.accept_as(stored).await;
    let mut ids = vec![stored];
    for answer in [json!({ "status": "strange", "extra": 1 }), json!({ "id": "own" })] {
        let id = Uuid::now_v7();
        let mut body = answer;
        if body["id"] == "own" {
            body["id"] = json!(id);
        }
        app.sandbox.third_party().script_lookups_for(id, vec![LookupStep::answer(body)]);
        app.accept_as(id).await;
        ids.push(id);
    }
    for id in &ids {
        assert_eq!(app.wait_job(JOB, *id, "Done").await.attempts, 1);
        assert_eq!(app.call_kinds(*id), [Lookup]);
        assert_pending(&app, *id).await;
    }
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_says_absent_or_not_offered_is_followed_by_the_create() {
    let app = build().await.spawn().await;
    let mut ids = Vec::new();
    for code in [404, 405, 501] {
        ids.push(accept(&app, vec![], vec![LookupStep::status_code(code)]).await);
    }
    for id in &ids {
        app.wait_job(JOB, *id, "Done").await;
        assert_eq!(app.call_kinds(*id), [Lookup, Create]);
        assert_pending(&app, *id).await;
    }
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_answer_without_a_final_status_leaves_it_pending() {
    let app = build().await.spawn().await;
    let html = Reaction::status_code(200).text("<html>fine</html>");
    let answers = [
        CreateStep::created(),
        CreateStep::created_without_status(),
        CreateStep::new(html).stored(Status::Pending),
        CreateStep::new(Reaction::status_code(204)).stored(Status::Pending),
        CreateStep::conflict_exists(Some(Status::Pending)),
    ];
    let mut ids = Vec::new();
    for answer in answers {
        ids.push(accept(&app, vec![answer], vec![]).await);
    }
    for id in &ids {
        assert_eq!(app.wait_job(JOB, *id, "Done").await.attempts, 1);
        assert_eq!(app.call_kinds(*id), [Lookup, Create]);
        assert_pending(&app, *id).await;
    }
    let kinds = app.client().event_kinds(ids[0]).await;
    assert!(kinds.contains(&"created_at_third_party".to_owned()), "{kinds:?}");
    let kinds = app.client().event_kinds(ids[4]).await;
    assert!(kinds.contains(&"found_at_third_party".to_owned()), "409 counts as found: {kinds:?}");
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_status_in_the_answer_settles_at_once() {
    let app = build().await.spawn().await;
    let mut ids = Vec::new();
    for status in [Status::Completed, Status::Declined] {
        let id = accept(&app, vec![CreateStep::created_final(status)], vec![]).await;
        let transaction = app.wait_told(id, BOUND).await;
        assert_eq!(transaction["status"], status.as_str());
        assert_eq!(transaction["settled_by"], "third_party_response");
        assert_eq!(app.call_kinds(id), [Lookup, Create]);
        ids.push(id);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_create_carries_the_content_as_posted() {
    let app = build().await.spawn().await;
    let full = transaction(Uuid::now_v7());
    let bare = json!({ "id": Uuid::now_v7() });
    let empty = json!({ "id": Uuid::now_v7(), "metadata": {}, "reference": "ü \"quoted\"" });
    let mut ids = Vec::new();
    for posted in [full, bare, empty] {
        let id: Uuid = posted["id"].as_str().unwrap().parse().unwrap();
        app.client().post_transaction(&posted).await.expect(202);
        app.wait_job(JOB, id, "Done").await;
        let mut expected = posted;
        expected["webhookUrl"] = json!(app.webhook_url());
        assert_eq!(app.sandbox.third_party().request_of(id), Some(expected));
        ids.push(id);
    }
    app.settle_by_webhook(&ids).await;
}

/// 504, a timeout, a broken connection, 500: each with what was stored, or lost.
fn ambiguous(store: Option<Status>) -> [CreateStep; 4] {
    let stored = |step: CreateStep| store.map_or(step.clone(), |status| step.stored(status));
    [
        stored(CreateStep::gateway_timeout_lost()),
        CreateStep::hang(store),
        CreateStep::reset(store),
        stored(CreateStep::server_error()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_ambiguous_answer_what_went_through_is_not_created_again() {
    let app = build().await.set("QUARTET_THIRD_PARTY__TIMEOUT", "1s").spawn().await;
    let mut ids = Vec::new();
    for step in ambiguous(Some(Status::Completed)) {
        ids.push(accept(&app, vec![step], vec![]).await);
    }
    for id in &ids {
        let transaction = app.wait_told(*id, BOUND).await;
        assert_eq!(transaction["settled_by"], "third_party_response");
        assert_eq!(app.call_kinds(*id), [Lookup, Create, Lookup]);
        assert!(gaps(&app.calls(*id))[1] >= BACKOFF, "the backoff comes before the lookup");
        let kinds = app.client().event_kinds(*id).await;
        for kind in ["create_ambiguous", "found_at_third_party"] {
            assert!(kinds.contains(&kind.to_owned()), "{kinds:?}");
        }
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_ambiguous_answer_what_was_lost_is_created_again() {
    let app = build().await.set("QUARTET_THIRD_PARTY__TIMEOUT", "1s").spawn().await;
    let mut ids = Vec::new();
    for step in ambiguous(None) {
        ids.push(accept(&app, vec![step], vec![]).await);
    }
    for id in &ids {
        assert_eq!(app.wait_job(JOB, *id, "Done").await.attempts, 2);
        assert_eq!(app.call_kinds(*id), [Lookup, Create, Lookup, Create]);
        assert!(gaps(&app.calls(*id))[1] >= BACKOFF);
        assert_pending(&app, *id).await;
    }
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tries_that_all_fail_end_with_a_last_lookup_and_a_dead_letter() {
    let app = build().await.spawn().await;
    let answers = [
        CreateStep::gateway_timeout_lost(),
        CreateStep::server_error(),
        CreateStep::service_unavailable(0),
        CreateStep::too_many_requests(0),
    ];
    let mut ids = Vec::new();
    for answer in answers {
        // More than may be used.
        ids.push(accept(&app, vec![answer; 8], vec![]).await);
    }
    for id in &ids {
        let letter = assert_given_up(&app, *id, "creation_failure").await;
        assert_eq!(letter["attempts"].as_array().unwrap().len(), 4, "{letter}");
        let tries = [Lookup, Create].repeat(4);
        assert_eq!(app.call_kinds(*id), [tries, vec![Lookup]].concat());
        let gaps = gaps(&app.calls(*id));
        assert!(gaps.iter().skip(1).step_by(2).all(|gap| *gap >= BACKOFF), "{gaps:?}");
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_after_the_last_try_is_found_by_the_last_lookup() {
    let app = build().await.set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 1).spawn().await;
    let late = CreateStep::gateway_timeout_stored_after(BACKOFF / 2, Status::Completed);
    let id = accept(&app, vec![CreateStep::gateway_timeout_lost(), late], vec![]).await;
    let transaction = app.wait_told(id, BOUND).await;
    assert_eq!(transaction["status"], "completed", "{transaction}");
    assert_eq!(app.call_kinds(id), [Lookup, Create, Lookup, Create, Lookup]);
    assert_eq!(app.told(id).last(), Some(&("completed".to_owned(), 2)));
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_counts_where_it_is_longer_than_the_backoff() {
    let app = build().await.spawn().await;
    let busy = [CreateStep::too_many_requests, CreateStep::service_unavailable];
    let mut ids = Vec::new();
    for (step, seconds) in [(busy[0], 1), (busy[1], 1), (busy[0], 0), (busy[1], 0)] {
        ids.push((accept(&app, vec![step(seconds)], vec![]).await, seconds));
    }
    let mut shorter = Vec::new();
    for (id, seconds) in &ids {
        assert_eq!(app.wait_job(JOB, *id, "Done").await.attempts, 2, "it uses up a try");
        assert_eq!(app.call_kinds(*id), [Lookup, Create, Lookup, Create]);
        let gap = gaps(&app.calls(*id))[1];
        assert!(gap >= BACKOFF.max(Duration::from_secs(*seconds)), "{seconds}: {gap:?}");
        if *seconds == 0 {
            shorter.push(gap);
        }
    }
    assert!(shorter.iter().min() < Some(&SECOND), "the backoff was enough: {shorter:?}");
    app.settle_by_webhook(&ids.into_iter().map(|(id, _)| id).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_fails_the_transaction_at_once() {
    let app = build().await.set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "50s").spawn().await;
    let mut ids = Vec::new();
    for code in [400, 404, 422] {
        ids.push(accept(&app, vec![CreateStep::rejected(code)], vec![]).await);
    }
    for id in &ids {
        let letter = assert_given_up(&app, *id, "rejected").await;
        assert_eq!(letter["attempts"].as_array().unwrap().len(), 1, "{letter}");
        assert_eq!(app.call_kinds(*id), [Lookup, Create]);
    }
    app.rest(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_without_an_answer_is_no_absence() {
    let app = build().await.set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "1s").spawn().await;
    let busy = LookupStep::React(Reaction::retry_after(503, 1));
    let unanswered = [LookupStep::hang(), LookupStep::reset(), LookupStep::status_code(500), busy];
    let mut ids = Vec::new();
    for lookup in unanswered {
        ids.push(accept(&app, vec![], vec![lookup]).await);
    }
    for id in &ids {
        assert_eq!(app.wait_job(JOB, *id, "Done").await.attempts, 2);
        assert_eq!(app.call_kinds(*id), [Lookup, Lookup, Create]);
        assert!(gaps(&app.calls(*id))[0] >= BACKOFF);
        assert_pending(&app, *id).await;
    }
    assert!(gaps(&app.calls(ids[3]))[0] >= SECOND, "Retry-After of a lookup");
    app.settle_by_webhook(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_lookup_answered_nothing_is_sent_and_it_fails() {
    let app = build().await.set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "100ms").spawn().await;
    let id = accept(&app, vec![], vec![LookupStep::status_code(500); 8]).await;
    let letter = assert_given_up(&app, id, "creation_failure").await;
    assert_eq!(app.call_kinds(id), [Lookup; 5]);
    assert_eq!(letter["attempts"].as_array().unwrap().len(), 4, "{letter}");
    app.rest(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ambiguous_create_whose_last_lookup_has_no_answer_is_not_called_failed() {
    let app = build().await.set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 0).spawn().await;
    let lookups = vec![LookupStep::normal(), LookupStep::status_code(500)];
    let id = accept(&app, vec![CreateStep::gateway_timeout_lost()], lookups).await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!((&letter["kind"], &letter["queue"]), (&json!("exhausted"), &json!(JOB)), "{letter}");
    assert_eq!(app.call_kinds(id), [Lookup, Create, Lookup]);
    let transaction = app.client().get_transaction(id).await.body;
    assert_eq!(transaction["status"], "pending", "{transaction}");
    assert_eq!(app.job(JOB, id).await.status, "Failed");
    assert_eq!(app.job("update_status", id).await.status, "Pending", "polling goes on");
    app.settle_by_webhook(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_while_the_create_hangs_leaves_nothing_to_create() {
    let app = build()
        .await
        .set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 0)
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "1s")
        .spawn()
        .await;
    let id = accept(&app, vec![CreateStep::hang(Some(Status::Completed))], vec![]).await;
    wait_until("the create hangs", BOUND, async || app.call_kinds(id).len() == 2).await;
    app.settle_by_webhook(&[id]).await;
    assert_eq!(app.job(JOB, id).await.status, "Done");
    assert_eq!(app.call_kinds(id), [Lookup, Create]);
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_while_the_last_lookup_hangs_leaves_no_dead_letter() {
    let app = build()
        .await
        .set("QUARTET_THIRD_PARTY__CREATE_RETRIES", 0)
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "1s")
        .spawn()
        .await;
    let lookups = vec![LookupStep::normal(), LookupStep::hang()];
    let id = accept(&app, vec![CreateStep::gateway_timeout_lost()], lookups).await;
    wait_until("the last lookup hangs", BOUND, async || app.call_kinds(id).len() == 3).await;
    let (_, answer) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(answer["outcome"], "settled");
    app.rest(&[id]).await;
    assert_eq!(app.operator().open_dead_letters(id).await, [] as [Value; 0]);
    assert_eq!(app.job(JOB, id).await.status, "Done");
}
