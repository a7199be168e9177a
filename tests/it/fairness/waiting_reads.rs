//! Reads that wait for a final status: one client cannot take all the places.

use futures_util::{StreamExt, stream::FuturesUnordered};
use quartet::{config::Role, sandbox::SendWebhook};

use super::add_client;
use crate::{metrics::scrape, support::World};

const PLACES: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_everything_leaves_places_for_the_others() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_HTTP__MAX_IN_FLIGHT", PLACES).spawn().await;
    let (busy, id) = (app.client(), app.client().accept().await);
    let path = format!("/v1/transactions/{id}?wait_seconds=30");
    let mut waits: FuturesUnordered<_> = (0..PLACES).map(|_| busy.get(&path)).collect();
    // Alone it has half of the places.
    for _ in 0..PLACES / 2 {
        let refused = waits.next().await.unwrap();
        refused.expect_problem(429);
        assert!(refused.text.contains("wait for as many transactions"), "{}", refused.text);
        assert_eq!(refused.header("retry-after"), "1");
    }
    let metrics = scrape(&app).await;
    let refused =
        |reason| metrics.value("quartet_requests_refused_total", &[("reason", reason)]).unwrap();
    assert_eq!((refused("waiting_share"), refused("in_flight")), ((PLACES / 2) as f64, 0.0));
    // What does not wait is nobody's share.
    busy.get_transaction(id).await.expect(200);

    let key = add_client(&app.pool, "other", &app.sandbox.callback_url()).await;
    let other = app.anonymous().with_key(&key);
    let others_id = other.accept().await;
    let others_path = format!("/v1/transactions/{others_id}?wait_seconds=1");
    let others = async {
        // Each of them waits for its second: it was let in.
        let waits = futures_util::future::join_all((0..8).map(|_| other.get(&others_path)));
        for answer in waits.await {
            assert_eq!(answer.expect(200)["status"], "pending");
        }
        assert_eq!(app.send_webhook(SendWebhook::new(id, "completed")).await.0, 200);
    };
    let ((), waited) = tokio::join!(others, waits.collect::<Vec<_>>());
    for answer in &waited {
        assert_eq!(answer.expect(200)["status"], "completed");
    }
    assert_eq!(waited.len(), PLACES / 2);
    // The places are free again.
    busy.get(&path).await.expect(200);
}
