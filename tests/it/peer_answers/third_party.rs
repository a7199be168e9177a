//! Answers to lookups.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use uuid::Uuid;

use super::{Scripted, answer, ok, reason};
use crate::support::{
    TestApp,
    jobs::{BOUND, quiet_app},
    wait_for, wait_until,
};

type Make = fn(Uuid) -> Vec<u8>;

fn about(id: Uuid, rest: &str) -> String {
    format!(r#"{{"id":"{id}",{rest}}}"#)
}

fn completed(id: Uuid, more: &str) -> String {
    about(id, &format!(r#""status":"completed"{more}"#))
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

async fn spawn(peer: &Scripted, settings: &[(&str, &str)]) -> TestApp {
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__BASE_URL", peer.url());
    settings.iter().fold(app, |app, (variable, value)| app.set(variable, value)).spawn().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_mean_completed_settle_however_they_are_written() {
    let peer = Scripted::start().await;
    let app = spawn(&peer, &[]).await;
    let cases: [(&str, Make); 15] = [
        ("capitals", |id| ok("", about(id, r#""status":"COMPLETED""#).as_bytes())),
        ("mixed case with spaces", |id| ok("", about(id, r#""status":" Completed ""#).as_bytes())),
        ("a UTF-8 mark", |id| ok("", format!("\u{feff}{}", completed(id, "")).as_bytes())),
        ("a UTF-16 mark", |id| {
            let text = format!("\u{feff}{}", completed(id, ""));
            ok("", &text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>())
        }),
        ("Latin-1", |id| {
            let body = completed(id, r#","name":"é""#);
            let body: Vec<u8> = body.chars().map(|character| character as u8).collect();
            ok("Content-Type: application/json; charset=ISO-8859-1\r\n", &body)
        }),
        ("Latin-1 that says it is UTF-8", |id| {
            let body = completed(id, r#","name":"é""#);
            let body: Vec<u8> = body.chars().map(|character| character as u8).collect();
            ok("Content-Type: application/json; charset=utf-8\r\n", &body)
        }),
        ("UTF-8 that says it is UTF-16", |id| {
            let header = "Content-Type: application/json; charset=utf-16\r\n";
            ok(header, completed(id, "").as_bytes())
        }),
        ("a lone surrogate elsewhere", |id| {
            ok("", completed(id, r#","note":"\ud83d""#).as_bytes())
        }),
        ("NaN elsewhere", |id| ok("", completed(id, r#","score":NaN"#).as_bytes())),
        ("a repeated key elsewhere", |id| ok("", completed(id, r#","a":1,"a":2"#).as_bytes())),
        ("deep nesting", |id| {
            let deep = format!(r#","a":{}{}"#, "[".repeat(2_000), "]".repeat(2_000));
            ok("", completed(id, &deep).as_bytes())
        }),
        ("gzip", |id| ok("Content-Encoding: gzip\r\n", &gzip(&completed(id, "")))),
        ("gzip that a proxy has decoded", |id| {
            ok("Content-Encoding: gzip\r\n", completed(id, "").as_bytes())
        }),
        ("Brotli that a proxy has decoded", |id| {
            ok("Content-Encoding: br\r\n", completed(id, "").as_bytes())
        }),
        ("a charset for a coding", |id| {
            ok("Content-Encoding: UTF-8\r\n", completed(id, "").as_bytes())
        }),
    ];
    let ids = cases.map(|(name, make)| {
        let id = Uuid::now_v7();
        peer.answer(id, make(id));
        (name, id)
    });
    for (_, id) in ids {
        app.accept_as(id).await;
    }
    for (name, id) in ids {
        let transaction = app.wait_told(id, BOUND).await;
        let settled = (&transaction["status"], &transaction["settled_by"]);
        assert_eq!(settled, (&json!("completed"), &json!("poll")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_names_the_last_answer() {
    let peer = Scripted::start().await;
    let app = spawn(&peer, &[("QUARTET_POLL__DEADLINE", "2s")]).await;
    let cases: [(&str, Make, &str); 13] = [
        (
            "a word that is not known",
            |id| ok("", about(id, r#""status":"processing""#).as_bytes()),
            "answered 200 with the unknown status `processing`: {\"id\":",
        ),
        (
            "no status",
            |id| ok("", about(id, r#""a":1"#).as_bytes()),
            "answered 200 without a status",
        ),
        (
            "HTML",
            |_| ok("Content-Type: text/html\r\n", b"<html>Please log in</html>"),
            "answered 200, but the answer is no JSON object: <html>Please log in</html>",
        ),
        ("nothing", |_| ok("", b""), "answered 200, but the answer is empty"),
        ("an array", |_| ok("", b"[1]"), "answered 200, but the answer is no JSON object: [1]"),
        (
            "a repeated status",
            |id| ok("", completed(id, r#","status":"completed""#).as_bytes()),
            "answered 200, but the answer names `status` more than once",
        ),
        (
            "half of a gzip",
            |id| {
                let whole = gzip(&completed(id, ""));
                ok("Content-Encoding: gzip\r\n", &whole[..whole.len() / 2])
            },
            "answered 200, but the answer's coding gzip cannot be decoded",
        ),
        (
            "a bomb",
            |_| ok("Content-Encoding: gzip\r\n", &gzip(&" ".repeat(20 * 1024 * 1024))),
            "answered 200, but the answer is longer than 65536 bytes",
        ),
        (
            "half of an object",
            |id| ok("", &completed(id, "").as_bytes()[..50]),
            "answered 200, but the answer breaks off",
        ),
        (
            "another transaction",
            |_| ok("", completed(Uuid::nil(), "").as_bytes()),
            "answered 200, but the answer is about another id",
        ),
        (
            "control characters",
            |id| ok("", about(id, "\"status\":\"x\\u001b[31m\\u202ey\"").as_bytes()),
            r"with the unknown status `x\u{1b}[31m\u{202e}y`",
        ),
        (
            "a redirect",
            |_| answer("302 Found", "Location: /login\r\n", b""),
            "answered 302 with the Location /login",
        ),
        ("418", |_| answer("418 Teapot", "", b"short and stout"), "answered 418: short and stout"),
    ];
    let ids = cases.map(|(name, make, expected)| {
        let id = Uuid::now_v7();
        peer.answer(id, make(id));
        (name, id, expected)
    });
    for (_, id, _) in ids {
        app.accept_as(id).await;
    }
    for (name, id, expected) in ids {
        let letter = app.wait_dead_letter(id).await;
        assert_eq!(letter["kind"], "deadline", "{name}: {letter}");
        let (reason, _) = reason(&letter);
        println!("| {name} | {reason} |");
        assert!(reason.contains(expected), "{name}: {reason}");
        assert!(!reason.chars().any(char::is_control), "{name}: {reason:?}");
        let last = letter["attempts"].as_array().unwrap().last().unwrap();
        assert!(last["error"].as_str().unwrap().contains(expected), "{name}: {last}");
        assert!(last["at"].is_string() && last["times"].as_u64() > Some(1), "{name}: {last}");
        let events = app.client().get(&format!("/v1/transactions/{id}/events")).await;
        let events = events.expect(200)["items"].as_array().unwrap().clone();
        let polls = events.iter().filter(|event| event["kind"] == "poll_status");
        let polls: Vec<String> =
            polls.filter_map(|event| Some(event["detail"]["answer"].as_str()?.into())).collect();
        assert_eq!(polls.len(), 1, "{name}: {polls:?}");
        assert!(polls[0].contains(expected), "{name}: {polls:?}");
    }
}

/// It says neither that the transaction is there, so that the create would end, nor that it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_says_nothing_keeps_the_create_waiting() {
    let peer = Scripted::start().await;
    let settings = [
        ("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "200ms"),
        ("QUARTET_THIRD_PARTY__CREATE_RETRIES", "1000"),
        ("QUARTET_POLL__MAX_DELAY", "1s"),
    ];
    let app = spawn(&peer, &settings).await;
    let bodies = ["{}", r#"{"message":"maintenance"}"#, r#"{"status":{"code":1}}"#];
    let ids = bodies.map(|body| {
        let id = Uuid::now_v7();
        peer.answer_early(id, ok("", body.as_bytes()));
        peer.answer(id, ok("", completed(id, "").as_bytes()));
        (body, id)
    });
    for (_, id) in ids {
        app.accept_as(id).await;
    }
    for (body, id) in ids {
        wait_until("it is tried again", BOUND, async || {
            app.job("create_at_third_party", id).await.attempts > 1
        })
        .await;
        assert!(!peer.has_created(id), "{body}");
    }
    peer.forget_early_answers();
    for (body, id) in ids {
        assert_eq!(app.wait_told(id, BOUND).await["status"], "completed", "{body}");
        assert!(peer.has_created(id), "{body}");
    }
}

/// An answer that is never understood can be seen long before the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_goes_on_says_what_it_was_answered_last() {
    let peer = Scripted::start().await;
    let app = spawn(&peer, &[("QUARTET_POLL__MAX_DELAY", "2s")]).await;
    let id = Uuid::now_v7();
    peer.answer(id, ok("", about(id, r#""status":"processing""#).as_bytes()));
    app.accept_as(id).await;
    let path = format!("/v1/operator/transactions/{id}/explain");
    let detail = wait_for("the explanation names the answer", BOUND, async || {
        let explained = app.operator().get(&path).await.expect(200).clone();
        let detail = explained["cause"]["detail"].as_str().unwrap().to_owned();
        detail.contains("`processing`").then_some(detail)
    })
    .await;
    println!("explain: {detail}");
    let jobs = app.operator().get(&format!("/v1/operator/jobs?transaction_id={id}")).await;
    let jobs = jobs.expect(200)["items"].as_array().unwrap().clone();
    let poll = jobs.iter().find(|job| job["queue"] == "update_status").unwrap();
    assert!(poll["last_error"].as_str().unwrap().contains("`processing`"), "{poll}");

    // Once it is understood nothing is left to explain.
    peer.answer(id, ok("", completed(id, "").as_bytes()));
    assert_eq!(app.wait_told(id, BOUND).await["status"], "completed");
    let letters = app.operator().open_dead_letters(id).await;
    assert!(letters.is_empty(), "{letters:?}");
}
