//! Connections whose packets are lost, and connections that are cut.

use std::time::Instant;

use super::{
    Callers, HEALED, accept_some, assert_all_end_well, assert_calm, pending_world, process_on,
};
use crate::support::{
    World, line::Line, postgres::TestDatabase, process::Process, transaction, wait_until,
};

/// A process in whose world much is pending, over a line.
async fn process_over_line() -> (TestDatabase, World, Line, Process) {
    let database = TestDatabase::create().await;
    let world = pending_world(database.url()).await;
    let line = Line::to(database.url()).await;
    let process = process_on(&world, &line).spawn().await;
    (database, world, line, process)
}

/// What happens to the connections that are silent.
enum Then {
    /// Their packets come through after all.
    Late,
    /// They are dead, as after a failover to another machine under the same address.
    Dead,
}

async fn falls_silent(then: Then) {
    let (_database, world, line, mut process) = process_over_line().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let mut ids = accept_some(&client, &world).await;
    line.fall_silent();

    // Twice: connections that are open, and then none.
    for _ in 0..2 {
        let posted = callers.assert_writes_refused(ids[0]).await;
        callers.assert_reads_refused(ids[0]).await;
        ids.push(posted);
    }
    assert_calm(&process, &line).await;
    assert_eq!(callers.metric("quartet_database_up").await, 0.0);
    let timeouts = callers.metric(r#"quartet_database_errors_total{cause="timeout"}"#).await;
    assert!(timeouts > 0.0, "the metrics say nothing");

    let began = Instant::now();
    match then {
        Then::Late => line.open(),
        Then::Dead => line.open_anew(),
    }
    process.wait_ready().await;
    // Those that were refused may have been written: the same post again tells.
    for id in &ids[20..] {
        wait_until("the post is accepted", HEALED, async || {
            matches!(client.post_transaction(&transaction(*id)).await.status, 200 | 202)
        })
        .await;
    }
    println!("healed after {:.1} s", began.elapsed().as_secs_f64());
    assert_all_end_well(&client, &world, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_falls_silent_and_speaks_again_loses_nothing() {
    falls_silent(Then::Late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_silent_for_good_are_given_up() {
    falls_silent(Then::Dead).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_are_made_again_in_peace() {
    let (_database, world, line, mut process) = process_over_line().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let ids = accept_some(&client, &world).await;
    line.cut();
    callers.assert_writes_refused(ids[0]).await;
    callers.assert_reads_refused(ids[0]).await;
    assert_calm(&process, &line).await;
    line.open();
    process.wait_ready().await;
    assert_all_end_well(&client, &world, &ids).await;
}
