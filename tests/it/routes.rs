//! What no operation answers: unknown paths and wrong methods, as problems.

use quartet::config::Role;
use reqwest::Method;

use crate::support::{World, spawn_api};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_path_is_404() {
    let app = spawn_api().await;
    for path in
        ["/", "/v1", "/v1/transaction", "/v1/transactions/a/b/c", "/v2/transactions", "/%00"]
    {
        for client in [app.client(), app.anonymous()] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, 404, "{path}: {}", answer.text);
            answer.expect_problem(404);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_no_text_is_400() {
    let app = spawn_api().await;
    app.client().get("/v1/transactions/%ff").await.expect_problem(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_method_is_405() {
    let app = spawn_api().await;
    for (method, path) in [
        (Method::PUT, "/v1/transactions"),
        (Method::DELETE, "/v1/transactions"),
        (Method::PATCH, "/v1/transactions/0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03"),
        (Method::GET, "/v1/webhooks/third-party"),
        (Method::POST, "/health/live"),
        (Method::POST, "/openapi.json"),
    ] {
        let answer = app.client().send(method.clone(), path, &[], "").await;
        assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text);
        answer.expect_problem(405);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_method_names_the_right_ones() {
    let app = spawn_api().await;
    let answer = app.client().send(Method::DELETE, "/v1/transactions", &[], "").await;
    let mut allowed: Vec<_> = answer.header("allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "POST"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_repeated_parameters_are_named() {
    let app = spawn_api().await;
    for (query, fault) in
        [("stauts=pending", "stauts"), ("limit=2&limit=3", "limit"), ("limit=2&x[]=1", "x[]")]
    {
        let answer = app.client().list_transactions(query).await;
        answer.expect_problem(422);
        assert_eq!(answer.faults(), [fault], "{query}");
    }
    app.client().list_transactions("limit=2&status=pending").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_serves_health_and_nothing_of_the_api() {
    let world = World::new().await;
    let worker = world.app().role(Role::Worker).spawn().await;
    worker.anonymous().get("/health/live").await.expect(200);
    worker.anonymous().get("/health/ready").await.expect(200);
    for path in ["/v1/transactions", "/v1/operator/dead-letters", "/openapi.json", "/docs"] {
        worker.client().get(path).await.expect_problem(404);
    }
}
