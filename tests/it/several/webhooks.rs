//! Webhooks: each third party's are verified with its own secrets, and are about its own
//! transactions.

use quartet::signature::Secret;
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ACME_SECRET, BOUND, PAY_SECRET, Several, post, wait_status};
use crate::{
    profiled::webhooks::mac,
    support::{Answer, TestApp, client::Client, wait_for, wait_until},
};

/// A webhook of Quartet's own contract, signed with this secret.
async fn send(app: &TestApp, path: &str, secret: &str, webhook_id: &str, body: Value) -> Answer {
    let secret: Secret = secret.parse().unwrap();
    let (now, body) = (chrono::Utc::now().timestamp(), body.to_string());
    let signature = quartet::signature::sign(&secret, webhook_id, now, body.as_bytes());
    let now = now.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", webhook_id),
        ("webhook-timestamp", &now),
        ("webhook-signature", &signature),
    ];
    app.anonymous().send(Method::POST, &format!("/v1/webhooks/{path}"), &headers, body).await
}

async fn send_pay(app: &TestApp, body: Value) -> Answer {
    let body = body.to_string();
    let signature = mac(hmac::HMAC_SHA512, PAY_SECRET, &body);
    let headers = [("content-type", "application/json"), ("x-paystack-signature", &signature)];
    app.anonymous().send(Method::POST, "/v1/webhooks/pay", &headers, body).await
}

fn transfer(id: Uuid, status: &str) -> Value {
    let data = json!({ "reference": id, "status": status, "amount": 1250, "currency": "EUR" });
    json!({ "event": "transfer.success", "data": data })
}

fn status(id: Uuid, status: &str) -> Value {
    json!({ "id": id, "status": status })
}

async fn unknown(operator: &Client, count: usize) -> Vec<Value> {
    let list = operator.list_dead_letters("kind=unknown_transaction&state=open").await;
    let letters = list.expect(200)["items"].as_array().unwrap().clone();
    assert_eq!(letters.len(), count, "{letters:?}");
    letters
}

#[tokio::test]
async fn a_webhook_of_one_never_settles_a_transaction_of_another() {
    let several = Several::new().await;
    // Nothing is polled to its end meanwhile.
    let app = several.app().set("QUARTET_POLL__DEADLINE", "10m").spawn().await;
    let sandbox_secret = app.sandbox.config().webhook_secret.reveal();
    let (acme, pay) = (post(&app, "acme").await, post(&app, "pay").await);
    let pay_id = wait_for("its id there is known", BOUND, async || {
        let shown = app.client().get_transaction(pay).await.expect(200).clone();
        shown["provider_id"].as_str().map(str::to_owned)
    })
    .await;
    wait_until("it is created", BOUND, async || several.acme.1.has(acme)).await;

    // With another's key nothing is taken.
    let wrong = send(&app, "acme", &sandbox_secret, "w1", status(acme, "completed")).await;
    wrong.expect_problem(401);
    let wrong = send(&app, "third-party", ACME_SECRET, "w1", status(acme, "completed")).await;
    wrong.expect_problem(401);

    // With its own, each is about its own transactions alone: by our id, and by theirs.
    let answer = send(&app, "acme", ACME_SECRET, "w1", status(pay, "completed")).await;
    assert_eq!(answer.expect(200)["outcome"], "unknown_transaction");
    let answer = send(&app, "third-party", &sandbox_secret, "w1", status(acme, "declined")).await;
    assert_eq!(
        answer.expect(200),
        &json!({ "outcome": "unknown_transaction", "duplicate": false })
    );
    send_pay(&app, transfer(acme, "success")).await.expect(200);
    // Where the other calls its own by the same id.
    let mut foreign = transfer(Uuid::now_v7(), "success");
    foreign["data"]["transfer_code"] = pay_id.clone().into();
    send_pay(&app, foreign).await.expect(200);
    for id in [acme, pay] {
        assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    }
    let known: Option<String> =
        sqlx::query_scalar("SELECT provider_id FROM transactions WHERE id = $1")
            .bind(acme)
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert_eq!(known, None);

    // An operator who replays such a letter settles nothing either.
    let letters = unknown(&app.operator(), 4).await;
    let about =
        |id: Uuid| letters.iter().filter(move |letter| letter["transaction_id"] == json!(id));
    let about: Vec<&Value> = about(acme).chain(about(pay)).collect();
    assert_eq!(about.len(), 3, "{letters:?}");
    for letter in about {
        let id = letter["id"].as_str().unwrap();
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("a transaction of another third party"), "{reason}");
        app.operator().act_on_dead_letter(id, "replay", &json!({})).await.expect_problem(409);
    }
    for id in [acme, pay] {
        assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    }

    // The same webhook-id of another sender is no repeat.
    let answer = send(&app, "acme", ACME_SECRET, "w2", status(acme, "completed")).await;
    assert_eq!(answer.expect(200), &json!({ "outcome": "settled", "duplicate": false }));
    let answer = send(&app, "acme", ACME_SECRET, "w2", status(acme, "completed")).await;
    assert_eq!(answer.expect(200), &json!({ "outcome": "settled", "duplicate": true }));
    let unnamed = app.client().accept().await;
    let answer = send(&app, "third-party", &sandbox_secret, "w2", status(unnamed, "pending")).await;
    assert_eq!(answer.expect(200)["duplicate"], false);
    // Nor is one that looks as if it were another's.
    let answer =
        send(&app, "third-party", &sandbox_secret, "acme:w3", status(unnamed, "pending")).await;
    assert_eq!(answer.expect(200)["duplicate"], false);
    let answer = send(&app, "acme", ACME_SECRET, "w3", status(acme, "completed")).await;
    assert_eq!(answer.expect(200), &json!({ "outcome": "unchanged", "duplicate": false }));
    send_pay(&app, transfer(pay, "success")).await.expect(200);
    let settled = wait_status(&app, pay, "completed").await;
    assert_eq!(settled["settled_by"], "webhook");
}

