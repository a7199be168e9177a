//! More than can be written: what is let in is done, what is not is told so at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use quartet::{
    config::Role,
    sandbox::{Profile, SandboxConfig, SendWebhook},
};
use sqlx::Connection;
use uuid::Uuid;

use super::refused;
use crate::support::{World, postgres::own_server, transaction, wait_until, world};

const BOUND: Duration = Duration::from_secs(20);
const PLACES: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_posts_than_there_are_places_for_are_503_at_once() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_HTTP__MAX_IN_FLIGHT", PLACES).spawn().await;
    let known = app.client().accept().await;
    let mut session = sqlx::PgConnection::connect(app.database_url()).await.unwrap();
    let mut held = session.begin().await.unwrap();
    // Holds up whoever writes, and nobody who reads.
    sqlx::query("LOCK TABLE transactions IN SHARE MODE").execute(&mut *held).await.unwrap();

    let client = app.client();
    let ids: Vec<Uuid> = (0..6).map(|_| Uuid::now_v7()).collect();
    let mut posts: FuturesUnordered<_> = ids
        .iter()
        .map(|id| {
            let client = &client;
            async move { (*id, client.post_transaction(&transaction(*id)).await) }
        })
        .collect();
    let mut turned_away = Vec::new();
    while turned_away.len() < ids.len() - PLACES {
        let (id, answer) = posts.next().await.unwrap();
        answer.expect_problem(503);
        assert!(answer.text.contains("too much to do"), "{}", answer.text);
        answer.expect_retry_after();
        turned_away.push(id);
    }
    // The others' places are their own.
    client.get_transaction(known).await.expect(200);
    app.operator().list_dead_letters("").await.expect(200);
    app.anonymous().get("/health/ready").await.expect(200);
    assert_eq!(refused(&app, "in_flight").await, (ids.len() - PLACES) as f64);
    held.rollback().await.unwrap();
    while let Some((_, answer)) = posts.next().await {
        answer.expect(202);
    }
    // What was refused was not written; sent again, it is new.
    for id in turned_away {
        client.get_transaction(id).await.expect_problem(404);
        client.post_transaction(&transaction(id)).await.expect(202);
    }
}

/// Those whose bodies come slowly would hold them as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_all_places_it_can_leaves_some_for_the_others() {
    const PLACES: usize = 64;

    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_HTTP__MAX_IN_FLIGHT", PLACES).spawn().await;
    let (busy, id) = (app.client(), app.client().accept().await);
    let other = app.client().with_key(&world::add_client(&app.pool, "other").await);
    other.accept().await;
    let mut session = sqlx::PgConnection::connect(app.database_url()).await.unwrap();
    let mut held = session.begin().await.unwrap();
    sqlx::query("LOCK TABLE transactions IN SHARE MODE").execute(&mut *held).await.unwrap();
    let bodies: Vec<_> = (0..PLACES).map(|_| transaction(Uuid::now_v7())).collect();
    let mut posts: FuturesUnordered<_> =
        bodies.iter().map(|body| busy.post_transaction(body)).collect();
    for _ in 0..PLACES / 4 {
        posts.next().await.unwrap().expect_problem(503);
    }
    assert_eq!(refused(&app, "in_flight").await, (PLACES / 4) as f64);
    // Let in, and held up like the rest.
    let body = transaction(Uuid::now_v7());
    let release = async {
        busy.get_transaction(id).await.expect(200);
        held.rollback().await.unwrap();
    };
    let (others, (), let_in) =
        tokio::join!(other.post_transaction(&body), release, posts.collect::<Vec<_>>());
    assert_eq!(let_in.len(), PLACES - PLACES / 4);
    for answer in let_in.iter().chain([&others]) {
        // A busy machine may hold them up for too long.
        assert!(matches!(answer.status, 202 | 503), "{}", answer.text);
    }
    assert_eq!(refused(&app, "in_flight").await, (PLACES / 4) as f64, "nobody else");
}

