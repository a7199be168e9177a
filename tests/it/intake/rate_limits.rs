//! How fast one client may call.

use std::time::{Duration, Instant};

use quartet::config::Role;
use uuid::Uuid;

use super::refused;
use crate::support::{
    Answer, Client, World, postgres::own_server, spawn_api, transaction, wait_until,
    world::add_client,
};

const BOUND: Duration = Duration::from_secs(20);
const BURST: u32 = 5;

/// Reads until it is refused; how often it was answered before.
async fn use_up(client: &Client) -> (u32, Answer) {
    for count in 0.. {
        let answer = client.list_transactions("limit=1").await;
        if answer.status != 200 {
            return (count, answer);
        }
        assert!(count < 1_000, "it is never refused");
    }
    unreachable!("the range has no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_beyond_its_rate_is_429_and_others_are_served() {
    let world = World::new().await;
    let app = world.app().role(Role::Api).set("QUARTET_LIMITS__RATE", "1");
    let app = app.set("QUARTET_LIMITS__BURST", BURST).spawn().await;
    let client = app.client();
    let began = Instant::now();
    // The first one makes the key known.
    let id = client.accept().await;
    let answer = client.get_transaction(id).await;
    answer.expect(200);
    assert_eq!(answer.header("ratelimit-policy"), "\"client\";q=5;w=5");
    assert_eq!(answer.header("ratelimit"), "\"client\";r=4;t=1");

    let (answered, refusal) = use_up(&client).await;
    refusal.expect_problem(429);
    assert_eq!(refusal.header("retry-after"), "1");
    assert_eq!(refusal.header("ratelimit"), "\"client\";r=0;t=1");
    assert_eq!(refusal.header("ratelimit-policy"), "\"client\";q=5;w=5");
    let most = BURST + began.elapsed().as_secs() as u32 + 1;
    assert!((BURST - 1..=most).contains(&(answered + 1)), "{answered} of at most {most}");
    // Any operation counts, and the client that is refused is told before its body is looked at.
    let refused_post = client.post_raw("/v1/transactions", "{").await;
    assert!(matches!(refused_post.status, 429 | 400), "{}", refused_post.text);

    let other = app.client().with_key(&add_client(&app.pool, "other").await);
    other.accept().await;
    other.accept().await;
    let operator = app.operator();
    for _ in 0..2 * BURST {
        operator.list_dead_letters("").await.expect(200);
        let wrong = app.client().with_key("qk_wrong").list_transactions("").await;
        wrong.expect_problem(401);
        assert_eq!(wrong.header("ratelimit"), "", "nobody's quota");
    }
    assert!(refused(&app, "rate_limit").await >= 1.0);
    wait_until("the client is served again", BOUND, async || {
        client.get_transaction(id).await.status == 200
    })
    .await;
}

/// A client that is refused is refused before the database is asked: also while it is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_beyond_its_rate_costs_the_database_nothing() {
    let mut server = own_server().await;
    let sandbox = quartet::sandbox::SandboxConfig::default();
    let world = World::on_database(&server.url("postgres"), sandbox).await;
    let app = world.app().role(Role::Api).set("QUARTET_LIMITS__RATE", "1").spawn().await;
    let client = app.client();
    client.accept().await;
    server.crash().await.unwrap();
    let id = Uuid::now_v7();
    let mut statuses = Vec::new();
    wait_until("a post is refused while the database is away", BOUND, async || {
        // Two at once: one of them is beyond the rate.
        let body = transaction(id);
        let (one, two) =
            tokio::join!(client.post_transaction(&body), client.post_transaction(&body));
        statuses.extend([one.status, two.status]);
        statuses.contains(&429)
    })
    .await;
    assert!(statuses.iter().all(|status| matches!(status, 429 | 503)), "{statuses:?}");
    server.resume().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rate_nothing_is_limited_or_said() {
    let app = spawn_api().await;
    for _ in 0..20 {
        let answer = app.client().list_transactions("").await;
        answer.expect(200);
        assert_eq!(answer.header("ratelimit"), "");
        assert_eq!(answer.header("ratelimit-policy"), "");
    }
}

/// A limit that holds on some paths only is none: what is refused there costs, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_rate_holds_on_every_path() {
    let id = Uuid::now_v7();
    let paths = [
        "/v1/operator/queues".to_owned(),
        "/v1/operator/dead-letters".to_owned(),
        "/v1/operator/nothing".to_owned(),
        "/nothing".to_owned(),
        "/console".to_owned(),
        "/openapi.json".to_owned(),
        "/v1/transactions?unknown=1".to_owned(),
        format!("/v1/transactions/{id}"),
    ];
    let world = World::new().await;
    for path in paths {
        // A process that has not seen the key before.
        let app = world.app().role(Role::Api).set("QUARTET_LIMITS__RATE", "1");
        let app = app.set("QUARTET_LIMITS__BURST", BURST).spawn().await;
        let began = Instant::now();
        let (mut served, refusal) = (
            0,
            loop {
                let answer = app.client().get(&path).await;
                if answer.status == 429 {
                    break answer;
                }
                assert!(began.elapsed() < BOUND, "{path}: it is never refused");
            },
        );
        refusal.expect_problem(429);
        assert_eq!(refusal.header("retry-after"), "1", "{path}");
        assert_eq!(refusal.header("ratelimit"), "\"client\";r=0;t=1", "{path}");
        // Others are not: without a key, with another one, with the operator's token.
        for client in [app.anonymous(), app.client().with_key("qk_wrong"), app.operator()] {
            for _ in 0..2 * BURST {
                served += u32::from(client.get(&path).await.status != 429);
            }
        }
        assert_eq!(served, 6 * BURST, "{path}");
    }
}
