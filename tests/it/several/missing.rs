//! A transaction whose third party is not configured any more waits, and says why.

use quartet::config::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, Several, post, to, wait_status};
use crate::{
    metrics::scrape,
    profiled::peer::{Peer, Reply},
    support::{Answer, TestApp, command::run, job_rows::job_row, wait_for},
};

async fn cause(app: &TestApp, id: Uuid) -> Value {
    let path = format!("/v1/operator/transactions/{id}/explain");
    app.operator().get(&path).await.expect(200)["cause"].clone()
}

/// How many transactions wait because this process does not know their third party.
async fn without_third_party(app: &TestApp, name: &str) -> Option<f64> {
    let metrics = scrape(app).await;
    metrics.value("quartet_transactions_without_third_party", &[("third_party", name)])
}

async fn retry(app: &TestApp, job_id: &str) -> Answer {
    app.operator().post(&format!("/v1/operator/jobs/{job_id}/retry"), &json!({})).await
}

/// It is refused because acme is not configured.
#[track_caller]
fn refuses(answer: &Answer) {
    let detail = answer.expect_problem(409)["detail"].as_str().unwrap();
    assert!(detail.contains("its third party acme is not configured"), "{detail}");
    assert!(detail.contains("QUARTET_THIRD_PARTIES__DIRECTORY"), "{detail}");
}

#[tokio::test]
async fn a_create_is_not_tried_again_where_its_backoff_is_not_known() {
    let several = Several::new().await;
    let failing = Peer::start(|asked| match asked.method.as_str() {
        "POST" => Reply::Answer(504, json!({})),
        _ => Reply::Answer(404, json!({})),
    })
    .await;
    let settings = several.acme_settings("create_retries = 0\n");
    several.write("acme.toml", &settings.replace(&several.acme.0.url(), &failing.url()));
    let mut app = several.app().spawn().await;
    let id = post(&app, "acme").await;
    wait_status(&app, id, "failed").await;
    let letter = wait_for("its create is a dead letter", BOUND, async || {
        app.operator().open_dead_letters(id).await.pop()
    })
    .await;
    let letter = letter["id"].as_str().unwrap();
    app.stop().await;

    let mut without = several.world.app().spawn().await;
    let create = job_row(&without.pool, id, "create_at_third_party").await;
    refuses(&retry(&without, &create.id).await);
    refuses(&without.operator().act_on_dead_letter(letter, "replay", &json!({})).await);
    let replay = ["dead-letters", "replay", letter, "--dry-run", "--json"];
    let previewed = run(&replay, &without.settings(), "").await;
    assert!(previewed.stdout.contains("its third party acme is not configured"), "{previewed:?}");
    assert_eq!(job_row(&without.pool, id, "create_at_third_party").await, create);
    assert_eq!(without.operator().open_dead_letters(id).await.len(), 1);
    without.stop().await;

    let app = several.app().spawn().await;
    app.operator().act_on_dead_letter(letter, "replay", &json!({})).await.expect(200);
}

#[tokio::test]
async fn a_post_to_one_that_another_process_may_have_is_to_be_sent_again() {
    let several = Several::new().await;
    let with = several.app().spawn().await;
    let without = several.world.app().role(Role::Api).spawn().await;
    let id = Uuid::now_v7();
    let refused = without.client().post_transaction(&to("acme", id)).await;
    let problem = refused.expect_problem(503);
    assert_eq!(problem["type"], "/docs/errors#third-party-not-configured");
    assert!(problem["detail"].as_str().unwrap().contains("acme"), "{problem}");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    without.client().get_transaction(id).await.expect_problem(404);
    // What the client may not use is refused, whatever is configured.
    let never = without.client().post_transaction(&to("nobody", id)).await;
    let detail = &never.expect_problem(422)["errors"][0]["detail"];
    assert_eq!(detail, "must be one that you may use: third-party, acme, pay");
    with.client().post_transaction(&to("acme", id)).await.expect(202);
    // Then it is a repeat here as well.
    without.client().post_transaction(&to("acme", id)).await.expect(200);
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
    assert_eq!(without_third_party(&without, "acme").await, Some(1.0));
    assert_eq!(without_third_party(&without, "third-party").await, Some(0.0));
    assert_eq!(without_third_party(&without, "pay").await, None, "nothing waits for it");
    assert!(without.operator().open_dead_letters(id).await.is_empty());
    // How long the create has to wait is not known here, how long a poll has to is.
    let create = job_row(&without.pool, id, "create_at_third_party").await;
    refuses(&retry(&without, &create.id).await);
    let poll = job_row(&without.pool, id, "update_status").await;
    retry(&without, &poll.id).await.expect(200);
    // The others go on.
    let unnamed = without.client().accept().await;
    wait_status(&without, unnamed, "completed").await;
    assert!(several.acme.0.asked("POST", "/").is_empty());
    assert_eq!(without.sandbox.stats().third_party.creates_received, 1);
    without.stop().await;

    let mut api = several.app().role(Role::Api).spawn().await;
    assert_eq!(without_third_party(&api, "acme").await, None, "it has none, but runs no jobs");
    api.stop().await;
    let app = several.app().spawn().await;
    assert_eq!(without_third_party(&app, "acme").await, Some(0.0));
    for queue in ["create_at_third_party", "update_status"] {
        let job = job_row(&app.pool, id, queue).await;
        assert_eq!(job.attempts, 0, "{job:?}");
        retry(&app, &job.id).await;
    }
    wait_for("it is created", BOUND, async || several.acme.1.has(id).then_some(())).await;
    several.acme.1.set(id, "completed");
    wait_status(&app, id, "completed").await;
}
