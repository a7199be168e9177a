//! Posts: one client that posts too much is refused alone.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use quartet::config::Role;
use uuid::Uuid;

use super::BOUND;
use crate::support::{World, transaction, wait_until, world};

/// How long each batch of posts takes.
const BATCH: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_posts_too_much_is_refused_alone() {
    // More than the writer takes at once, so that some of them always wait.
    const CALLERS: usize = 192;

    let app = World::new().await.app().role(Role::Api);
    let app = app.set("QUARTET_HTTP__MAX_QUEUE_DELAY", "1ms").spawn().await;
    let other = app.client().with_key(&world::add_client(&app.pool, "other").await);
    world::slow_accepts(&app.pool, BATCH).await;
    let (refused, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let flood = join_all((0..CALLERS).map(async |_| {
        let client = app.client();
        while !is_over.load(Ordering::Relaxed) {
            let answer = client.post_transaction(&transaction(Uuid::now_v7())).await;
            if answer.status != 202 {
                answer.expect_problem(503);
                refused.fetch_add(1, Ordering::Relaxed);
                // Back when the line is as long as it may be.
                tokio::time::sleep(BATCH).await;
            }
        }
    }));
    let others = async {
        let is_refused = async || refused.load(Ordering::Relaxed) > 0;
        wait_until("the flood is refused", BOUND, is_refused).await;
        let (before, mut turned_away) = (refused.load(Ordering::Relaxed), 0);
        for _ in 0..20 {
            // Not right after a batch, when the line is empty for a moment.
            tokio::time::sleep(BATCH / 3).await;
            let answer = other.post_transaction(&transaction(Uuid::now_v7())).await;
            if answer.status != 202 {
                answer.expect_problem(503);
                turned_away += 1;
            }
        }
        let meanwhile = refused.load(Ordering::Relaxed) - before;
        is_over.store(true, Ordering::Relaxed);
        assert!(meanwhile > 20, "{meanwhile} of the flood were refused");
        // All are refused while a busy machine writes nothing for a second.
        assert!(turned_away <= 5, "{turned_away} of 20");
    };
    tokio::join!(flood, others);
}
