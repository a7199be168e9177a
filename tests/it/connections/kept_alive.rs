//! Peers that close or reset a connection that is kept open, instead of answering its next request.

use std::{collections::HashMap, time::Instant};

use futures_util::future::join_all;
use quartet::sandbox::{CreateStep, Status};
use uuid::Uuid;

use super::{
    BACKOFF, BOUND, assert_circuit_closed, assert_undisturbed, count,
    peer::{Breaks, End, Peer},
    wait_all_completed,
};
use crate::{
    metrics::scrape,
    support::{TestApp, World, app::AppBuilder, jobs::patient, transaction, wait_until},
};

/// An app whose third party is `peer`, and whose circuit opens as in production.
async fn app_at(peer: &Peer) -> AppBuilder {
    patient(World::new().await.app())
        .set("QUARTET_THIRD_PARTY__BASE_URL", peer.url())
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", BACKOFF)
        .set("QUARTET_CIRCUIT__MIN_CALLS", 20)
}

async fn post(app: &TestApp, count: usize) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    join_all(ids.iter().map(|id| app.accept_as(*id))).await;
    ids
}

/// A third party that ends each kept connection at its second request: 100 transactions end without
/// one failed try, each is created once, and the circuit stays closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_party_that_ends_kept_connections_at_their_second_request_disturbs_nothing() {
    let ends: [Breaks; 2] =
        [|_, nth| (nth > 0).then_some(End::Reset), |_, nth| (nth > 0).then_some(End::Close)];
    for breaks in ends {
        let peer = Peer::start(breaks).await;
        let mut app = app_at(&peer).await.spawn().await;
        let began = Instant::now();
        let ids = post(&app, 100).await;
        wait_all_completed(&app.pool, &ids).await;
        println!("100 transactions ended within {:?}", began.elapsed());
        // The last job may still be writing its outcome.
        app.wait_at_rest(BOUND).await;
        assert_undisturbed(&app.pool).await;
        let creates = peer.requests("POST");
        assert_eq!(creates.len(), 100);
        assert!(creates.iter().all(|create| create.is_answered), "on new connections alone");
        let broken = peer.requests("GET").iter().filter(|lookup| !lookup.is_answered).count();
        assert!(broken > 0, "no connection was used twice");
        let labels = [("peer", "third_party"), ("cause", "connection_broke")];
        let again = scrape(&app).await.value("quartet_calls_sent_again_total", &labels);
        assert_eq!(again, Some(broken as f64));
        app.stop().await;
    }
}

/// One that keeps connections for lookups and resets them at a second create: the first ones are
/// ambiguous, and are not sent again before their backoff; the others go over new connections. The
/// circuit stays closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_lost_on_used_connections_are_few_and_never_repeated_at_once() {
    let peer = Peer::start(|method, nth| (method == "POST" && nth > 0).then_some(End::Reset)).await;
    let app = app_at(&peer).await.spawn().await;
    // So that many lookups were answered on used connections.
    let mut ids = post(&app, 30).await;
    for _ in 0..20 {
        ids.extend(post(&app, 5).await);
        let creates = ids.len();
        wait_until("all are sent", BOUND, async || peer.requests("POST").len() >= creates).await;
    }
    app.wait_polled(&ids).await;
    let creates = peer.requests("POST");
    let mut times = HashMap::new();
    for create in &creates {
        *times.entry(create.id.clone()).or_insert(0) += 1;
    }
    assert!(times.values().all(|times| *times == 1), "a create was repeated: {times:?}");
    let lost = creates.iter().filter(|create| !create.is_answered).count();
    assert!(lost < creates.len() / 4, "{lost} of {} were lost", creates.len());
    let ambiguous = "SELECT count(*) FROM transaction_events WHERE kind = 'create_ambiguous'";
    wait_until("what was lost is ambiguous", BOUND, async || {
        count(&app.pool, ambiguous).await as usize == lost
    })
    .await;
    assert_circuit_closed(&app.pool).await;
}

/// A callback host that resets each kept connection at its second request: every notification
/// arrives without a failed attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_host_that_resets_kept_connections_gets_every_notification() {
    let peer = Peer::start(|_, nth| (nth > 0).then_some(End::Reset)).await;
    let app = patient(World::new().await.app()).set("QUARTET_NOTIFY__BASE", BACKOFF);
    let app = app.set("QUARTET_NOTIFY__MAX_DELAY", BACKOFF).spawn().await;
    app.sandbox.third_party().set_create_default(CreateStep::created_final(Status::Completed));
    app.set_callback_url(&format!("{}/callback", peer.url())).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let id = Uuid::now_v7();
        app.client().post_transaction(&transaction(id)).await.expect(202);
        app.wait_told(id, BOUND).await;
        ids.push(id);
    }
    app.wait_at_rest(BOUND).await;
    let failed = "SELECT count(*) FROM apalis.jobs
        WHERE job_type = 'notify_client' AND (status <> 'Done' OR attempts > 1)";
    assert_eq!(count(&app.pool, failed).await, 0);
    let notifications = peer.requests("PUT");
    let broken = notifications.iter().filter(|put| !put.is_answered).count();
    assert!(broken > 0, "no connection was used twice");
    for id in &ids {
        let id = id.to_string();
        assert!(notifications.iter().any(|put| put.id == id && put.is_answered), "{id}");
    }
    let labels = [("peer", "client"), ("cause", "connection_broke")];
    let again = scrape(&app).await.value("quartet_calls_sent_again_total", &labels);
    assert_eq!(again, Some(broken as f64));
}

/// Connections that nobody uses are closed before the peer does it, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_early_and_counted() {
    let peer = Peer::start(|_, _| None).await;
    let app = app_at(&peer).await.spawn().await;
    let ids = post(&app, 5).await;
    wait_all_completed(&app.pool, &ids).await;
    wait_until("idle connections are closed and counted", BOUND, async || {
        // Counted when the next answer comes.
        let id = Uuid::now_v7();
        app.accept_as(id).await;
        wait_all_completed(&app.pool, &[id]).await;
        let labels = [("peer", "third_party")];
        scrape(&app).await.value("quartet_idle_connections_closed_total", &labels) > Some(0.0)
    })
    .await;
}

impl TestApp {
    /// Waits until each of these is completed, or its create waits for its next try.
    async fn wait_polled(&self, ids: &[Uuid]) {
        let query = "SELECT count(*) FROM transactions
            WHERE id = ANY ($1) AND (status = 'completed' OR EXISTS (
                SELECT FROM apalis.jobs
                WHERE job_type = 'create_at_third_party' AND status = 'Pending' AND attempts = 1
                    AND idempotency_key = transactions.id::text
            ))";
        wait_until("each is completed or waits", BOUND, async || {
            let count: i64 =
                sqlx::query_scalar(query).bind(ids).fetch_one(&self.pool).await.unwrap();
            count as usize == ids.len()
        })
        .await;
    }
}
