//! Where Quartet calls out to: what a callback URL, an answer and the environment cannot make it
//! do.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use quartet::{config::Role, sandbox::CreateStep};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use uuid::Uuid;

use crate::{
    metrics::scrape,
    support::{
        World, command,
        jobs::{BOUND, quiet_app},
        peer::Peer,
        transaction, wait_until,
        world::set,
    },
};

const JOB: &str = "notify_client";
const ALLOWED: &str = "QUARTET_NOTIFY__ALLOWED_NETWORKS";
const CALLBACK: &str = "QUARTET_DEFAULT_CLIENT__CALLBACK_URL";

/// A network that is not allowed any more, or never was: nobody is called, and in the end an
/// operator decides. Nothing is lost: once it is allowed, a replay delivers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_url_that_leads_inside_is_never_called() {
    let app = quiet_app().await.set(ALLOWED, "10.0.0.0/8");
    let app = app.set(CALLBACK, "https://client.example/callback");
    let mut app = app.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 2).spawn().await;
    let callback = app.sandbox.callback_url();
    let localhost = callback.replace("127.0.0.1", "localhost");
    let mapped = callback.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let metadata = "http://169.254.169.254/latest/meta-data/".to_owned();
    let mut letters = Vec::new();
    for (url, address) in [
        (metadata, "169.254.169.254, a link-local address"),
        (localhost, "127.0.0.1, a loopback address"),
        (mapped, "127.0.0.1, a loopback address"),
        (callback, "127.0.0.1, a loopback address"),
    ] {
        app.set_callback_url(&url).await;
        let id = app.client().accept().await;
        let letter = app.wait_dead_letter(id).await;
        assert_eq!(
            (&letter["kind"], &letter["queue"]),
            (&json!("exhausted"), &json!(JOB)),
            "{url}"
        );
        let attempts = letter["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "a name may resolve elsewhere later: {letter}");
        for attempt in attempts {
            let error = attempt["error"].as_str().unwrap();
            let expected = format!("the callback URL leads to {address}, which {ALLOWED}");
            assert!(error.starts_with(&expected), "{url}: {error}");
        }
        assert_eq!(app.told(id), []);
        letters.push((id, letter));
    }
    let blocked = scrape(&app).await.value("quartet_notifications_total", &[("result", "blocked")]);
    assert_eq!(blocked, Some(8.0));

    app.stop().await;
    let app = app.sibling().spawn().await;
    let (id, letter) = letters.pop().unwrap();
    app.replay(&letter).await;
    app.wait_notified(id, 1).await;
}

