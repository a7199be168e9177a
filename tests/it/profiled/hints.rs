//! Webhooks that prove nothing, or say nothing final: they make a poll due, and no more than that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    BOUND, Momo, WEBHOOK_SECRET, app,
    peer::{Asked, Peer, Reply, TOKEN_PATH},
    post, provider_id, wait_dead_letter, wait_final,
    webhooks::{
        ONE_POLL, gocardless_event, gocardless_id, gocardless_payment, rejected, send_gocardless,
    },
};
use crate::support::{TestApp, World, job_rows::job_row, wait_until};

/// A peer of the profile `mtn-momo`.
async fn momo_peer(momo: &Momo) -> Peer {
    let momo = momo.clone();
    Peer::start(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        (_, TOKEN_PATH) => Momo::token("tok_1", 3_600),
        ("POST", _) => momo.create(asked, "PENDING"),
        _ => momo.look_up(asked),
    })
    .await
}

/// Seconds until the next poll; `None` while the job does not wait.
async fn next_poll(pool: &PgPool, id: Uuid) -> Option<f64> {
    let query = "SELECT extract(epoch FROM run_at - now())::float8 FROM apalis.jobs
        WHERE job_type = 'update_status' AND idempotency_key = $1::uuid::text
            AND status = 'Pending'";
    sqlx::query_scalar(query).bind(id).fetch_optional(pool).await.unwrap()
}

/// Posts a transaction, and waits until it is created, was polled, and is not polled again soon.
async fn posted(app: &TestApp) -> Uuid {
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    wait_until("the next poll is far", BOUND, async || {
        next_poll(&app.pool, id).await.is_some_and(|seconds| seconds > 40.0)
    })
    .await;
    id
}

#[tokio::test]
async fn a_hint_that_proves_nothing_polls_and_settles_nothing_itself() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = momo_peer(&momo).await;
    let app = ONE_POLL
        .into_iter()
        .fold(app(&world, &peer, "mtn-momo"), |app, (name, value)| app.set(name, value));
    let app = app.spawn().await;
    let id = posted(&app).await;
    wait_until("it is created", BOUND, async || !peer.asked("POST", Momo::CREATE).is_empty()).await;
    let created = &peer.asked("POST", Momo::CREATE)[0];
    let url = format!("{}/v1/webhooks/mtn-momo", app.url());
    assert_eq!(created.header("x-callback-url"), Some(url.as_str()));

    let lookup = format!("{}/{id}", Momo::CREATE);
    let before = peer.asked("GET", &lookup).len();
    let hint = async || {
        let body = json!({ "externalId": id, "status": "SUCCESSFUL" }).to_string();
        let json = [("content-type", "application/json")];
        app.anonymous().send(Method::PUT, "/v1/webhooks/mtn-momo", &json, body).await.expect(200);
    };
    hint().await;
    wait_until("it is polled", BOUND, async || peer.asked("GET", &lookup).len() == before + 1)
        .await;
    wait_until("it waits", BOUND, async || next_poll(&app.pool, id).await.is_some()).await;
    // However many come: one more poll, once ten seconds have passed.
    for _ in 0..20 {
        hint().await;
    }
    let next = next_poll(&app.pool, id).await.unwrap();
    assert!((1.0..=10.0).contains(&next), "{next}");
    assert_eq!(peer.asked("GET", &lookup).len(), before + 1);
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    momo.set(id, "SUCCESSFUL");
    let settled = wait_final(&app.client(), id).await;
    assert_eq!((&settled["status"], &settled["settled_by"]), (&json!("completed"), &json!("poll")));
    assert_eq!(peer.asked("GET", &lookup).len(), before + 2);
}

#[tokio::test]
async fn a_form_with_their_id_alone_is_a_hint() {
    let (world, is_paid) = (World::new().await, Arc::new(AtomicBool::new(false)));
    let paid = is_paid.clone();
    let peer = Peer::start(move |asked: &Asked| {
        let status = if paid.load(Ordering::SeqCst) { "paid" } else { "open" };
        let ours = asked.header("idempotency-key").map(str::to_owned);
        let ours = ours.unwrap_or_else(|| asked.path.rsplit("tr_").next().unwrap().to_owned());
        let payment = json!({
            "resource": "payment", "id": format!("tr_{ours}"), "status": status,
            "metadata": { "quartet_id": ours },
        });
        Reply::Answer(if asked.method == "POST" { 201 } else { 200 }, payment)
    })
    .await;
    let app = ONE_POLL
        .into_iter()
        .fold(app(&world, &peer, "mollie"), |app, (name, value)| app.set(name, value));
    let app = app.spawn().await;
    let id = posted(&app).await;
    wait_until("its id is known", BOUND, async || provider_id(&app.pool, id).await.is_some()).await;
    is_paid.store(true, Ordering::SeqCst);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let send = async |body: String| {
        app.anonymous().send(Method::POST, "/v1/webhooks/mollie", &form, body).await.expect(200);
    };
    // Of no transaction here: nothing is kept.
    send("id=tr_nobody".to_owned()).await;
    send("x=1".to_owned()).await;
    send(format!("id=tr_{id}")).await;
    let settled = wait_final(&app.client(), id).await;
    assert_eq!((&settled["status"], &settled["settled_by"]), (&json!("completed"), &json!("poll")));
    let waiting = "SELECT count(*) FROM waiting_webhooks";
    assert_eq!(sqlx::query_scalar::<_, i64>(waiting).fetch_one(&app.pool).await.unwrap(), 0);
    wait_until("a form without an id is listed", BOUND, async || {
        rejected(&app.operator()).await.get("bad_fields").is_some_and(|(count, _)| *count == 1)
    })
    .await;
}

