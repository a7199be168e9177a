//! `GET /v1/transactions`: filters and keyset pages.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use quartet::sandbox::SendWebhook;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Client, spawn_api, world::add_client};

async fn list(client: &Client, query: &str) -> Vec<Uuid> {
    let answer = client.list_transactions(query).await;
    ids(answer.expect(200))
}

fn ids(page: &Value) -> Vec<Uuid> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_transactions_filters_by_status_and_shows_own_ones_only() {
    let app = spawn_api().await;
    let (pending, completed, declined) =
        (app.client().accept().await, app.client().accept().await, app.client().accept().await);
    app.send_webhook(SendWebhook::new(completed, "completed")).await;
    app.send_webhook(SendWebhook::new(declined, "declined")).await;
    let other = app.client().with_key(&add_client(&app.pool, "other").await);
    let others = other.accept().await;

    let client = app.client();
    assert_eq!(list(&client, "").await, [declined, completed, pending]);
    assert_eq!(list(&client, "status=pending").await, [pending]);
    assert_eq!(list(&client, "status=completed").await, [completed]);
    assert_eq!(list(&client, "status=declined").await, [declined]);
    assert!(list(&client, "status=failed").await.is_empty());
    assert_eq!(list(&other, "").await, [others]);

    let page = client.list_transactions("status=completed").await;
    let item = &page.expect(200)["items"][0];
    assert_eq!(item, client.get_transaction(completed).await.expect(200));
    assert_eq!(page.body.get("next_cursor"), Some(&Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_after_is_inclusive_and_created_before_exclusive() {
    let app = spawn_api().await;
    let mut ids = Vec::new();
    let mut times = Vec::new();
    for _ in 0..3 {
        let id = app.client().accept().await;
        let created = "SELECT created_at FROM transactions WHERE id = $1";
        let created: DateTime<Utc> =
            sqlx::query_scalar(created).bind(id).fetch_one(&app.pool).await.unwrap();
        ids.push(id);
        times.push(created);
    }
    let text = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let client = app.client();
    let query = async |query: String| list(&client, &query).await;
    assert_eq!(query(format!("created_after={}", text(times[1]))).await, [ids[2], ids[1]]);
    assert_eq!(query(format!("created_before={}", text(times[1]))).await, [ids[0]]);
    let (from, to) = (text(times[0]), text(times[2]));
    let between = format!("created_after={from}&created_before={to}");
    assert_eq!(query(between.clone()).await, [ids[1], ids[0]]);
    assert!(query(format!("{between}&status=declined")).await.is_empty());
    // Another offset means the same moment; `+` is a space unless it is escaped.
    let offset = (times[1] + TimeDelta::hours(2)).format("%Y-%m-%dT%H:%M:%S%.6f%%2B02:00");
    assert_eq!(query(format!("created_before={offset}")).await, [ids[0]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_neither_gaps_nor_repeats_while_rows_are_added() {
    let app = spawn_api().await;
    let client = app.client();
    for _ in 0..23 {
        client.accept().await;
    }
    // Several rows of one moment: the id decides.
    let same = "UPDATE transactions SET created_at = (SELECT min(created_at) FROM transactions)
        WHERE id IN (SELECT id FROM transactions ORDER BY id LIMIT 12)";
    sqlx::query(same).execute(&app.pool).await.unwrap();
    let expected: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM transactions ORDER BY created_at DESC, id DESC")
            .fetch_all(&app.pool)
            .await
            .unwrap();

    for limit in [1, 4, 22, 23, 200] {
        let mut seen = Vec::new();
        let mut query = format!("limit={limit}");
        let mut added = 0;
        loop {
            let answer = client.list_transactions(&query).await;
            let page = ids(answer.expect(200));
            assert!(page.len() <= limit, "{} of {limit}", page.len());
            seen.extend(page.into_iter().filter(|id| expected.contains(id)));
            let Some(cursor) = answer.body["next_cursor"].as_str() else { break };
            query = format!("limit={limit}&cursor={cursor}");
            client.accept().await;
            added += 1;
        }
        assert_eq!(seen, expected, "limit {limit}, {added} added");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_page_has_no_cursor_and_fifty_are_the_default() {
    let app = spawn_api().await;
    let client = app.client();
    assert!(list(&client, "limit=1").await.is_empty());
    for _ in 0..50 {
        client.accept().await;
    }
    let all = client.list_transactions("").await;
    assert_eq!((ids(all.expect(200)).len(), &all.body["next_cursor"]), (50, &Value::Null));
    client.accept().await;
    let first = client.list_transactions("").await;
    assert_eq!(ids(first.expect(200)).len(), 50);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    assert_eq!(list(&client, &format!("cursor={cursor}")).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_parameters_are_named() {
    let app = spawn_api().await;
    let cases = [
        ("status=done", "status"),
        ("status=Pending", "status"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=abc", "limit"),
        ("cursor=abc", "cursor"),
        ("cursor=MTIz", "cursor"),
        ("cursor=%00", "cursor"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-02-30T00:00:00Z", "created_after"),
        ("created_before=1700000000", "created_before"),
    ];
    for (query, parameter) in cases {
        let answer = app.client().list_transactions(query).await;
        assert_eq!(answer.status, 422, "{query}: {}", answer.text);
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [parameter], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_at_the_edge_of_what_can_be_stored_are_no_server_error() {
    let app = spawn_api().await;
    for time in [
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "%2B262142-12-31T23:59:59Z",
        "-262143-01-01T00:00:00Z",
    ] {
        for parameter in ["created_after", "created_before"] {
            let answer = app.client().list_transactions(&format!("{parameter}={time}")).await;
            assert!(matches!(answer.status, 200 | 422), "{parameter}={time}: {}", answer.text);
        }
    }
    for micros in [0, -1, -1_000_000_000_000_000_000, 8_000_000_000_000_000_000i64] {
        let cursor = URL_SAFE_NO_PAD.encode(format!("{micros}.{}", Uuid::nil()));
        let answer = app.client().list_transactions(&format!("cursor={cursor}")).await;
        assert!(matches!(answer.status, 200 | 422), "cursor {micros}: {}", answer.text);
    }
}
