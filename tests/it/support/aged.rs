//! Transactions as they would be after days: written by the API, then made older by SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use ulid::Ulid;
use uuid::Uuid;

use super::{TestApp, world::World};

/// How old things are made where nothing else is said: older than the job rows are kept, by
/// default.
pub const OLD: Duration = Duration::from_secs(8 * 24 * 60 * 60);

async fn execute(pool: &PgPool, query: &'static str, id: Uuid) {
    sqlx::query(query).bind(id).execute(pool).await.unwrap();
}

impl TestApp {
    /// A transaction whose create is done and whose polling gave up an hour ago: pending, with an
    /// open `deadline` dead letter. The app runs no workers.
    pub async fn stuck(&self) -> Uuid {
        let id = self.client().accept().await;
        let age = "UPDATE transactions
            SET created_at = created_at - interval '1 hour', notified_version = 1 WHERE id = $1";
        let stop = "UPDATE apalis.jobs
            SET status = CASE job_type WHEN 'update_status' THEN 'Failed' ELSE 'Done' END,
                attempts = 1, done_at = now()
            WHERE idempotency_key = $1::uuid::text";
        let letter = "INSERT INTO failed_jobs
                (kind, cause, transaction_id, job_id, queue, job, reason)
            SELECT 'deadline', 'job:' || id, $1, id, job_type, '{}', 'no final status'
            FROM apalis.jobs
            WHERE idempotency_key = $1::uuid::text AND job_type = 'update_status'";
        for query in [age, stop, letter] {
            execute(&self.pool, query, id).await;
        }
        id
    }

    /// Makes everything about a transaction at rest this much older, its job ids included.
    pub async fn make_older(&self, id: Uuid, by: Duration) {
        let seconds = by.as_secs_f64();
        for query in [
            "UPDATE transactions SET created_at = created_at - make_interval(secs => $2),
                updated_at = updated_at - make_interval(secs => $2),
                settled_at = settled_at - make_interval(secs => $2) WHERE id = $1",
            "UPDATE apalis.jobs SET run_at = run_at - make_interval(secs => $2),
                done_at = done_at - make_interval(secs => $2)
            WHERE idempotency_key = $1::uuid::text",
            "UPDATE transaction_events SET at = at - make_interval(secs => $2)
            WHERE transaction_id = $1",
            "UPDATE failed_jobs SET opened_at = opened_at - make_interval(secs => $2),
                closed_at = closed_at - make_interval(secs => $2) WHERE transaction_id = $1",
            "UPDATE webhook_deliveries SET received_at = received_at - make_interval(secs => $2)
            WHERE transaction_id = $1",
        ] {
            sqlx::query(query).bind(id).bind(seconds).execute(&self.pool).await.unwrap();
        }
        let jobs: Vec<String> =
            sqlx::query_scalar("SELECT id FROM apalis.jobs WHERE idempotency_key = $1")
                .bind(id.to_string())
                .fetch_all(&self.pool)
                .await
                .unwrap();
        for job in jobs {
            let ulid: Ulid = job.parse().unwrap();
            let millis = ulid.timestamp_ms() - u64::try_from(by.as_millis()).unwrap();
            let older = Ulid::from_parts(millis, ulid.random()).to_string();
            for query in [
                "UPDATE apalis.jobs SET id = $2 WHERE id = $1",
                "UPDATE failed_jobs SET job_id = $2, cause = 'job:' || $2 WHERE job_id = $1",
            ] {
                sqlx::query(query).bind(&job).bind(&older).execute(&self.pool).await.unwrap();
            }
        }
    }

    /// Posts the content of [`super::transaction`] again.
    pub async fn post_again(&self, id: Uuid) -> super::Answer {
        self.client().post_transaction(&super::transaction(id)).await
    }

    /// The same id with another content.
    pub async fn post_other(&self, id: Uuid) -> super::Answer {
        self.client().post_transaction(&json!({ "id": id })).await
    }
}

/// A row of `maintenance_tasks`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TaskRow {
    pub held_by: Option<String>,
    pub due_in: f64,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub last_result: Option<serde_json::Value>,
    pub last_error: Option<String>,
}

impl World {
    /// A periodic task as it stands.
    pub async fn task(&self, name: &str) -> TaskRow {
        let query = "SELECT held_by, extract(epoch FROM due_at - now())::float8 AS due_in,
                started_at, finished_at, last_result, last_error
            FROM maintenance_tasks WHERE name = $1";
        sqlx::query_as(query).bind(name).fetch_one(&self.pool).await.unwrap()
    }

    /// Makes a periodic task due for whichever process asks next.
    pub async fn make_task_due(&self, name: &str) {
        let due = sqlx::query("UPDATE maintenance_tasks SET due_at = now() WHERE name = $1");
        assert_eq!(due.bind(name).execute(&self.pool).await.unwrap().rows_affected(), 1);
    }

    /// Waits until a periodic task has ended a run that began after `since`; returns its row.
    pub async fn wait_task(&self, name: &str, since: Option<DateTime<Utc>>) -> TaskRow {
        super::wait_for(&format!("{name} has run"), super::jobs::BOUND, async || {
            let task = self.task(name).await;
            let ran = task.held_by.is_none() && task.finished_at > since;
            (ran && task.finished_at >= task.started_at).then_some(task)
        })
        .await
    }
}
