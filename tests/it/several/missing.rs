//! A transaction whose third party is not configured any more waits, and says why.

use quartet::config::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, Several, post, wait_status};
use crate::support::{TestApp, job_rows::job_row, wait_for};

async fn cause(app: &TestApp, id: Uuid) -> Value {
    let path = format!("/v1/operator/transactions/{id}/explain");
    app.operator().get(&path).await.expect(200)["cause"].clone()
}

#[tokio::test]
async fn a_transaction_waits_for_its_third_party_without_an_attempt() {
    let several = Several::new().await;
    let mut api = several.app().role(Role::Api).spawn().await;
    let id = post(&api, "acme").await;
    api.stop().await;

    // The file has gone.
    let mut without = several.world.app().spawn().await;
    let explained = wait_for("it says why", BOUND, async || {
        let cause = cause(&without, id).await;
        (cause["kind"] == "third_party_not_configured").then_some(cause)
    })
    .await;
    let detail = explained["detail"].as_str().unwrap();
    assert!(detail.contains("its third party acme is not configured"), "{detail}");
    let ready = without.anonymous().get("/health/ready").await;
    let ready = ready.expect(200)["detail"].as_str().unwrap().to_owned();
    assert!(ready.contains("acme is not configured in this process"), "{ready}");
    assert!(without.operator().open_dead_letters(id).await.is_empty());
    // The others go on.
    let unnamed = without.client().accept().await;
    wait_status(&without, unnamed, "completed").await;
    assert!(several.acme.0.asked("POST", "/").is_empty());
    assert_eq!(without.sandbox.stats().third_party.creates_received, 1);
    without.stop().await;

    let app = several.app().spawn().await;
    for queue in ["create_at_third_party", "update_status"] {
        let job = job_row(&app.pool, id, queue).await;
        assert_eq!(job.attempts, 0, "{job:?}");
        app.operator().post(&format!("/v1/operator/jobs/{}/retry", job.id), &json!({})).await;
    }
    wait_for("it is created", BOUND, async || several.acme.1.has(id).then_some(())).await;
    several.acme.1.set(id, "completed");
    wait_status(&app, id, "completed").await;
}
