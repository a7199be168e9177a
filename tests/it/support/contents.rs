//! What a database holds, for tests that nothing was written.

use sqlx::PgPool;

/// All rows of Quartet's tables and the job table, with the SQL transaction that wrote each, so
/// that a rewrite of the same values shows too.
pub async fn contents(pool: &PgPool) -> Vec<String> {
    let query = r#"
        SELECT 'transactions ' || xmin || to_jsonb(t) FROM transactions t
        UNION ALL SELECT 'jobs ' || xmin || to_jsonb(t) FROM apalis.jobs t
        UNION ALL SELECT 'events ' || xmin || to_jsonb(t) FROM transaction_events t
        UNION ALL SELECT 'webhooks ' || xmin || to_jsonb(t) FROM webhook_deliveries t
        UNION ALL SELECT 'failed_jobs ' || xmin || to_jsonb(t) FROM failed_jobs t
        UNION ALL SELECT 'findings ' || xmin || to_jsonb(t) FROM reconcile_findings t
        UNION ALL SELECT 'ambiguous ' || xmin || to_jsonb(t) FROM ambiguous_creates t
        ORDER BY 1
    "#;
    sqlx::query_scalar(query).fetch_all(pool).await.unwrap()
}

/// Number of rows of each table: transactions, jobs, evidence, webhooks, dead letters.
pub async fn counts(pool: &PgPool) -> [i64; 5] {
    let query = r#"
        SELECT ARRAY[
            (SELECT count(*) FROM transactions), (SELECT count(*) FROM apalis.jobs),
            (SELECT count(*) FROM transaction_events), (SELECT count(*) FROM webhook_deliveries),
            (SELECT count(*) FROM failed_jobs)
        ]
    "#;
    let counts: Vec<i64> = sqlx::query_scalar(query).fetch_one(pool).await.unwrap();
    counts.try_into().unwrap()
}

/// The SQL transactions that wrote what there is about `id`: its row, its four jobs, its evidence.
pub async fn writers(pool: &PgPool, id: uuid::Uuid) -> Vec<(String, String)> {
    let query = r#"
        SELECT 'transaction', xmin::text FROM transactions WHERE id = $1
        UNION ALL SELECT job_type, xmin::text FROM apalis.jobs WHERE idempotency_key = $1::text
        UNION ALL SELECT kind, xmin::text FROM transaction_events WHERE transaction_id = $1
    "#;
    sqlx::query_as(query).bind(id).fetch_all(pool).await.unwrap()
}
