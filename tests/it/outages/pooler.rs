//! A pooler that hands its sessions from transaction to transaction: PgBouncer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quartet::{
    config::Role,
    sandbox::{Profile, SandboxConfig},
    store::{self, Target},
};
use sqlx::{Connection, Executor, PgConnection, Row, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::support::{
    Client, World, command, line::Line, pgbouncer::PgBouncer, postgres::TestDatabase, transaction,
    wait_until, world::set,
};

const BOUND: Duration = Duration::from_secs(60);
/// Sessions of the pooler: fewer than each process has connections.
const SESSIONS: u32 = 4;

async fn world(database: &TestDatabase) -> World {
    let profile = Profile::faultless();
    let config = SandboxConfig { profile, ..SandboxConfig::default() };
    World::on_database(database.url(), config).await
}

/// Posts until it is accepted.
async fn accept(client: &Client) -> Uuid {
    let id = Uuid::now_v7();
    wait_until("the post is accepted", BOUND, async || {
        let answer = client.post_transaction(&transaction(id)).await;
        assert!(matches!(answer.status, 200 | 202 | 503), "{}", answer.text);
        answer.status != 503
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_go_through_a_pooler_that_restarts_meanwhile() {
    let database = TestDatabase::create().await;
    let world = world(&database).await;
    let mut bouncer = PgBouncer::start(database.url(), SESSIONS).await;
    assert!(!bouncer.takes_settings_at_the_start().await, "it refuses what Quartet must not send");
    let pooled = |role| {
        let process = world.process(role).set("DATABASE_URL", bouncer.url());
        // The worker hears of nothing: it looks by itself.
        process.set("QUARTET_DATABASE__POOLER", "transaction")
    };
    let api = pooled(Role::Api).spawn().await;
    let worker = pooled(Role::Worker).set("QUARTET_HTTP__PUBLIC_URL", api.url()).spawn().await;
    let mut accepted = Vec::new();
    for round in 0..3 {
        let clients: Vec<_> = (0..8).map(|_| api.client()).collect();
        for _ in 0..4 {
            accepted.extend(join_all(clients.iter().map(accept)).await);
        }
        if round < 2 {
            bouncer.restart().await;
        }
    }
    for id in &accepted {
        wait_until("the client hears the end", BOUND, async || {
            let transaction = api.client().get_transaction(*id).await.body;
            transaction["status"] == "completed" && transaction["notified_version"] == 2
        })
        .await;
    }
    world.wait_at_rest(BOUND).await;
    world.assert_invariants(&accepted).await;
    // What operators do and look at.
    let operator = api.operator();
    for path in ["/v1/operator/queues", "/v1/operator/jobs", "/v1/operator/dead-letters"] {
        operator.get(path).await.expect(200);
    }
    operator.get(&format!("/v1/operator/transactions/{}/explain", accepted[0])).await.expect(200);
    let queue = "/v1/operator/queues/notify_client";
    operator.post(&format!("{queue}/pause"), &serde_json::json!({})).await.expect(200);
    operator.post(&format!("{queue}/resume"), &serde_json::json!({})).await.expect(200);
    let errors = [api.output(), worker.output()].concat();
    assert!(!errors.contains("prepared statement"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_hold_in_each_transaction_and_in_no_other_ones() {
    let database = TestDatabase::create().await;
    let bouncer = PgBouncer::start(database.url(), 1).await;
    let target = Target::new(bouncer.url(), true).unwrap();
    let connect = || store::connect(&target, 3, BOUND, &Default::default());
    let shown = "SELECT current_setting('statement_timeout')";
    let (first, second) = (connect(), connect());
    for database in [&first, &second, &first] {
        let shown: String = sqlx::query_scalar(shown).fetch_one(database).await.unwrap();
        assert_eq!(shown, "5s");
        // The same statement with another meaning, by others in the same session.
        for number in 0..3_i64 {
            let answer: i64 =
                sqlx::query_scalar("SELECT $1 + 1").bind(number).fetch_one(database).await.unwrap();
            assert_eq!(answer, number + 1);
        }
    }
    // What came to grief leaves nothing behind.
    sqlx::query("SELECT 1 / $1").bind(0_i64).execute(&first).await.unwrap_err();
    let (own, rest) = tokio::join!(
        join_all((0..20_i64).map(|number| {
            sqlx::query_scalar::<_, i64>("SELECT $1 * 2").bind(number).fetch_one(&first)
        })),
        join_all((0..20_i64).map(|number| {
            sqlx::query_scalar::<_, i64>("SELECT $1 * 3").bind(number).fetch_one(&second)
        })),
    );
    for (number, (own, rest)) in (0..).zip(own.into_iter().zip(rest)) {
        assert_eq!((own.unwrap(), rest.unwrap()), (number * 2, number * 3));
    }
    // Another user of the pooler is not concerned.
    let other: PgConnectOptions = bouncer.url().parse().unwrap();
    let mut other = PgConnection::connect_with(&other.extra_float_digits(None)).await.unwrap();
    let row = other.fetch_one("SHOW statement_timeout").await.unwrap();
    assert_eq!(row.get::<String, _>(0), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_way_around_the_pooler_hears_at_once() {
    let database = TestDatabase::create().await;
    let world = world(&database).await;
    let bouncer = PgBouncer::start(database.url(), SESSIONS).await;
    let pooled = |role| {
        let process = world.process(role).set("DATABASE_URL", bouncer.url());
        process.set("QUARTET_DATABASE__POOLER", "transaction")
    };
    let api = pooled(Role::Api).spawn().await;
    let _worker = pooled(Role::Worker)
        .set("QUARTET_HTTP__PUBLIC_URL", api.url())
        .set("QUARTET_DATABASE__DIRECT_URL", database.url())
        // It would not look by itself before the bound.
        .set("QUARTET_WORKER__POLL_INTERVAL", "10m")
        .spawn()
        .await;
    let id = api.client().accept().await;
    wait_until("the client hears the end", BOUND, async || {
        api.client().get_transaction(id).await.body["notified_version"] == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_go_around_the_pooler_or_say_that_they_must() {
    let database = TestDatabase::create().await;
    let bouncer = PgBouncer::start(database.url(), 1).await;
    let mut settings = Vec::new();
    set(&mut settings, "DATABASE_URL", bouncer.url());
    set(&mut settings, "QUARTET_DATABASE__POOLER", "transaction");
    let refused = command::run(&["migrate"], &settings, "").await;
    let said = refused.expect_failure();
    assert!(said.contains("QUARTET_DATABASE__DIRECT_URL"), "{said}");
    set(&mut settings, "QUARTET_DATABASE__DIRECT_URL", database.url());
    command::run(&["migrate"], &settings, "").await.expect();
    let queues = command::run(&["queues", "list", "--json"], &settings, "").await;
    queues.expect_json();
}

/// How often a worker asks in a second while nothing happens.
async fn questions_in_a_second(line: &Line) -> f64 {
    const WATCHED: Duration = Duration::from_secs(2);
    let (began, before) = (Instant::now(), line.questions());
    wait_until("it was watched", BOUND, async || began.elapsed() >= WATCHED).await;
    (line.questions() - before) as f64 / began.elapsed().as_secs_f64()
}

/// A pooler of which the configuration says nothing: what is announced is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_finds_out_that_it_hears_nothing_and_looks_more_often() {
    let database = TestDatabase::create().await;
    let world = world(&database).await;
    let line = Line::to(database.url()).await;
    line.lose_announcements(true);
    let api = world.process(Role::Api).spawn().await;
    let _worker = world
        .process(Role::Worker)
        .set("DATABASE_URL", line.url())
        .set("QUARTET_HTTP__PUBLIC_URL", api.url())
        .set("QUARTET_WORKER__POLL_INTERVAL", "20ms")
        // A heartbeat asks about a dozen questions.
        .set("QUARTET_WORKER__HEARTBEAT", "3s")
        .set("QUARTET_WORKER__DEAD_AFTER", "15s")
        .spawn()
        .await;
    let id = api.client().accept().await;
    wait_until("the client hears the end", BOUND, async || {
        api.client().get_transaction(id).await.body["notified_version"] == 2
    })
    .await;
    world.wait_at_rest(BOUND).await;
    let deaf = questions_in_a_second(&line).await;
    assert!(deaf > 20.0, "it looks too seldom for one that hears nothing: {deaf:.1} a second");

    line.lose_announcements(false);
    wait_until("it hears and looks seldom", BOUND, async || {
        questions_in_a_second(&line).await < 15.0
    })
    .await;
    line.lose_announcements(true);
    wait_until("it looks often again", BOUND, async || questions_in_a_second(&line).await > 20.0)
        .await;
}
