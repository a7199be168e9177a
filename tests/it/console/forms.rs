//! What a form must carry, and what comes of actions: done, refused with the reason, audited.

use quartet::config::Role;
use reqwest::Method;
use serde_json::Value;

use super::{data, visitor::Visitor};
use crate::support::{TestApp, World, contents, spawn_api, transaction};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_without_the_sessions_token_does_nothing() {
    let app = spawn_api().await;
    let letter = data::unknown_transaction(&app).await;
    let visitor = Visitor::signed_in(&app).await;
    let other = Visitor::signed_in(&app).await;
    let theirs = other.get("/console").await.csrf();
    let before = contents(&app.pool).await;
    let job = "/console/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/retry";
    for path in [
        "/console/queues/notify_client/pause",
        "/console/dead-letters/act",
        job,
        "/console/sign-out",
    ] {
        let fields = [("action", "discard"), ("id", letter.as_str())];
        for token in [None, Some(""), Some("x"), Some(theirs.as_str())] {
            let token = token.map(|token| ("csrf", token));
            let fields: Vec<_> = fields.into_iter().chain(token).collect();
            let page = visitor.post_plain(path, &fields).await;
            assert!(page.expect(403).contains("was not sent from a page of this session"));
        }
    }
    assert_eq!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_from_other_sites_are_refused() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    let csrf = visitor.get("/console").await.csrf();
    let before = contents(&app.pool).await;
    let path = "/console/queues/notify_client/pause";
    let pause = || visitor.form(path, &[("csrf", &csrf)]);
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "http://127.0.0.1:1"),
        ("origin", "null"),
    ] {
        visitor.send(pause().header(name, value)).await.expect(403);
    }
    // Not even the sign-in.
    let sign_in =
        visitor.form("/console/sign-in", &[("token", crate::support::world::OPERATOR_TOKEN)]);
    visitor.send(sign_in.header("sec-fetch-site", "cross-site")).await.expect(403);
    assert_eq!(contents(&app.pool).await, before);
    let own = app.url().to_owned();
    for (name, value) in [("sec-fetch-site", "same-origin"), ("origin", own.as_str())] {
        let answer = visitor.send(pause().header(name, value)).await;
        assert_eq!(answer.location(), "/console/queues?done=paused");
    }
}

