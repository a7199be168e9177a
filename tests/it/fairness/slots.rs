//! Slots count polls under way, not the sleeps between them.

use std::time::Duration;

use super::{BOUND, post_burst};
use crate::support::{jobs::quiet_app, wait_until};

/// With two slots, and a third party that never says how it ended: each transaction is polled
/// several times within its first seconds, although every run sleeps for most of its time and none
/// ends before its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_sleep_between_polls_hold_no_slot() {
    const COUNT: usize = 8;
    const POLLS: usize = 5;

    let deadline = Duration::from_secs(60);
    let app = quiet_app().await.set("QUARTET_WORKER__CONCURRENCY", 2);
    let app = app.set("QUARTET_POLL__DEADLINE", "60s").set("QUARTET_POLL__MAX_DELAY", "500ms");
    let app = app.spawn().await;
    let ids = post_burst(&app.client(), COUNT).await;
    assert!(BOUND < deadline, "a run that kept its slot would keep it until then");
    wait_until("all are polled", BOUND, async || {
        ids.iter().all(|id| app.sandbox.third_party().lookups_of(*id) > POLLS)
    })
    .await;
    // And none was ended because it waited for a slot.
    let failed = "SELECT count(*) FROM apalis.jobs WHERE job_type = 'update_status'
        AND (attempts > 0 OR status <> 'Running')";
    let failed: i64 = sqlx::query_scalar(failed).fetch_one(&app.pool).await.unwrap();
    assert_eq!(failed, 0);
    app.settle_by_webhook(&ids).await;
}

/// More runs than may be without a slot: those beyond keep theirs, and all end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_runs_as_may_sleep_and_no_more_are_claimed() {
    const SLOTS: i64 = 2;
    // Each slot has a run, and four more for each may be between two polls.
    const MOST: i64 = SLOTS * 5;

    let app = quiet_app().await.set("QUARTET_WORKER__CONCURRENCY", SLOTS);
    let app = app.set("QUARTET_POLL__DEADLINE", "60s").set("QUARTET_POLL__MAX_DELAY", "500ms");
    let app = app.spawn().await;
    let ids = post_burst(&app.client(), 30).await;
    let running = async || -> i64 {
        let running = "SELECT count(*) FROM apalis.jobs
            WHERE job_type = 'update_status' AND status = 'Running'";
        sqlx::query_scalar(running).fetch_one(&app.pool).await.unwrap()
    };
    wait_until("as many run as may", BOUND, async || {
        let running = running().await;
        assert!(running <= MOST, "{running} run");
        running == MOST
    })
    .await;
    // Settling ends runs, and others are claimed in their place.
    app.settle_by_webhook(&ids).await;
}
