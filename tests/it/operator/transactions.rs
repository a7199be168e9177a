//! All clients' transactions over HTTP.

use quartet::sandbox::SendWebhook;
use serde_json::{Value, json};

use crate::support::{spawn_api, world::add_client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_operator_transactions_filters_and_pages_over_all_clients() {
    let app = spawn_api().await;
    let key = add_client(&app.pool, "second").await;
    let second = app.anonymous().with_key(&key);
    let mut ids = Vec::new();
    for number in 0..6 {
        let id = if number % 3 == 0 { second.accept().await } else { app.client().accept().await };
        ids.insert(0, id);
    }
    for (index, status) in [(0, "completed"), (2, "declined"), (4, "completed")] {
        app.send_webhook(SendWebhook::new(ids[index], status)).await;
    }
    let list = async |query: &str| {
        let answer = app.operator().get(&format!("/v1/operator/transactions?{query}")).await;
        let items = answer.expect(200)["items"].as_array().unwrap().clone();
        let next = answer.body["next_cursor"].as_str().map(str::to_owned);
        (items.into_iter().map(|item| item["id"].clone()).collect::<Vec<Value>>(), next)
    };
    let expected =
        |wanted: &[usize]| wanted.iter().map(|index| json!(ids[*index])).collect::<Vec<_>>();
    assert_eq!(list("").await.0, expected(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(list("status=completed").await.0, expected(&[0, 4]));
    assert_eq!(list("status=pending").await.0, expected(&[1, 3, 5]));
    assert_eq!(list("client=second").await.0, expected(&[2, 5]));
    assert_eq!(list("client=second&status=pending").await.0, expected(&[5]));
    for query in ["", "status=pending", "client=default"] {
        let (whole, _) = list(query).await;
        let (mut paged, mut next) = (Vec::new(), format!("{query}&limit=1"));
        loop {
            let (items, cursor) = list(&next).await;
            paged.extend(items);
            assert!(paged.len() <= whole.len(), "{query}: pages overlap");
            let Some(cursor) = cursor else { break };
            next = format!("{query}&limit=1&cursor={cursor}");
        }
        assert_eq!(paged, whole, "{query}");
    }
    let answer = app.operator().get("/v1/operator/transactions?limit=1").await;
    let item = &answer.expect(200)["items"][0];
    assert_eq!((&item["client"], &item["status"]), (&json!("default"), &json!("completed")));
    assert_eq!((&item["version"], &item["settled_by"]), (&json!(2), &json!("webhook")));
    let answer = app.operator().get("/v1/operator/transactions?client=x&status=y").await;
    answer.expect_problem(422);
    // A name that no third party can have is a slip; one that none has here is not.
    for wrong in ["mtn_momo", "%00", "Acme"] {
        let path = format!("/v1/operator/transactions?third_party={wrong}");
        let answer = app.operator().get(&path).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), ["third_party"], "{wrong}");
    }
    assert_eq!(list("third_party=mtn-momo").await.0, [json!(null); 0]);
    app.client().get("/v1/operator/transactions").await.expect_problem(403);
}