#[tokio::test]
async fn the_own_contracts_webhooks_are_those_of_the_unnamed_one() {
    let several = Several::new().await;
    let app = several.app().set("QUARTET_POLL__DEADLINE", "10m").spawn().await;
    let id = post(&app, "acme").await;
    wait_until("it is created", BOUND, async || several.acme.1.has(id)).await;
    let bad = send(&app, "acme", ACME_SECRET, "w1", json!({ "id": "x" })).await;
    bad.expect_problem(422);
    assert_eq!(bad.faults(), ["/id", "/status"]);
    let long = "w".repeat(256);
    send(&app, "acme", ACME_SECRET, &long, status(id, "completed")).await.expect_problem(422);
    let get = app.anonymous().get("/v1/webhooks/acme").await;
    get.expect_problem(405);
    app.anonymous().get("/v1/webhooks/nobody").await.expect_problem(404);

    // A new secret, beside the old one and then alone, as files.
    let next = Secret::generate().reveal();
    several.write("acme/webhook", &format!("{next},{ACME_SECRET}"));
    wait_for("the new secret is read", BOUND, async || {
        let answer = send(&app, "acme", &next, "w2", status(id, "pending")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    send(&app, "acme", ACME_SECRET, "w3", status(id, "pending")).await.expect(200);
    several.write("acme/webhook", &next);
    wait_for("the old secret is refused", BOUND, async || {
        let answer = send(&app, "acme", ACME_SECRET, "w3", status(id, "pending")).await;
        (answer.status == 401).then_some(())
    })
    .await;
    let answer = send(&app, "acme", &next, "w4", status(id, "completed")).await;
    assert_eq!(answer.expect(200)["outcome"], "settled");
}

#[tokio::test]
async fn a_webhook_is_no_repeat_of_one_that_arrived_before_its_sender_had_a_name_here() {
    let several = Several::new().await;
    let app = several.world.app().set("QUARTET_POLL__DEADLINE", "10m");
    let mut app = app.spawn().await;
    let secret = app.sandbox.config().webhook_secret.reveal();
    let id = app.client().accept().await;
    for (webhook_id, is_repeat) in [("acme:w1", false), ("pay:w1", false), ("acme:w1", true)] {
        let answer = send(&app, "third-party", &secret, webhook_id, status(id, "pending")).await;
        assert_eq!(answer.expect(200)["duplicate"], is_repeat, "{webhook_id}");
    }
    let stored = "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = 'acme:w1'";
    let stored: i64 = sqlx::query_scalar(stored).fetch_one(&app.pool).await.unwrap();
    assert_eq!(stored, 1, "as it arrived");
    app.stop().await;

    let app = several.app().set("QUARTET_POLL__DEADLINE", "10m").spawn().await;
    let id = post(&app, "acme").await;
    for is_repeat in [false, true] {
        let answer = send(&app, "acme", ACME_SECRET, "w1", status(id, "completed")).await;
        let expected = json!({ "outcome": "settled", "duplicate": is_repeat });
        assert_eq!(answer.expect(200), &expected);
    }
}
