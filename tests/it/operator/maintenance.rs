//! Findings of reconciliation and the periodic tasks over HTTP.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::spawn_api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_reconciliation_findings_shows_open_ones_and_pages() {
    let app = spawn_api().await;
    let mut ids = Vec::new();
    for minute in 0..5 {
        let id = Uuid::now_v7();
        let insert = "INSERT INTO reconcile_findings
                (transaction_id, finding, detail, first_found_at, last_checked_at, checks,
                next_check_at, closed_at)
            VALUES ($1, 'late', '{\"status\": \"pending\"}', now() - make_interval(mins => $2), now(),
                3, now() + interval '5 min', CASE WHEN $2 = 3 THEN now() END)";
        sqlx::query(insert).bind(id).bind(minute).execute(&app.pool).await.unwrap();
        if minute != 3 {
            ids.push(json!(id));
        }
    }
    let (mut found, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let answer = app.operator().get(&format!("/v1/operator/reconciliation?{query}")).await;
        let page = answer.expect(200);
        for item in page["items"].as_array().unwrap() {
            assert_eq!((&item["finding"], &item["checks"]), (&json!("late"), &json!(3)));
            assert_eq!(item["detail"]["status"], "pending");
            found.push(item["transaction_id"].clone());
        }
        assert!(found.len() <= ids.len(), "pages overlap");
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(found, ids);
    app.client().get("/v1/operator/reconciliation").await.expect_problem(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_maintenance_tasks_shows_both() {
    let app = spawn_api().await;
    let run = "UPDATE maintenance_tasks SET started_at = now(), finished_at = now(),
        last_result = '{\"settled\": 2}' WHERE name = 'reconcile'";
    sqlx::query(run).execute(&app.pool).await.unwrap();
    let answer = app.operator().get("/v1/operator/maintenance").await;
    let items = answer.expect(200)["items"].as_array().unwrap().clone();
    let names: Vec<&Value> = items.iter().map(|item| &item["name"]).collect();
    assert_eq!(names, [&json!("reconcile"), &json!("retention")]);
    assert_eq!(items[0]["last_result"]["settled"], 2);
    assert!(items[1]["finished_at"].is_null() && items[1]["due_at"].is_string());
}
