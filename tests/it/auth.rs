//! Who may call: keys are checked before bodies are read, on every operation there is.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    Answer, Client, TestApp, World, counts, raw_http, spawn_api, transaction,
    world::{API_KEY, add_client},
};

/// Method and path of every operation whose path begins with `prefix`, from the app's own document.
async fn operations(app: &TestApp, prefix: &str) -> Vec<(Method, String)> {
    let document = app.anonymous().get("/openapi.json").await;
    let paths = document.expect(200)["paths"].as_object().unwrap();
    let of_path = |(path, operations): (&String, &Value)| {
        let path =
            path.replace("{queue}", "notify_client").replace("{id}", &Uuid::now_v7().to_string());
        let methods = operations.as_object().unwrap().keys();
        methods
            .filter_map(|method| method.to_uppercase().parse().ok())
            .map(|method: Method| (method, path.clone()))
            .collect::<Vec<_>>()
    };
    paths.iter().filter(|(path, _)| path.starts_with(prefix)).flat_map(of_path).collect()
}

async fn call(client: &Client, (method, path): &(Method, String)) -> Answer {
    client.send(method.clone(), path, &[("content-type", "application/json")], "{").await
}

fn assert_unauthorized(answer: &Answer, name: &str) {
    assert_eq!(answer.status, 401, "{name}: {}", answer.text);
    answer.expect_problem(401);
    assert_eq!(answer.header("www-authenticate"), "Bearer", "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_of_clients_needs_a_client_key() {
    let app = spawn_api().await;
    let operations = operations(&app, "/v1/transactions").await;
    assert_eq!(operations.len(), 4, "{operations:?}");
    for operation in &operations {
        let name = format!("{operation:?}");
        assert_unauthorized(&call(&app.anonymous(), operation).await, &name);
        for key in ["qk_wrong", "qk_test_client_0124", "qk_test_client_0123_and_more"] {
            assert_unauthorized(&call(&app.client().with_key(key), operation).await, &name);
        }
        // The operator is no client.
        assert_unauthorized(&call(&app.operator(), operation).await, &name);
    }
    assert_eq!(counts(&app.pool).await, [0; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_of_operators_needs_the_token() {
    let app = spawn_api().await;
    let operations = operations(&app, "/v1/operator").await;
    assert!(operations.len() >= 3, "{operations:?}");
    for operation in &operations {
        let name = format!("{operation:?}");
        assert_unauthorized(&call(&app.anonymous(), operation).await, &name);
        assert_unauthorized(&call(&app.client().with_key("wrong"), operation).await, &name);
        let forbidden = call(&app.client(), operation).await;
        assert_eq!(forbidden.status, 403, "{name}: {}", forbidden.text);
        forbidden.expect_problem(403);
        let allowed = call(&app.operator(), operation).await;
        assert!(!matches!(allowed.status, 401 | 403 | 500..), "{name}: {}", allowed.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_the_operator_api_is_closed() {
    let app = World::new().await.app().set("QUARTET_OPERATOR_TOKEN", "").spawn().await;
    for operation in &operations(&app, "/v1/operator").await {
        let name = format!("{operation:?}");
        assert_unauthorized(&call(&app.anonymous(), operation).await, &name);
        assert_unauthorized(&call(&app.operator(), operation).await, &name);
        assert_eq!(call(&app.client(), operation).await.status, 403, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_schemes_and_broken_headers_are_unauthorized() {
    let app = spawn_api().await;
    for header in ["Basic cWs6dGVzdA==", "Bearer", "Bearer ", API_KEY, &format!("Token {API_KEY}")]
    {
        let headers = [("authorization", header), ("content-type", "application/json")];
        let body = transaction(Uuid::now_v7()).to_string();
        let answer = app.anonymous().send(Method::POST, "/v1/transactions", &headers, body).await;
        assert_unauthorized(&answer, header);
    }
    let bearer = format!("bearer {API_KEY}");
    let headers = [("authorization", bearer.as_str())];
    let answer = app.anonymous().send(Method::GET, "/v1/transactions", &headers, "").await;
    assert_eq!(answer.status, 200, "the scheme's case does not matter (RFC 9110): {}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_checked_before_the_body() {
    let app = spawn_api().await;
    let client = app.client().with_key("qk_wrong");
    for body in [b"{".as_slice(), b"", b"\xff"] {
        let answer = client.post_raw("/v1/transactions", body).await;
        assert_unauthorized(&answer, "a bad body");
    }
    // By hand: the server may close the connection before it was sent all of a long body.
    let head = "POST /v1/transactions HTTP/1.1\r\ncontent-type: application/json\r\n\
                content-length: 200000";
    let (status, text) = raw_http::exchange(&app, head, &[b'x'; 200_000]).await;
    assert_eq!(status, 401, "{text}");
    let answer =
        client.send(Method::POST, "/v1/transactions", &[("content-type", "text/plain")], "x");
    assert_unauthorized(&answer.await, "a bad content type");
    let answer = client.list_transactions("limit=abc&status=abc").await;
    assert_unauthorized(&answer, "bad parameters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_client_is_unauthorized() {
    let app = spawn_api().await;
    let client = app.client().with_key(&add_client(&app.pool, "other").await);
    let id = client.accept().await;
    let disable = "UPDATE clients SET disabled_at = now() WHERE name = 'other'";
    sqlx::query(disable).execute(&app.pool).await.unwrap();
    assert_unauthorized(&client.get_transaction(id).await, "get");
    assert_unauthorized(&client.post_transaction(&transaction(Uuid::now_v7())).await, "post");
    assert_unauthorized(&client.list_dead_letters("").await, "operator call");
    app.client().accept().await;
}
