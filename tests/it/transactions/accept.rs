//! What a post writes and answers.

use chrono::DateTime;
use quartet::config::Role;
use serde_json::json;
use uuid::Uuid;

use crate::support::{World, contents::writers, counts, spawn_api, transaction};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_transaction_answers_202_with_its_location_and_itself() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let answer = app.client().post_transaction(&transaction(id)).await;
    let body = answer.expect(202);
    assert_eq!(answer.header("location"), format!("/v1/transactions/{id}"));
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(answer.header("idempotent-replayed"), "");
    let created_at = body["created_at"].as_str().unwrap();
    let offset = DateTime::parse_from_rfc3339(created_at).unwrap().offset().local_minus_utc();
    assert_eq!(offset, 0, "{created_at} is UTC");
    assert_eq!(
        *body,
        json!({
            "id": id, "third_party": "third-party", "status": "pending", "version": 1,
            "amount": 1250, "currency": "EUR",
            "reference": "Invoice 2026-117", "metadata": { "order": "A-117", "shop": "7" },
            "created_at": created_at, "updated_at": created_at, "notified_version": 0,
        })
    );
    assert_eq!(app.client().get(answer.header("location")).await.expect(200), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absent_fields_stay_absent() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let answer = app.client().post_transaction(&json!({ "id": id })).await;
    let mut fields: Vec<&String> = answer.expect(202).as_object().unwrap().keys().collect();
    fields.sort();
    let expected =
        ["created_at", "id", "notified_version", "status", "third_party", "updated_at", "version"];
    assert_eq!(fields, expected);

    let id = Uuid::now_v7();
    let answer = app.client().post_transaction(&json!({ "id": id, "metadata": {} })).await;
    assert_eq!(answer.expect(202)["metadata"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_and_smallest_values_are_kept_as_given() {
    let app = spawn_api().await;
    let pairs: serde_json::Map<_, _> =
        (0..50).map(|n| (format!("key/{n}~ü"), json!("🦀 \"quoted\" \\ \n"))).collect();
    for amount in [0, 1, i64::MAX] {
        let id = Uuid::now_v7();
        // 140 characters, not bytes.
        let post = json!({
            "id": id, "amount": amount, "currency": "JPY", "reference": "🦀".repeat(140),
            "metadata": pairs,
        });
        app.client().post_transaction(&post).await.expect(202);
        let got = app.client().get_transaction(id).await;
        for field in ["amount", "currency", "reference", "metadata"] {
            assert_eq!(got.expect(200)[field], post[field], "{field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_and_four_jobs_are_written_by_one_sql_transaction() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let mut written = writers(&app.pool, id).await;
    written.sort();
    let what: Vec<&str> = written.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        what,
        [
            "accepted",
            "create_at_third_party",
            "create_transaction",
            "notify_client",
            "transaction",
            "update_status"
        ]
    );
    assert!(written.iter().all(|(_, xmin)| *xmin == written[0].1), "{written:?}");
    assert_eq!(counts(&app.pool).await, [1, 4, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_due_at_once_and_200_ms_later_to_the_millisecond() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    assert_eq!(delays(&app.pool, id).await, [0.0, 0.0, 200.0, 200.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_delays_follow_the_configuration() {
    let app = World::new().await.app().role(Role::Api);
    let app = app.set("QUARTET_POLL__FIRST", "1501ms").set("QUARTET_NOTIFY__FIRST", "0s");
    let app = app.spawn().await;
    let id = app.client().accept().await;
    assert_eq!(delays(&app.pool, id).await, [0.0, 0.0, 1501.0, 0.0]);
}

/// Milliseconds from the accept to each job's `run_at`, in the order of the jobs.
async fn delays(pool: &sqlx::PgPool, id: Uuid) -> Vec<f64> {
    let query = r#"
        SELECT (extract(epoch FROM run_at - created_at) * 1000)::float8
        FROM apalis.jobs JOIN transactions t ON t.id::text = idempotency_key
        WHERE t.id = $1
        ORDER BY array_position(ARRAY[
            'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
        ], job_type)
    "#;
    sqlx::query_scalar(query).bind(id).fetch_all(pool).await.unwrap()
}
