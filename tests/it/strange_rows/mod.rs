//! One row never stops another: whatever a row holds that its constraints let in, every other
//! transaction runs to its end, everything that is read is answered, and what cannot go on is in
//! front of an operator.

mod generated;
mod reads;
mod repaired;
mod shared;
mod tables;
mod upgrade;
mod values;

use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{TestApp, wait_for};

const BOUND: Duration = Duration::from_secs(30);

/// The constraints that a database of an earlier release does not have, or not where a row broke
/// them.
const ADDED: [(&str, &str); 9] = [
    ("transactions", "transactions_metadata_is_strings"),
    ("transactions", "transactions_times_in_range"),
    ("transactions", "transactions_version_from_one"),
    ("failed_jobs", "failed_jobs_times_in_range"),
    ("apalis.jobs", "quartet_jobs_attempts_in_range"),
    ("apalis.jobs", "quartet_jobs_last_result_is_object"),
    ("past_pauses", "past_pauses_resumed_after_paused"),
    ("circuits", "circuits_times_are_finite"),
    ("maintenance_tasks", "maintenance_tasks_held_until_is_finite"),
];
/// One that came with its column.
const OF_COLUMN: (&str, &str) = ("transactions", "transactions_third_party_length");

async fn drop_added_checks(pool: &PgPool) {
    for (table, name) in ADDED.into_iter().chain([OF_COLUMN]) {
        let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {name}");
        sqlx::query(sqlx::AssertSqlSafe(drop)).execute(pool).await.unwrap();
    }
}

async fn set_metadata(app: &TestApp, id: Uuid, metadata: &str) {
    let set = "UPDATE transactions SET metadata = $2::jsonb WHERE id = $1";
    sqlx::query(set).bind(id).bind(metadata).execute(&app.pool).await.unwrap();
}

/// The open dead letters about a transaction, once there are any.
async fn open_letters(app: &TestApp, id: Uuid) -> Vec<Value> {
    wait_for("there is an open dead letter", BOUND, async || {
        let letters = app.operator().open_dead_letters(id).await;
        (!letters.is_empty()).then_some(letters)
    })
    .await
}
