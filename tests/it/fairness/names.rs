//! Names that never resolve, and those of the others.

use std::time::Duration;

use quartet::{config::Role, sandbox::CreateStep};

use super::{BOUND, NO_POLLS, SLACK, add_client, p99, post_burst, times_to_first_call};
use crate::support::{
    World,
    jobs::BOUND as SOON,
    name_server::{KNOWN, NameServer},
    wait_until,
};

/// `http://127.0.0.1:PORT/…` with another host.
fn at(url: &str, host: &str) -> String {
    url.replace("127.0.0.1", host)
}

/// 1,200 notifications are due for a client whose name server never answers. The other client, and
/// the third party, have names that it knows. With the host's breaker off, so that the names alone
/// are in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_never_answered_hold_up_no_other_name() {
    let (world, server) = (World::new().await, NameServer::start().await);
    world.sandbox.third_party().set_create_default(CreateStep::created());
    let callback_url = at(&world.sandbox.callback_url(), &format!("shop.{KNOWN}"));
    let base_url = at(&world.sandbox.base_url(), &format!("third-party.{KNOWN}"));
    let process = NO_POLLS
        .iter()
        .fold(world.process(Role::All), |process, (name, value)| process.set(name, value));
    let process = process
        .set("QUARTET_DNS__SERVERS", server.address)
        .set("QUARTET_THIRD_PARTY__BASE_URL", base_url)
        .set("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", &callback_url)
        .set("QUARTET_NOTIFY__HOST_FAILURES", 1_000_000)
        .set("QUARTET_NOTIFY__TIMEOUT", "10s")
        .set("QUARTET_NOTIFY__BASE", "5s")
        .set("QUARTET_NOTIFY__MAX_DELAY", "5s")
        .set("QUARTET_WORKER__CONCURRENCY", 2_000)
        .spawn()
        .await;
    let client = process.client();
    let alone = p99(&times_to_first_call(&client, &world.sandbox, 50).await);

    let silent = at(&world.sandbox.callback_url(), "shop.silent.test");
    let key = add_client(&world.pool, "silent", &silent).await;
    post_burst(&client.with_key(&key), 1_200).await;
    wait_until("the silent names are asked for", BOUND, async || server.swallowed() > 0).await;
    let beside = p99(&times_to_first_call(&client, &world.sandbox, 50).await);
    assert!(beside <= alone * 2 + SLACK, "alone {alone:?}, beside the silent name {beside:?}");
    // And it is asked for once for all calls, not once for each.
    assert!(server.swallowed() < 1_200, "{} questions", server.swallowed());

    let id = client.accept().await;
    wait_until("the third party is called by its name", SOON, async || {
        world.sandbox.third_party().creates_of(id) == 1
    })
    .await;
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
        let threads: usize = threads.trim().parse().unwrap();
        let cores = std::thread::available_parallelism().unwrap().get();
        assert!(threads < 2 * cores + 32, "{threads} threads");
    }
    // What is due for it is postponed by nothing but its own attempts, and says why.
    let error = "SELECT last_result ->> 'Err' FROM apalis.jobs
        WHERE job_type = 'notify_client'
            AND last_result ->> 'Err' LIKE '%no name server answered in time%'
        LIMIT 1";
    wait_until("the error names the cause", Duration::from_secs(30), async || {
        let found: Option<Option<String>> =
            sqlx::query_scalar(error).fetch_optional(&world.pool).await.unwrap();
        found.is_some()
    })
    .await;
}
