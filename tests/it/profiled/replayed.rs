//! Webhooks for transactions that were not here yet: a replay compares them as an arrival does.

use quartet::config::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    app, post,
    webhooks::{paystack, paystack_of_both_ids, paystack_signed, transfer},
};
use crate::support::{Answer, TestApp, World};

/// A webhook for a transaction that is not here yet, as its dead letter.
async fn unknown(app: &TestApp, body: &Value) -> Value {
    paystack_signed(app, body).await.expect(200);
    let id = body["data"]["reference"].as_str().unwrap().parse().unwrap();
    let letter = app.operator().open_dead_letters(id).await.pop().unwrap();
    assert_eq!(letter["kind"], "unknown_transaction", "{letter}");
    letter
}

async fn replay(app: &TestApp, letter: &Value) -> Answer {
    let letter = letter["id"].as_str().unwrap();
    app.operator().act_on_dead_letter(letter, "replay", &json!({})).await
}

#[tokio::test]
async fn a_replay_compares_what_the_webhook_says_as_its_arrival_does() {
    let (world, peer) = (World::new().await, paystack().await);
    let mut app = app(&world, &peer, "paystack").role(Role::Api).spawn().await;
    let status = async |app: &TestApp, id: Uuid| {
        app.client().get_transaction(id).await.expect(200)["status"].clone()
    };
    for (field, value) in [("amount", json!(1251)), ("currency", json!("USD"))] {
        let id = Uuid::now_v7();
        let mut body = transfer(id, "success");
        body["data"][field] = value;
        let letter = unknown(&app, &body).await;
        post(&app.client(), id).await;
        let select = json!({ "ids": [letter["id"]], "dry_run": true });
        let planned = app.operator().post("/v1/operator/dead-letters/replay", &select).await;
        let planned = planned.expect(200)["items"][0].clone();
        let effect = planned["effect"].as_str().unwrap();
        assert!(effect.contains("status_conflict") && effect.contains(field), "{planned}");
        assert_eq!(planned["resulting_status"], "pending");
        replay(&app, &letter).await.expect(200);
        assert_eq!(status(&app, id).await, "pending", "{field}");
        let letters = app.operator().open_dead_letters(id).await;
        assert_eq!((letters.len(), &letters[0]["kind"]), (1, &json!("status_conflict")));
        let reason = letters[0]["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("/data/{field} is")), "{reason}");
    }

    // Of a version that kept nothing of it: an operator compares.
    let id = Uuid::now_v7();
    let letter = unknown(&app, &transfer(id, "success")).await;
    let forget =
        "UPDATE failed_jobs SET detail = detail - ARRAY['claims', 'profile', 'provider_id']
        WHERE transaction_id = $1";
    sqlx::query(forget).bind(id).execute(&app.pool).await.unwrap();
    post(&app.client(), id).await;
    replay(&app, &letter).await.expect(200);
    assert_eq!(status(&app, id).await, "pending");
    let letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters[0]["kind"], "status_conflict", "{letters:?}");

    // Without its profile nothing is compared, so nothing is settled.
    let id = Uuid::now_v7();
    let letter = unknown(&app, &transfer(id, "success")).await;
    post(&app.client(), id).await;
    app.stop().await;
    let without = world.app().role(Role::Api).spawn().await;
    let refused = replay(&without, &letter).await;
    let detail = refused.expect_problem(409)["detail"].as_str().unwrap();
    assert!(detail.contains("profile"), "{detail}");
    assert_eq!(status(&without, id).await, "pending");

    // What is about the transaction as it was posted settles it.
    let app = super::app(&world, &peer, "paystack").role(Role::Api).spawn().await;
    replay(&app, &letter).await.expect(200);
    assert_eq!(status(&app, id).await, "completed");
    assert_eq!(app.operator().open_dead_letters(id).await, Vec::<Value>::new());
}

/// Two of ours for one of theirs: there may be two payments.
#[tokio::test]
async fn a_replay_learns_the_third_partys_id_and_refuses_that_of_another_transaction() {
    let (world, peer) = (World::new().await, paystack().await);
    let (_directory, profile) = paystack_of_both_ids().await;
    let app = app(&world, &peer, &profile).role(Role::Api).spawn().await;
    let [first, second] = [Uuid::now_v7(), Uuid::now_v7()];
    let mut letters = Vec::new();
    for id in [first, second] {
        let mut body = transfer(id, "success");
        body["data"]["transfer_code"] = json!("TRF_1");
        letters.push(unknown(&app, &body).await);
        post(&app.client(), id).await;
    }
    for letter in &letters {
        replay(&app, letter).await.expect(200);
    }
    let read = async |id: Uuid| app.client().get_transaction(id).await.expect(200).clone();
    let (first, other) = (read(first).await, read(second).await);
    assert_eq!((&first["status"], &first["provider_id"]), (&json!("completed"), &json!("TRF_1")));
    assert_eq!((&other["status"], &other["provider_id"]), (&json!("pending"), &Value::Null));
    let letter = app.operator().open_dead_letters(second).await.pop().unwrap();
    assert_eq!(letter["kind"], "status_conflict", "{letter}");
    assert!(letter["reason"].as_str().unwrap().contains("another transaction"), "{letter}");
}
