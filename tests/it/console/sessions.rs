//! Signing in: who gets a session, what the cookie is like, and when it ends.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use quartet::config::Role;
use reqwest::Method;

use super::{data, visitor::Visitor};
use crate::support::{
    World, spawn_api,
    world::{API_KEY, OPERATOR_TOKEN},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_needs_a_session_and_the_sign_in_leads_back() {
    let app = spawn_api().await;
    let letter = data::unknown_transaction(&app).await;
    let mut visitor = Visitor::new(&app);
    for path in data::paths(&letter) {
        let to = visitor.get(&path).await.location().to_owned();
        let (page, query) = to.split_once('?').unwrap();
        assert_eq!(page, "/console/sign-in");
        let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(pairs, [("to".to_owned(), path)]);
    }
    let form = visitor.get("/console/sign-in?to=%2Fconsole%2Fqueues").await;
    assert!(form.expect(200).contains(r#"value="/console/queues""#), "{}", form.html);
    let signed_in =
        visitor.sign_in(&[("token", OPERATOR_TOKEN), ("to", "/console/queues?x=1")]).await;
    assert_eq!(signed_in.location(), "/console/queues?x=1");
    for path in data::paths(&letter) {
        visitor.get(&path).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_is_for_the_console_alone() {
    let world = World::new().await;
    let plain = world.app().role(Role::Api).spawn().await;
    let https = world
        .app()
        .role(Role::Api)
        .set("QUARTET_HTTP__PUBLIC_URL", "https://quartet.example")
        .spawn()
        .await;
    for (app, secure) in [(&plain, false), (&https, true)] {
        let answer = Visitor::new(app).sign_in(&[("token", OPERATOR_TOKEN)]).await;
        let cookie = answer.header("set-cookie");
        let mut attributes: Vec<_> = cookie.split("; ").skip(1).collect();
        attributes.sort_unstable();
        let mut expected = vec!["HttpOnly", "Max-Age=28800", "Path=/console", "SameSite=Strict"];
        expected.extend(secure.then_some("Secure"));
        assert_eq!(attributes, expected, "{cookie}");
        assert!(cookie.starts_with("quartet_console="), "{cookie}");
        assert!(!cookie.contains(OPERATOR_TOKEN), "{cookie}");
    }
    // The browser's own word wins: it may come past the proxy.
    for (origin, secure) in [("https", true), ("http", false)] {
        let visitor = Visitor::new(&https);
        let form = visitor.form("/console/sign-in", &[("token", OPERATOR_TOKEN)]);
        let host = https.url().trim_start_matches("http://");
        let answer = visitor.send(form.header("origin", format!("{origin}://{host}"))).await;
        assert_eq!(answer.header("set-cookie").contains("Secure"), secure, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_holds_for_every_process_with_the_same_token() {
    let app = spawn_api().await;
    let sibling = app.sibling().role(Role::Api).spawn().await;
    let changed = app
        .sibling()
        .role(Role::Api)
        .set("QUARTET_OPERATOR_TOKEN", "test_operator_other")
        .spawn()
        .await;
    let visitor = Visitor::signed_in(&app).await;
    let cookie = visitor.cookie.unwrap();
    Visitor::new(&sibling).with_cookie(&cookie).get("/console").await.expect(200);
    let ended = Visitor::new(&changed).with_cookie(&cookie).get("/console").await;
    assert!(ended.location().starts_with("/console/sign-in?"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_refused_slowly() {
    let app = spawn_api().await;
    let mut visitor = Visitor::new(&app);
    for token in ["", "wrong", API_KEY, "test_operator_0124"] {
        let begin = Instant::now();
        let answer = visitor.sign_in(&[("token", token), ("to", "/console/queues")]).await;
        let page = answer.expect(401);
        assert!(page.contains("That is not the operator token."), "{page}");
        assert!(page.contains(r#"value="/console/queues""#), "the way back is kept: {page}");
        assert!(token.is_empty() || !page.contains(token), "{page}");
        assert!(answer.headers.get("set-cookie").is_none());
        assert!(begin.elapsed() >= Duration::from_millis(500));
    }
    // Many at once take turns: four at a time, half a second each.
    let begin = Instant::now();
    let guesses = (0..12).map(|_| visitor.post_plain("/console/sign-in", &[("token", "guess")]));
    let flood = join_all(guesses);
    // An operator does not wait behind them.
    let mut operator = Visitor::new(&app);
    let signed_in = async {
        operator.sign_in(&[("token", OPERATOR_TOKEN)]).await.location();
        begin.elapsed()
    };
    let (answers, signed_in) = futures_util::join!(flood, signed_in);
    for answer in answers {
        assert!(matches!(answer.status, 401 | 429), "{}", answer.status);
    }
    assert!(begin.elapsed() >= Duration::from_millis(1_500), "{:?}", begin.elapsed());
    assert!(signed_in < Duration::from_millis(500), "{signed_in:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_api_are_no_sessions() {
    let app = spawn_api().await;
    for key in [API_KEY, OPERATOR_TOKEN] {
        let visitor = Visitor::new(&app);
        let answer = visitor.send(visitor.request(Method::GET, "/console").bearer_auth(key)).await;
        assert!(answer.location().starts_with("/console/sign-in?"));
        let cookie = Visitor::new(&app).with_cookie(format!("quartet_console={key}"));
        assert!(cookie.get("/console").await.location().starts_with("/console/sign-in?"));
    }
    let session = Visitor::signed_in(&app).await;
    let answer = session.get("/v1/operator/queues").await;
    assert_eq!(answer.status, 401, "the cookie is not for the API: {}", answer.html);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_expired_cookies_are_refused() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    let cookie = visitor.cookie.clone().unwrap();
    let (signed, mac) = cookie.rsplit_once('.').unwrap();
    let (_, rest) = signed.split_once('=').unwrap();
    let parts: Vec<&str> = rest.split('.').collect();
    let (expires, nonce) = (parts[0].parse::<i64>().unwrap(), parts[1]);
    let other_name = URL_SAFE_NO_PAD.encode("Root");
    let unsigned = URL_SAFE_NO_PAD.encode([0; 32]);
    for forged in [
        format!("quartet_console={}.{nonce}.{}.{mac}", expires + 1, parts[2]),
        format!("quartet_console={}.{nonce}.{}.{mac}", 0, parts[2]),
        format!("quartet_console={expires}.{nonce}.{other_name}.{mac}"),
        format!("{signed}.{unsigned}"),
        format!("{signed}."),
        signed.to_owned(),
        "quartet_console=".to_owned(),
    ] {
        let visitor = Visitor::new(&app).with_cookie(&forged);
        let answer = visitor.get("/console").await;
        assert!(answer.location().starts_with("/console/sign-in?"), "{forged}");
    }
    let among_others =
        Visitor::new(&app).with_cookie(format!("a=b; quartet_console=x; {cookie}; c=d"));
    among_others.get("/console").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_removes_the_cookie() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    let out = visitor.post("/console/sign-out", &[]).await;
    assert_eq!(out.location(), "/console/sign-in");
    let cookie = out.header("set-cookie");
    assert!(cookie.starts_with("quartet_console=; ") && cookie.contains("Max-Age=0"), "{cookie}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_the_console_is_closed_and_says_so() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_OPERATOR_TOKEN", "").spawn().await;
    let visitor = Visitor::new(&app);
    for path in ["/console", "/console/sign-in", "/console/queues"] {
        let page = visitor.get(path).await;
        assert!(page.expect(403).contains("QUARTET_OPERATOR_TOKEN"), "{}", page.html);
    }
    visitor.post_plain("/console/sign-in", &[("token", "")]).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_have_no_console() {
    let world = World::new().await;
    let worker = world.app().role(Role::Worker).spawn().await;
    Visitor::new(&worker).get("/console").await.expect(404);
}
