//! Scrapes and readiness checks that nobody limits: together they cost what one costs.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use quartet::config::Role;

use super::SLACK;
use crate::support::{TestApp, World};

const CONNECTIONS: usize = 10;
const EACH: usize = 120;

/// 1,200 requests of `path` at the same time, over HTTP/2; the bodies of the answers.
async fn flood(app: &TestApp, path: &str) -> Vec<String> {
    let url = format!("{}{path}", app.url());
    let connections = (0..CONNECTIONS).map(|_| {
        let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
        http.timeout(Duration::from_secs(30)).build().unwrap()
    });
    let asked = connections.flat_map(|http| {
        let url = url.clone();
        (0..EACH).map(move |_| {
            let request = http.get(&url);
            async move {
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.text().await.unwrap()
            }
        })
    });
    join_all(asked).await
}

/// The median time of reads of one transaction, made until `is_over`.
async fn read_meanwhile(app: &TestApp, is_over: &AtomicBool) -> Duration {
    let client = app.client();
    let id = client.accept().await;
    let mut times = Vec::new();
    while times.len() < 20 || !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        client.get_transaction(id).await.expect(200);
        times.push(began.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_at_the_same_time_share_one_reading_and_delay_no_client() {
    let app = World::new().await.app().role(Role::Api).spawn().await;
    let alone = read_meanwhile(&app, &AtomicBool::new(true)).await;
    let is_over = AtomicBool::new(false);
    let floods = async {
        let mut texts = Vec::new();
        for _ in 0..3 {
            texts.extend(flood(&app, "/metrics").await);
        }
        is_over.store(true, Ordering::Relaxed);
        texts
    };
    // Every read is answered 200.
    let (texts, beside) = tokio::join!(floods, read_meanwhile(&app, &is_over));
    assert!(beside <= alone * 10 + SLACK / 4, "alone {alone:?}, beside scrapes {beside:?}");
    // The time that the process has used is among them: two readings differ.
    let total = texts.len();
    assert_eq!(total, 3 * CONNECTIONS * EACH);
    let readings = texts.into_iter().collect::<HashSet<_>>().len();
    assert!(readings <= total / 10, "{readings} readings for {total} scrapes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_checks_at_the_same_time_are_all_answered_and_delay_no_client() {
    let app = World::new().await.app().role(Role::Api).spawn().await;
    let alone = read_meanwhile(&app, &AtomicBool::new(true)).await;
    let is_over = AtomicBool::new(false);
    let floods = async {
        flood(&app, "/health/ready").await;
        is_over.store(true, Ordering::Relaxed);
    };
    let ((), beside) = tokio::join!(floods, read_meanwhile(&app, &is_over));
    assert!(beside <= alone * 10 + SLACK / 4, "alone {alone:?}, beside checks {beside:?}");
}
