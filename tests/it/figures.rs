//! The figures per minute: what processes add, what is read, what is deleted.

use std::time::{Duration, Instant};

use quartet::{
    config::Role,
    store::{minute_figures, queues},
};

use crate::support::{World, spawn_api, wait_until};

const BOUND: Duration = Duration::from_secs(20);
/// For reading an hour of figures, on a machine that does other things too.
const AT_ONCE: Duration = Duration::from_millis(100);

async fn sums(world: &World) -> Vec<(String, String, i64)> {
    let query = "SELECT figure, label, sum(value)::bigint FROM minute_figures
        GROUP BY figure, label ORDER BY figure, label";
    sqlx::query_as(query).fetch_all(&world.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_add_up_over_processes() {
    let world = World::new().await;
    let mut app = world.app().spawn().await;
    let mut api = app.sibling().role(Role::Api).spawn().await;
    let ids =
        [app.client().accept().await, app.client().accept().await, api.client().accept().await];
    for id in ids {
        app.wait_told(id, BOUND).await;
    }
    app.wait_at_rest(BOUND).await;
    // Each writes what is left when it ends.
    api.stop().await;
    app.stop().await;
    let sums = sums(&world).await;
    let sum = |figure: &str, label: &str| {
        let found = sums.iter().filter(|(own, l, _)| own == figure && l.starts_with(label));
        found.map(|(.., value)| value).sum::<i64>()
    };
    assert_eq!(sum("accepted", ""), 3, "{sums:?}");
    assert_eq!(sum("jobs", "create_transaction/done"), 3, "{sums:?}");
    assert_eq!(sum("jobs", "create_at_third_party/done"), 3, "{sums:?}");
    assert_eq!(sum("final", ""), 3, "{sums:?}");
    for (_, label, _) in sums.iter().filter(|(figure, ..)| figure == "final") {
        let (by, bound) = label.split_once('/').unwrap();
        assert!(["third_party_response", "poll", "webhook"].contains(&by), "{label}");
        assert!(bound == "inf" || bound.parse::<u32>().unwrap() >= 50, "{label}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_process_writes_them_and_deletes_old_ones() {
    let app = spawn_api().await;
    let old = "INSERT INTO minute_figures VALUES
        (date_trunc('minute', now() - interval '26 h', 'UTC'), 'accepted', '', 7),
        (date_trunc('minute', now() - interval '24 h', 'UTC'), 'accepted', '', 5)";
    sqlx::query(old).execute(&app.pool).await.unwrap();
    app.client().accept().await;
    wait_until("the accept is written, and what is too old is gone", BOUND, async || {
        sums(&app).await == [("accepted".to_owned(), String::new(), 6)]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_writes_none() {
    let mut app = spawn_api().await;
    app.client().get("/v1/transactions").await.expect(200);
    app.stop().await;
    assert_eq!(sums(&app).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_them_is_read_in_order_and_at_once() {
    let world = World::new().await;
    let fill = "INSERT INTO minute_figures
        SELECT date_trunc('minute', now(), 'UTC') - make_interval(mins => minute), figure, label, 3
        FROM generate_series(0, 1499) AS minute, (
            SELECT 'accepted' AS figure, '' AS label
            UNION ALL
            SELECT 'jobs', queue || '/' || outcome FROM
                unnest(ARRAY['create_transaction', 'create_at_third_party', 'update_status',
                    'notify_client']) AS queue,
                unnest(ARRAY['done', 'snoozed', 'retried']) AS outcome
            UNION ALL
            SELECT 'final', 'webhook/' || bound FROM generate_series(1, 15) AS bound
        ) AS kinds";
    sqlx::query(fill).execute(&world.pool).await.unwrap();
    sqlx::query("VACUUM ANALYZE minute_figures").execute(&world.pool).await.unwrap();
    let mut took = Vec::new();
    for _ in 0..11 {
        let began = Instant::now();
        let rows = minute_figures::since(&world.pool, 60).await.unwrap();
        took.push(began.elapsed());
        // A minute may have passed since they were made.
        assert!([59 * 28, 60 * 28].contains(&rows.len()), "{}", rows.len());
        assert!(rows.is_sorted_by_key(|row| (row.minute, row.figure.clone(), row.label.clone())));
    }
    took.sort();
    println!("an hour of figures: {:?} at the median", took[5]);
    // A few ms in a release build on a quiet machine.
    assert!(took[5] < AT_ONCE, "{took:?}");
    // The last full minute, in the queues' figures.
    let queues = queues::list(&world.pool).await.unwrap();
    let done: Vec<_> = queues.iter().map(|queue| queue.done_per_minute).collect();
    assert_eq!(done, [3; 4]);
}
