//! A callback host that does not answer: it is left alone, and its client's notifications wait.

use std::{sync::Arc, time::Instant};

use quartet::sandbox::{Profile, Reaction, Sandbox, SandboxConfig, SendWebhook};
use uuid::Uuid;

use super::{BOUND, NO_POLLS, SLACK, add_client, p99, post_burst, times_to_first_call};
use crate::{
    metrics::scrape,
    support::{Client, TestApp, jobs::quiet_app, ports, transaction, wait_until},
};

const JOB: &str = "notify_client";
const SLOTS: usize = 50;

/// Another client, with a callback host of its own.
async fn another(app: &TestApp, url: &str) -> Client {
    app.anonymous().with_key(&add_client(&app.pool, "other", url).await)
}

/// A second simulated client.
async fn second_sandbox(app: &TestApp) -> Arc<Sandbox> {
    let client_secret = app.sandbox.config().client_secret.clone();
    let profile = Profile::faultless();
    let config = SandboxConfig { profile, client_secret, ..SandboxConfig::default() };
    Arc::new(Sandbox::start(config).await.unwrap())
}

async fn open_hosts(app: &TestApp) -> f64 {
    scrape(app).await.value("quartet_callback_hosts_open", &[]).unwrap()
}

async fn postponed(app: &TestApp) -> f64 {
    scrape(app).await.value("quartet_notifications_postponed_total", &[]).unwrap()
}

async fn explain(app: &TestApp, id: Uuid) -> serde_json::Value {
    let path = format!("/v1/operator/transactions/{id}/explain");
    app.operator().get(&path).await.expect(200).clone()
}

/// 200 notifications are due for a client that accepts connections and never answers, with 50
/// slots. Once that is known, another client is told as soon as alone; the host is called by one
/// probe at a time; and when it answers again, all is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_never_answers_is_left_alone_and_delays_no_other_client() {
    let app = quiet_app().await.set("QUARTET_WORKER__CONCURRENCY", SLOTS);
    let app = NO_POLLS.iter().fold(app, |app, (name, value)| app.set(name, value));
    let app = app.set("QUARTET_NOTIFY__TIMEOUT", "1s").set("QUARTET_NOTIFY__BASE", "500ms");
    let app = app.set("QUARTET_NOTIFY__MAX_DELAY", "2s");
    // However long this takes, none is given up.
    let app = app.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1_000).spawn().await;
    let hanging = second_sandbox(&app).await;
    hanging.client().set_default(Reaction::Hang);
    let hung = another(&app, &hanging.callback_url()).await;

    let client = app.client();
    let alone = p99(&times_to_first_call(&client, &app.sandbox, 50).await);
    let waiting = post_burst(&hung, 200).await;
    wait_until("the host is left alone", BOUND, async || open_hosts(&app).await == 1.0).await;
    wait_until("jobs are postponed", BOUND, async || postponed(&app).await >= 100.0).await;
    let (before, began) = (hanging.client().deliveries().len(), Instant::now());
    let beside = p99(&times_to_first_call(&client, &app.sandbox, 50).await);
    assert!(beside <= alone * 2 + SLACK, "alone {alone:?}, beside the one that hangs {beside:?}");
    let probes = hanging.client().deliveries().len() - before;
    // Each of them hangs for a second.
    let most = began.elapsed().as_secs() as usize + 2;
    assert!(probes <= most, "one call at a time probes: {most} at most, not {probes}");

    hanging.client().clear_scripts();
    for id in &waiting {
        wait_until(&format!("{id} is delivered"), BOUND, async || {
            hanging.client().last_acknowledged(*id).is_some()
        })
        .await;
    }
    assert_eq!(open_hosts(&app).await, 0.0);
    assert!(
        app.operator().list_dead_letters("").await.expect(200)["items"] == serde_json::json!([])
    );
}

