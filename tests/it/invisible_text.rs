//! Texts that drive a terminal, turn writing around or do not show: escaped wherever people read.

use quartet::{config::Role, sandbox::SendWebhook};
use serde_json::json;
use uuid::Uuid;

use crate::{
    console::visitor::Visitor,
    support::{
        TestApp, World, command::run, spawn_api, transaction, wait_until, world::OPERATOR_TOKEN,
    },
};

/// Clears the screen, sets a title, turns around what follows, and hides.
const HOSTILE: &str = "pa\u{1b}[2J\u{1b}]0;x\u{7}id \u{202e}gpj\u{2066}\u{200b}\u{9b}31m\rno";
/// How it starts where it is shown.
const SHOWN: &str = "pa\\u001b[2J";

/// What must not reach a person as it is. Line breaks and tabs may.
fn raw(text: &str) -> String {
    let hidden = |c: &char| match c {
        '\n' | '\t' => false,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    };
    text.replace("\r\n", "\n").chars().filter(hidden).collect()
}

/// An app in which everything that others wrote is hostile: returns a transaction with a conflict,
/// and its dead letter.
async fn spawn_hostile() -> (TestApp, Uuid, String) {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let mut posted = transaction(id);
    posted["reference"] = json!(HOSTILE);
    posted["metadata"] = json!({ HOSTILE: HOSTILE });
    app.client().post_transaction(&posted).await.expect(202);
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    for statement in [
        "UPDATE failed_jobs SET reason = $1, note = $1, detail = jsonb_build_object($1, $1),
            attempts = jsonb_build_array(jsonb_build_object('attempt', 1, 'error', $1))",
        "UPDATE transaction_events SET detail = jsonb_build_object($1, $1), source = $1",
        "UPDATE clients SET name = $1",
        "UPDATE apalis.jobs SET last_result = jsonb_build_object('Err', $1,
            'errors', jsonb_build_array(jsonb_build_object('attempt', 1, 'at', $1, 'error', $1)))",
    ] {
        sqlx::query(statement).bind(HOSTILE).execute(&app.pool).await.unwrap();
    }
    let letter = app.operator().open_dead_letters(id).await.remove(0);
    let letter = letter["id"].as_str().unwrap().to_owned();
    let path = "/v1/operator/queues/notify_client/pause";
    let paused = app.operator().post(path, &json!({ "note": HOSTILE })).await;
    paused.expect(200);
    (app, id, letter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_prints_a_control_or_format_character_of_others() {
    let (app, id, letter) = spawn_hostile().await;
    let mut settings = app.settings();
    settings.retain(|(name, _)| !name.starts_with("QUARTET_DEFAULT_CLIENT__"));
    let id = id.to_string();
    let (mut shown, mut intact) = (0, 0);
    for args in [
        &["clients", "list"][..],
        &["audit"],
        &["queues", "list"],
        &["jobs", "list"],
        &["explain", &id],
        &["dead-letters", "list"],
        &["dead-letters", "show", &letter],
        &["doctor"],
    ] {
        for json in [false, true] {
            let args: Vec<&str> = args.iter().copied().chain(json.then_some("--json")).collect();
            let ended = run(&args, &settings, "").await;
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert_eq!(raw(&said), "", "{args:?}: {said:?}");
            shown += usize::from(said.replace('\n', "").contains("\\u001b"));
            if json && args[0] != "doctor" {
                // Still JSON, and the text in it is what was written.
                let value = ended.expect_json().to_string();
                let text = json!(HOSTILE).to_string();
                intact += usize::from(value.contains(text.trim_matches('"')));
            }
        }
    }
    assert!(shown >= 10, "it is shown escaped: {shown}");
    assert!(intact >= 5, "JSON holds the text: {intact}");
    // An error repeats what was given.
    let ended = run(&["clients", "disable", HOSTILE], &settings, "").await;
    ended.expect();
    assert_eq!(raw(&ended.stdout), "", "{ended:?}");
    let ended = run(&["clients", "disable", "\u{202e}nobody"], &settings, "").await;
    assert_eq!(raw(ended.expect_failure()), "", "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_of_the_console_shows_a_control_or_format_character_of_others() {
    let (app, id, letter) = spawn_hostile().await;
    let mut visitor = Visitor::new(&app);
    visitor.sign_in(&[("token", OPERATOR_TOKEN), ("name", "Ada \u{202e}adA")]).await;
    let job = app.job("notify_client", id).await.id;
    let mut paths = crate::console::data::paths(&letter);
    paths.extend([
        format!("/console/transactions/{id}"),
        format!("/console/jobs/{job}"),
        "/console/transactions?client=%E2%80%AEx&status=%1Bx".to_owned(),
        "/console/sign-in?to=/console?%E2%80%AE".to_owned(),
    ]);
    let mut shown = 0;
    for path in paths {
        let html = visitor.get(&path).await.html;
        assert_eq!(raw(&html), "", "{path}: {html:?}");
        shown += html.matches(SHOWN).count();
    }
    assert!(shown > 10, "it is shown escaped: {shown}");
    let note = [("note", HOSTILE)];
    let page = visitor.post("/console/queues/nothing\u{202e}/pause", &note).await;
    assert_eq!(raw(&page.html), "", "{:?}", page.html);
}

/// In both formats an event stays one line, and drives no terminal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_line_holds_a_control_or_format_character_of_others() {
    let world = World::new().await;
    for format in ["human", "json"] {
        let mut process = world
            .process(Role::Api)
            .set("QUARTET_LOG", "debug")
            .set("QUARTET_LOG_FORMAT", format)
            .spawn()
            .await;
        let mut visitor = Visitor::of(process.url());
        let name = "Ada \u{202e}adA";
        visitor.sign_in(&[("token", OPERATOR_TOKEN), ("name", name)]).await.location();
        wait_until("the sign-in is logged", std::time::Duration::from_secs(20), async || {
            process.output().contains("signed in to the console")
        })
        .await;
        process.terminate(std::time::Duration::from_secs(30)).await;
        let output = process.output();
        assert!(output.replace(['{', '}'], "").contains("Ada \\u202eadA"), "{output}");
        assert_eq!(raw(&output), "", "{output:?}");
    }
}

/// Before there is a configuration, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_argument_is_repeated_escaped() {
    let settings = [("QUARTET_HTTP__\u{202e}X".to_owned(), "1".to_owned())];
    let ended = run(&["serve"], &settings, "").await;
    assert_eq!(raw(ended.expect_failure()), "", "{ended:?}");
}
