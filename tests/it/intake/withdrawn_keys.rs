//! A key that is withdrawn while its request waits.

use std::time::{Duration, Instant};

use quartet::sandbox::SendWebhook;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{Answer, Client, spawn_api};

/// A second, and what a busy machine adds to it; far less than a wait.
const SOON: Duration = Duration::from_secs(5);

/// A read that waits for as long as it may, once it does.
async fn wait(client: &Client, id: Uuid) -> JoinHandle<Answer> {
    let own = client.clone();
    let waiting =
        tokio::spawn(
            async move { own.get(&format!("/v1/transactions/{id}?wait_seconds=30")).await },
        );
    // Its key was looked up when as many others have been answered.
    for _ in 0..20 {
        client.get_transaction(id).await.expect(200);
    }
    assert!(!waiting.is_finished());
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_401_when_its_key_is_withdrawn() {
    let disable = "UPDATE clients SET disabled_at = now()";
    let rotate = "UPDATE clients SET api_key_hash = sha256('another')";
    for withdraw in [disable, rotate] {
        let app = spawn_api().await;
        let id = app.client().accept().await;
        let waiting = wait(&app.client(), id).await;
        sqlx::query(withdraw).execute(&app.pool).await.unwrap();
        let began = Instant::now();
        let answer = waiting.await.unwrap();
        assert!(began.elapsed() < SOON, "{withdraw}: {:?}", began.elapsed());
        answer.expect_problem(401);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

/// What happens meanwhile is not for whoever has the old key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_with_a_withdrawn_key_does_not_see_the_end() {
    let app = spawn_api().await;
    for _ in 0..3 {
        sqlx::query("UPDATE clients SET disabled_at = NULL").execute(&app.pool).await.unwrap();
        let id = app.client().accept().await;
        let waiting = wait(&app.client(), id).await;
        sqlx::query("UPDATE clients SET disabled_at = now()").execute(&app.pool).await.unwrap();
        assert_eq!(app.send_webhook(SendWebhook::new(id, "completed")).await.0, 200);
        waiting.await.unwrap().expect_problem(401);
    }
    // A key that is still good sees it.
    sqlx::query("UPDATE clients SET disabled_at = NULL").execute(&app.pool).await.unwrap();
    let id = app.client().accept().await;
    let waiting = wait(&app.client(), id).await;
    assert_eq!(app.send_webhook(SendWebhook::new(id, "completed")).await.0, 200);
    assert_eq!(waiting.await.unwrap().expect(200)["status"], "completed");
}
