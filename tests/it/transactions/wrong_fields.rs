//! JSON objects whose fields are wrong: 422, each field named by its pointer, nothing written.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{counts, spawn_api, transaction};

/// A complete transaction with `field` replaced.
fn with(field: &str, value: Value) -> Value {
    let mut post = transaction(Uuid::now_v7());
    post[field] = value;
    post
}

/// A complete transaction without `field`.
fn without(field: &str) -> Value {
    let mut post = transaction(Uuid::now_v7());
    post.as_object_mut().unwrap().remove(field);
    post
}

fn pairs(count: usize) -> Value {
    (0..count).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into()
}

fn cases() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let id = Uuid::now_v7();
    vec![
        ("no id", without("id"), vec!["/id"]),
        ("null id", with("id", Value::Null), vec!["/id"]),
        ("an id that is no uuid", with("id", json!("123")), vec!["/id"]),
        ("empty id", with("id", json!("")), vec!["/id"]),
        ("id in braces", with("id", json!(format!("{{{id}}}"))), vec!["/id"]),
        ("id without hyphens", with("id", json!(id.simple())), vec!["/id"]),
        ("id with a space", with("id", json!(format!("{id} "))), vec!["/id"]),
        ("number as id", with("id", json!(1)), vec!["/id"]),
        ("amount as text", with("amount", json!("1250")), vec!["/amount"]),
        ("negative amount", with("amount", json!(-1)), vec!["/amount"]),
        ("fractional amount", with("amount", json!(12.5)), vec!["/amount"]),
        ("whole amount as a float", with("amount", json!(12.0)), vec!["/amount"]),
        ("amount over int64", with("amount", json!(i64::MAX as u64 + 1)), vec!["/amount"]),
        ("amount over uint64", with("amount", json!(1e300)), vec!["/amount"]),
        ("boolean amount", with("amount", json!(true)), vec!["/amount"]),
        ("amount in a list", with("amount", json!([1])), vec!["/amount"]),
        ("amount without currency", without("currency"), vec!["/currency"]),
        ("amount with null currency", with("currency", Value::Null), vec!["/currency"]),
        ("currency without amount", without("amount"), vec!["/amount"]),
        ("unknown currency", with("currency", json!("XQQ")), vec!["/currency"]),
        ("lower-case currency", with("currency", json!("eur")), vec!["/currency"]),
        ("currency with a space", with("currency", json!("EUR ")), vec!["/currency"]),
        ("empty currency", with("currency", json!("")), vec!["/currency"]),
        ("numeric currency", with("currency", json!(978)), vec!["/currency"]),
        (
            "reference of 141 characters",
            with("reference", json!("ü".repeat(141))),
            vec!["/reference"],
        ),
        ("number as reference", with("reference", json!(7)), vec!["/reference"]),
        ("NUL in the reference", with("reference", json!("a\0b")), vec!["/reference"]),
        ("51 pairs of metadata", with("metadata", pairs(51)), vec!["/metadata"]),
        ("metadata as a list", with("metadata", json!([])), vec!["/metadata"]),
        ("metadata as text", with("metadata", json!("{}")), vec!["/metadata"]),
        ("number in metadata", with("metadata", json!({ "k": 1 })), vec!["/metadata/k"]),
        ("null in metadata", with("metadata", json!({ "k": null })), vec!["/metadata/k"]),
        ("object in metadata", with("metadata", json!({ "k": {} })), vec!["/metadata/k"]),
        ("a key to escape", with("metadata", json!({ "a/b~c": 1 })), vec!["/metadata/a~1b~0c"]),
        ("NUL in a metadata value", with("metadata", json!({ "k": "\0" })), vec!["/metadata/k"]),
        ("NUL in a metadata key", with("metadata", json!({ "\0": "v" })), vec!["/metadata/\0"]),
        ("unknown field", with("amuont", json!(1)), vec!["/amuont"]),
        ("unknown null field", with("callback_url", Value::Null), vec!["/callback_url"]),
        ("a field of the answer", with("status", json!("completed")), vec!["/status"]),
        (
            "everything at once",
            json!({ "id": 1, "amount": -1, "currency": "eur", "reference": 1, "metadata": 1, "x": 1 }),
            vec!["/id", "/amount", "/currency", "/reference", "/metadata", "/x"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named_and_nothing_is_written() {
    let app = spawn_api().await;
    for (name, body, pointers) in cases() {
        let answer = app.client().post_transaction(&body).await;
        assert_eq!(answer.status, 422, "{name}: {}", answer.text);
        answer.expect_problem(422);
        assert_eq!(answer.faults(), pointers, "{name}: {}", answer.text);
        for error in answer.body["errors"].as_array().unwrap() {
            assert!(!error["detail"].as_str().unwrap().is_empty(), "{name}: {error}");
        }
    }
    assert_eq!(counts(&app.pool).await, [0; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_is_absent_for_every_optional_field() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let nulls =
        json!({ "id": id, "amount": null, "currency": null, "reference": null, "metadata": null });
    app.client().post_transaction(&nulls).await.expect(202);
    app.client().post_transaction(&json!({ "id": id })).await.expect(200);
}
