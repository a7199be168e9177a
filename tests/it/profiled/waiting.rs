//! Webhooks by the third party's id that come before the create's answer is recorded.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    BOUND, WEBHOOK_SECRET, app,
    peer::{Peer, Reply},
    post, process, wait_final,
    webhooks::{
        gocardless_event, gocardless_id, gocardless_payment, send_gocardless, settling_gocardless,
    },
};
use crate::support::{World, wait_for, wait_until};

async fn waiting(pool: &PgPool) -> i64 {
    let query = "SELECT count(*) FROM waiting_webhooks WHERE ended_at IS NULL";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// A GoCardless whose answers to creates are lost until it is allowed to answer.
async fn forgetful() -> (Peer, Arc<AtomicBool>) {
    let answers = Arc::new(AtomicBool::new(false));
    let is_answering = answers.clone();
    let peer = Peer::start(move |asked| {
        let id = gocardless_id(asked);
        if asked.method != "POST" {
            return gocardless_payment(200, &id, "pending");
        }
        if !is_answering.load(Ordering::SeqCst) {
            return Reply::Answer(504, json!({}));
        }
        let error = json!({
            "reason": "idempotent_creation_conflict",
            "links": { "conflicting_resource_id": format!("OB_{id}") },
        });
        Reply::Answer(409, json!({ "error": { "errors": [error] } }))
    })
    .await;
    (peer, answers)
}

#[tokio::test]
async fn a_webhook_before_the_creates_answer_waits_for_it_and_survives_a_crash() {
    let (world, (peer, answers)) = (World::new().await, forgetful().await);
    let (_directory, profile) = settling_gocardless().await;
    let process =
        process(&world, &peer, &profile).set("QUARTET_THIRD_PARTY__CREATE_RETRIES", "500");
    let mut process = process.set("QUARTET_POLL__DEADLINE", "5m").spawn().await;
    let id = Uuid::now_v7();
    post(&process.client(), id).await;
    wait_until("it was sent", BOUND, async || !peer.asked("POST", "/outbound").is_empty()).await;
    let events = [gocardless_event(1, &format!("OB_{id}"), "executed")];
    for _ in 0..2 {
        send_gocardless(&process.client(), &events, WEBHOOK_SECRET).await.expect(200);
    }
    assert_eq!(waiting(&world.pool).await, 1);
    assert_eq!(process.client().get_transaction(id).await.expect(200)["status"], "pending");
    process.kill_9();
    let process = process.restart().await;
    assert_eq!(process.client().get_transaction(id).await.expect(200)["status"], "pending");
    answers.store(true, Ordering::SeqCst);
    let settled = wait_final(&process.client(), id).await;
    assert_eq!(
        (&settled["status"], &settled["settled_by"]),
        (&json!("completed"), &json!("webhook"))
    );
    wait_until("it does not wait any more", BOUND, async || waiting(&world.pool).await == 0).await;
    // A repeat does nothing.
    send_gocardless(&process.client(), &events, WEBHOOK_SECRET).await.expect(200);
    let kinds = process.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "webhook").count(), 1, "{kinds:?}");
}

#[tokio::test]
async fn what_nobody_has_created_becomes_an_unknown_transaction() {
    let (world, (peer, answers)) = (World::new().await, forgetful().await);
    let (_directory, profile) = settling_gocardless().await;
    let app = app(&world, &peer, &profile)
        .set("QUARTET_THIRD_PARTY__CREATE_RETRIES", "500")
        .set("QUARTET_POLL__DEADLINE", "1s")
        .spawn()
        .await;
    let id = Uuid::now_v7();
    let events = [gocardless_event(1, &format!("OB_{id}"), "executed")];
    send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    let letters = async || {
        let list = app.operator().list_dead_letters("state=open&kind=unknown_transaction").await;
        list.expect(200)["items"].as_array().unwrap().clone()
    };
    let letter: Value =
        wait_for("it is given up", BOUND, async || letters().await.into_iter().next()).await;
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("OB_{id}")) && reason.contains("webhook ("), "{letter}");
    assert_eq!(letter["transaction_id"], Value::Null);
    // A repeat does not wait again.
    send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    assert_eq!((waiting(&app.pool).await, letters().await.len()), (0, 1));

    let letter_id = letter["id"].as_str().unwrap();
    let replay = async || app.operator().act_on_dead_letter(letter_id, "replay", &json!({})).await;
    replay().await.expect_problem(409);
    // Once its transaction is known, a replay applies it.
    answers.store(true, Ordering::SeqCst);
    post(&app.client(), id).await;
    wait_until("a replay would apply it", BOUND, async || {
        let dry_run = json!({ "kind": "unknown_transaction", "dry_run": true });
        let preview = app.operator().post("/v1/operator/dead-letters/replay", &dry_run).await;
        preview.expect(200).to_string().contains("becomes completed")
    })
    .await;
    replay().await.expect(200);
    let settled = wait_final(&app.client(), id).await;
    assert_eq!(
        (&settled["status"], &settled["settled_by"]),
        (&json!("completed"), &json!("webhook"))
    );
}

