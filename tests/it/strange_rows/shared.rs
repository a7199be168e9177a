//! Rows that are no transaction's, and those of a worker that has died.

use quartet::config::Role;
use serde_json::json;

use super::{BOUND, drop_added_checks, open_letters, reads};
use crate::support::{
    job_rows::{die, lease_to},
    spawn_api, wait_until,
};

/// The rows that all processes share are no transaction's: what they hold must not stop all of
/// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_rows_that_all_processes_share_stop_nothing() {
    let app = spawn_api().await;
    drop_added_checks(&app.pool).await;
    for update in [
        "UPDATE circuits SET opened_at = '-infinity', open_until = 'infinity', open_for = 'NaN',
            reason = '', trips = 2147483647, probe_by = '', probe_until = 'infinity',
            changed_at = 'infinity'",
        "UPDATE maintenance_tasks SET held_by = 'gone', held_until = 'infinity',
            due_at = '4713-01-01 BC', started_at = 'infinity', last_result = '{\"a\": 1e400}'",
        "INSERT INTO queue_pauses (queue, paused_at, paused_by)
            VALUES ('notify_client', 'infinity', ''), ('update_status', '290000-01-01', '')",
        "INSERT INTO past_pauses (queue, paused_at, resumed_at) VALUES
            ('update_status', '-infinity', 'infinity'), ('update_status', 'infinity', '-infinity'),
            ('update_status', now(), now() - interval '1 day')",
        "INSERT INTO minute_figures (minute, figure, label, value) VALUES
            ('infinity', 'accepted', '', 1), ('-infinity', 'final', 'poll/1', 1),
            (date_trunc('minute', now(), 'UTC'), 'jobs', 'notify_client/done', 9223372036854775807),
            (date_trunc('minute', now(), 'UTC'), 'accepted', '', 9223372036854775807)",
    ] {
        sqlx::query(update).execute(&app.pool).await.unwrap();
    }
    reads::lists(&app, &[], &[]).await;
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for queue in ["notify_client", "update_status"] {
        let resume = format!("/v1/operator/queues/{queue}/resume");
        app.operator().post(&resume, &json!({})).await.expect(200);
    }
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(app.client().accept().await);
    }
    for id in &ids {
        app.wait_told(*id, BOUND).await;
    }
    // The periodic tasks are not held for ever.
    wait_until("both tasks have run", BOUND, async || {
        let ran = "SELECT count(*) FROM maintenance_tasks
            WHERE finished_at IS NOT NULL AND held_by IS NULL AND last_error IS NULL";
        sqlx::query_scalar::<_, i64>(ran).fetch_one(&app.pool).await.unwrap() == 2
    })
    .await;
    reads::lists(&app, &ids, &ids).await;
}

/// A job row with the largest numbers, under a worker that has died beside others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strange_job_does_not_stop_the_rescue_of_others() {
    let app = spawn_api().await;
    drop_added_checks(&app.pool).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(app.client().accept().await);
    }
    lease_to(&app.pool, "gone", ids[0], "notify_client").await;
    for id in &ids[1..] {
        let lease = "UPDATE apalis.jobs SET status = 'Running', lock_by = 'gone', lock_at = now()
            WHERE idempotency_key = $1 AND job_type = 'notify_client'";
        sqlx::query(lease).bind(id.to_string()).execute(&app.pool).await.unwrap();
    }
    let strange = "UPDATE apalis.jobs
        SET attempts = 2147483647, max_attempts = -2147483648, last_result = '{\"errors\": 1}'
        WHERE idempotency_key = $1 AND job_type = 'notify_client'";
    sqlx::query(strange).bind(ids[0].to_string()).execute(&app.pool).await.unwrap();
    die(&app.pool, "gone").await;
    let _worker = app.sibling().role(Role::Worker).spawn().await;
    for id in &ids[1..] {
        app.wait_told(*id, BOUND).await;
    }
    assert_eq!(open_letters(&app, ids[0]).await[0]["kind"], "poison");
}
