//! A database that answers, and refuses: it only reads, it takes no more connections, or not this
//! role, or the role lacks a right.

use std::{path::Path, time::Instant};

use quartet::{dev::postgres::EmbeddedPostgres, sandbox::Status};
use sqlx::{Connection, PgConnection};

use super::{
    Callers, HEALED, accept_some, assert_all_end_well, assert_calm, assert_refused, pending_world,
    process_on, send_webhook,
};
use crate::support::{World, line::Line, postgres::own_server, wait_until};

/// What Quartet needs to be allowed, as docs/database.md has it.
const RIGHTS: &str = "
    CREATE ROLE relay LOGIN;
    GRANT USAGE ON SCHEMA public, apalis, operator TO relay;
    GRANT SELECT ON ALL TABLES IN SCHEMA operator TO relay;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, apalis TO relay;
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public, apalis TO relay;";
const END_SESSIONS: &str = "
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'";

struct Refusing {
    postgres: EmbeddedPostgres,
    admin: PgConnection,
}

impl Refusing {
    /// A server on which Quartet is a user with no more rights than it needs.
    async fn start() -> Self {
        let postgres = own_server().await;
        let admin = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
        let mut server = Self { postgres, admin };
        server.run(RIGHTS).await;
        // Without a password, whose check costs a program that is built for tests much.
        let hba = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut server.admin).await;
        let hba: String = hba.unwrap();
        let rules = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("host all relay 127.0.0.1/32 trust\n{rules}")).unwrap();
        server.run("SELECT pg_reload_conf()").await;
        wait_until("the role may sign in", HEALED, async || {
            PgConnection::connect(&server.url()).await.is_ok()
        })
        .await;
        server
    }

    async fn run(&mut self, statements: &'static str) {
        sqlx::raw_sql(statements).execute(&mut self.admin).await.unwrap();
    }

    fn url(&self) -> String {
        format!("postgres://relay@127.0.0.1:{}/postgres", self.postgres.port())
    }
}

/// Waits until all of `count` polls run, which they do between two polls as well.
async fn wait_polled(world: &World, count: usize) {
    let running = "SELECT count(*) FROM apalis.jobs
        WHERE job_type = 'update_status' AND status = 'Running'";
    wait_until("all are polled", HEALED, async || {
        let running = sqlx::query_scalar::<_, i64>(running).fetch_one(&world.pool).await;
        running.unwrap() == count as i64
    })
    .await;
}

