//! The migrations: on a database with data in it, again, and what they promise about the schema.

use quartet::store;
use sqlx::{Connection, PgConnection};

use crate::support::{World, postgres::TestDatabase};

/// A database on which nothing of ours or apalis's was applied.
async fn empty_database() -> (TestDatabase, PgConnection) {
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
