//! The migrations: on a database with data in it, again, and what they promise about the schema.

use std::{
    future,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use quartet::{
    operations::secrets,
    secrets::{MasterKeys, hash_token},
    store,
};
use sqlx::{Connection, PgConnection, PgPool, migrate::Migrator};
use tokio::join;

use crate::support::{World, postgres::TestDatabase, world::MASTER_KEY};

/// Migrations from here on are not in the release before.
const SINCE_RELEASE: i64 = 20_261_124_000_000;
/// Transactions of the release before: enough for the builds of the indexes to take a while.
const OLD_ROWS: i32 = 20_000;

/// A database on which nothing of ours or apalis's was applied.
pub(crate) async fn empty_database() -> (TestDatabase, PgConnection) {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let clear = "DROP SCHEMA public CASCADE; DROP SCHEMA apalis CASCADE; CREATE SCHEMA public;";
    sqlx::raw_sql(clear).execute(&mut connection).await.unwrap();
    (database, connection)
}

async fn texts(connection: &mut PgConnection, query: &'static str) -> Vec<String> {
    sqlx::query_scalar(query).fetch_all(connection).await.unwrap()
}

/// Everything that the catalogue says about the schema, in order.
async fn schema(connection: &mut PgConnection) -> Vec<String> {
    let query = "
        SELECT format('%s.%s.%s %s %s %s', table_schema, table_name, column_name, data_type,
            is_nullable, column_default)
        FROM information_schema.columns WHERE table_schema IN ('public', 'apalis')
        UNION ALL
        SELECT indexdef FROM pg_indexes WHERE schemaname IN ('public', 'apalis')
        UNION ALL
        SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace::regnamespace::text IN ('public', 'apalis')
        UNION ALL
        SELECT tgrelid::regclass || ' ' || tgname || ' ' || tgenabled::text FROM pg_trigger
        WHERE NOT tgisinternal
        ORDER BY 1";
    texts(connection, query).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_apply_to_a_database_that_apalis_has_filled() {
    let (database, mut connection) = empty_database().await;
    let pool = database.pool();
    apalis_postgres::PostgresStorage::<()>::setup(&pool).await.unwrap();
    // Jobs of another program, in every state that apalis leaves behind.
    let fill = "
        INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen)
        VALUES ('other', 'other::Job', 'PostgresStorage', '', now());
        INSERT INTO apalis.jobs (id, job_type, job, status, lock_by, lock_at, done_at, last_result)
        VALUES
            ('01ARZ3NDEKTSV4RRFFQ69G5FA1', 'other::Job', '{}', 'Pending', NULL, NULL, NULL, NULL),
            ('01ARZ3NDEKTSV4RRFFQ69G5FA2', 'other::Job', '{}', 'Running', 'other', now(), NULL, NULL);";
    sqlx::raw_sql(fill).execute(&mut connection).await.unwrap();

    store::migrate(database.url()).await.unwrap();
    let kept = texts(&mut connection, "SELECT status FROM apalis.jobs ORDER BY id").await;
    assert_eq!(kept, ["Pending", "Running"]);
}

/// apalis leaves `lock_by` on what is done or failed; our constraint must not refuse that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_apply_to_a_database_in_which_apalis_has_finished_jobs() {
    let (database, mut connection) = empty_database().await;
    let pool = database.pool();
    apalis_postgres::PostgresStorage::<()>::setup(&pool).await.unwrap();
    let fill = "
        INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen)
        VALUES ('other', 'other::Job', 'PostgresStorage', '', now());
        INSERT INTO apalis.jobs (id, job_type, job, status, lock_by, lock_at, done_at, last_result)
        VALUES
            ('01ARZ3NDEKTSV4RRFFQ69G5FA1', 'other::Job', '{}', 'Done', 'other', now(), now(),
                '{\"Ok\": null}'),
            ('01ARZ3NDEKTSV4RRFFQ69G5FA2', 'other::Job', '{}', 'Failed', 'other', now(), now(),
                '{\"Err\": \"x\"}');";
    sqlx::raw_sql(fill).execute(&mut connection).await.unwrap();

    store::migrate(database.url()).await.unwrap();
    let kept = texts(&mut connection, "SELECT status FROM apalis.jobs ORDER BY id").await;
    assert_eq!(kept, ["Done", "Failed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_changes_nothing_and_needs_no_quiet() {
    let app = World::new().await.app().spawn().await;
    let id = app.client().accept().await;
    app.wait_told(id, std::time::Duration::from_secs(10)).await;
    let mut connection = PgConnection::connect(app.database_url()).await.unwrap();
    let before = schema(&mut connection).await;
    assert!(before.len() > 50, "{before:#?}");
    store::migrate(app.database_url()).await.unwrap();
    assert_eq!(schema(&mut connection).await, before);
    app.client().get_transaction(id).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_database_gets_the_same_schema_as_the_template() {
    let (database, mut connection) = empty_database().await;
    store::migrate(database.url()).await.unwrap();
    let template = TestDatabase::create().await;
    let mut other = PgConnection::connect(template.url()).await.unwrap();
    assert_eq!(schema(&mut connection).await, schema(&mut other).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_ours_is_commented_and_every_constraint_is_named() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let without_comment = "
        SELECT format('%s %s', c.oid::regclass, a.attname)
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
        WHERE c.relkind IN ('r', 'v', 'm') AND c.relnamespace = 'public'::regnamespace
            AND c.relname <> '_sqlx_migrations'
            AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relkind IN ('r', 'v', 'm') AND c.relnamespace = 'public'::regnamespace
            AND c.relname <> '_sqlx_migrations' AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL
        SELECT p.oid::regprocedure::text FROM pg_proc p
        WHERE p.proname LIKE 'quartet%' AND obj_description(p.oid, 'pg_proc') IS NULL";
    assert_eq!(texts(&mut connection, without_comment).await, Vec::<String>::new());
    // Names that Postgres gives: table_column_check, table_check1.
    let unnamed = "
        SELECT conrelid::regclass || ' ' || conname
        FROM pg_constraint
        WHERE contype = 'c' AND connamespace = 'public'::regnamespace
            AND conname ~ '_check[0-9]*$'";
    assert_eq!(texts(&mut connection, unnamed).await, Vec::<String>::new());
    let checks = "SELECT conname::text FROM pg_constraint
        WHERE contype = 'c' AND connamespace = 'public'::regnamespace";
    assert!(texts(&mut connection, checks).await.len() > 10);
}

/// A database as the release before leaves it, with transactions, their notify jobs and dead
/// letters, whose clients it does not know.
pub(crate) async fn released_database() -> (TestDatabase, PgConnection) {
    let (database, mut connection) = empty_database().await;
    apalis_postgres::PostgresStorage::<()>::setup(&database.pool()).await.unwrap();
    let all = Migrator::new(Path::new("migrations")).await.unwrap();
    let released = all.iter().filter(|migration| migration.version < SINCE_RELEASE).cloned();
    Migrator::with_migrations(released.collect()).run(&mut connection).await.unwrap();
    let fill = "
        INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        VALUES ('old', sha256('old'), 'http://127.0.0.1/', 'whsec_b2xk');
        INSERT INTO transactions (id, client_id, content_hash)
        SELECT md5(n::text)::uuid, clients.id, sha256('x')
        FROM clients, generate_series(1, $1) AS n;
        INSERT INTO apalis.jobs (id, job_type, job, idempotency_key, status)
        SELECT '01ARZ3NDEKTSV4RRFF' || lpad(n::text, 8, '0'), 'notify_client', '{}',
            md5(n::text)::uuid::text, 'Done'
        FROM generate_series(1, $1) AS n;
        INSERT INTO failed_jobs (kind, cause, transaction_id, reason)
        SELECT 'deadline', 'old:' || n, md5(n::text)::uuid, 'old'
        FROM generate_series(1, 100) AS n;";
    let fill = fill.replace("$1", &OLD_ROWS.to_string());
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut connection).await.unwrap();
    (database, connection)
}

/// Does what the end of a notification does, in its order, again and again; returns how often.
async fn keep_ending_jobs(pool: &PgPool, nth: i32, done: &AtomicBool) -> Result<u32, sqlx::Error> {
    let end = "UPDATE apalis.jobs SET attempts = attempts + 1
        WHERE job_type = 'notify_client' AND idempotency_key = md5($1::int::text)::uuid::text";
    let told = "UPDATE transactions SET notified_version = 1 WHERE id = md5($1::int::text)::uuid";
    let close =
        "UPDATE failed_jobs SET note = 'told' WHERE transaction_id = md5($1::int::text)::uuid";
    let mut times = 0;
    while !done.load(Ordering::Relaxed) {
        let mut tx = pool.begin().await?;
        for query in [end, told, close] {
            sqlx::query(query).bind(nth).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        times += 1;
    }
    Ok(times)
}

/// A migration that takes two strong locks in one transaction meets a job that ends between them;
/// one that waits for the advisory lock in a statement meets the build of an index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_apply_twice_at_once_beside_a_system_that_runs() {
    let (database, mut connection) = released_database().await;
    let pools = [database.pool(), database.pool()];
    let done = AtomicBool::new(false);
    let migrate = async {
        let migrated = join!(store::migrate(database.url()), store::migrate(database.url()));
        done.store(true, Ordering::Relaxed);
        migrated
    };
    let (migrated, one, other) = join!(
        migrate,
        keep_ending_jobs(&pools[0], 1, &done),
        keep_ending_jobs(&pools[1], 2, &done)
    );
    migrated.0.unwrap();
    migrated.1.unwrap();
    assert!(one.unwrap() > 10 && other.unwrap() > 10);
    let template = TestDatabase::create().await;
    let mut fresh = PgConnection::connect(template.url()).await.unwrap();
    assert_eq!(schema(&mut connection).await, schema(&mut fresh).await);
    let unknown = "SELECT cause FROM failed_jobs WHERE client_id IS NULL";
    assert_eq!(texts(&mut connection, unknown).await, Vec::<String>::new());
    let invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid
        UNION ALL SELECT conname FROM pg_constraint WHERE NOT convalidated";
    assert_eq!(texts(&mut connection, invalid).await, Vec::<String>::new());
}

/// Processes of the release before go on until they are replaced: what they read is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_release_before_keep_their_keys_and_their_secrets_are_carried_over() {
    let (database, mut connection) = released_database().await;
    let client = "SELECT name || ' ' || encode(api_key_hash, 'hex') || ' ' || signing_secret
        FROM clients";
    let before = texts(&mut connection, client).await;
    store::migrate(database.url()).await.unwrap();
    assert_eq!(texts(&mut connection, client).await, before);

    let keys: MasterKeys = MASTER_KEY.parse().unwrap();
    let pool = database.database();
    let seals = secrets::carry_over(&pool, &keys, None).await.unwrap();
    assert_eq!((seals.plain, seals.unreadable.len()), (1, 0));
    let sealed = &texts(&mut connection, "SELECT signing_secret FROM clients").await[0];
    assert_eq!(keys.open("old", sealed).unwrap().reveal(), "whsec_b2xk");
    let found = store::clients::find_by_api_key_hash(&pool, &hash_token("old")).await.unwrap();
    assert!(found.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_whose_build_was_cut_off_is_built_anew() {
    let (database, mut connection) = released_database().await;
    // A build that fails leaves the same as one that is cut off.
    let cut_off =
        "CREATE UNIQUE INDEX CONCURRENTLY transactions_by_status ON transactions (status)";
    sqlx::raw_sql(cut_off).execute(&mut connection).await.unwrap_err();
    let index = "SELECT indisvalid || ' ' || pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indexrelid = 'transactions_by_status'::regclass";
    assert!(texts(&mut connection, index).await[0].starts_with("false CREATE UNIQUE"));
    store::migrate(database.url()).await.unwrap();
    let built = texts(&mut connection, index).await;
    assert!(built[0].starts_with("true CREATE INDEX"), "{built:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_is_not_waited_for_and_another_run_goes_on() {
    let (database, mut connection) = released_database().await;
    let mut reader = connection.begin().await.unwrap();
    sqlx::query("LOCK TABLE transactions IN ACCESS SHARE MODE")
        .execute(&mut *reader)
        .await
        .unwrap();
    let wait = Duration::from_secs(3);
    let refused = store::migrate_within(database.url(), wait, &|_| {}, future::pending());
    let refused = tokio::time::timeout(Duration::from_secs(30), refused);
    let refused = refused.await.expect("it does not wait for long").unwrap_err().to_string();
    assert!(refused.contains("run `quartet migrate` again"), "{refused}");
    reader.rollback().await.unwrap();
    store::migrate(database.url()).await.unwrap();
}
