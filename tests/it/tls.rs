//! HTTPS by Quartet itself: the handshake, what is spoken after it, and renewal on disk.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use quartet::config::Role;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use reqwest::{Certificate, Version, redirect::Policy, tls::TlsInfo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    TestApp, World, command, transaction, wait_for, wait_until,
    world::{API_KEY, OPERATOR_TOKEN, set},
};

const BOUND: Duration = Duration::from_secs(15);
/// How often the files are looked at.
const RELOAD: Duration = Duration::from_millis(20);
const CERTIFICATE: &str = "QUARTET_HTTP__TLS_CERTIFICATE";
const KEY: &str = "QUARTET_HTTP__TLS_KEY";

/// A certificate and its key on disk.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> (Self, Certificate) {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        let new = generate();
        let trusted = trust(&new);
        files.write(&new.cert.pem(), &new.signing_key.serialize_pem());
        (files, trusted)
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    fn write(&self, certificate: &str, key: &str) {
        fs::write(self.certificate(), certificate).unwrap();
        fs::write(self.key(), key).unwrap();
    }

    /// An API that serves with them. Its own client speaks plain HTTP: ask by [`client`].
    async fn spawn(&self) -> (TestApp, String) {
        let app = World::new().await.app().role(Role::Api).without_waiting();
        let app = app
            .set(CERTIFICATE, self.certificate().display())
            .set(KEY, self.key().display())
            .set("QUARTET_HTTP__TLS_RELOAD", format!("{}ms", RELOAD.as_millis()))
            .spawn()
            .await;
        let url = app.url().replace("http://", "https://");
        (app, url)
    }
}

fn generate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap()
}

fn trust(new: &CertifiedKey<KeyPair>) -> Certificate {
    Certificate::from_der(new.cert.der()).unwrap()
}

fn client<const N: usize>(trusted: [&Certificate; N]) -> reqwest::ClientBuilder {
    rustls::crypto::ring::default_provider().install_default().ok();
    let trusted = trusted.into_iter().cloned();
    let builder = reqwest::Client::builder().redirect(Policy::none()).no_proxy();
    builder.tls_certs_only(trusted).tls_info(true)
}

/// The certificate that a new connection gets.
async fn presented(url: &str, builder: reqwest::ClientBuilder) -> Vec<u8> {
    let answer = builder.build().unwrap().get(format!("{url}/health/live")).send().await.unwrap();
    let info = answer.extensions().get::<TlsInfo>().unwrap();
    info.peer_certificate().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_served_as_http_2_and_1() {
    let (files, trusted) = Files::new();
    let (app, url) = files.spawn().await;
    for (builder, version) in
        [(client([&trusted]), Version::HTTP_2), (client([&trusted]).http1_only(), Version::HTTP_11)]
    {
        let http = builder.build().unwrap();
        let ready = http.get(format!("{url}/health/ready"));
        wait_until("it is ready", BOUND, async || {
            ready.try_clone().unwrap().send().await.unwrap().status() == 200
        })
        .await;
        let post = http.post(format!("{url}/v1/transactions")).bearer_auth(API_KEY);
        let body = transaction(uuid::Uuid::now_v7()).to_string();
        let post = post.header("content-type", "application/json").body(body);
        let answer = post.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (202, version));
        // Browsers shall never use anything else.
        assert_eq!(answer.headers()["strict-transport-security"], "max-age=63072000");
        let form = http.post(format!("{url}/console/sign-in"));
        let form = form.header("content-type", "application/x-www-form-urlencoded");
        // As a browser that tells the origin alone; HTTP/2 has no `Host`.
        let form = form.header("origin", &url).body(format!("token={OPERATOR_TOKEN}"));
        let signed_in = form.send().await.unwrap();
        let cookie = signed_in.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.ends_with("; Secure"), "{cookie}");
    }
    // Who does not know the certificate does not talk to it; plain HTTP is no answer.
    let (_, other) = Files::new();
    let stranger = client([&other]).build().unwrap();
    assert!(stranger.get(&url).send().await.unwrap_err().is_connect());
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    plain.get(format!("{}/health/live", app.url())).send().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let (files, old) = Files::new();
    let (_app, url) = files.spawn().await;
    let kept = client([&old]).build().unwrap();
    let ask_kept = async || kept.get(format!("{url}/health/live")).send().await.unwrap().status();
    let first = presented(&url, client([&old])).await;
    assert_eq!(ask_kept().await, 200);

    // Half-way through a renewal: the old one stays.
    let renewed = generate();
    let old_key = fs::read_to_string(files.key()).unwrap();
    let both = [&old, &trust(&renewed)];
    for (certificate, key) in [
        (renewed.cert.pem(), old_key.as_str()),
        (String::new(), ""),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), old_key.as_str()),
    ] {
        files.write(&certificate, key);
        // For as long as it is looked at many times.
        let until = Instant::now() + 10 * RELOAD;
        while Instant::now() < until {
            assert_eq!(presented(&url, client(both)).await, first);
        }
    }
    // As an editor on Windows writes them.
    let marked = |text: String| format!("\u{feff}{text}");
    files.write(&marked(renewed.cert.pem()), &marked(renewed.signing_key.serialize_pem()));
    let second = wait_for("the renewed certificate is presented", BOUND, async || {
        Some(presented(&url, client(both)).await).filter(|certificate| *certificate != first)
    })
    .await;
    assert_eq!(second, renewed.cert.der().to_vec());
    assert_eq!(ask_kept().await, 200, "open connections go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_go_on_holds_nobody_up() {
    let (files, trusted) = Files::new();
    let (app, url) = files.spawn().await;
    let address = app.url().trim_start_matches("http://").to_owned();
    let mut silent = Vec::new();
    for begun in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"].repeat(20) {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        silent.push(stream);
    }
    presented(&url, client([&trusted])).await;
    // Who speaks HTTP to it is turned away at once.
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(BOUND, silent[2].read_to_end(&mut answer)).await;
    ended.expect("the connection ends").ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_end_the_start_with_their_variable() {
    let world = World::new().await;
    let (files, _) = Files::new();
    let (others, _) = Files::new();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md").into();
    let nowhere = files.directory.path().join("nowhere.pem");
    for (certificate, key, expected) in [
        (Some(nowhere.clone()), Some(files.key()), CERTIFICATE),
        (Some(files.certificate()), Some(nowhere), KEY),
        (Some(readme), Some(files.key()), CERTIFICATE),
        (Some(files.key()), Some(files.key()), CERTIFICATE),
        (Some(files.certificate()), Some(files.certificate()), KEY),
        (Some(files.certificate()), Some(others.key()), KEY),
        (Some(files.certificate()), None, KEY),
        (None, Some(files.key()), CERTIFICATE),
    ] {
        let mut settings = world.settings();
        set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
        for (variable, path) in [(CERTIFICATE, certificate), (KEY, key)] {
            if let Some(path) = path {
                set(&mut settings, variable, path.display());
            }
        }
        let ended = command::run(&["serve", "--role", "api"], &settings, "").await;
        let said = ended.expect_failure();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
}
