//! A transaction whose row cannot be read: a dead letter, a repair, a replay, an end.

use quartet::{
    config::Role,
    sandbox::{CreateStep, SendWebhook, Status},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, drop_added_checks, open_letters, reads, set_metadata};
use crate::{
    console::visitor::Visitor,
    support::{TestApp, job_rows::wait_job, spawn_api, wait_until},
};

#[track_caller]
fn assert_poison(letters: &[Value], words: &str) {
    for letter in letters {
        assert_eq!(letter["kind"], "poison", "{letter:#}");
        assert!(letter["reason"].as_str().unwrap().contains(words), "{words}: {letter:#}");
    }
    let mut jobs: Vec<String> = letters.iter().map(|letter| letter["job_id"].to_string()).collect();
    jobs.sort();
    jobs.dedup();
    assert_eq!(jobs.len(), letters.len(), "one job has two: {letters:#?}");
}

async fn replay_open(app: &TestApp, id: Uuid) {
    for letter in app.operator().open_dead_letters(id).await {
        let letter = letter["id"].as_str().unwrap();
        let answer = app.operator().act_on_dead_letter(letter, "replay", &json!({})).await;
        // The end of another one may have closed it meanwhile.
        assert!(matches!(answer.status, 200 | 409), "{}", answer.text);
    }
}

/// D2: somebody writes a number into the metadata of one pending transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_number_in_the_metadata_of_one_transaction_stops_that_one_alone() {
    let app = spawn_api().await;
    drop_added_checks(&app.pool).await;
    let strange = app.client().accept().await;
    set_metadata(&app, strange, r#"{"a": 1, "b": "kept"}"#).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(app.client().accept().await);
    }

    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for id in &others {
        app.wait_told(*id, BOUND).await;
    }
    let why = r#"metadata cannot be read: it holds a number under "a", not a string"#;
    app.wait_at_rest(BOUND).await;
    assert_poison(&open_letters(&app, strange).await, why);
    for id in &others {
        assert!(app.operator().open_dead_letters(*id).await.is_empty());
    }
    // Nothing was sent of it, but its client was told that it is pending.
    assert_eq!(app.sandbox.third_party().creates_of(strange), 0);
    let read = app.client().get_transaction(strange).await;
    assert_eq!(read.expect(200)["metadata"], json!({ "a": "1", "b": "kept" }));
    assert_eq!(read.body["status"], "pending");
    assert_eq!(read.body["notified_version"], 1);
    let ids: Vec<Uuid> = others.iter().copied().chain([strange]).collect();
    reads::lists(&app, &ids, &ids).await;
    let visitor = Visitor::signed_in(&app).await;
    reads::transaction(&app, &visitor, strange, true).await;

    // A replay without a repair ends there again, with one letter for each job.
    replay_open(&app, strange).await;
    app.wait_at_rest(BOUND).await;
    assert_poison(&open_letters(&app, strange).await, why);

    set_metadata(&app, strange, r#"{"order": "A-117", "shop": "7"}"#).await;
    replay_open(&app, strange).await;
    app.wait_told(strange, BOUND).await;
    app.wait_at_rest(BOUND).await;
    assert!(app.operator().open_dead_letters(strange).await.is_empty());
    app.assert_invariants(&ids).await;
}

/// The polls stop for an operator; the third party's own word still settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_becomes_strange_while_it_is_polled_is_settled_by_a_webhook() {
    let app = spawn_api().await;
    drop_added_checks(&app.pool).await;
    let id = app.client().accept().await;
    let third_party = app.sandbox.third_party();
    third_party.script_creates_for(id, vec![CreateStep::created()]);
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    wait_job(&app.pool, id, "create_at_third_party", "Done", BOUND).await;
    set_metadata(&app, id, r#"{"a": [null]}"#).await;
    let letters = open_letters(&app, id).await;
    assert_poison(&letters, "metadata cannot be read: it holds an array under \"a\"");
    assert_eq!(letters[0]["queue"], "update_status");

    third_party.set_status(id, Status::Completed);
    let (status, answer) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("settled")));
    let told = app.wait_told(id, BOUND).await;
    assert_eq!(told["status"], "completed");
    assert!(app.operator().open_dead_letters(id).await.is_empty(), "the webhook explains it");
}

/// What can never be the name of a third party waits for none; a name may be configured later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_party_that_is_no_name_is_an_operators_and_a_name_waits() {
    let app = spawn_api().await;
    drop_added_checks(&app.pool).await;
    let set = async |id: Uuid, third_party: &str| {
        let set = "UPDATE transactions SET third_party = $2 WHERE id = $1";
        sqlx::query(set).bind(id).bind(third_party).execute(&app.pool).await.unwrap();
    };
    let mut strange = Vec::new();
    let long = "x".repeat(65);
    for third_party in ["", " ", "Acme Pay", "acme--pay", "\u{1b}[31m", &long] {
        let id = app.client().accept().await;
        set(id, third_party).await;
        strange.push(id);
    }
    let (waits, ordinary) = (app.client().accept().await, app.client().accept().await);
    set(waits, "acme").await;

    let _worker = app.sibling().role(Role::Worker).spawn().await;
    app.wait_told(ordinary, BOUND).await;
    let why = "third_party cannot be read: it must be 1 to 64 of the characters a-z";
    for id in &strange {
        for queue in ["create_at_third_party", "update_status"] {
            wait_job(&app.pool, *id, queue, "Failed", BOUND).await;
        }
        let letters = app.operator().open_dead_letters(*id).await;
        assert_poison(&letters, why);
        assert_eq!(letters.len(), 2, "{letters:#?}");
    }
    wait_until("it says why it waits", BOUND, async || {
        let path = format!("/v1/operator/transactions/{waits}/explain");
        let explained = app.operator().get(&path).await;
        explained.expect(200)["cause"]["kind"] == "third_party_not_configured"
    })
    .await;
    assert!(app.operator().open_dead_letters(waits).await.is_empty());

    // Unrepaired, a replay does not get it further.
    replay_open(&app, strange[0]).await;
    wait_job(&app.pool, strange[0], "update_status", "Failed", BOUND).await;
    assert_poison(&open_letters(&app, strange[0]).await, why);
    for id in strange.iter().chain([&waits]) {
        set(*id, "third-party").await;
    }
    for id in &strange {
        replay_open(&app, *id).await;
        app.wait_told(*id, BOUND).await;
    }
}
