//! The console in a real browser, as an operator uses it.

use fantoccini::{Locator, key::Key};
use quartet::sandbox::Reaction;
use uuid::Uuid;

use super::data;
use crate::support::{
    TestApp,
    browser::{BOUND, Browser},
    jobs::quiet_app,
    spawn_api, spawn_app, wait_for, wait_until,
    world::OPERATOR_TOKEN,
};

pub async fn open(browser: &Browser, app: &TestApp, path: &str) {
    browser.goto(&format!("{}{path}", app.url())).await.unwrap();
}

pub async fn sign_in(browser: &Browser, app: &TestApp) {
    open(browser, app, "/console").await;
    browser.fill("#token", OPERATOR_TOKEN).await;
    browser.fill("#name", "Ada").await;
    browser.click("Sign in").await;
    browser.wait_text("Open dead letters").await;
}

/// A transaction whose client answered 410 to its final status: a dead letter. From now on the
/// client takes it.
async fn refused_by_client(app: &TestApp) -> Uuid {
    let id = Uuid::now_v7();
    app.sandbox.client().script_for(id, vec![Reaction::status_code(410)]);
    app.accept_as(id).await;
    app.wait_dead_letter(id).await;
    id
}

async fn wait_told(app: &TestApp, id: Uuid) {
    wait_until(&format!("the client acknowledges {id}"), BOUND, async || {
        app.sandbox.client().last_acknowledged(id).is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_finds_a_transaction_and_sees_its_timeline() {
    let app = spawn_app().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    let browser = Browser::start().await;
    sign_in(&browser, &app).await;

    browser.click("Transactions").await;
    browser.fill("#q", &id.to_string()).await;
    browser.click("Search").await;
    browser.wait_text("It is completed and the client knows.").await;
    let timeline = browser.element(".timeline").await.text().await.unwrap();
    for step in ["Created at the third party", "Settled", "Client notified"] {
        assert!(timeline.contains(step), "{step}: {timeline}");
    }
    let first = browser.element(".timeline li").await.text().await.unwrap();
    assert!(first.contains("Accepted by api"), "{first}");
    for queue in ["create_transaction", "create_at_third_party", "update_status", "notify_client"] {
        let jobs = browser.element("#jobs").await.text().await.unwrap();
        assert!(jobs.contains(queue), "{queue}: {jobs}");
    }
    assert_eq!(browser.complaints().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_previewed_and_replayed_and_the_client_hears() {
    let app = quiet_app().await.spawn().await;
    let id = refused_by_client(&app).await;
    let browser = Browser::start().await;
    sign_in(&browser, &app).await;

    browser.click("Dead letters").await;
    browser.click("rejected").await;
    browser.wait_text("The third party refused the transaction").await;
    browser.click("Preview replay").await;
    browser.wait_text("Replay a dead letter?").await;
    let preview = browser.text().await;
    assert!(
        preview.contains("PUT http://") && preview.contains("the client is notified"),
        "{preview}"
    );
    assert!(app.sandbox.client().last_acknowledged(id).is_none(), "a preview does nothing");

    browser.fill("#note", "the client is back").await;
    browser.click("Replay it").await;
    browser.wait_text("Replayed: its job is due now").await;
    wait_told(&app, id).await;
    browser.click("Dead letters").await;
    browser.wait_text("Nothing is open").await;
    browser.click("Audit").await;
    browser.wait_text("the client is back").await;
    assert!(browser.text().await.contains("operator (Ada)"));

    // A queue: paused, seen paused, resumed.
    browser.click("Queues").await;
    browser.click("Pause… notify_client").await;
    browser.wait_text("Pause notify_client?").await;
    browser.fill("#note", "the client moves").await;
    browser.click("Pause it").await;
    browser.wait_text("The queue is paused.").await;
    browser.wait_text("the client moves").await;
    browser.click("Overview").await;
    browser.wait_text("by operator (Ada): the client moves").await;
    browser.click("Queues").await;
    browser.click("Resume notify_client").await;
    browser.wait_text("Resume notify_client?").await;
    browser.click("Resume it").await;
    browser.wait_text("The queue is resumed.").await;
    assert!(!browser.text().await.contains("the client moves"));
    assert_eq!(browser.complaints().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_update_live_and_keep_what_is_a_persons() {
    let app = spawn_api().await;
    let first = data::unknown_transaction(&app).await;
    let browser = Browser::start().await;
    sign_in(&browser, &app).await;
    open(&browser, &app, "/console/dead-letters").await;

    // Ticked, half typed, and the focus in the field.
    browser.element(&format!("input[name=id][value='{first}']")).await.click().await.unwrap();
    browser.fill("#transaction", "0195f3a2").await;
    browser.run("window.same = true").await;
    let second = data::unknown_transaction(&app).await;
    browser.element(&format!("tr[data-key='{second}']")).await;
    let kept = browser
        .run(
            "return [window.same, document.activeElement.id, document.activeElement.value,
            document.querySelectorAll('input[name=id]:checked').length,
            document.querySelector('[data-count]').textContent,
            document.querySelector('[data-all]').indeterminate]",
        )
        .await;
    assert_eq!(kept.to_string(), r#"[true,"transaction","0195f3a2",1,"1 selected",true]"#);

    // A row that goes is gone, and the other one keeps its tick and its focus.
    browser.run(&format!("document.querySelector(\"input[value='{first}']\").focus()")).await;
    app.operator().act_on_dead_letter(&second, "discard", &serde_json::json!({})).await.expect(200);
    wait_until("the row is gone", BOUND, async || {
        browser.find(Locator::Css(&format!("tr[data-key='{second}']"))).await.is_err()
    })
    .await;
    let kept = browser.run("return [window.same, document.activeElement.value]").await;
    assert_eq!(kept.to_string(), format!(r#"[true,"{first}"]"#));

    // An opened detail stays open; news is announced; paused is paused.
    open(&browser, &app, "/console").await;
    browser.run("window.same = true").await;
    let (id, _) = data::conflict(&app).await;
    let announced = wait_for("the news is announced", BOUND, async || {
        let words = browser.run("return document.getElementById('announcer').textContent").await;
        Some(words.as_str().unwrap().to_owned()).filter(|words| !words.is_empty())
    })
    .await;
    assert!(announced.starts_with("2 open dead letters"), "{announced}");
    browser.click("Pause updates").await;
    let fetches = "const wait = window.fetch; window.fetches = 0;
        window.fetch = (...what) => { window.fetches += 1; return wait(...what) };
        document.dispatchEvent(new Event('visibilitychange'));
        return [window.fetches, window.same]";
    assert_eq!(browser.run(fetches).await.to_string(), "[0,true]");
    browser.click("Pause updates").await;
    wait_until("it goes on", BOUND, async || {
        browser.run("return window.fetches").await.as_i64() > Some(0)
    })
    .await;

    open(&browser, &app, &format!("/console/transactions/{id}")).await;
    assert_eq!(browser.complaints().await, [] as [String; 0]);
}

/// Presses Tab until the focus is on what is named so.
async fn tab_to(browser: &Browser, name: &str) {
    for _ in 0..60 {
        browser
            .active_element()
            .await
            .unwrap()
            .send_keys(&char::from(Key::Tab).to_string())
            .await
            .unwrap();
        let focused = browser
            .run(
                "const focused = document.activeElement, style = getComputedStyle(focused);
                return [focused.id, focused.textContent.trim(), style.outlineStyle,
                    style.outlineWidth]",
            )
            .await;
        assert_eq!((&focused[2], &focused[3]), (&"solid".into(), &"2px".into()), "{focused}");
        if focused[0] == name || focused[1] == name {
            return;
        }
    }
    panic!("Tab never comes to {name}");
}

async fn press(browser: &Browser, keys: &str) {
    browser.active_element().await.unwrap().send_keys(keys).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyboard_is_enough() {
    let app = quiet_app().await.spawn().await;
    let id = refused_by_client(&app).await;
    let browser = Browser::start().await;
    let enter = char::from(Key::Enter).to_string();
    open(&browser, &app, "/console/dead-letters").await;
    // The field has the focus already.
    press(&browser, OPERATOR_TOKEN).await;
    tab_to(&browser, "name").await;
    press(&browser, "Grace").await;
    press(&browser, &enter).await;
    browser.wait_text("Cases that need a human decision").await;

    tab_to(&browser, "Skip to the content").await;
    press(&browser, &enter).await;
    tab_to(&browser, "rejected").await;
    press(&browser, &enter).await;
    browser.wait_text("What happened").await;
    tab_to(&browser, "Preview replay").await;
    press(&browser, &enter).await;
    browser.wait_text("Replay a dead letter?").await;
    tab_to(&browser, "note").await;
    press(&browser, "by keyboard").await;
    tab_to(&browser, "Replay it").await;
    press(&browser, &enter).await;
    browser.wait_text("Replayed: its job is due now").await;
    wait_told(&app, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_without_scripts() {
    let app = spawn_api().await;
    let letters = [data::unknown_transaction(&app).await, data::unknown_transaction(&app).await];
    let browser = Browser::start().await;
    browser.set_scripts(false).await;
    sign_in(&browser, &app).await;
    open(&browser, &app, "/console/dead-letters").await;
    browser.element("input[data-all]").await.click().await.unwrap();
    browser.click("Discard…").await;
    browser.wait_text("Discard 2 dead letters?").await;
    browser.fill("#count", "2").await;
    browser.click("Discard 2 dead letters").await;
    browser.wait_text("2 discarded").await;
    let open = app.operator().list_dead_letters("state=open").await;
    assert_eq!(open.expect(200)["items"].as_array().map(Vec::len), Some(0), "{letters:?}");
}