/// Where clouds offer credentials, and ports of other services: never called, whatever network is
/// allowed, until the very address or port is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platforms_addresses_and_other_services_ports_are_never_called() {
    let app = quiet_app().await.set(ALLOWED, "127.0.0.0/8,169.254.0.0/16,fd00::/8");
    let app = app.set(CALLBACK, "https://client.example/callback");
    let app = app.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 1).spawn().await;
    for (url, part) in [
        ("http://168.63.129.16/", "leads to 168.63.129.16, a cloud platform's address"),
        ("http://169.254.169.254/latest/", "leads to 169.254.169.254, a link-local address"),
        ("http://100.100.100.200/", "leads to 100.100.100.200, a carrier's shared address"),
        ("http://192.0.0.192/", "leads to 192.0.0.192, a reserved address"),
        ("http://[fd00:ec2::254]/", "leads to fd00:ec2::254, a unique-local address"),
        ("http://[64:ff9b::a83f:8110]/", "leads to 168.63.129.16, a cloud platform's address"),
        ("http://[2002:a83f:8110::1]/", "leads to 2002:a83f:8110::1, a relay's address"),
        ("http://127.0.0.1:22/", "uses port 22, a privileged port, which QUARTET_NOTIFY__"),
        ("http://localhost:25/", "uses port 25, a privileged port"),
        ("http://127.0.0.1:6379/", "uses port 6379, the usual port of another service"),
    ] {
        app.set_callback_url(url).await;
        let id = app.client().accept().await;
        let letter = app.wait_dead_letter(id).await;
        let error = letter["attempts"][0]["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("the callback URL {part}")), "{url}: {error}");
    }
    let blocked = scrape(&app).await.value("quartet_notifications_total", &[("result", "blocked")]);
    assert_eq!(blocked, Some(10.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_urls_that_lead_inside_are_not_registered() {
    let database = World::new().await;
    let add = async |url: &str, settings: &[(&str, &str)]| {
        let needed = ["DATABASE_URL", "QUARTET_SECRETS__MASTER_KEY"];
        let mut all = database.settings();
        all.retain(|(name, _)| needed.contains(&name.as_str()));
        settings.iter().for_each(|(name, value)| set(&mut all, name, value));
        let name = Uuid::now_v7().to_string();
        command::run(&["clients", "add", &name, "--callback-url", url], &all, "").await
    };
    for url in ["http://2130706433/", "https://[::ffff:169.254.169.254]/", "http://localhost:1/"] {
        let said = add(url, &[(ALLOWED, "none")]).await;
        let said = said.expect_failure();
        assert!(said.contains("--callback-url") && said.contains(ALLOWED), "{url}: {said}");
    }
    let https_only = [("QUARTET_NOTIFY__HTTPS_ONLY", "true")];
    assert!(add("http://shop.example/", &https_only).await.expect_failure().contains("https://"));
    add("https://shop.example/", &https_only).await.expect();
    add("http://10.1.2.3/", &[(ALLOWED, "10.1.0.0/16, fd00::/8")]).await.expect();
    let said = add("http://shop.example/", &[(ALLOWED, "10.1.0.0/33")]).await;
    assert!(said.expect_failure().contains(ALLOWED), "{said:?}");

    // Without the setting, where the process is reached from its own machine alone.
    let outside = ("QUARTET_HTTP__LISTEN", "0.0.0.0:0");
    add("http://127.0.0.1:9009/", &[]).await.expect();
    add("http://127.0.0.1:9009/", &[outside]).await.expect_failure();
    add("http://10.1.2.3/", &[]).await.expect_failure();

    // A port opens by its own setting, and a cloud's metadata by its own address.
    const PORTS: &str = "QUARTET_NOTIFY__ALLOWED_PORTS";
    for url in ["http://shop.example:22/", "http://8.8.8.8:25/", "http://127.0.0.1:5432/"] {
        let said = add(url, &[]).await;
        assert!(said.expect_failure().contains(PORTS), "{url}: {said:?}");
        add(url, &[(PORTS, "22, 25,5432")]).await.expect();
        add(url, &[(PORTS, "none")]).await.expect_failure();
    }
    assert!(add("http://x.example/", &[(PORTS, "0")]).await.expect_failure().contains(PORTS));
    let metadata = "http://169.254.169.254/";
    add(metadata, &[(ALLOWED, "169.254.0.0/16")]).await.expect_failure();
    add(metadata, &[(ALLOWED, "169.254.169.254")]).await.expect();
    add("http://[::ffff:169.254.169.254]/", &[(ALLOWED, "0.0.0.0/0")]).await.expect_failure();

    // The default client's, at the start.
    let mut settings = database.settings();
    set(&mut settings, ALLOWED, "none");
    let ended = command::run(&["serve"], &settings, "").await;
    let said = ended.expect_failure();
    assert!(said.contains(CALLBACK) && said.contains("a loopback address"), "{said}");
}

fn redirect(mut stream: TcpStream) -> BoxFuture<'static, ()> {
    async move {
        let answer = "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\n\
            content-length: 0\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes()).await;
    }
    .boxed()
}

/// Like the one of clients, `notify_client::a_redirect_is_a_failure_and_is_not_followed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_of_the_third_party_is_no_answer_and_is_not_followed() {
    let peer = Peer::start(redirect).await;
    let app = quiet_app().await.set("QUARTET_THIRD_PARTY__BASE_URL", peer.url()).spawn().await;
    let id = app.client().accept().await;
    let lookup = format!("GET /transaction/{id} HTTP/1.1");
    wait_until("both jobs have asked", BOUND, async || peer.asked().len() >= 4).await;
    assert_eq!(peer.asked(), vec![lookup; peer.asked().len()], "nothing is posted on no answer");
    assert_eq!(app.client().get_transaction(id).await.body["status"], "pending");
}

fn refuse_proxied(mut stream: TcpStream) -> BoxFuture<'static, ()> {
    async move {
        let answer = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes()).await;
    }
    .boxed()
}

/// A proxy would resolve the name by itself, unjudged. The third party's URL is the operator's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_environment_is_for_the_third_party_alone() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created());
    let proxy = Peer::start(refuse_proxied).await;
    let process = ["HTTP_PROXY", "http_proxy", "ALL_PROXY"]
        .iter()
        .fold(world.process(Role::All), |process, name| process.set(name, proxy.url()))
        .spawn()
        .await;
    let id = Uuid::now_v7();
    process.client().post_transaction(&transaction(id)).await.expect(202);
    wait_until("the client is told", BOUND, async || {
        world.sandbox.client().last_acknowledged(id).is_some()
    })
    .await;
    let third_party = format!("GET {}/transaction/{id} HTTP/1.1", world.sandbox.base_url());
    wait_until("the proxy is asked", BOUND, async || proxy.asked().contains(&third_party)).await;
    let callbacks = proxy.asked().iter().filter(|line| line.starts_with("PUT")).count();
    assert_eq!(callbacks, 0, "{:?}", proxy.asked());
}

/// What was written of answers without end.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
/// More than any buffer on the way.
const ENDLESS: usize = 64 * 1024 * 1024;

fn answer_endlessly(mut stream: TcpStream) -> BoxFuture<'static, ()> {
    async move {
        let head = "HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\n\r\n";
        let mut written = stream.write_all(head.as_bytes()).await;
        let part = [b'x'; 64 * 1024];
        while written.is_ok() && WRITTEN.load(Ordering::SeqCst) < ENDLESS {
            written = stream.write_all(&part).await;
            WRITTEN.fetch_add(part.len(), Ordering::SeqCst);
        }
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let client = Peer::start(answer_endlessly).await;
    let app = quiet_app().await.set(CALLBACK, format!("{}/callback", client.url()));
    let app = app.set("QUARTET_NOTIFY__BASE", "50s").set("QUARTET_NOTIFY__MAX_DELAY", "50s");
    let app = app.set("QUARTET_NOTIFY__TIMEOUT", "30s").spawn().await;
    let id = app.client().accept().await;
    wait_until("the attempt is over", Duration::from_secs(15), async || {
        app.job(JOB, id).await.attempts == 1
    })
    .await;
    let written = WRITTEN.load(Ordering::SeqCst);
    assert!(written < ENDLESS, "all of it was read");
    assert_eq!(client.asked(), ["PUT /callback HTTP/1.1"]);
}
