//! Connections to peers that end them, refuse, or are full: what is sent again, what is not, and
//! that none of it is taken for an outage. The single cases are in `src/outbound/sender/tests.rs`;
//! here are whole transactions.

mod http2;
mod kept_alive;
mod peer;

use sqlx::PgPool;
use uuid::Uuid;

use crate::support::wait_until;

/// Longer than anything here takes on a busy machine, and shorter than [`BACKOFF`].
const BOUND: std::time::Duration = std::time::Duration::from_secs(60);
/// A try that failed is not repeated within the test.
const BACKOFF: &str = "120s";

async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// Asserts that no create was ambiguous, that no try of one failed, and that no circuit opened.
async fn assert_undisturbed(pool: &PgPool) {
    let ambiguous = "SELECT count(*) FROM transaction_events WHERE kind = 'create_ambiguous'";
    assert_eq!(count(pool, ambiguous).await, 0, "creates are ambiguous");
    let failed = "SELECT count(*) FROM apalis.jobs
        WHERE job_type = 'create_at_third_party' AND (status <> 'Done' OR attempts <> 1)";
    assert_eq!(count(pool, failed).await, 0, "creates were tried again");
    assert_circuit_closed(pool).await;
}

async fn assert_circuit_closed(pool: &PgPool) {
    let trips = "SELECT sum(trips)::bigint FROM circuits";
    assert_eq!(count(pool, trips).await, 0, "the circuit opened");
}

async fn wait_all_completed(pool: &PgPool, ids: &[Uuid]) {
    let query = "SELECT count(*) FROM transactions WHERE id = ANY ($1) AND status = 'completed'";
    wait_until("all transactions are completed", BOUND, async || {
        let completed: i64 = sqlx::query_scalar(query).bind(ids).fetch_one(pool).await.unwrap();
        completed as usize == ids.len()
    })
    .await;
}