/// A proxy on the same machine, say, that names itself in `Host`; over plain http, where browsers
/// send `Origin` and no `Sec-Fetch-Site`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_replaces_the_host_needs_the_public_url() {
    const BROWSER: &str = "http://console.example:8000";
    let token = [("token", crate::support::world::OPERATOR_TOKEN), ("name", "Ada")];
    let sign_in = async |app: &TestApp, origin: &str, host: &str| {
        let visitor = Visitor::new(app);
        let form = visitor.form("/console/sign-in", &token);
        visitor.send(form.header("origin", origin).header("host", host)).await
    };
    let world = World::new().await;
    let app = world.app().role(Role::Api);
    let app = app.set("QUARTET_HTTP__PUBLIC_URL", format!("{BROWSER}/quartet")).spawn().await;
    assert_eq!(sign_in(&app, BROWSER, "127.0.0.1:9000").await.location(), "/console");
    assert_eq!(sign_in(&app, BROWSER, "console.example:8000").await.location(), "/console");
    // Not through the proxy: the host is the browser's own.
    assert_eq!(sign_in(&app, "http://10.0.0.5", "10.0.0.5:80").await.location(), "/console");
    for other in [
        "http://console.example",
        "https://console.example:8000",
        "http://console.example:8001",
        "http://console.example.evil.example:8000",
        "http://evil.example",
        "null",
    ] {
        sign_in(&app, other, "127.0.0.1:9000").await.expect(403);
    }
    let page = sign_in(&app, "http://other.example", "127.0.0.1:9000").await;
    let said = page.expect(403).to_owned();
    for part in ["http://other.example", "127.0.0.1:9000", "QUARTET_HTTP__PUBLIC_URL", BROWSER] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // A whole session: the form of a page, with its token.
    let mut visitor = Visitor::new(&app);
    visitor.sign_in(&token).await.location();
    let csrf = visitor.get("/console").await.csrf();
    let pause = visitor.form("/console/queues/notify_client/pause", &[("csrf", &csrf)]);
    let pause = pause.header("origin", BROWSER).header("host", "127.0.0.1:9000");
    assert_eq!(visitor.send(pause).await.location(), "/console/queues?done=paused");
    // What a browser says of the site counts for more than the origin.
    let form = visitor.form("/console/sign-in", &token).header("origin", BROWSER);
    visitor.send(form.header("sec-fetch-site", "cross-site")).await.expect(403);

    let app = world.app().role(Role::Api).spawn().await;
    let page = sign_in(&app, BROWSER, "127.0.0.1:9000").await;
    let said = page.expect(403);
    for part in [BROWSER, "127.0.0.1:9000", "QUARTET_HTTP__PUBLIC_URL, which is not set"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(page.headers.get("set-cookie").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bodies_and_methods_are_refused() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    let path = "/console/queues/notify_client/pause";
    let json = visitor.request(Method::POST, path).header("content-type", "application/json");
    visitor.send(json.body("{}")).await.expect(415);
    let long = "x".repeat(70_000);
    visitor.post_plain(path, &[("note", &long)]).await.expect(413);
    let csrf = visitor.get("/console").await.csrf();
    let delete = visitor.form(path, &[("csrf", &csrf)]);
    let (client, delete) = delete.build_split();
    let mut delete = delete.unwrap();
    *delete.method_mut() = Method::DELETE;
    assert_eq!(client.execute(delete).await.unwrap().status(), 405);
    visitor.get("/console/nothing").await.expect(404);
    visitor.get("/console/transactions/1").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_paused_and_resumed_with_a_note() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    let confirm = visitor.get("/console/queues/notify_client/pause").await;
    assert!(confirm.expect(200).contains("Pause notify_client?"), "{}", confirm.html);
    let path = "/console/queues/notify_client/pause";
    let long = "x".repeat(1_001);
    visitor.post(path, &[("note", &long)]).await.expect(422);
    let done = visitor.post(path, &[("note", "client is being repaired")]).await;
    let page = visitor.get(done.location()).await;
    let page = page.expect(200);
    assert!(page.contains("The queue is paused."), "{page}");
    assert!(page.contains("operator (Ada): client is being repaired"), "{page}");
    let queues = app.operator().get("/v1/operator/queues").await;
    let paused = |queues: &Value| {
        let items = queues["items"].as_array().unwrap();
        let paused = items
            .iter()
            .filter(|queue| !matches!(queue["paused"], Value::Null | Value::Bool(false)));
        paused.map(|queue| queue["queue"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paused(queues.expect(200)), ["notify_client"]);
    let done = visitor.post("/console/queues/notify_client/resume", &[]).await;
    assert_eq!(done.location(), "/console/queues?done=resumed");
    assert!(paused(app.operator().get("/v1/operator/queues").await.expect(200)).is_empty());
    let audit = visitor.get("/console/audit").await;
    for text in ["pause queue", "resume queue", "operator (Ada)", "client is being repaired"] {
        assert!(audit.expect(200).contains(text), "{text}: {}", audit.html);
    }
    visitor.get("/console/queues/nothing/pause").await.expect(404);
    visitor.get("/console/queues/notify_client/stop").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_letter_is_replayed_and_a_second_replay_says_why_not() {
    let app = spawn_api().await;
    let letter = data::unknown_transaction(&app).await;
    let id = data::transaction_of(&app, &letter).await;
    let visitor = Visitor::signed_in(&app).await;
    let fields = [("action", "replay"), ("id", letter.as_str())];

    // The transaction is still unknown: refused, and said so.
    let refused = visitor.post("/console/dead-letters/act", &fields).await;
    assert!(refused.expect(409).contains("still unknown"), "{}", refused.html);

    app.client().post_transaction(&transaction(id)).await.expect(202);
    let preview =
        visitor.get(&format!("/console/dead-letters/confirm?action=replay&id={letter}")).await;
    let preview = preview.expect(200);
    assert!(preview.contains("becomes completed"), "{preview}");
    let done = visitor.post("/console/dead-letters/act", &fields).await;
    assert_eq!(done.location(), format!("/console/dead-letters/{letter}?done=replayed"));
    let page = visitor.get(done.location()).await;
    assert!(page.expect(200).contains("Replayed: its job is due now"), "{}", page.html);
    assert!(page.html.contains("operator (Ada)"), "{}", page.html);
    let again = visitor.post("/console/dead-letters/act", &fields).await;
    assert!(again.expect(409).contains("replayed already"), "{}", again.html);
    assert_eq!(app.client().get_transaction(id).await.body["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_need_their_number() {
    let app = spawn_api().await;
    let mut letters = Vec::new();
    for _ in 0..3 {
        letters.push(data::unknown_transaction(&app).await);
    }
    let visitor = Visitor::signed_in(&app).await;
    let mut fields = vec![("action", "discard"), ("note", "tests of the third party")];
    fields.extend(letters.iter().map(|letter| ("id", letter.as_str())));
    let before = contents(&app.pool).await;
    for count in ["", "2", "4", "three"] {
        let fields: Vec<_> = fields.iter().copied().chain([("count", count)]).collect();
        let page = visitor.post("/console/dead-letters/act", &fields).await;
        let page = page.expect(422);
        assert!(page.contains("tests of the third party"), "the note is kept: {page}");
    }
    assert_eq!(contents(&app.pool).await, before);
    fields.push(("count", "3"));
    let done = visitor.post("/console/dead-letters/act", &fields).await;
    let page = visitor.get(done.location()).await;
    assert!(page.expect(200).contains("3 discarded"), "{}", page.html);
    let open = app.operator().list_dead_letters("state=open").await;
    assert_eq!(open.expect(200)["items"].as_array().unwrap().len(), 0);
    let discarded = app.operator().list_dead_letters("state=discarded").await;
    for item in discarded.expect(200)["items"].as_array().unwrap() {
        assert_eq!(item["closed_by"], "operator (Ada)");
        assert_eq!(item["note"], "tests of the third party");
    }

    // The page of the result goes by what is there, not by its address.
    let other = done.location().replace("action=discard", "action=replay");
    let page = visitor.get(&other).await;
    assert!(page.expect(200).contains("0 replayed, 3 refused"), "{}", page.html);

    // Once more: each is refused, with its reason.
    let again = visitor.post("/console/dead-letters/act", &fields).await;
    assert_eq!(again.expect(409).matches("discarded already").count(), 3, "{}", again.html);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_resolved_with_a_status_and_a_note() {
    let app = spawn_api().await;
    let (id, letter) = data::conflict(&app).await;
    let visitor = Visitor::signed_in(&app).await;
    let fields = [("action", "resolve"), ("id", letter.as_str()), ("status", "declined")];
    let page = visitor.post("/console/dead-letters/act", &fields).await;
    assert!(page.expect(422).contains("say in the note why"), "{}", page.html);
    let wrong = [("action", "resolve"), ("id", &letter), ("status", "pending"), ("note", "x")];
    visitor.post("/console/dead-letters/act", &wrong).await.expect(422);
    let fields: Vec<_> = fields.into_iter().chain([("note", "they sent a list")]).collect();
    let done = visitor.post("/console/dead-letters/act", &fields).await;
    assert_eq!(done.location(), format!("/console/dead-letters/{letter}?done=resolved"));
    let settled = app.client().get_transaction(id).await;
    assert_eq!(settled.expect(200)["status"], "declined");
    assert_eq!(settled.body["settled_by"], "operator");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_script_all_on_a_page_are_selected() {
    let app = spawn_api().await;
    let letters = [data::unknown_transaction(&app).await, data::unknown_transaction(&app).await];
    let visitor = Visitor::signed_in(&app).await;
    let query = format!("all=page&action=discard&listed={}&listed={}", letters[0], letters[1]);
    let page = visitor.get(&format!("/console/dead-letters/confirm?{query}")).await;
    let page = page.expect(200);
    assert!(page.contains("Discard 2 dead letters?"), "{page}");
    let none = visitor.get("/console/dead-letters/confirm?action=discard").await;
    assert!(none.expect(422).contains("select at least one"), "{}", none.html);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_retried_and_cancelled() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let job = app.job("update_status", id).await;
    let visitor = Visitor::signed_in(&app).await;
    let path = format!("/console/jobs/{}", job.id);
    let page = visitor.get(&path).await;
    assert!(page.expect(200).contains("Retry now"), "{}", page.html);
    let done = visitor.post(&format!("{path}/cancel"), &[("note", "not wanted")]).await;
    assert_eq!(done.location(), format!("{path}?done=cancelled"));
    let again = visitor.post(&format!("{path}/cancel"), &[("note", "again")]).await;
    assert!(again.expect(409).contains("cancelled already"), "{}", again.html);
    assert!(again.html.contains("again"), "the note is kept: {}", again.html);
    let done = visitor.post(&format!("{path}/retry"), &[]).await;
    let page = visitor.get(done.location()).await;
    assert!(page.expect(200).contains("The job is due now."), "{}", page.html);
    assert_eq!(app.job("update_status", id).await.status, "Pending");
    visitor.post("/console/jobs/none/retry", &[]).await.expect(404);
    visitor.post(&format!("{path}/delete"), &[]).await.expect(404);
    let audit = visitor.get("/console/audit").await;
    for text in ["retry job", "cancel job", "not wanted"] {
        assert!(audit.expect(200).contains(text), "{text}: {}", audit.html);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_is_audited_with_the_name_of_the_session() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    let queue = "/console/queues/notify_client";
    let id = app.client().accept().await;
    let job = format!("/console/jobs/{}", app.job("update_status", id).await.id);
    let letter = data::unknown_transaction(&app).await;
    let replayed = data::transaction_of(&app, &letter).await;
    app.client().post_transaction(&transaction(replayed)).await.expect(202);
    let others = [data::unknown_transaction(&app).await, data::unknown_transaction(&app).await];
    let act = "/console/dead-letters/act";
    for (path, action, letter, audited) in [
        (format!("{queue}/pause"), "", "", "pause_queue"),
        (format!("{queue}/resume"), "", "", "resume_queue"),
        (format!("{job}/cancel"), "", "", "cancel_job"),
        (format!("{job}/retry"), "", "", "retry_job"),
        (act.to_owned(), "replay", letter.as_str(), "replay"),
        (act.to_owned(), "resolve", &others[0], "resolve"),
        (act.to_owned(), "discard", &others[1], "discard"),
    ] {
        let fields = [("action", action), ("id", letter), ("note", audited)];
        visitor.post(&path, &fields).await.location();
        let answer = app.operator().get("/v1/operator/actions?limit=1").await;
        let newest = &answer.expect(200)["items"][0];
        let said = ["operator", "action", "note"].map(|field| newest[field].as_str().unwrap());
        assert_eq!(said, ["operator (Ada)", audited, audited], "{newest}");
    }
}