#[tokio::test]
async fn hints_of_several_events_poll_each_of_their_transactions() {
    let (world, is_executed) = (World::new().await, Arc::new(AtomicBool::new(false)));
    let executed = is_executed.clone();
    let peer = Peer::start(move |asked| {
        let status = if executed.load(Ordering::SeqCst) { "executed" } else { "executing" };
        let code = if asked.method == "POST" { 201 } else { 200 };
        gocardless_payment(code, &gocardless_id(asked), status)
    })
    .await;
    let app = app(&world, &peer, "gocardless-outbound");
    let app = ONE_POLL.into_iter().fold(app, |app, (name, value)| app.set(name, value));
    let app = app.spawn().await;
    let ids = [posted(&app).await, posted(&app).await];
    for id in ids {
        wait_until("its id is known", BOUND, async || provider_id(&app.pool, id).await.is_some())
            .await;
    }
    is_executed.store(true, Ordering::SeqCst);
    // As many as there are at most, most of them about what is not ours.
    let events: Vec<Value> = (1..=250)
        .map(|nth: u32| {
            let ours = ids.get(nth as usize - 1);
            let id = ours.map_or("OB_nobody".to_owned(), |id| format!("OB_{id}"));
            let mut event = gocardless_event(nth, &id, "executed");
            event["details"]["description"] = "x".repeat(300).into();
            event
        })
        .collect();
    send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    for id in ids {
        let settled = wait_final(&app.client(), id).await;
        assert_eq!(settled["settled_by"], "poll");
    }
}

/// A payout that was paid, and is taken back days later: the webhook alone says so.
#[tokio::test]
async fn a_hint_that_contradicts_the_end_is_looked_up_and_a_conflict() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = momo_peer(&momo).await;
    let app = app(&world, &peer, "mtn-momo").set("QUARTET_RECONCILE__INTERVAL", "100ms");
    let app = app.spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    wait_until("it is created", BOUND, async || !peer.asked("POST", Momo::CREATE).is_empty()).await;
    momo.set(id, "SUCCESSFUL");
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");

    let hint = async |body: Value| {
        let client = app.anonymous();
        client.send(Method::PUT, "/v1/webhooks/mtn-momo", &[], body.to_string()).await.expect(200);
        let looked_up = "SELECT count(*) FROM ambiguous_creates WHERE transaction_id = $1";
        sqlx::query_scalar::<_, i64>(looked_up).bind(id).fetch_one(&app.pool).await.unwrap()
    };
    // It may be about the end that is known. This profile reads no word.
    assert_eq!(hint(json!({ "externalId": id, "status": "FAILED" })).await, 0);
    let later = "UPDATE transactions
        SET created_at = created_at - interval '1 day', settled_at = settled_at - interval '1 day'
        WHERE id = $1";
    sqlx::query(later).bind(id).execute(&app.pool).await.unwrap();
    momo.set(id, "FAILED");
    assert_eq!(hint(json!({ "externalId": id })).await, 1);
    app.make_task_due("reconcile").await;
    let letter = wait_dead_letter(&app.operator(), id).await;
    assert_eq!(
        (&letter["kind"], &letter["detail"]["reported"]),
        (&json!("status_conflict"), &json!("declined"))
    );
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "completed");
}

/// A MoMo that answers lookups of what it has once it is allowed to, with the status of when it was
/// asked.
struct SlowMomo {
    momo: Momo,
    /// How many such lookups it was asked for.
    asked: Arc<AtomicUsize>,
    allowed: Arc<Semaphore>,
    peer: Peer,
}

