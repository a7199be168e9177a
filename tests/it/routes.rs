//! The list of all routes, and what no operation answers: unknown paths and wrong methods, as
//! problems.

use std::collections::BTreeSet;

use quartet::{
    config::Role,
    http::route_list::{Caller, PROVIDER_WEBHOOKS, ROUTES},
};
use reqwest::Method;
use serde_json::Value;

use crate::support::{World, client::Client, spawn_api};

#[test]
fn every_operation_stands_in_the_list_of_routes() {
    let document: Value = serde_json::from_str(&quartet::http::openapi()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            documented.insert((method.to_uppercase(), path.clone(), id.to_owned()));
        }
    }
    // Its methods, bodies and answers are those of a profile, which a document cannot say before
    // there is one.
    assert!(ROUTES.iter().any(|route| route.path == PROVIDER_WEBHOOKS));
    assert!(document["paths"].get(PROVIDER_WEBHOOKS).is_none());
    let described = ROUTES.iter().filter(|route| route.path != PROVIDER_WEBHOOKS);
    let listed = described.filter_map(|route| {
        Some((route.method?.to_owned(), route.path.to_owned(), route.operation.to_owned()))
    });
    let listed: BTreeSet<_> = listed.collect();
    assert_eq!(
        documented, listed,
        "src/http/route_list.rs says of each operation who may call it and what it counts against"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_open_to_its_callers_alone() {
    let app = spawn_api().await;
    for route in ROUTES {
        let Some(method) = route.method else { continue };
        let path = route.path.replace("{id}", &uuid::Uuid::now_v7().to_string());
        let path = path.replace("{queue}", "create_transaction").replace("{name}", "nobody");
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let json = [("content-type", "application/json")];
        let name = format!("{method} {path}");
        let send = |client: Client| {
            let (method, path) = (method.clone(), path.clone());
            async move { client.send(method, &path, &json, "{}").await.status }
        };
        let (anonymous, client) = (send(app.anonymous()).await, send(app.client()).await);
        match route.caller {
            Caller::Anyone => assert_eq!(anonymous, 200, "{name}"),
            Caller::Client => assert_eq!((anonymous, client == 401), (401, false), "{name}"),
            // There is no third party of this name.
            Caller::ThirdParty if route.path == PROVIDER_WEBHOOKS => {
                assert_eq!((anonymous, client), (404, 404), "{name}");
            }
            // A client's key is none, and no operator's token.
            Caller::ThirdParty => assert_eq!((anonymous, client), (401, 401), "{name}"),
            Caller::Operator => assert_eq!((anonymous, client), (401, 403), "{name}"),
        }
    }
}

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
