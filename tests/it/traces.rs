//! Traces of real processes: one transaction is one trace.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::Utc;
use poem::{
    EndpointExt, IntoResponse, Request, Response, Route, Server, get, handler, http::StatusCode,
    listener::TcpAcceptor, post, put, web::Data,
};
use quartet::{config::Role, signature};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::support::{
    World,
    client::transaction,
    collector::{Collector, Span},
    job_rows::wait_job,
    jobs::quiet_app,
    process::Process,
    wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-01";
/// Kinds in the protocol.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const CONSUMER: i32 = 5;

type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// A third party and a client in one, which keep the `traceparent` of each call: what was called,
/// and the header.
struct Peers {
    address: SocketAddr,
    heard: Heard,
    _stop: DropGuard,
}

impl Peers {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, stop) = (Heard::default(), CancellationToken::new());
        let routes = Route::new()
            .at("/transaction", post(create))
            .at("/transaction/:id", get(look_up))
            .at("/callback", put(hear))
            .data(heard.clone());
        let server = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap());
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(server.run_with_graceful_shutdown(routes, stopped, None));
        Self { address, heard, _stop: stop.drop_guard() }
    }

    /// A process that calls these peers.
    async fn process(&self, world: &World, collector: Option<&Collector>) -> Process {
        let url = format!("http://{}", self.address);
        let mut process = world
            .process(Role::All)
            .set("QUARTET_THIRD_PARTY__BASE_URL", &url)
            .set("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", format!("{url}/callback"))
            // What begins here is not sampled; what a caller began is, if the caller says so.
            .set("QUARTET_TRACES__SAMPLE_RATIO", "0");
        if let Some(collector) = collector {
            process = process.set("QUARTET_TRACES__ENDPOINT", collector.endpoint());
        }
        process.spawn().await
    }
}

fn note(request: &Request, heard: &Heard, call: &str) {
    let header = request.header("traceparent").unwrap_or_default().to_owned();
    heard.lock().unwrap().push((call.to_owned(), header));
}

#[handler]
fn create(request: &Request, heard: Data<&Heard>) -> StatusCode {
    note(request, &heard, "create");
    StatusCode::CREATED
}

#[handler]
fn look_up(request: &Request, heard: Data<&Heard>) -> Response {
    note(request, &heard, request.uri().path());
    StatusCode::NOT_FOUND.into_response()
}

#[handler]
fn hear(request: &Request, heard: Data<&Heard>) -> StatusCode {
    note(request, &heard, "notify");
    StatusCode::NO_CONTENT
}

