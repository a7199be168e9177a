//! Jobs that are leased by the statement that writes them or makes them due: when they are, when
//! they wait for a claim instead, and what crashes, freezes and lost commits leave.

use std::time::{Duration, Instant};

use chrono::Utc;
use nix::sys::signal::Signal;
use quartet::{
    config::Role,
    sandbox::{CallKind, CreateStep, Reaction, SendWebhook, Status},
};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    hung::{hang_first_claim_of_a_create, hang_first_lease, wait_hung},
    job_rows::{event_times, wait_job, workers},
    jobs::{BOUND, patient},
    line::Line,
    process::Process,
    spawn_api, transaction, wait_until,
};

const CREATE: &str = "create_at_third_party";
const NOTIFY: &str = "notify_client";
const SLOW: Duration = Duration::from_millis(1_500);

/// An app whose workers have nothing to do.
async fn idle(app: crate::support::app::AppBuilder) -> TestApp {
    let app = app.spawn().await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    app
}

async fn idle_app() -> TestApp {
    idle(patient(World::new().await.app())).await
}

/// How a job stands: its status, its worker, whether the transaction's row was last written by the
/// same SQL transaction, and whether its lease is as old as the last change of the status.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Written {
    status: String,
    worker: Option<String>,
    together: bool,
    since: Option<bool>,
}

async fn written(app: &World, queue: &str, id: Uuid) -> Written {
    let query = "SELECT j.status, lock_by AS worker, j.xmin = t.xmin AS together,
            lock_at = t.updated_at AS since
        FROM apalis.jobs j JOIN transactions t ON t.id::text = idempotency_key
        WHERE t.id = $1 AND job_type = $2";
    sqlx::query_as(query).bind(id).bind(queue).fetch_one(&app.pool).await.unwrap()
}

async fn assert_leased(app: &World, queue: &str, id: Uuid) {
    let written = written(app, queue, id).await;
    assert_eq!((&*written.status, written.together, written.since), ("Running", true, Some(true)));
    let alive = workers(&app.pool, queue, "").await;
    assert!(alive.contains(written.worker.as_ref().unwrap()), "{written:?} {alive:?}");
}

async fn assert_waits(app: &World, queue: &str, id: Uuid) {
    let written = written(app, queue, id).await;
    assert_eq!((&*written.status, written.worker), ("Pending", None), "{queue}");
}

fn slow_create(status: Status) -> CreateStep {
    CreateStep::created_final(status).delay(SLOW)
}

async fn pause(app: &TestApp, queue: &str, action: &str) {
    let path = format!("/v1/operator/queues/{queue}/{action}");
    app.operator().post(&path, &json!({})).await.expect(200);
}