/// Rows that wait, as the database has them: status and tries.
async fn rows(pool: &PgPool) -> Vec<(String, i32)> {
    let query = "SELECT status, tries FROM waiting_webhooks WHERE ended_at IS NULL";
    sqlx::query_as(query).fetch_all(pool).await.unwrap()
}

/// Whatever the profile says later, it was a hint when it arrived.
#[tokio::test]
async fn what_proves_nothing_waits_as_a_hint_and_becomes_no_dead_letter() {
    let (world, (peer, _)) = (World::new().await, forgetful().await);
    let directory = tempfile::TempDir::new().unwrap();
    let (_settling, name) = settling_gocardless().await;
    let hinting = std::fs::read_to_string(name).unwrap();
    let hinting = hinting.replace("trust = \"settle\"", "trust = \"hint\"");
    let file = directory.path().join("gocardless.toml");
    std::fs::write(&file, hinting).unwrap();
    let app = app(&world, &peer, file.to_str().unwrap());
    let app = app.set("QUARTET_POLL__DEADLINE", "2s").spawn().await;
    let events = [gocardless_event(1, "OB_elsewhere", "executed")];
    send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    assert_eq!(rows(&app.pool).await, [("pending".to_owned(), 0)]);
    wait_until("it is given up", BOUND, async || waiting(&app.pool).await == 0).await;
    let letters = app.operator().list_dead_letters("state=open").await;
    assert_eq!(letters.expect(200)["items"], json!([]));
}

/// Operators hear of it from any process.
#[tokio::test]
async fn what_waits_for_a_profile_that_was_removed_becomes_an_unknown_transaction() {
    let (world, (peer, _)) = (World::new().await, forgetful().await);
    let (_directory, profile) = settling_gocardless().await;
    let mut app = app(&world, &peer, &profile).spawn().await;
    let events = [gocardless_event(1, "OB_elsewhere", "executed")];
    send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    app.stop().await;
    let app = world.app().set("QUARTET_POLL__DEADLINE", "1s").spawn().await;
    let letters = async || {
        let list = app.operator().list_dead_letters("state=open&kind=unknown_transaction").await;
        list.expect(200)["items"].as_array().unwrap().len()
    };
    wait_until("it is given up", BOUND, async || letters().await == 1).await;
    assert_eq!(waiting(&app.pool).await, 0);
}

#[tokio::test]
async fn one_that_cannot_be_applied_keeps_no_other_from_its_turn() {
    let (world, (peer, answers)) = (World::new().await, forgetful().await);
    let (_directory, profile) = settling_gocardless().await;
    let app = app(&world, &peer, &profile)
        .set("QUARTET_THIRD_PARTY__CREATE_RETRIES", "500")
        .spawn()
        .await;
    let (broken, good) = (Uuid::now_v7(), Uuid::now_v7());
    let events = [
        gocardless_event(1, &format!("OB_{broken}"), "executed"),
        gocardless_event(2, &format!("OB_{good}"), "executed"),
    ];
    send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    let damage = "UPDATE waiting_webhooks
        SET claims = '[1]', received_at = received_at - interval '1 s'
        WHERE provider_id = $1";
    sqlx::query(damage).bind(format!("OB_{broken}")).execute(&app.pool).await.unwrap();
    answers.store(true, Ordering::SeqCst);
    for id in [broken, good] {
        post(&app.client(), id).await;
    }
    assert_eq!(wait_final(&app.client(), good).await["settled_by"], "webhook");
    wait_until(
        "the other one was tried",
        BOUND,
        async || matches!(&rows(&app.pool).await[..], [(_, tries)] if *tries > 0),
    )
    .await;
    assert_eq!(app.client().get_transaction(broken).await.expect(200)["status"], "pending");
}