/// Posts a transaction, has it polled and then settled by a webhook that has another trace.
async fn go_through(
    process: &Process,
    world: &World,
    peers: &Peers,
    post: &[(&str, &str)],
) -> Uuid {
    let id = Uuid::now_v7();
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(post);
    let body = transaction(id).to_string();
    let answer = process.client().send(Method::POST, "/v1/transactions", &headers, body).await;
    answer.expect(202);
    wait_job(&world.pool, id, "create_at_third_party", "Done", BOUND).await;
    let path = format!("/transaction/{id}");
    wait_until("it is looked up by the create and by a poll", BOUND, async || {
        peers.heard.lock().unwrap().iter().filter(|(call, _)| *call == path).count() >= 2
    })
    .await;

    let body = json!({ "id": id, "status": "completed" }).to_string();
    let (webhook_id, now) = (format!("hook_{id}"), Utc::now().timestamp());
    let secret = &world.sandbox.config().webhook_secret;
    let signed = signature::sign(secret, &webhook_id, now, body.as_bytes());
    let now = now.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", &webhook_id),
        ("webhook-timestamp", &now),
        ("webhook-signature", &signed),
        ("traceparent", OTHER),
    ];
    let path = "/v1/webhooks/third-party";
    process.client().send(Method::POST, path, &headers, body).await.expect(200);
    wait_until("the client is told", BOUND, async || {
        let transaction = process.client().get_transaction(id).await.body;
        transaction["notified_version"] == transaction["version"]
    })
    .await;
    wait_job(&world.pool, id, "notify_client", "Done", BOUND).await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_holds_the_accept_the_jobs_the_calls_and_the_webhook() {
    let (world, peers, collector) =
        (World::new().await, Peers::start().await, Collector::start().await);
    let mut process = peers.process(&world, Some(&collector)).await;
    let id =
        go_through(&process, &world, &peers, &[("traceparent", CALLER), ("x-request-id", "r1")])
            .await;
    let unsampled = go_through(&process, &world, &peers, &[]).await;
    // The spans that are left are sent when it ends.
    assert!(process.terminate(BOUND).await.success(), "{}", process.output());

    let (others, spans): (Vec<Span>, Vec<Span>) = collector
        .spans()
        .into_iter()
        .partition(|span| span.attribute("transaction_id") == unsampled.to_string());
    // Of the other transaction there is only what a caller had sampled.
    let names: Vec<_> = others.iter().map(|span| (&*span.name, &*span.trace)).collect();
    assert_eq!(names, [("receive_third_party_webhook", &OTHER[3..35])]);
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let of = |name: &str| -> Vec<&Span> { spans.iter().filter(|span| span.name == name).collect() };
    let [accept] = of("create_transaction")[..] else { panic!("one accept: {spans:#?}") };
    assert_eq!((accept.kind, accept.parent.as_str()), (SERVER, "b7ad6b7169203331"));
    assert_eq!(accept.attribute("request_id"), "r1");
    let mut jobs = BTreeMap::new();
    for queue in ["create_transaction", "create_at_third_party", "update_status", "notify_client"] {
        let runs = of(&format!("job {queue}"));
        assert!(!runs.is_empty(), "{queue}: {spans:#?}");
        for run in runs {
            assert_eq!((run.kind, &run.parent), (CONSUMER, &accept.id), "{run:?}");
            assert_eq!(run.attribute("queue"), queue);
            assert!(!run.attribute("attempt").is_empty(), "{run:?}");
            assert!(["done", "again", "snoozed", "lease_lost"].contains(&run.attribute("outcome")));
            jobs.insert(run.id.clone(), queue);
        }
    }
    for (name, queue, outcome) in [
        ("look_up_at_third_party", "create_at_third_party", "absent"),
        ("look_up_at_third_party", "update_status", "absent"),
        ("create_at_third_party", "create_at_third_party", "created"),
        ("notify_client", "notify_client", "delivered"),
    ] {
        let calls = of(name);
        let call = calls.iter().find(|call| jobs.get(&call.parent) == Some(&queue));
        let call = call.unwrap_or_else(|| panic!("{name} of {queue}: {spans:#?}"));
        assert_eq!((call.kind, call.attribute("outcome")), (CLIENT, outcome), "{call:?}");
        let header = format!("00-{TRACE}-{}-01", call.id);
        let heard = peers.heard.lock().unwrap();
        assert!(heard.iter().any(|(_, parent)| *parent == header), "{name}: {heard:?}");
    }
    let [webhook] = of("receive_third_party_webhook")[..] else { panic!("{spans:#?}") };
    assert_eq!((webhook.kind, &webhook.parent), (SERVER, &accept.id));
    assert_eq!(webhook.links, [&OTHER[3..35]]);
    for span in &spans {
        assert_eq!(span.attribute("transaction_id"), id.to_string(), "{span:?}");
        assert_eq!(span.events, 0, "no log lines, which may quote a peer: {span:?}");
    }
    // The caller did not ask for a trace, and none was begun here.
    let query = "SELECT count(*) FROM apalis.jobs
        WHERE idempotency_key = $1 AND metadata ? 'traceparent'";
    for (id, rows) in [(id, 4), (unsampled, 0)] {
        let count: i64 =
            sqlx::query_scalar(query).bind(id.to_string()).fetch_one(&world.pool).await.unwrap();
        assert_eq!(count, rows, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_nothing_is_stored_or_sent() {
    let (world, peers) = (World::new().await, Peers::start().await);
    let process = peers.process(&world, None).await;
    go_through(&process, &world, &peers, &[("traceparent", CALLER)]).await;
    let heard = peers.heard.lock().unwrap().clone();
    assert!(!heard.is_empty() && heard.iter().all(|(_, header)| header.is_empty()), "{heard:?}");
    let query = "SELECT count(*) FROM apalis.jobs WHERE metadata ? 'traceparent'";
    let stored: i64 = sqlx::query_scalar(query).fetch_one(&world.pool).await.unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_delays_nothing() {
    let (world, peers) = (World::new().await, Peers::start().await);
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    drop(collector);
    let mut process = world
        .process(Role::All)
        .set("QUARTET_TRACES__ENDPOINT", endpoint)
        .set("QUARTET_THIRD_PARTY__BASE_URL", format!("http://{}", peers.address))
        .set("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", format!("http://{}/callback", peers.address))
        .spawn()
        .await;
    go_through(&process, &world, &peers, &[]).await;
    assert!(process.terminate(BOUND).await.success(), "{}", process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snooze_and_a_replay_keep_the_trace() {
    let app = quiet_app()
        .await
        .set("QUARTET_POLL__FIRST", "10ms")
        .set("QUARTET_POLL__SECOND", "2s")
        .set("QUARTET_POLL__MAX_DELAY", "2s")
        .set("QUARTET_POLL__DEADLINE", "3s")
        .spawn()
        .await;
    let id = app.client().accept().await;
    let trace = "UPDATE apalis.jobs
        SET metadata = COALESCE(metadata, '') || hstore('traceparent', $2)
        WHERE idempotency_key = $1";
    sqlx::query(trace).bind(id.to_string()).bind(CALLER).execute(&app.pool).await.unwrap();
    let kept = async || -> (Option<String>, bool, bool) {
        let query = "SELECT metadata -> 'traceparent', metadata ? 'polls', metadata ? 'poll_since'
            FROM apalis.jobs WHERE idempotency_key = $1 AND job_type = 'update_status'";
        sqlx::query_as(query).bind(id.to_string()).fetch_one(&app.pool).await.unwrap()
    };
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "deadline");
    assert_eq!(kept().await, (Some(CALLER.to_owned()), true, false), "snoozed");
    app.replay(&letter).await;
    let (traceparent, _, since) = kept().await;
    assert_eq!((traceparent.as_deref(), since), (Some(CALLER), true), "replayed");
}
