//! Requests that are written together: what happens to one of them happens to it alone.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quartet::{
    config::Role,
    sandbox::{Profile, SandboxConfig, SendWebhook},
};
use serde_json::json;
use sqlx::Connection;
use uuid::Uuid;

use crate::support::{World, jobs::BOUND, spawn_api, transaction, wait_until};

/// Longer than a writer leaves a locked transaction to its next batch, and shorter than any
/// timeout.
const HELD: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_transaction_holds_no_other_webhook_up() {
    let app = spawn_api().await;
    let (locked, free) = (app.client().accept().await, app.client().accept().await);
    let mut session = sqlx::PgConnection::connect(app.database_url()).await.unwrap();
    let mut held = session.begin().await.unwrap();
    let lock = "SELECT FROM transactions WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(locked).execute(&mut *held).await.unwrap();

    let waiting = async {
        let answer = app.send_webhook(SendWebhook::new(locked, "completed")).await;
        (answer, Instant::now())
    };
    let others = async {
        let began = Instant::now();
        let answers =
            (0..10).map(async |_| app.send_webhook(SendWebhook::new(free, "completed")).await.0);
        assert_eq!(join_all(answers).await, [200; 10]);
        assert!(began.elapsed() < HELD, "they waited: {:?}", began.elapsed());
        wait_until("the lock was held for a while", BOUND, async || began.elapsed() >= HELD).await;
        let released = Instant::now();
        held.rollback().await.unwrap();
        released
    };
    let (((status, answer), answered), released) = tokio::join!(waiting, others);
    assert!(answered >= released, "answered although its transaction was locked");
    assert_eq!((status, &answer["outcome"]), (200, &json!("settled")));
}

/// A job row without its transaction, as a restore of one table alone would leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_the_database_refuses_spoils_no_other() {
    let app = spawn_api().await;
    let refused = Uuid::now_v7();
    let orphan = "INSERT INTO apalis.jobs (id, job_type, job, idempotency_key)
        VALUES ('01ARZ3NDEKTSV4RRFFQ69G5FAV', 'update_status', '{}', $1)";
    sqlx::query(orphan).bind(refused.to_string()).execute(&app.pool).await.unwrap();

    let mut ids: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
    ids.insert(20, refused);
    let client = app.client();
    let posts = ids.iter().map(async |id| client.post_transaction(&transaction(*id)).await.status);
    for (id, status) in ids.iter().zip(join_all(posts).await) {
        assert_eq!(status, if *id == refused { 500 } else { 202 }, "{id}");
    }
    let stored = "SELECT count(*) FROM transactions";
    let stored: i64 = sqlx::query_scalar(stored).fetch_one(&app.pool).await.unwrap();
    assert_eq!(stored, 40, "the refused one left nothing");
}

/// As where `temp_file_limit` is too small for a batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_that_are_too_many_for_the_server_are_written_one_by_one() {
    let app = spawn_api().await;
    let limit = "
        CREATE FUNCTION too_many() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT count(*) FROM inserted) > 1 THEN
                RAISE 'too many at once' USING ERRCODE = '53400';
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER too_many AFTER INSERT ON transactions
            REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION too_many();";
    sqlx::raw_sql(limit).execute(&app.pool).await.unwrap();
    let client = app.client();
    let posts = (0..40).map(async |_| {
        let post = transaction(Uuid::now_v7());
        client.post_transaction(&post).await.status
    });
    assert_eq!(join_all(posts).await, [202; 40]);
}

/// Of posts with one id that may be in one batch, one is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_posts_with_one_id_in_a_batch_one_is_accepted() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let client = app.client();
    let posts = (0..30).map(async |nth| {
        let mut post = transaction(id);
        if nth % 3 == 0 {
            post["amount"] = json!(9_999);
        }
        client.post_transaction(&post).await.status
    });
    let statuses = join_all(posts).await;
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    let counts = (count(202), count(200), count(409));
    // Ten of them differ from the others: whichever was first, those like it are replays.
    assert!(counts == (1, 19, 10) || counts == (1, 9, 20), "{statuses:?}");
}

/// Two processes: what one commits, the other hears of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_hears_of_what_another_process_accepts() {
    let sandbox = SandboxConfig { profile: Profile::faultless(), ..SandboxConfig::default() };
    let world = World::with_sandbox(sandbox).await;
    let app = world.app().role(Role::Api).spawn().await;
    // So seldom that it would be noticed: once nothing is heard.
    let worker = app.sibling().role(Role::Worker).set("QUARTET_WORKER__POLL_INTERVAL", "60s");
    let _worker = worker.spawn().await;
    let warm = app.client().accept().await;
    app.wait_told(warm, BOUND).await;
    for _ in 0..5 {
        let id = app.client().accept().await;
        app.wait_told(id, BOUND).await;
    }
}
