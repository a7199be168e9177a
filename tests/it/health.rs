//! Health checks, and what is answered while the database is away.

use std::time::{Duration, Instant};

use quartet::{
    app::{App, AppError},
    config::{Config, Role},
    sandbox::{Profile, SandboxConfig, SendWebhook},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    TestApp, World, postgres::own_server, spawn_api, transaction, wait_until, world::set,
};

/// DESIGN: 503 within two seconds when the database is away; and some more for a busy machine.
const ANSWER: Duration = Duration::from_secs(3);
const BACK: Duration = Duration::from_secs(20);

fn faultless() -> SandboxConfig {
    SandboxConfig { profile: Profile::faultless(), ..SandboxConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_live_and_check_ready_answer_without_a_key() {
    let app = spawn_api().await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(app.anonymous().get(path).await.expect(200), &json!({ "status": "ok" }));
    }
}

async fn assert_away(app: &TestApp) {
    let start = Instant::now();
    app.anonymous().get("/health/live").await.expect(200);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    let (id, client, operator) = (Uuid::now_v7(), app.client(), app.operator());
    let answers = [
        timed(app.anonymous().get("/health/ready")).await,
        timed(client.post_transaction(&transaction(id))).await,
        timed(client.get_transaction(id)).await,
        timed(client.list_transactions("")).await,
        timed(operator.list_dead_letters("")).await,
    ];
    for (answer, took) in answers {
        answer.expect_problem(503);
        answer.expect_retry_after();
        assert!(took < ANSWER, "{took:?}");
    }
    let start = Instant::now();
    let (status, body) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!(status, 503, "{body}");
    assert!(start.elapsed() < ANSWER, "{:?}", start.elapsed());
}

async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (call.await, start.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_is_503_and_comes_back() {
    let mut server = own_server().await;
    let world = World::on_database(&server.url("postgres"), faultless()).await;
    let mut app = world.app().spawn().await;
    let before = app.client().accept().await;
    server.crash().await.unwrap();
    assert_away(&app).await;
    server.resume().await.unwrap();
    wait_until("the app is ready again", BACK, async || {
        app.anonymous().get("/health/ready").await.status == 200
    })
    .await;
    // What was answered before the crash is there, and runs to its end.
    let after = app.client().accept().await;
    for id in [before, after] {
        app.wait_told(id, BACK).await;
    }
    app.wait_at_rest(BACK).await;
    app.assert_invariants(&[before, after]).await;
    app.stop().await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_at_the_start_delays_readiness_only() {
    let mut server = own_server().await;
    server.crash().await.unwrap();
    let world = World::on_database(&server.url("postgres"), faultless()).await;
    let mut app = world.app().without_waiting().spawn().await;
    assert_away(&app).await;
    server.resume().await.unwrap();
    app.wait_ready().await;
    let id = app.client().accept().await;
    app.wait_told(id, BACK).await;
    app.stop().await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_waits_for_its_database_can_be_stopped() {
    let mut server = own_server().await;
    server.crash().await.unwrap();
    let world = World::on_database(&server.url("postgres"), faultless()).await;
    let mut app = world.app().without_waiting().spawn().await;
    app.anonymous().get("/health/live").await.expect(200);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_does_not_run_on_a_schema_that_is_not_up_to_date() {
    let world = World::new().await;
    for breakage in [
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
        "DROP TABLE _sqlx_migrations",
    ] {
        let mut connection = PgConnection::connect(world.database_url()).await.unwrap();
        sqlx::query(AssertSqlSafe(breakage)).execute(&mut connection).await.unwrap();
        let mut settings = world.settings();
        set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
        let app = App::build(Config::load(settings, None).unwrap(), Role::All).await.unwrap();
        let ended = tokio::time::timeout(BACK, app.run(CancellationToken::new())).await.unwrap();
        assert!(matches!(ended, Err(AppError::NotMigrated)), "{breakage}: {ended:?}");
    }
}