/// Asserts that no refusal was held against a job.
async fn assert_no_job_blamed(world: &World) {
    let blamed = "SELECT (SELECT count(*) FROM failed_jobs),
        (SELECT max(attempts)::bigint FROM apalis.jobs WHERE job_type = 'update_status')";
    let blamed: (i64, i64) = sqlx::query_as(blamed).fetch_one(&world.pool).await.unwrap();
    assert_eq!(blamed, (0, 1), "dead letters, and attempts of the polls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_reads_takes_writes_again_without_a_restart_of_quartet() {
    let mut server = Refusing::start().await;
    let world = pending_world(&server.postgres.url("postgres")).await;
    let line = Line::to(&server.url()).await;
    let mut process = process_on(&world, &line).spawn().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let ids = accept_some(&client, &world).await;

    // For new sessions: those that are opened meanwhile read for as long as they live.
    server.run("ALTER ROLE relay SET default_transaction_read_only = on").await;
    server.run(END_SESSIONS).await;
    wait_until("it is not ready", HEALED, async || {
        callers.anonymous.get("/health/ready").await.status == 503
    })
    .await;
    for _ in 0..2 {
        callers.assert_writes_refused(ids[0]).await;
    }
    wait_until("it can be looked at", HEALED, async || {
        client.get_transaction(ids[0]).await.status == 200
            && callers.operator.list_dead_letters("").await.status == 200
    })
    .await;
    assert_calm(&process, &line).await;
    let refused = callers.metric(r#"quartet_database_errors_total{cause="read_only"}"#).await;
    assert!(refused > 0.0, "the metrics say nothing");

    server.run("ALTER ROLE relay RESET default_transaction_read_only").await;
    process.wait_ready().await;
    assert_all_end_well(&client, &world, &ids).await;
}

/// A failover as its clients see it: the sessions end, and the address leads to a standby, which
/// answers whatever is read, as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_not_taken_for_the_database() {
    let mut postgres = own_server().await;
    let url = postgres.url("postgres");
    let world = pending_world(&url).await;
    let directory: String =
        sqlx::query_scalar("SHOW data_directory").fetch_one(&world.pool).await.unwrap();
    let line = Line::to(&url).await;
    let mut process = process_on(&world, &line).spawn().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let ids = accept_some(&client, &world).await;

    postgres.crash().await.unwrap();
    std::fs::write(Path::new(&directory).join("standby.signal"), "").unwrap();
    postgres.resume().await.unwrap();
    let is_standby = "SELECT pg_is_in_recovery()";
    assert!(sqlx::query_scalar::<_, bool>(is_standby).fetch_one(&world.pool).await.unwrap());
    for _ in 0..2 {
        callers.assert_writes_refused(ids[0]).await;
        callers.assert_reads_refused(ids[0]).await;
    }
    assert_calm(&process, &line).await;

    let promoted = "SELECT pg_promote()";
    assert!(sqlx::query_scalar::<_, bool>(promoted).fetch_one(&world.pool).await.unwrap());
    process.wait_ready().await;
    assert_all_end_well(&client, &world, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_more_connections_is_asked_again_in_peace() {
    let mut server = Refusing::start().await;
    let world = pending_world(&server.postgres.url("postgres")).await;
    let line = Line::to(&server.url()).await;
    let mut process = process_on(&world, &line).spawn().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let ids = accept_some(&client, &world).await;

    server.run("ALTER ROLE relay CONNECTION LIMIT 0").await;
    server.run(END_SESSIONS).await;
    callers.assert_writes_refused(ids[0]).await;
    callers.assert_reads_refused(ids[0]).await;
    assert_calm(&process, &line).await;
    let refused = r#"quartet_database_errors_total{cause="too_many_connections"}"#;
    assert!(callers.metric(refused).await > 0.0, "the metrics say nothing");

    server.run("ALTER ROLE relay CONNECTION LIMIT -1").await;
    process.wait_ready().await;
    assert_all_end_well(&client, &world, &ids).await;
    // The third party may well send it by now.
    send_webhook(&callers.anonymous, &callers.secret, ids[0]).await.expect(200);
}

/// As while its password or `pg_hba.conf` is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_sign_in_for_a_while_is_held_against_no_job() {
    let mut server = Refusing::start().await;
    let world = pending_world(&server.postgres.url("postgres")).await;
    let line = Line::to(&server.url()).await;
    let process = process_on(&world, &line).set("QUARTET_POLL__MAX_DELAY", "500ms");
    let mut process = process.spawn().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let ids = accept_some(&client, &world).await;
    wait_polled(&world, ids.len()).await;

    server.run("ALTER ROLE relay NOLOGIN").await;
    server.run(END_SESSIONS).await;
    for _ in 0..2 {
        callers.assert_writes_refused(ids[0]).await;
        callers.assert_reads_refused(ids[0]).await;
    }
    assert_calm(&process, &line).await;
    let refused = callers.metric(r#"quartet_database_errors_total{cause="other"}"#).await;
    assert!(refused > 0.0, "the metrics say nothing");

    server.run("ALTER ROLE relay LOGIN").await;
    process.wait_ready().await;
    assert_all_end_well(&client, &world, &ids).await;
    assert_no_job_blamed(&world).await;
}

/// Reads, accepts and heartbeats go on, while claims and outcomes are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_that_the_role_may_not_write_are_kept_until_it_may() {
    let mut server = Refusing::start().await;
    let world = pending_world(&server.postgres.url("postgres")).await;
    let line = Line::to(&server.url()).await;
    let process = process_on(&world, &line).set("QUARTET_POLL__MAX_DELAY", "500ms");
    let process = process.spawn().await;
    let (client, callers) = (process.client(), Callers::of(&process, &world).await);
    let ids = accept_some(&client, &world).await;
    wait_polled(&world, ids.len()).await;

    server.run("REVOKE UPDATE ON apalis.jobs FROM relay").await;
    let third_party = world.sandbox.third_party();
    for id in &ids {
        third_party.set_status(*id, Status::Completed);
    }
    let began = Instant::now();
    let webhook = send_webhook(&callers.anonymous, &callers.secret, ids[0]).await;
    assert_refused("a webhook", began, &webhook);
    assert_eq!(client.get_transaction(ids[0]).await.expect(200)["status"], "pending");
    assert_calm(&process, &line).await;
    let refused = callers.metric(r#"quartet_database_errors_total{cause="other"}"#).await;
    assert!(refused > 0.0, "the metrics say nothing");
    let lookups = || ids.iter().map(|id| third_party.lookups_of(*id)).collect::<Vec<_>>();
    let looked_up = lookups();

    server.run("GRANT UPDATE ON apalis.jobs TO relay").await;
    assert_all_end_well(&client, &world, &ids).await;
    assert_eq!(lookups(), looked_up, "what a poll had found was forgotten");
    assert_no_job_blamed(&world).await;
}
