//! Log lines of real processes: which ids they have, and that no secret is in them.

use std::time::Duration;

use quartet::{config::Role, sandbox::Profile, sandbox::SandboxConfig, sandbox::SendWebhook};
use reqwest::Method;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::support::{
    World,
    client::transaction,
    collector::Collector,
    postgres::own_server,
    process::Process,
    spawn_api, wait_until,
    world::{API_KEY, OPERATOR_TOKEN},
};

const BOUND: Duration = Duration::from_secs(30);
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Every line, each of which must be a JSON object.
fn lines(output: &str) -> Vec<Value> {
    let parse = |line: &str| -> Value {
        let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(matches!(value, Value::Object(_)), "{line}");
        value
    };
    output.lines().map(parse).collect()
}

/// The span of this name that a line is in.
fn span<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line["spans"].as_array()?.iter().find(|span| span["name"] == name)
}

async fn wait_told(process: &Process, id: Uuid) {
    wait_until("the client is told", BOUND, async || {
        let transaction = process.client().get_transaction(id).await.body;
        transaction["status"] != "pending"
            && transaction["notified_version"] == transaction["version"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_logged_counted_or_traced() {
    const WRONG_KEY: &str = "qk_almost_the_right_one";
    let (world, collector) = (World::new().await, Collector::start().await);
    let process = world
        .process(Role::All)
        .set("QUARTET_LOG", "trace")
        .set("QUARTET_LOG_FORMAT", "json")
        .set("QUARTET_TRACES__ENDPOINT", collector.endpoint());
    let mut process = process.spawn().await;
    let id = process.client().accept().await;
    let url = format!("{}/v1/webhooks/third-party", process.url());
    let third_party = world.sandbox.third_party();
    let good = SendWebhook::new(id, "completed").url(&url);
    let bad = SendWebhook::new(id, "completed").url(&url).bad_signature();
    assert_eq!(third_party.send_webhook(good).await.unwrap().0, 200);
    assert_eq!(third_party.send_webhook(bad).await.unwrap().0, 401);
    wait_told(&process, id).await;
    let wrong = process.client().with_key(WRONG_KEY);
    wrong.get_transaction(id).await.expect(401);
    wrong.list_dead_letters("").await.expect(401);
    process.client().list_dead_letters("").await.expect(403);
    process.operator().list_dead_letters("").await.expect(200);
    process.client().post_raw("/v1/transactions", "{").await.expect(400);
    let metrics = process.client().get("/metrics").await;
    metrics.expect(200);
    assert!(process.terminate(BOUND).await.success(), "{}", process.output());

    let config = world.sandbox.config();
    let database: Url = world.database_url().parse().unwrap();
    let password = database.password().expect("the test's database has a password");
    let (webhook, signing) = (config.webhook_secret.reveal(), config.client_secret.reveal());
    let bare = |secret: &str| secret.trim_start_matches("whsec_").to_owned();
    let secrets = [API_KEY, OPERATOR_TOKEN, WRONG_KEY, &bare(&webhook), &bare(&signing), password];
    let (output, spans) = (process.output(), collector.text());
    for (place, text) in [("log", &output), ("metrics", &metrics.text), ("spans", &spans)] {
        assert!(text.len() > 1_000, "{place} holds something");
        for secret in secrets {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is in the {place}");
        }
    }

    let (mut requests, mut jobs) = (0, 0);
    for line in lines(&output) {
        if let Some(request) = span(&line, "request") {
            requests += 1;
            assert!(
                request["request_id"].is_string() && request["operation"].is_string(),
                "{line}"
            );
        }
        if let Some(job) = span(&line, "job") {
            jobs += 1;
            for field in ["queue", "job_id", "transaction_id", "trace_id"] {
                assert!(job[field].is_string(), "{field}: {line}");
            }
            assert!(job["attempt"].is_number(), "{line}");
        }
    }
    assert!(requests > 10 && jobs > 10, "{requests} lines of requests, {jobs} of jobs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_is_one_line_and_others_are_none() {
    let mut server = own_server().await;
    let sandbox = SandboxConfig { profile: Profile::faultless(), ..SandboxConfig::default() };
    let world = World::on_database(&server.url("postgres"), sandbox).await;
    let process = world.process(Role::Api).set("QUARTET_LOG_FORMAT", "json").spawn().await;
    let post = async |request_id: &str| {
        let id = Uuid::now_v7();
        let headers = [JSON[0], ("x-request-id", request_id)];
        let body = transaction(id).to_string();
        let answer = process.client().send(Method::POST, "/v1/transactions", &headers, body).await;
        assert_eq!(answer.header("x-request-id"), request_id);
        (id, answer)
    };
    post("good-1").await.1.expect(202);
    server.crash().await.unwrap();
    let (id, answer) = post("bad-1").await;
    answer.expect_problem(503);
    let lines = lines(&process.output());
    let of = |request_id: &str| -> Vec<&Value> {
        let is_of = |line: &&Value| {
            // sqlx tells of the lost connection too.
            line["target"].as_str().is_some_and(|target| target.starts_with("quartet"))
                && span(line, "request").is_some_and(|request| request["request_id"] == request_id)
        };
        lines.iter().filter(is_of).collect()
    };
    assert_eq!(of("good-1"), Vec::<&Value>::new());
    let [line] = of("bad-1")[..] else { panic!("one line: {lines:#?}") };
    assert_eq!(line["level"], "WARN", "{line}");
    let cause = line["fields"]["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("the database"), "{line}");
    let request = span(line, "request").unwrap();
    assert_eq!(request["operation"], "create_transaction", "{line}");
    assert_eq!(request["status"], 503, "{line}");
    // Unknown until the key was checked, which needs the database.
    let known = &request["transaction_id"];
    assert!(known.is_null() || *known == id.to_string(), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_a_request_id() {
    let app = spawn_api().await;
    let get = async |path: &str, request_id: Option<&str>| {
        let headers: Vec<_> = request_id.map(|id| ("x-request-id", id)).into_iter().collect();
        let answer = app.client().send(Method::GET, path, &headers, "").await;
        answer.header("x-request-id").to_owned()
    };
    let longest = "x".repeat(128);
    for path in ["/v1/transactions", "/v1/nothing", "/health/live", "/metrics", "/docs"] {
        for sane in ["abc-123", "a/b:c=d", "a b", &longest] {
            assert_eq!(get(path, Some(sane)).await, sane, "{path}");
        }
        let new = get(path, None).await;
        assert!(Uuid::parse_str(&new).is_ok(), "{path}: {new}");
        for insane in ["", &format!("{longest}x"), "tab\there", "naïve"] {
            let given = get(path, Some(insane)).await;
            assert!(Uuid::parse_str(&given).is_ok(), "{path}: {insane:?} became {given}");
        }
    }
}
