//! What runs for each transaction reads a few rows by an index, whatever plans a server makes:
//! each version of PostgreSQL has a planner of its own.

use std::time::Duration;

use sqlx::PgPool;

use crate::support::{spawn_app, wait_for};

/// Finished transactions that nothing has to look at; four times as many job rows.
const FINISHED: i64 = 20_000;
const TRANSACTIONS: usize = 40;
const BOUND: Duration = Duration::from_secs(60);

/// Rows as the accept statement and the outcomes leave them.
const FILL: [&str; 5] = [
    "CREATE TEMPORARY TABLE made ON COMMIT DROP AS
    SELECT n, gen_random_uuid() AS id, now() - (20000 - n) * interval '1 s' AS created_at
    FROM generate_series(1, 20000) AS n",
    "INSERT INTO transactions
        (id, client_id, content_hash, amount, currency, status, version, notified_version,
        settled_at, settled_by, created_at, updated_at)
    SELECT made.id, clients.id, sha256(''), n, 'EUR', 'completed', 2, 2,
        made.created_at + interval '3 s', 'webhook', made.created_at, made.created_at
    FROM made, clients",
    "INSERT INTO apalis.jobs
        (id, job_type, job, status, attempts, max_attempts, run_at, done_at, idempotency_key)
    SELECT '01' || upper(lpad(to_hex(n * 4 + position), 24, '0')), kind,
        convert_to('{\"transaction_id\":\"' || made.id || '\"}', 'UTF8'), 'Done',
        1, 10, created_at, created_at + interval '3 s', made.id::text
    FROM made, unnest(ARRAY['create_transaction', 'create_at_third_party', 'update_status',
        'notify_client']) WITH ORDINALITY AS kinds (kind, position)",
    "INSERT INTO transaction_events (transaction_id, kind, source, detail, at)
    SELECT id, 'accepted', 'api', '{}', created_at FROM made",
    "INSERT INTO webhook_deliveries (webhook_id, transaction_id, status, outcome, received_at)
    SELECT 'made_' || n, id, 'completed', 'settled', created_at FROM made",
];

/// Rows of these tables that were read so far, from end to end and by an index.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Reads {
    table: String,
    from_end_to_end: i64,
    by_index: i64,
    written: i64,
}

async fn reads(pool: &PgPool) -> Vec<Reads> {
    let query = "SELECT relname::text AS table, coalesce(seq_tup_read, 0) AS from_end_to_end,
            coalesce(idx_tup_fetch, 0) AS by_index, n_tup_ins AS written
        FROM pg_stat_user_tables
        WHERE relname IN ('transactions', 'jobs', 'transaction_events', 'webhook_deliveries')
        ORDER BY relname";
    sqlx::query_as(query).fetch_all(pool).await.unwrap()
}

/// What the sessions that have ended have read, once all of it is counted.
async fn settled_reads(pool: &PgPool, transactions: i64) -> Vec<Reads> {
    let mut last = Vec::new();
    wait_for("the statistics are complete", BOUND, async || {
        let now = reads(pool).await;
        let counts = |reads: &[Reads]| {
            reads.iter().map(|one| (one.from_end_to_end, one.by_index, one.written)).collect()
        };
        let (before, after): (Vec<_>, Vec<_>) = (counts(&last), counts(&now));
        last = now.clone();
        let written = now.iter().find(|one| one.table == "transactions").unwrap().written;
        (before == after && written >= transactions).then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_for_each_transaction_reads_few_rows() {
    let mut app = spawn_app().await;
    app.stop().await;
    // A connection of its own, whose statistics are counted when it ends.
    let pool = crate::support::postgres::pool(app.database_url());
    let mut tx = pool.begin().await.unwrap();
    for statement in FILL {
        sqlx::query(statement).execute(&mut *tx).await.unwrap_or_else(|error| {
            panic!("{statement}: {error}");
        });
    }
    tx.commit().await.unwrap();
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    pool.close().await;
    let before = settled_reads(&app.pool, FINISHED).await;

    app.start().await;
    for _ in 0..TRANSACTIONS {
        let id = app.client().accept().await;
        // Posted again, listed, and seen to its end.
        app.post_again(id).await.expect(200);
        app.client().list_transactions("status=pending&limit=5").await.expect(200);
        app.wait_told(id, BOUND).await;
    }
    app.stop().await;

    let after = settled_reads(&app.pool, FINISHED + TRANSACTIONS as i64).await;
    assert_eq!(before.len(), 4, "{before:#?}");
    for (before, after) in before.iter().zip(&after) {
        let from_end_to_end = after.from_end_to_end - before.from_end_to_end;
        let by_index = after.by_index - before.by_index;
        let table = &after.table;
        println!("{table}: {from_end_to_end} rows from end to end, {by_index} by an index");
        assert!(from_end_to_end < FINISHED, "{table} was read from end to end: {after:?}");
        assert!(by_index < FINISHED, "{table}: an index was read from end to end: {after:?}");
    }
}