/// Many callers, each of which posts the next one as soon as it is answered. However slowly this
/// process sends them, the database is slower: more wait at any time than the next batches take, so
/// that even the shortest wait is longer than one may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_that_come_faster_than_they_are_written_are_refused() {
    // More than two batches take; each waits for less than a request may take.
    const CALLERS: usize = 400;

    let app = World::new().await.app().role(Role::Api);
    let app = app.set("QUARTET_HTTP__MAX_QUEUE_DELAY", "1ms").spawn().await;
    world::slow_accepts(&app.pool, Duration::from_millis(300)).await;
    let is_over = AtomicBool::new(false);
    let call = async || {
        let (client, mut turned_away) = (app.client(), Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            let id = Uuid::now_v7();
            let answer = client.post_transaction(&transaction(id)).await;
            if answer.status == 202 {
                continue;
            }
            answer.expect_problem(503);
            assert!(answer.text.contains("too much to do"), "{}", answer.text);
            let retry_after: u16 = answer.header("retry-after").parse().unwrap();
            assert!((1..=90).contains(&retry_after), "{retry_after}");
            turned_away.push(id);
            is_over.store(true, Ordering::Relaxed);
        }
        turned_away
    };
    let calls = futures_util::future::join_all((0..CALLERS).map(|_| call()));
    let calls = tokio::time::timeout(BOUND, calls).await.expect("one is refused");
    sqlx::query("DROP TRIGGER slow ON transactions").execute(&app.pool).await.unwrap();
    let client = app.client();
    for id in calls.into_iter().flatten() {
        client.get_transaction(id).await.expect_problem(404);
        client.post_transaction(&transaction(id)).await.expect(202);
    }
    assert!(refused(&app, "queue").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_wait_take_no_place_of_the_others() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_HTTP__MAX_IN_FLIGHT", 1).spawn().await;
    let client = app.client();
    let id = client.accept().await;
    let wait = async |seconds: u32| {
        client.get(&format!("/v1/transactions/{id}?wait_seconds={seconds}")).await
    };
    let waiting = async {
        // The place may be taken by one of the others.
        loop {
            let answer = wait(30).await;
            if answer.status != 503 {
                return answer;
            }
        }
    };
    let others = async {
        wait_until("another one that waits is refused", BOUND, async || {
            // It is let in, and waits, as long as the first one was not.
            let began = Instant::now();
            wait(1).await.status == 503 && began.elapsed() < Duration::from_secs(1)
        })
        .await;
        client.get_transaction(id).await.expect(200);
        client.accept().await;
        // A webhook ends the wait.
        app.send_webhook(SendWebhook::new(id, "completed")).await
    };
    let (answer, webhook) = tokio::join!(waiting, others);
    assert_eq!(webhook.0, 200);
    answer.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_behind_posts_that_nobody_writes() {
    let mut server = own_server().await;
    let sandbox = SandboxConfig { profile: Profile::faultless(), ..SandboxConfig::default() };
    let world = World::on_database(&server.url("postgres"), sandbox).await;
    let app = world.app().role(Role::Api).spawn().await;
    let client = app.client();
    client.accept().await;
    server.crash().await.unwrap();
    // The writer has the first in hand, and the others wait.
    let is_refused = Arc::new(AtomicBool::new(false));
    let mut posts: FuturesUnordered<_> = FuturesUnordered::new();
    wait_until("a post is refused for those before it", BOUND, async || {
        let (client, found) = (client.clone(), is_refused.clone());
        posts.push(tokio::spawn(async move {
            let answer = client.post_transaction(&transaction(Uuid::now_v7())).await;
            answer.expect_problem(503);
            found.fetch_or(answer.text.contains("too much to do"), Ordering::Relaxed);
        }));
        is_refused.load(Ordering::Relaxed)
    })
    .await;
    while let Some(ended) = posts.next().await {
        ended.unwrap();
    }
    server.resume().await.unwrap();
    wait_until("posts are written again", BOUND, async || {
        client.post_transaction(&transaction(Uuid::now_v7())).await.status == 202
    })
    .await;
    assert!(refused(&app, "queue").await > 0.0);
    server.stop().await.unwrap();
}
