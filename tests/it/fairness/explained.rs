//! An operator reads that a transaction waits for its client's share.

use quartet::sandbox::{Reaction, SendWebhook};

use super::BOUND;
use crate::support::{jobs::quiet_app, wait_for};

/// With one slot, one notification hangs and the client's other one waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_for_others_of_its_client_says_so() {
    let app = quiet_app().await.set("QUARTET_WORKER__CONCURRENCY", 1);
    let app = app.set("QUARTET_NOTIFY__TIMEOUT", "20s").set("QUARTET_NOTIFY__FIRST", "60s");
    let app = app.spawn().await;
    app.sandbox.client().set_default(Reaction::Hang);
    let client = app.client();
    let ids = [client.accept().await, client.accept().await];
    for id in ids {
        app.send_webhook(SendWebhook::new(id, "completed")).await;
    }
    let cause = wait_for("one of them waits for its client's share", BOUND, async || {
        for id in ids {
            let path = format!("/v1/operator/transactions/{id}/explain");
            let explained = app.operator().get(&path).await.expect(200).clone();
            if explained["cause"]["kind"] == "client_share" {
                return Some(explained["cause"]["detail"].as_str().unwrap().to_owned());
            }
        }
        None
    })
    .await;
    assert!(cause.contains("waits for its client's share"), "{cause}");
    assert!(cause.contains("of 1 running jobs of this queue 1 are of the same client"), "{cause}");
}