/// Nobody listens: few calls are made, and yet each notification ends in front of an operator, who
/// reads which host it was and what its last error was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postponed_notifications_end_as_exhausted_and_name_the_host_and_its_error() {
    const COUNT: usize = 20;
    const ATTEMPTS: usize = 4;

    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", ATTEMPTS);
    let app = app.set("QUARTET_NOTIFY__HOST_FAILURES", 1).set("QUARTET_NOTIFY__BASE", "100ms");
    let app = app.set("QUARTET_NOTIFY__MAX_DELAY", "400ms").spawn().await;
    let url = format!("http://{}", ports::free_address());
    let other = another(&app, &format!("{url}/callback")).await;
    let ids = post_burst(&other, COUNT).await;
    let (mut postponed_only, mut calls) = (0, 0);
    for id in &ids {
        let letter = app.wait_dead_letter(*id).await;
        assert_eq!(letter["kind"], "exhausted", "{letter}");
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("no connection"), "{letter}");
        let mut made = letter["attempts"].as_array().unwrap().len();
        if reason.starts_with(&format!("the callback host {url} gives no answer since")) {
            // The last entry is the end without a call.
            made -= 1;
            assert!(made < ATTEMPTS, "{letter}");
            postponed_only += 1;
        }
        assert!(made <= ATTEMPTS, "{letter}");
        calls += made;
        let job = app.job(JOB, *id).await;
        assert_eq!(job.status, "Failed");
    }
    assert!(postponed_only > 0, "none was ended by postponements");
    assert!(calls < COUNT * ATTEMPTS, "{calls} calls");
    let failed = scrape(&app).await;
    let failed = failed.value("quartet_notifications_total", &[("result", "unreachable")]).unwrap();
    assert!(failed < (COUNT * ATTEMPTS) as f64, "{failed} calls");
}

/// The row says why it waits, for every process that is asked. A new status is looked at at once,
/// and has all attempts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postponed_notification_is_explained_and_starts_afresh_with_a_new_status() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__HOST_FAILURES", 1);
    let app = app.set("QUARTET_NOTIFY__BASE", "50s").set("QUARTET_NOTIFY__MAX_DELAY", "50s");
    let app = app.spawn().await;
    app.set_callback_url(&format!("http://{}/", ports::free_address())).await;
    let client = app.client();
    let first = client.accept().await;
    wait_until("a call has failed", BOUND, async || app.job(JOB, first).await.attempts == 1).await;
    let id = client.accept().await;
    let waits = async || app.snoozes("waits", JOB, id).await;
    wait_until("the next one is postponed", BOUND, async || waits().await == 1).await;
    assert_eq!(app.job(JOB, id).await.attempts, 0, "no attempt was used");

    app.send_webhook(SendWebhook::new(id, "completed")).await;
    wait_until("it is postponed again", BOUND, async || {
        let explained = explain(&app, id).await;
        explained["cause"]["kind"] == "callback_host_down"
    })
    .await;
    assert_eq!(waits().await, 1, "the new status has all attempts");
    let sibling = app.sibling().role(quartet::config::Role::Api).spawn().await;
    let explained = explain(&sibling, id).await;
    assert_eq!(explained["waits_for"], "client", "{explained}");
    let detail = explained["cause"]["detail"].as_str().unwrap();
    for part in ["callback host does not answer since", "no connection", "is tried again at"] {
        assert!(detail.contains(part), "{detail}");
    }

    // A client that moves to another host starts afresh as well.
    app.set_callback_url(&app.sandbox.callback_url()).await;
    let job = explained["next_action"]["queue"].as_str().unwrap();
    assert_eq!(job, JOB);
    let jobs = explained["jobs"].as_array().unwrap();
    let job = jobs.iter().find(|job| job["queue"] == JOB).unwrap()["id"].as_str().unwrap();
    let retry = format!("/v1/operator/jobs/{job}/retry");
    app.operator().post_raw(&retry, "").await.expect(200);
    app.wait_told(id, BOUND).await;
    assert_eq!(app.told(id), [("completed".to_owned(), 2)]);
}

/// Answers that refuse are answers: their host is called as often as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_refuses_is_not_left_alone() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__HOST_FAILURES", 1);
    let app = app.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 4).spawn().await;
    app.sandbox.client().set_default(Reaction::status_code(503));
    let ids: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    for id in &ids {
        app.client().post_transaction(&transaction(*id)).await.expect(202);
    }
    for id in &ids {
        let letter = app.wait_dead_letter(*id).await;
        assert_eq!(letter["attempts"].as_array().unwrap().len(), 4, "{letter}");
    }
    assert_eq!(postponed(&app).await, 0.0);
}
