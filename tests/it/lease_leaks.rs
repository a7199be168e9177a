//! A claim whose caller has given up, and which is committed all the same: its jobs are leased to a
//! living worker that does not know them.

use std::time::Duration;

use quartet::config::Role;

use crate::support::{
    hung::{hang_first_lease, wait_hung},
    job_rows::{event_times, job_row, park_all_but, wait_job},
    line::Line,
    spawn_api, wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
const CREATE: &str = "create_at_third_party";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_claim_that_was_committed_after_it_was_given_up_are_given_back() {
    let api = spawn_api().await;
    let id = api.client().accept().await;
    park_all_but(&api.pool, id, Some(CREATE)).await;
    hang_first_lease(&api.pool, "UPDATE").await;
    let line = Line::to(api.database_url()).await;
    let _worker = api
        .sibling()
        .role(Role::Worker)
        .set("DATABASE_URL", line.url())
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "30s")
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "30s")
        .set("QUARTET_WORKER__HEARTBEAT", "500ms")
        // Nobody is taken for dead here.
        .set("QUARTET_WORKER__DEAD_AFTER", "1h")
        .without_waiting()
        .spawn()
        .await;
    wait_hung(&api.pool).await;
    line.cut();
    line.open();
    wait_until("it is committed", BOUND, async || {
        job_row(&api.pool, id, CREATE).await.status == "Running"
    })
    .await;

    // It is the database's alone: known to nobody, until it is given back.
    let done = wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    assert_eq!(done.attempts, 1, "giving it back costs no attempt");
    assert!(event_times(&api.pool, id, "create_ambiguous").await.is_empty());
    assert_eq!(api.sandbox.third_party().creates_of(id), 1);
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}