impl SlowMomo {
    async fn start() -> Self {
        let (momo, asked, allowed) =
            (Momo::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (knows, counter, permits) = (momo.clone(), asked.clone(), allowed.clone());
        let peer = Peer::start(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
            (_, TOKEN_PATH) => Momo::token("tok_1", 3_600),
            ("POST", _) => knows.create(asked, "PENDING"),
            _ => match knows.look_up(asked) {
                Reply::Answer(200, body) => {
                    counter.fetch_add(1, Ordering::SeqCst);
                    Reply::Held(permits.clone(), 200, body)
                }
                absent => absent,
            },
        })
        .await;
        Self { momo, asked, allowed, peer }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until it was asked that often. A poll that came before the create is not waited for.
    async fn wait_asked(&self, app: &TestApp, id: Uuid, times: usize) {
        let due = "UPDATE apalis.jobs SET run_at = now()
            WHERE job_type = 'update_status' AND idempotency_key = $1::uuid::text
                AND status = 'Pending'";
        wait_until("a poll is under way", BOUND, async || {
            sqlx::query(due).bind(id).execute(&app.pool).await.unwrap();
            self.asked() == times
        })
        .await;
    }
}

async fn momo_hint(app: &TestApp, id: Uuid) {
    let (client, body) = (app.anonymous(), json!({ "externalId": id }).to_string());
    client.send(Method::POST, "/v1/webhooks/mtn-momo", &[], body).await.expect(200);
}

/// That poll may have asked before the status changed.
#[tokio::test]
async fn a_hint_during_a_poll_makes_the_next_one_due_at_once() {
    let (world, slow) = (World::new().await, SlowMomo::start().await);
    let app = ONE_POLL
        .into_iter()
        .fold(app(&world, &slow.peer, "mtn-momo"), |app, (name, value)| app.set(name, value));
    let app = app.set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "25s").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    slow.wait_asked(&app, id, 1).await;
    let before = job_row(&app.pool, id, "update_status").await;
    assert_eq!(before.status, "Running");

    // It has asked already, and is answered what was true then.
    slow.momo.set(id, "SUCCESSFUL");
    for _ in 0..5 {
        momo_hint(&app, id).await;
    }
    assert_eq!(job_row(&app.pool, id, "update_status").await, before, "the lease is as it was");
    slow.allowed.add_permits(100);
    let settled = wait_final(&app.client(), id).await;
    assert_eq!((&settled["status"], &settled["settled_by"]), (&json!("completed"), &json!("poll")));
    assert_eq!(slow.asked(), 2);
}

#[tokio::test]
async fn a_hint_during_the_last_poll_before_the_deadline_is_not_lost() {
    let (world, slow) = (World::new().await, SlowMomo::start().await);
    let app = app(&world, &slow.peer, "mtn-momo")
        .set("QUARTET_POLL__DEADLINE", "1s")
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "25s");
    let app = app.spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    // The deadline passes while it waits for an answer; then it is asked a last time.
    slow.wait_asked(&app, id, 1).await;
    let age = "UPDATE transactions SET created_at = created_at - interval '1 minute'
        WHERE id = $1";
    sqlx::query(age).bind(id).execute(&app.pool).await.unwrap();
    slow.allowed.add_permits(1);
    slow.wait_asked(&app, id, 2).await;
    slow.momo.set(id, "SUCCESSFUL");
    momo_hint(&app, id).await;
    slow.allowed.add_permits(100);
    let settled = wait_final(&app.client(), id).await;
    assert_eq!((&settled["status"], &settled["settled_by"]), (&json!("completed"), &json!("poll")));
    // The dead letter of the deadline is explained by that.
    assert_eq!(app.operator().open_dead_letters(id).await, Vec::<serde_json::Value>::new());
}

/// A third party that sends hints alone would otherwise never be heard after the deadline.
#[tokio::test]
async fn hints_after_the_deadline_poll_once_in_ten_minutes() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = momo_peer(&momo).await;
    let app = app(&world, &peer, "mtn-momo").set("QUARTET_POLL__DEADLINE", "500ms").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    let letter = wait_dead_letter(&app.operator(), id).await;
    assert_eq!(letter["kind"], "deadline");
    let body = json!({ "externalId": id }).to_string();
    let hint = async || {
        let client = app.anonymous();
        let body = body.clone();
        client.send(Method::POST, "/v1/webhooks/mtn-momo", &[], body).await.expect(200);
    };
    let polled = peer.asked("GET", "/").len();
    hint().await;
    wait_until("it is polled once more", BOUND, async || peer.asked("GET", "/").len() > polled)
        .await;
    app.wait_at_rest(BOUND).await;
    // However many there are, the next one comes after the gap.
    for _ in 0..3 {
        hint().await;
        let seconds = next_poll(&app.pool, id).await.unwrap();
        assert!((500.0..=600.0).contains(&seconds), "{seconds}");
    }
    let letter = wait_dead_letter(&app.operator(), id).await;
    let attempts = letter["attempts"].as_array().unwrap();
    assert!(attempts.len() <= 4, "the last answers: {attempts:#?}");

    momo.set(id, "FAILED");
    let due = "UPDATE apalis.jobs SET run_at = now()
        WHERE job_type = 'update_status' AND idempotency_key = $1::uuid::text";
    sqlx::query(due).bind(id).execute(&app.pool).await.unwrap();
    assert_eq!(wait_final(&app.client(), id).await["status"], "declined");
    assert_eq!(app.operator().open_dead_letters(id).await, Vec::<serde_json::Value>::new());
}
