//! The audit over HTTP.

use quartet::sandbox::SendWebhook;
use serde_json::{Value, json};

use super::{job, nothing, post_as};
use crate::support::{command, spawn_api};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_operator_actions_pages_newest_first() {
    let app = spawn_api().await;
    for (number, action) in ["pause", "resume", "pause", "resume", "pause"].iter().enumerate() {
        let path = format!("/v1/operator/queues/update_status/{action}");
        let note = json!({ "note": format!("{number}") });
        post_as(&app, "Grace Hopper", &path, &note).await.expect(200);
    }
    let (mut notes, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let answer = app.operator().get(&format!("/v1/operator/actions?{query}")).await;
        let page = answer.expect(200);
        for item in page["items"].as_array().unwrap() {
            assert_eq!(item["operator"], "operator (Grace Hopper)");
            assert!(item["at"].is_string());
            notes.push(item["note"].as_str().unwrap().to_owned());
        }
        assert!(notes.len() <= 5, "pages overlap");
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(notes, ["4", "3", "2", "1", "0"]);
    let path = "/v1/operator/queues/update_status/resume";
    post_as(&app, "Jürgen", path, &nothing()).await.expect(200);
    let answer = app.operator().get("/v1/operator/actions?limit=1").await;
    assert_eq!(answer.expect(200)["items"][0]["operator"], "operator (Jürgen)");
    let answer = app.operator().get("/v1/operator/actions?cursor=x").await;
    answer.expect_problem(422);
    assert_eq!(answer.faults(), ["cursor"]);
    app.client().get("/v1/operator/actions").await.expect_problem(403);
}

/// An action whose audit cannot be written does not take place, and answers a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_that_cannot_be_audited_fails() {
    let app = spawn_api().await;
    let break_audit =
        "ALTER TABLE operator_actions ADD CONSTRAINT broken CHECK (action <> 'pause_queue')";
    sqlx::query(break_audit).execute(&app.pool).await.unwrap();
    let path = "/v1/operator/queues/notify_client/pause";
    app.operator().post(path, &nothing()).await.expect_problem(500);
    let paused: Vec<Value> = {
        let answer = app.operator().get("/v1/operator/queues").await;
        let items = answer.expect(200)["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| item["paused"].clone()).collect()
    };
    assert_eq!(paused, [false; 4]);
}

/// Over HTTP and on the command line alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_operator_actions_about_a_transaction_or_a_dead_letter() {
    let app = spawn_api().await;
    let (mut ids, mut letters) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let id = app.client().accept().await;
        app.send_webhook(SendWebhook::new(id, "completed")).await;
        app.send_webhook(SendWebhook::new(id, "declined")).await;
        let letter = app.operator().open_dead_letters(id).await.remove(0);
        let letter = letter["id"].as_str().unwrap().to_owned();
        app.operator().act_on_dead_letter(&letter, "discard", &nothing()).await.expect(200);
        let job = job(&app, id, "create_transaction").await;
        let cancel = format!("/v1/operator/jobs/{}/cancel", job["id"].as_str().unwrap());
        app.operator().post(&cancel, &nothing()).await.expect(200);
        ids.push(id.to_string());
        letters.push(letter);
    }
    for (field, value, expected) in [
        ("transaction_id", &ids[0], &["cancel_job", "discard"][..]),
        ("dead_letter_id", &letters[1], &["discard"][..]),
    ] {
        let answer = app.operator().get(&format!("/v1/operator/actions?{field}={value}")).await;
        let items = answer.expect(200)["items"].as_array().unwrap();
        let actions: Vec<&str> =
            items.iter().map(|item| item["action"].as_str().unwrap()).collect();
        assert_eq!(actions, expected, "{field}");
        assert!(items.iter().all(|item| item[field] == **value), "{}", answer.text);
        let option = format!("--{}", field.replace('_', "-"));
        let printed = command::run(&["audit", &option, value, "--json"], &app.settings(), "").await;
        assert_eq!(printed.expect_json(), answer.body);
        let table = command::run(&["audit", &option, value], &app.settings(), "").await;
        assert!(table.expect().contains("discard"), "{table:?}");
    }
}
