//! What tests of the jobs have in common: a third party that settles nothing by itself, the job
//! rows, and the calls that a job made.

use std::time::{Duration, Instant};

use quartet::{
    config::Role,
    sandbox::{Call, CallKind, CreateStep, SendWebhook},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    TestApp, World,
    app::AppBuilder,
    client::transaction,
    job_rows::{self, JobRow},
    process::ProcessBuilder,
    wait_for,
};

/// For anything that is waited for.
pub const BOUND: Duration = Duration::from_secs(15);

/// An app whose third party creates everything at once, as `pending`, and sends no webhook. On a
/// busy machine a slow answer is still an answer, and a slow heartbeat no death: tests of timeouts
/// set theirs.
pub async fn quiet_app() -> AppBuilder {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created());
    patient(world.app())
}

/// With timeouts that a busy machine does not reach.
pub fn patient(app: AppBuilder) -> AppBuilder {
    app.set("QUARTET_THIRD_PARTY__TIMEOUT", "10s")
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "10s")
        .set("QUARTET_NOTIFY__TIMEOUT", "10s")
        .set("QUARTET_WORKER__DEAD_AFTER", "10s")
        // A passed deadline would be a dead letter beside those that a test is about.
        .set("QUARTET_POLL__DEADLINE", "10m")
}

impl TestApp {
    /// A process that is patient with its peers, whose webhooks go to this app.
    pub fn patient_process(&self, role: Role) -> ProcessBuilder {
        self.process(role)
            .set("QUARTET_HTTP__PUBLIC_URL", self.url())
            .set("QUARTET_THIRD_PARTY__TIMEOUT", "60s")
            .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "30s")
            .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "1s")
            .set("QUARTET_NOTIFY__TIMEOUT", "60s")
    }

    /// Posts a complete transaction with this id, for which peers may be scripted already.
    pub async fn accept_as(&self, id: Uuid) {
        self.client().post_transaction(&transaction(id)).await.expect(202);
    }

    /// The row of one of a transaction's four jobs.
    pub async fn job(&self, queue: &str, id: Uuid) -> JobRow {
        job_rows::job_row(&self.pool, id, queue).await
    }

    /// Waits until a job has this status.
    pub async fn wait_job(&self, queue: &str, id: Uuid, status: &str) -> JobRow {
        job_rows::wait_job(&self.pool, id, queue, status, BOUND).await
    }

    /// A count in the metadata of one of a transaction's jobs: `polls` or `waits`.
    pub async fn snoozes(&self, count: &str, queue: &str, id: Uuid) -> i32 {
        let query = "SELECT COALESCE((metadata -> $3)::int, 0) FROM apalis.jobs
            WHERE job_type = $1 AND idempotency_key = $2";
        let snoozes = sqlx::query_scalar(query).bind(queue).bind(id.to_string()).bind(count);
        snoozes.fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until the client acknowledged this version.
    pub async fn wait_notified(&self, id: Uuid, version: i32) {
        super::wait_until(&format!("{id} is notified of version {version}"), BOUND, async || {
            let transaction = self.client().get_transaction(id).await;
            transaction.expect(200)["notified_version"] == version
        })
        .await;
    }

    /// Waits for an open dead letter about a transaction.
    pub async fn wait_dead_letter(&self, id: Uuid) -> Value {
        wait_for(&format!("a dead letter about {id}"), BOUND, async || {
            self.operator().open_dead_letters(id).await.pop()
        })
        .await
    }

    /// A dead letter as it is now, without the story around it.
    pub async fn dead_letter(&self, letter: &Value) -> Value {
        let path = format!("/v1/operator/dead-letters/{}", letter["id"].as_str().unwrap());
        without_story(self.operator().get(&path).await.expect(200))
    }

    /// Replays a dead letter with the note `test`; returns it closed.
    pub async fn replay(&self, letter: &Value) -> Value {
        let id = letter["id"].as_str().unwrap();
        let note = serde_json::json!({ "note": "test" });
        self.operator().act_on_dead_letter(id, "replay", &note).await.expect(200).clone()
    }

    /// Settles what is still pending by webhook, and asserts the invariants once all is at rest.
    pub async fn settle_by_webhook(&self, ids: &[Uuid]) {
        for id in ids {
            let (status, answer) = self.send_webhook(SendWebhook::new(*id, "completed")).await;
            assert_eq!((status, &answer["outcome"]), (200, &"settled".into()), "{id}: {answer}");
        }
        self.rest(ids).await;
        for id in ids {
            let transaction = self.client().get_transaction(*id).await.body;
            assert_eq!(transaction["settled_by"], "webhook", "{transaction}");
        }
    }

    /// Waits until all is at rest, and asserts the invariants.
    pub async fn rest(&self, ids: &[Uuid]) {
        self.wait_at_rest(BOUND).await;
        self.assert_invariants(ids).await;
    }

    /// The calls that the third party received about a transaction.
    pub fn calls(&self, id: Uuid) -> Vec<Call> {
        self.sandbox.third_party().calls_of(id)
    }

    /// Their kinds, in order.
    pub fn call_kinds(&self, id: Uuid) -> Vec<CallKind> {
        self.calls(id).iter().map(|call| call.kind).collect()
    }

    /// Statuses and versions that the client was sent, in order.
    pub fn told(&self, id: Uuid) -> Vec<(String, i64)> {
        let deliveries = self.sandbox.client().deliveries_of(id);
        deliveries.into_iter().map(|delivery| (delivery.status, delivery.version)).collect()
    }
}

/// A dead letter of `GET …/{id}` as the other answers have it.
pub fn without_story(story: &Value) -> Value {
    let mut letter = story.clone();
    for field in ["evidence", "actions"] {
        assert!(letter.as_object_mut().unwrap().remove(field).unwrap().is_array(), "{story}");
    }
    letter
}

/// The times between one call's end and the next one's start. A call without an answer ends with
/// its start.
pub fn gaps(calls: &[Call]) -> Vec<Duration> {
    let end = |call: &Call| -> Instant { call.answered.map_or(call.at, |(at, _)| at) };
    calls.windows(2).map(|pair| pair[1].at.saturating_duration_since(end(&pair[0]))).collect()
}
