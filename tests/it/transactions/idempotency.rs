//! A repeated id: the same content is replayed, other content or another client is refused.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use quartet::config::Role;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    contents, counts, spawn_api, spawn_app, transaction, wait::wait_until, world::add_client,
};

const BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_again_is_replayed_and_writes_nothing() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let upper = id.to_string().to_uppercase();
    let first =
        format!(r#"{{"id":"{id}","amount":1250,"currency":"EUR","metadata":{{"a":"1","b":"2"}}}}"#);
    let accepted = app.client().post_raw("/v1/transactions", first.clone()).await;
    accepted.expect(202);
    let before = contents(&app.pool).await;
    let same = [
        first,
        // Other order of keys, at both levels.
        format!(r#"{{"metadata":{{"b":"2","a":"1"}},"currency":"EUR","amount":1250,"id":"{id}"}}"#),
        // White space, escapes.
        format!(
            "{{ \"id\": \"{id}\",\n\t\"amount\": 1250, \"currency\": \"\\u0045UR\", \
             \"metadata\": {{\"a\": \"1\", \"b\": \"2\"}} }}\n"
        ),
        // Null is absent.
        format!(
            r#"{{"id":"{id}","amount":1250,"currency":"EUR","reference":null,"metadata":{{"a":"1","b":"2"}}}}"#
        ),
        // An id is compared as a uuid.
        format!(
            r#"{{"id":"{upper}","amount":1250,"currency":"EUR","metadata":{{"a":"1","b":"2"}}}}"#
        ),
    ];
    for body in same {
        let answer = app.client().post_raw("/v1/transactions", body.clone()).await;
        assert_eq!(answer.expect(200), &accepted.body, "{body}");
        assert_eq!(answer.header("idempotent-replayed"), "true", "{body}");
        assert_eq!(answer.header("location"), format!("/v1/transactions/{id}"), "{body}");
    }
    assert_eq!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_content_is_refused_and_writes_nothing() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let posted = transaction(id);
    app.client().post_transaction(&posted).await.expect(202);
    let before = contents(&app.pool).await;
    let changed = |field: &str, value: Value| {
        let mut other = posted.clone();
        other[field] = value;
        other
    };
    let others = [
        changed("amount", json!(1251)),
        changed("currency", json!("USD")),
        changed("reference", json!("invoice 2026-117")),
        changed("reference", json!("")),
        changed("reference", Value::Null),
        changed("metadata", json!({})),
        changed("metadata", json!({ "order": "A-117" })),
        changed("metadata", json!({ "order": "A-117", "shop": "8" })),
        changed("metadata", Value::Null),
        json!({ "id": id }),
    ];
    for other in others {
        app.client().post_transaction(&other).await.expect_problem(409);
    }
    assert_eq!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_metadata_is_not_an_absent_one() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    app.client().post_transaction(&json!({ "id": id, "metadata": {} })).await.expect(202);
    app.client().post_transaction(&json!({ "id": id })).await.expect_problem(409);
    let same = app.client().post_transaction(&json!({ "id": id, "metadata": {} })).await;
    assert_eq!(same.expect(200)["metadata"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_cannot_use_the_id_nor_read_anything_of_it() {
    let app = spawn_api().await;
    let other = app.client().with_key(&add_client(&app.pool, "other").await);
    let id = Uuid::now_v7();
    app.client().post_transaction(&transaction(id)).await.expect(202);
    let before = contents(&app.pool).await;
    let same = other.post_transaction(&transaction(id)).await;
    let different = other.post_transaction(&json!({ "id": id })).await;
    // That somebody has the id is said. Whether the other client's content is the same is not.
    assert_eq!(same.expect_problem(409), different.expect_problem(409));
    let [taken, free] = [id, Uuid::now_v7()].map(|id| format!("/v1/transactions/{id}"));
    for path in [taken.clone(), format!("{taken}/events"), free] {
        other.get(&path).await.expect_problem(404);
    }
    assert!(!same.text.contains("1250"), "{}", same.text);
    assert_eq!(contents(&app.pool).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_shows_the_present_status() {
    let app = spawn_app().await;
    let id = app.client().accept().await;
    let told = app.wait_told(id, BOUND).await;
    let replayed = app.client().post_transaction(&transaction(id)).await;
    assert_eq!(replayed.expect(200), &told);
    assert_eq!(told["status"], "completed");
    app.wait_at_rest(BOUND).await;
    app.assert_invariants(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_posts_of_one_id_to_two_apps_accept_it_once() {
    let app = spawn_api().await;
    let sibling = app.sibling().role(Role::Api).spawn().await;
    for _ in 0..3 {
        let before = counts(&app.pool).await;
        let id = Uuid::now_v7();
        let posts = (0..50).map(|n| {
            let client = if n % 2 == 0 { app.client() } else { sibling.client() };
            async move { client.post_transaction(&transaction(id)).await }
        });
        let mut statuses: HashMap<u16, usize> = HashMap::new();
        for answer in join_all(posts).await {
            *statuses.entry(answer.status).or_default() += 1;
            assert_eq!(answer.body["id"], json!(id));
        }
        assert_eq!(statuses, HashMap::from([(202, 1), (200, 49)]));
        let [transactions, jobs, events, ..] = before;
        assert_eq!(counts(&app.pool).await, [transactions + 1, jobs + 4, events + 1, 0, 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_posts_of_one_id_with_different_contents_accept_one_of_them() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    let posts =
        (0..20).map(|n| {
            let client = app.client();
            async move {
                client.post_transaction(&json!({ "id": id, "reference": n.to_string() })).await
            }
        });
    let answers = join_all(posts).await;
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((of(202), of(409)), (1, 19));
    assert_eq!(counts(&app.pool).await, [1, 4, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_waited_for_a_rolled_back_one_is_accepted() {
    let app = spawn_api().await;
    let id = Uuid::now_v7();
    // Somebody holds the id and then gives it up.
    let mut holder = app.pool.begin().await.unwrap();
    let hold = "INSERT INTO transactions (id, client_id, content_hash)
        SELECT $1, id, sha256('') FROM clients";
    sqlx::query(hold).bind(id).execute(&mut *holder).await.unwrap();
    let (client, post) = (app.client(), transaction(id));
    let posted = tokio::spawn(async move { client.post_transaction(&post).await });
    wait_until("the post waits for the holder", Duration::from_secs(1), async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&app.pool).await.unwrap() > 0
    })
    .await;
    holder.rollback().await.unwrap();
    posted.await.unwrap().expect(202);
    assert_eq!(counts(&app.pool).await, [1, 4, 1, 0, 0]);
}