async fn end(app: &TestApp, ids: &[Uuid]) {
    for id in ids {
        app.wait_told(*id, BOUND).await;
    }
    app.rest(ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accept_leases_the_create_and_the_settlement_leases_the_notification() {
    let app = patient(World::new().await.app());
    // Nobody else writes to the transaction meanwhile.
    let app = app.set("QUARTET_NOTIFY__FIRST", "1h").set("QUARTET_POLL__FIRST", "5m");
    let app = idle(app).await;
    let id = Uuid::now_v7();
    let (third_party, client) = (app.sandbox.third_party(), app.sandbox.client());
    third_party.script_creates_for(id, vec![slow_create(Status::Completed)]);
    client.script_for(id, vec![Reaction::status_code(204).delay(SLOW)]);
    app.accept_as(id).await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;
    assert_leased(&app, CREATE, id).await;

    wait_until("the client is being notified", BOUND, async || {
        client.deliveries_of(id).iter().any(|delivery| delivery.version == 2)
    })
    .await;
    assert_leased(&app, NOTIFY, id).await;
    assert_eq!(wait_job(&app.pool, id, CREATE, "Done", BOUND).await.attempts, 1);
    end(&app, &[id]).await;
    assert_eq!(wait_job(&app.pool, id, NOTIFY, "Done", BOUND).await.attempts, 1);
    assert_eq!(third_party.creates_of(id), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_settles_leases_the_notification_to_its_own_process() {
    let app = idle_app().await;
    app.sandbox.third_party().set_create_default(CreateStep::created());
    let id = app.client().accept().await;
    app.wait_notified(id, 1).await;
    app.wait_job(NOTIFY, id, "Done").await;
    app.sandbox.client().script_for(id, vec![Reaction::status_code(204).delay(SLOW)]);
    let (status, answer) = app.send_webhook(SendWebhook::new(id, "completed")).await;
    assert_eq!((status, &answer["outcome"]), (200, &json!("settled")));
    assert_leased(&app, NOTIFY, id).await;
    end(&app, &[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_free_slot_it_waits_for_a_claim() {
    let app = patient(World::new().await.app())
        .set("QUARTET_WORKER__CONCURRENCY", 1)
        .set("QUARTET_NOTIFY__FIRST", "1h")
        .set("QUARTET_POLL__FIRST", "5m");
    let app = idle(app).await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let third_party = app.sandbox.third_party();
    third_party.script_creates_for(first, vec![slow_create(Status::Completed)]);
    app.accept_as(first).await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(first) == 1).await;
    assert_leased(&app, CREATE, first).await;
    app.accept_as(second).await;
    assert_waits(&app, CREATE, second).await;
    end(&app, &[first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_queue_is_paused_it_waits() {
    let app = idle_app().await;
    pause(&app, CREATE, "pause").await;
    let id = app.client().accept().await;
    assert_waits(&app, CREATE, id).await;
    pause(&app, CREATE, "resume").await;
    app.wait_job(CREATE, id, "Done").await;
    end(&app, &[id]).await;

    app.sandbox.third_party().set_create_default(CreateStep::created());
    let id = app.client().accept().await;
    app.wait_notified(id, 1).await;
    app.wait_job(NOTIFY, id, "Done").await;
    pause(&app, NOTIFY, "pause").await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    assert_waits(&app, NOTIFY, id).await;
    pause(&app, NOTIFY, "resume").await;
    end(&app, &[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_worker_is_gone_it_waits_for_the_next_one() {
    // It does not learn of it by a heartbeat.
    let app = patient(World::new().await.app())
        .set("QUARTET_WORKER__HEARTBEAT", "1h")
        .set("QUARTET_WORKER__DEAD_AFTER", "3h");
    let app = idle(app).await;
    let before = workers(&app.pool, CREATE, "").await;
    let gone = "DELETE FROM apalis.workers WHERE worker_type IN ($1, $2)";
    sqlx::query(gone).bind(CREATE).bind(NOTIFY).execute(&app.pool).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        // Never refused because of that.
        ids.push(app.client().accept().await);
    }
    end(&app, &ids).await;
    assert_ne!(workers(&app.pool, CREATE, "").await, before);
    for id in ids {
        assert_eq!(wait_job(&app.pool, id, CREATE, "Done", BOUND).await.attempts, 1);
        assert!(event_times(&app.pool, id, "create_ambiguous").await.is_empty());
    }
}

/// A worker that is marked dead takes nothing, while its process still believes that it lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_leased_to_a_worker_that_was_taken_for_dead() {
    let app = patient(World::new().await.app())
        .set("QUARTET_WORKER__HEARTBEAT", "2s")
        .set("QUARTET_WORKER__DEAD_AFTER", "1h");
    let app = idle(app).await;
    let dead = "UPDATE apalis.workers SET dead_at = now() WHERE worker_type = $1 RETURNING id";
    let dead: Vec<String> =
        sqlx::query_scalar(dead).bind(CREATE).fetch_all(&app.pool).await.unwrap();
    let id = app.client().accept().await;
    let row = written(&app, CREATE, id).await;
    assert!(row.worker.is_none_or(|worker| !dead.contains(&worker)));
    end(&app, &[id]).await;
    assert!(event_times(&app.pool, id, "create_ambiguous").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_leased_at_once_begins_while_a_claim_is_under_way() {
    let app = patient(World::new().await.app());
    let app = app.set("QUARTET_NOTIFY__FIRST", "1h").set("QUARTET_POLL__FIRST", "5m");
    let app = idle(app).await;
    hang_first_claim_of_a_create(&app.pool).await;
    // It waits for a claim: its own process has no workers.
    let api = app.sibling().role(Role::Api).spawn().await;
    let claimed = api.client().accept().await;
    wait_hung(&app.pool).await;
    let leased = Uuid::now_v7();
    let third_party = app.sandbox.third_party();
    app.accept_as(leased).await;
    wait_until("the create arrives", BOUND, async || third_party.creates_of(leased) == 1).await;
    assert_eq!(third_party.creates_of(claimed), 0, "its claim is still under way");
    end(&app, &[claimed, leased]).await;
}

async fn wait_committed(world: &World, id: Uuid) {
    wait_until("it is committed", BOUND, async || {
        let query = "SELECT count(*) FROM transactions WHERE id = $1";
        sqlx::query_scalar::<_, i64>(query).bind(id).fetch_one(&world.pool).await.unwrap() > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_commit_was_not_answered_is_given_back() {
    let world = World::new().await;
    let line = Line::to(world.database_url()).await;
    let app = patient(world.app())
        .set("DATABASE_URL", line.url())
        .set("QUARTET_WORKER__HEARTBEAT", "500ms")
        // Nobody is taken for dead here, and nobody else writes to the transaction.
        .set("QUARTET_WORKER__DEAD_AFTER", "1h")
        .set("QUARTET_NOTIFY__FIRST", "1h")
        .set("QUARTET_POLL__FIRST", "5m");
    let app = idle(app).await;
    hang_first_lease(&app.pool, "INSERT").await;
    let id = Uuid::now_v7();
    let (client, body) = (app.client(), transaction(id));
    let post = async { client.post_transaction(&body).await.status };
    let cut = async {
        wait_hung(&app.pool).await;
        line.cut();
        line.open();
    };
    let (status, ()) = tokio::join!(post, cut);
    assert!([200, 202, 503].contains(&status), "{status}");
    wait_committed(&app, id).await;
    // It is the database's alone: known to nobody, until it is given back.
    let done = wait_job(&app.pool, id, CREATE, "Done", BOUND).await;
    assert_eq!(done.attempts, 1, "giving it back costs no attempt");
    assert!(event_times(&app.pool, id, "create_ambiguous").await.is_empty(), "and no time");
    assert_eq!(app.sandbox.third_party().creates_of(id), 1);
    end(&app, &[id]).await;

    // And what is accepted afterwards is leased at once again.
    let id = Uuid::now_v7();
    let third_party = app.sandbox.third_party();
    third_party.script_creates_for(id, vec![slow_create(Status::Completed)]);
    app.accept_as(id).await;
    wait_until("the create is under way", BOUND, async || third_party.creates_of(id) == 1).await;
    assert_leased(&app, CREATE, id).await;
    end(&app, &[id]).await;
}

/// A process whose workers have nothing to do.
async fn idle_process(api: &TestApp) -> Process {
    let process = api.patient_process(Role::All).spawn().await;
    let id = process.client().accept().await;
    end(api, &[id]).await;
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_each_leases_to_its_own_worker() {
    let api = spawn_api().await;
    let processes = [idle_process(&api).await, idle_process(&api).await];
    let third_party = api.sandbox.third_party();
    let mut ids = Vec::new();
    for process in &processes {
        for _ in 0..5 {
            let id = Uuid::now_v7();
            third_party.script_creates_for(id, vec![slow_create(Status::Completed)]);
            process.client().post_transaction(&transaction(id)).await.expect(202);
            let row = written(&api, CREATE, id).await;
            let worker = row.worker.unwrap();
            assert!(worker.contains(&format!("-{}-", process.id())), "{worker}");
            ids.push(id);
        }
    }
    end(&api, &ids).await;
    assert!(ids.iter().all(|id| third_party.creates_of(*id) == 1));
}

/// Posts to `victim`, whose commit hangs then, and does something to it meanwhile.
async fn strike(api: &TestApp, victim: &mut Process, id: Uuid, strike: impl FnOnce(&mut Process)) {
    hang_first_lease(&api.pool, "INSERT").await;
    let client = victim.client();
    tokio::spawn(async move {
        let json = [("content-type", "application/json")];
        let body = transaction(id).to_string();
        let _ = client.try_send(reqwest::Method::POST, "/v1/transactions", &json, body).await;
    });
    wait_hung(&api.pool).await;
    strike(victim);
    wait_committed(api, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_right_after_the_commit_leaves_a_lease_that_is_rescued() {
    let api = spawn_api().await;
    let mut victim = idle_process(&api).await;
    let mut other = idle_process(&api).await;
    let id = Uuid::now_v7();
    strike(&api, &mut victim, id, Process::kill_9).await;
    let committed = Instant::now();
    let done = wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    println!("done {:?} after the commit", committed.elapsed());
    assert_eq!(done.attempts, 2, "the lost lease and the run");
    let rescued = event_times(&api.pool, id, "create_ambiguous").await;
    assert_eq!(rescued.len(), 1);
    // Nobody knows that it was never sent: it waits for the backoff and is looked up.
    let calls = api.sandbox.third_party().calls_of(id);
    let first = calls.first().unwrap();
    assert_eq!(first.kind, CallKind::Lookup);
    end(&api, &[id]).await;
    assert_eq!(api.sandbox.third_party().creates_of(id), 1);
    assert!(other.terminate(BOUND).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_frozen_right_after_the_commit_sends_nothing_when_it_thaws() {
    let api = spawn_api().await;
    let mut frozen = idle_process(&api).await;
    let other = idle_process(&api).await;
    let id = Uuid::now_v7();
    let began = Utc::now();
    strike(&api, &mut frozen, id, |process| process.signal(Signal::SIGSTOP)).await;
    let done = wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    assert!(done.attempts == 2 && event_times(&api.pool, id, "create_ambiguous").await[0] > began);
    frozen.signal(Signal::SIGCONT);
    end(&api, &[id]).await;
    // It works on under new names, and alone.
    drop(other);
    let next = frozen.client().accept().await;
    end(&api, &[next]).await;
    for id in [id, next] {
        assert_eq!(api.sandbox.third_party().creates_of(id), 1);
        assert_eq!(event_times(&api.pool, id, "created_at_third_party").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_gives_back_what_it_will_not_begin_before_its_runs_have_ended() {
    let api = spawn_api().await;
    let stopping =
        api.patient_process(Role::All).set("QUARTET_WORKER__SHUTDOWN_GRACE", "30s").spawn().await;
    let first = stopping.client().accept().await;
    end(&api, &[first]).await;
    hang_first_claim_of_a_create(&api.pool).await;
    let (running, claimed) = (Uuid::now_v7(), Uuid::now_v7());
    let third_party = api.sandbox.third_party();
    let slow = CreateStep::created_final(Status::Completed).delay(Duration::from_secs(8));
    third_party.script_creates_for(running, vec![slow]);
    stopping.client().post_transaction(&transaction(running)).await.expect(202);
    wait_until("a create is under way", BOUND, async || third_party.creates_of(running) == 1).await;
    api.accept_as(claimed).await;
    wait_hung(&api.pool).await;
    stopping.signal(Signal::SIGTERM);
    wait_until("what was claimed is given back", BOUND, async || {
        let row = written(&api, CREATE, claimed).await;
        // Written since it was accepted.
        row.status == "Pending" && !row.together
    })
    .await;
    assert_eq!(written(&api, CREATE, running).await.status, "Running");
    assert_eq!(wait_job(&api.pool, running, CREATE, "Done", BOUND).await.attempts, 1);
    let _worker = api.sibling().role(Role::Worker).spawn().await;
    end(&api, &[running, claimed]).await;
    assert_eq!(wait_job(&api.pool, claimed, CREATE, "Done", BOUND).await.attempts, 1);
    assert!(event_times(&api.pool, claimed, "create_ambiguous").await.is_empty());
    assert_eq!((third_party.creates_of(running), third_party.creates_of(claimed)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_leaves_nothing_leased() {
    let api = spawn_api().await;
    let mut stopping = idle_process(&api).await;
    let client = stopping.client();
    let posts = tokio::spawn(async move {
        let mut accepted = Vec::new();
        loop {
            let id = Uuid::now_v7();
            let json = [("content-type", "application/json")];
            let body = transaction(id).to_string();
            let sent =
                client.try_send(reqwest::Method::POST, "/v1/transactions", &json, body).await;
            match sent {
                Ok(answer) if answer.status == 202 => accepted.push(id),
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                Err(_) => return accepted,
            }
        }
    });
    let accepted = "SELECT count(*) FROM transactions";
    wait_until("some are accepted", BOUND, async || {
        sqlx::query_scalar::<_, i64>(accepted).fetch_one(&api.pool).await.unwrap() > 20
    })
    .await;
    assert!(stopping.terminate(BOUND).await.success(), "{}", stopping.output());
    let ids = posts.await.unwrap();
    let leased = "SELECT count(*) FROM apalis.jobs WHERE lock_by IS NOT NULL";
    let leased: i64 = sqlx::query_scalar(leased).fetch_one(&api.pool).await.unwrap();
    assert_eq!(leased, 0, "given back, not left to be rescued");
    let _worker = api.sibling().role(Role::Worker).spawn().await;
    end(&api, &ids).await;
}
