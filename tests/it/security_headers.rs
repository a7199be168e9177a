//! What answers tell browsers; and that Swagger UI runs under what it is told.

use quartet::config::Role;
use uuid::Uuid;

use crate::support::{
    Answer, World,
    browser::{BOUND, Browser},
    spawn_api, transaction, wait_for,
};

fn assert_hardened(answer: &Answer, name: &str) {
    for (header, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
        // Plain HTTP does not say it (RFC 6797, section 7.2).
        ("strict-transport-security", ""),
    ] {
        assert_eq!(answer.header(header), value, "{header} of {name}");
    }
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; "), "{name}: {policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{name}: {policy}");
}

/// Whatever is answered, and by whomever in the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_tells_browsers_to_do_nothing_with_it() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).spawn().await;
    let id = Uuid::now_v7();
    let client = app.client();
    let too_long = "x".repeat(100_000);
    for (name, status, answer) in [
        ("accept", 202, client.post_transaction(&transaction(id)).await),
        ("replay", 200, client.post_transaction(&transaction(id)).await),
        ("read", 200, client.get_transaction(id).await),
        ("not found", 404, client.get("/v1/transactions/").await),
        ("no key", 401, app.anonymous().get_transaction(id).await),
        ("method", 405, client.post("/health/live", &"".into()).await),
        ("too long", 413, client.post_raw("/v1/transactions", too_long).await),
        ("webhook", 401, client.post("/v1/webhooks/third-party", &"".into()).await),
        ("operator", 200, app.operator().get("/v1/operator/queues").await),
        ("health", 200, client.get("/health/ready").await),
        ("metrics", 200, client.get("/metrics").await),
        ("openapi", 200, client.get("/openapi.json").await),
        ("docs", 200, client.get("/docs").await),
    ] {
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
        assert_hardened(&answer, name);
    }
    let policy = client.get("/docs").await;
    let policy = policy.header("content-security-policy");
    let scripts = policy.split("; ").find(|part| part.starts_with("script-src")).unwrap();
    assert!(scripts.contains("'sha256-") && !scripts.contains("unsafe"), "{policy}");
    let worker = world.app().role(Role::Worker).spawn().await;
    assert_hardened(&worker.anonymous().get("/health/live").await, "a worker's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swagger_ui_runs_under_its_policy_and_other_scripts_do_not() {
    let app = spawn_api().await;
    let browser = Browser::start().await;
    browser.goto(&format!("{}/docs", app.url())).await.unwrap();
    let shown = "return document.querySelector('#ui')?.textContent ?? ''";
    let text = wait_for("the operations are shown", BOUND, async || {
        let text = browser.run(shown).await.as_str().unwrap().to_owned();
        text.contains("/v1/transactions/{id}").then_some(text)
    })
    .await;
    assert!(text.contains("/v1/operator/queues"), "{text}");

    // It calls this origin: an operation, tried out.
    const OPERATION: &str = "#operations-Health-check_live";
    for button in [".opblock-summary-control", ".try-out__btn", ".execute"] {
        browser.element(&format!("{OPERATION} {button}")).await.click().await.unwrap();
    }
    let answered = format!(
        "return document.querySelector('{OPERATION} .live-responses-table')?.textContent ?? ''"
    );
    wait_for("the answer is shown", BOUND, async || {
        let text = browser.run(&answered).await.as_str().unwrap().to_owned();
        text.contains("200").then_some(())
    })
    .await;
    let violations = |complaints: Vec<String>| -> Vec<String> {
        complaints.into_iter().filter(|text| text.contains("Content Security Policy")).collect()
    };
    assert_eq!(violations(browser.complaints().await), [] as [String; 0]);

    // What somebody else would bring in does not run.
    let inject = "const script = document.createElement('script');
        script.textContent = 'window.ran = true'; document.body.append(script);
        return window.ran ?? false";
    assert_eq!(browser.run(inject).await, false);
    let fetched = "return fetch('http://127.0.0.1:1/').then(() => 'went', error => 'blocked')";
    assert_eq!(browser.run(fetched).await, "blocked");
    assert!(violations(browser.complaints().await).len() >= 2);
}
