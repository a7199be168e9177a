//! The views for people with psql: they tell the same as the API, show no secret and bear strange
//! rows; and a role that reads them and nothing else.

use chrono::{DateTime, Utc};
use quartet::{
    dev::postgres::{EmbeddedPostgres, Options},
    domain::{DeadLetterKind, DeadLetterState},
    sandbox::SendWebhook,
    store,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use url::Url;

use crate::support::{TestApp, job_rows, spawn_api_at_rest, spawn_app, world::API_KEY};

const VIEWS: [&str; 6] =
    ["jobs", "transactions", "dead_letters", "queues", "circuit", "rejected_webhooks"];

/// The rows of a view.
async fn rows(pool: &PgPool, view: &str) -> Vec<Value> {
    let query = format!("SELECT to_jsonb(shown) FROM operator.{view} AS shown");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(pool).await.unwrap()
}

/// All items of an operator's list.
async fn listed(app: &TestApp, path: &str) -> Vec<Value> {
    let answer = app.operator().get(&format!("/v1/operator/{path}?limit=200")).await;
    assert_eq!(answer.expect(200)["next_cursor"], Value::Null);
    answer.body["items"].as_array().unwrap().clone()
}

/// Asserts that the view's row says of these fields what the API says. Times are compared as such.
#[track_caller]
fn assert_same(row: &Value, item: &Value, fields: &[&str]) {
    let time = |value: &Value| value.as_str()?.parse::<DateTime<Utc>>().ok();
    for field in fields {
        let (ours, theirs) = (row.get(field), item.get(field));
        assert!(ours.is_some() && theirs.is_some(), "{field}: {row} {item}");
        let (ours, theirs) = (&row[field], &item[field]);
        let same = ours == theirs || time(ours).is_some() && time(ours) == time(theirs);
        assert!(same, "{field}: the view says {ours}, the API {theirs}");
    }
}

#[track_caller]
fn find<'a>(rows: &'a [Value], key: &str, value: &Value) -> &'a Value {
    rows.iter().find(|row| row[key] == *value).unwrap_or_else(|| panic!("no {key} {value}"))
}

/// Puts a transaction's notification into a state, with so many failed attempts.
async fn set_job(app: &TestApp, id: uuid::Uuid, status: &str, run_at: &str, attempts: i32) {
    let set = r#"
        UPDATE apalis.jobs
        SET status = $2, run_at = now() + $3::text::interval, attempts = $4,
            done_at = CASE WHEN $2 <> 'Pending' THEN now() END, metadata = 'polls=>7',
            last_result = CASE WHEN $4 > 0 THEN
                '{"Err": "no answer", "errors": [{"attempt": 1, "at": "2026-11-24T03:00:00Z", "error": "no answer"}]}'::jsonb
            END
        WHERE idempotency_key = $1 AND job_type = 'notify_client'"#;
    let set = sqlx::query(set).bind(id.to_string()).bind(status).bind(run_at).bind(attempts);
    assert_eq!(set.execute(&app.pool).await.unwrap().rows_affected(), 1);
}

/// Rows as an import may write them, and one of another program.
async fn add_strange_jobs(app: &TestApp) {
    let add = r#"
        INSERT INTO apalis.jobs (id, job_type, job, status, run_at, idempotency_key, metadata)
        VALUES
            ('01ARZ3NDEKTSV4RRFFQ69G5FA1', 'notify_client', '\xff00', 'Pending', 'infinity',
                'no uuid', 'polls=>many'),
            ('01ARZ3NDEKTSV4RRFFQ69G5FA2', 'update_status',
                convert_to('{"a": "\u0000"}', 'UTF8'), 'Pending', '-infinity', NULL, NULL),
            ('01ARZ3NDEKTSV4RRFFQ69G5FA3', 'other::Job', '{}', 'Pending', now(), 'other', NULL)"#;
    sqlx::query(add).execute(&app.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_in_every_state_and_strange_ones_are_told_as_the_api_does() {
    let app = spawn_api_at_rest().await;
    let mut ids = Vec::new();
    for (status, run_at, attempts) in [
        ("Pending", "-1 min", 0),
        ("Pending", "1 hour", 3),
        ("Done", "-1 min", 1),
        ("Failed", "-1 min", 15),
        ("Killed", "-1 min", 0),
    ] {
        let id = app.client().accept().await;
        set_job(&app, id, status, run_at, attempts).await;
        ids.push(id);
    }
    job_rows::lease_to(&app.pool, "worker-1", ids[0], "update_status").await;
    add_strange_jobs(&app).await;

    let (rows, items) = (rows(&app.pool, "jobs").await, listed(&app, "jobs").await);
    assert_eq!((rows.len(), items.len()), (22, 22));
    for item in &items {
        let row = find(&rows, "id", &item["id"]);
        assert_same(
            row,
            item,
            &["queue", "state", "transaction_id", "attempts", "max_attempts", "done_at"],
        );
        assert_same(row, item, &["last_error", "errors", "polls"]);
        let lease = json!({ "worker": row["worker"], "since": row["leased_at"] });
        match &item["lease"] {
            Value::Null => assert_eq!(lease, json!({ "worker": null, "since": null })),
            told => assert_same(&lease, told, &["worker", "since"]),
        }
        match row["run_at"].as_str() {
            // The API says a time that a client can read.
            Some("infinity" | "-infinity") => {}
            _ => assert_same(row, item, &["run_at"]),
        }
        let strange = item["id"].as_str().unwrap().starts_with("01ARZ3NDEKTSV4RRFFQ69G5FA");
        assert_eq!(row["payload"].is_null(), strange, "{row}");
        assert_eq!(row["transaction_id"].is_null(), strange, "{row}");
    }
    let mut states: Vec<&str> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    states.sort_unstable();
    states.dedup();
    assert_eq!(states, ["cancelled", "done", "due", "failed", "running", "scheduled"]);
    let create = rows
        .iter()
        .find(|row| row["queue"] == "create_transaction" && row["transaction_id"] == json!(ids[0]));
    assert_eq!(create.unwrap()["payload"]["content"]["amount"], 1250);
    let ages = "SELECT bool_and((due_in <= interval '0') = (run_at <= now()))
        FROM operator.jobs";
    assert!(sqlx::query_scalar::<_, bool>(ages).fetch_one(&app.pool).await.unwrap());
}

/// A sequential scan of millions of rows is planned in parallel, where Postgres refuses more than
/// in others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_decoded_in_a_query_that_would_be_parallel() {
    let app = spawn_api_at_rest().await;
    app.client().accept().await;
    let mut connection = PgConnection::connect(app.database_url()).await.unwrap();
    let cheap = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
        SET min_parallel_table_scan_size = 0; SET enable_indexscan = off;
        SET enable_bitmapscan = off; ANALYZE apalis.jobs;";
    sqlx::raw_sql(cheap).execute(&mut connection).await.unwrap();
    let decoded = "SELECT count(payload) FROM operator.jobs";
    let decoded: i64 = sqlx::query_scalar(decoded).fetch_one(&mut connection).await.unwrap();
    assert_eq!(decoded, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_every_status_are_told_as_the_api_does() {
    let app = spawn_api_at_rest().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(app.client().accept().await);
    }
    app.send_webhook(SendWebhook::new(ids[1], "completed")).await;
    app.send_webhook(SendWebhook::new(ids[2], "declined")).await;
    let fail = "UPDATE transactions SET status = 'failed', version = 2, notified_version = 2,
        settled_at = created_at + interval '8 min', settled_by = 'creation_failure' WHERE id = $1";
    sqlx::query(fail).bind(ids[3]).execute(&app.pool).await.unwrap();

    let (rows, items) = (rows(&app.pool, "transactions").await, listed(&app, "transactions").await);
    assert_eq!((rows.len(), items.len()), (4, 4));
    for item in &items {
        let row = find(&rows, "id", &item["id"]);
        let fields = item.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
        assert_same(row, item, &fields);
        assert_eq!(row["client_told"], item["version"] == item["notified_version"]);
        assert_eq!(row["metadata"]["order"], "A-117");
        assert_eq!(row["time_to_final"].is_null(), item["status"] == "pending");
        assert!(row["age"].is_string());
    }
    assert_eq!(find(&rows, "status", &json!("failed"))["time_to_final"], "00:08:00");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_every_kind_and_state_are_told_as_the_api_does() {
    let app = spawn_api_at_rest().await;
    let id = app.client().accept().await;
    let fill = r#"
        INSERT INTO failed_jobs (
            kind, cause, state, transaction_id, client_id, job_id, queue, job, reason, detail,
            attempts, closed_at, closed_by, note
        )
        SELECT
            kind, kind || state, state,
            CASE WHEN of_job THEN $1 ELSE gen_random_uuid() END,
            CASE WHEN of_job THEN (SELECT client_id FROM transactions WHERE id = $1) END,
            CASE WHEN of_job THEN 'job-1' END, CASE WHEN of_job THEN 'update_status' END,
            CASE WHEN of_job THEN '{}'::jsonb END, 'it is ' || kind, '{"status": "completed"}',
            CASE WHEN of_job
                THEN '[{"attempt": 1, "error": "first"}, {"attempt": 2, "error": "last"}]'::jsonb
                ELSE '[]'
            END,
            CASE WHEN state <> 'open' THEN now() END,
            CASE WHEN state <> 'open' THEN 'operator (Ada)' END,
            CASE WHEN state <> 'open' THEN 'seen' END
        FROM unnest($2::text[]) AS kind, unnest($3::text[]) AS state,
            LATERAL (SELECT kind <> 'unknown_transaction' AS of_job) AS origin"#;
    let kinds: Vec<String> = DeadLetterKind::ALL.iter().map(ToString::to_string).collect();
    let states: Vec<String> = DeadLetterState::ALL.iter().map(ToString::to_string).collect();
    let filled = sqlx::query(fill).bind(id).bind(kinds).bind(states).execute(&app.pool).await;
    assert_eq!(filled.unwrap().rows_affected(), 28);

    let (rows, items) = (rows(&app.pool, "dead_letters").await, listed(&app, "dead-letters").await);
    assert_eq!((rows.len(), items.len()), (28, 28));
    for item in &items {
        let row = find(&rows, "id", &item["id"]);
        let same = ["kind", "state", "transaction_id", "client", "queue", "reason", "opened_at"];
        assert_same(row, item, &same);
        assert_same(row, item, &["closed_at", "closed_by", "note", "job_id", "detail"]);
        let attempts = item["attempts"].as_array().unwrap();
        assert_eq!(row["attempts"], attempts.len());
        assert_eq!(
            row["last_error"],
            attempts.last().map_or(Value::Null, |last| last["error"].clone())
        );
        assert!(row["age"].is_string());
        assert!(row.get("job").is_none(), "a job row's payload is text that nobody has looked at");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_told_as_the_api_does() {
    let app = spawn_api_at_rest().await;
    for (status, run_at) in [("Pending", "-30 min"), ("Pending", "1 hour"), ("Failed", "0")] {
        let id = app.client().accept().await;
        set_job(&app, id, status, run_at, 0).await;
        job_rows::lease_to(&app.pool, &format!("worker of {id}"), id, "create_transaction").await;
    }
    // Nothing becomes due between one look and the other.
    let due = "UPDATE apalis.jobs SET run_at = now() WHERE job_type = 'update_status'";
    sqlx::query(due).execute(&app.pool).await.unwrap();
    // The last full minute, whichever it is by the time of the query.
    let done = "INSERT INTO minute_figures (minute, figure, label, value)
        SELECT date_trunc('minute', now(), 'UTC') - minutes * interval '1 minute', 'jobs',
            'notify_client/done', 42
        FROM generate_series(0, 1) AS minutes";
    sqlx::query(done).execute(&app.pool).await.unwrap();
    let note = json!({ "note": "maintenance" });
    let pause = "/v1/operator/queues/update_status/pause";
    app.operator().post(pause, &note).await.expect(200);
    // Due since the beginning of time: a list that is still answered.
    add_strange_jobs(&app).await;

    let rows = rows(&app.pool, "queues").await;
    let answer = app.operator().get("/v1/operator/queues").await;
    let items = answer.expect(200)["items"].as_array().unwrap();
    assert_eq!((rows.len(), items.len()), (4, 4));
    for (row, item) in rows.iter().zip(items) {
        let fields =
            ["queue", "due", "scheduled", "running", "failed", "done_per_minute", "paused"];
        assert_same(row, item, &fields);
        assert_same(row, item, &["paused_at", "paused_by", "pause_note"]);
        assert_eq!(row["oldest_due_age"].is_null(), item["oldest_due_age_ms"].is_null());
    }
    let notify = find(&rows, "queue", &json!("notify_client"));
    for (field, count) in
        [("due", 1), ("scheduled", 2), ("running", 0), ("failed", 1), ("done_per_minute", 42)]
    {
        assert_eq!(notify[field], count, "{field}");
    }
    assert!(notify["oldest_due_age"].as_str().unwrap().starts_with("00:30:"), "{notify}");
    assert_eq!(find(&rows, "queue", &json!("create_transaction"))["running"], 3);
    assert_eq!(find(&rows, "queue", &json!("update_status"))["pause_note"], "maintenance");
}

/// A webhook that was rejected a minute ago, and one of the hour before.
async fn add_rejected_webhooks(app: &TestApp) {
    let add = "INSERT INTO rejected_webhooks
            (minute, reason, count, last_at, last_detail, last_remote, last_webhook_id)
        SELECT date_trunc('minute', now() - age, 'UTC'), 'too_old', 3, now() - age, 'it is too old',
            '192.0.2.1', id
        FROM unnest('{1 min,1 h}'::interval[], '{msg_1,NULL}'::text[]) AS rejected (age, id)";
    sqlx::query(add).execute(&app.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_webhooks_are_told_as_the_api_does() {
    let app = spawn_api_at_rest().await;
    add_rejected_webhooks(&app).await;
    let rows = rows(&app.pool, "rejected_webhooks").await;
    let items = listed(&app, "rejected-webhooks").await;
    assert_eq!((rows.len(), items.len()), (2, 2));
    for item in &items {
        // Without an id the API leaves the field out, or says null.
        let row = find(&rows, "last_webhook_id", &item["last_webhook_id"]);
        let fields = ["minute", "reason", "count", "last_at", "last_detail", "last_remote"];
        assert_same(row, item, &fields);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circuit_is_told_as_the_api_does_with_its_cause() {
    let app = spawn_api_at_rest().await;
    let open = "UPDATE circuits SET opened_at = now(), open_until = now() + interval '1 hour',
        open_for = 3600, reason = 'answered 401', trips = 3, cause = 'lookup_refused'";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    let rows = rows(&app.pool, "circuit").await;
    let answer = app.operator().get("/v1/operator/circuit").await;
    let fields = ["state", "opened_at", "open_until", "reason", "trips"];
    assert_same(&rows[0], answer.expect(200), &fields);
    assert_eq!((rows.len(), &rows[0]["cause"]), (1, &json!("lookup_refused")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_show_no_secret_and_describe_every_column() {
    let app = spawn_api_at_rest().await;
    add_rejected_webhooks(&app).await;
    let id = app.client().accept().await;
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    let secrets = "SELECT ARRAY[signing_secret, encode(api_key_hash, 'hex'),
            encode(api_key_hash, 'base64')] FROM clients";
    let mut secrets: Vec<String> = sqlx::query_scalar(secrets).fetch_one(&app.pool).await.unwrap();
    secrets.push(API_KEY.to_owned());
    for view in VIEWS {
        let rows = rows(&app.pool, view).await;
        assert!(!rows.is_empty(), "{view}");
        let text = json!(rows).to_string();
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{view} shows {secret}");
        }
    }
    let undescribed = "
        SELECT format('%s %s', c.relname, a.attname)
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'operator'::regnamespace
            AND (col_description(c.oid, a.attnum) IS NULL
                OR obj_description(c.oid, 'pg_class') IS NULL)";
    let undescribed: Vec<String> =
        sqlx::query_scalar(undescribed).fetch_all(&app.pool).await.unwrap();
    assert_eq!(undescribed, [""; 0]);
}

/// The same database for another user.
fn url_of(url: &str, user: &str, password: &str) -> String {
    let mut url: Url = url.parse().unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some(password)).unwrap();
    url.into()
}

async fn run(connection: &mut PgConnection, statement: &str) -> Result<(), String> {
    let ran = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await;
    ran.map(|_| ()).map_err(|error| {
        let code = error.as_database_error().and_then(|error| error.code());
        code.map_or_else(|| error.to_string(), Into::into)
    })
}

/// What a user that was granted `quartet_reader` and nothing else can do but should not, and the
/// other way round.
async fn wrong_about_reader(url: &str) -> Vec<String> {
    let mut reader = PgConnection::connect(url).await.unwrap();
    let mut wrong = Vec::new();
    for view in VIEWS {
        if let Err(error) = run(&mut reader, &format!("SELECT * FROM operator.{view}")).await {
            wrong.push(format!("cannot read operator.{view}: {error}"));
        }
    }
    let refused = "42501".to_owned();
    for statement in [
        "SELECT * FROM clients",
        "SELECT signing_secret FROM public.clients",
        "SELECT * FROM apalis.jobs",
        "SELECT * FROM transaction_events",
        "SELECT * FROM operator_actions",
        "UPDATE operator.jobs SET state = 'done'",
        "UPDATE transactions SET status = 'completed'",
        "INSERT INTO queue_pauses (queue, paused_by) VALUES ('notify_client', 'reader')",
        "DELETE FROM operator.dead_letters",
        "CREATE TABLE operator.more (id int)",
        "CREATE TABLE public.more (id int)",
    ] {
        match run(&mut reader, statement).await {
            Err(error) if error == refused => {}
            // A view of a join takes no change, whoever asks.
            Err(error) if error == "55000" && statement.contains("operator.") => {}
            other => wrong.push(format!("{statement}: {other:?}")),
        }
    }
    let more = "
        SELECT c.oid::regclass || ' ' || privilege
        FROM pg_class c, unnest(ARRAY[
            'SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'
        ]) AS privilege
        WHERE c.relnamespace::regnamespace::text IN ('public', 'apalis', 'operator')
            AND c.relkind IN ('r', 'v', 'm', 'p')
            AND has_table_privilege(c.oid, privilege)
            AND NOT (c.relnamespace = 'operator'::regnamespace AND privilege = 'SELECT')";
    let more: Vec<String> = sqlx::query_scalar(more).fetch_all(&mut reader).await.unwrap();
    wrong.extend(more);
    reader.close().await.unwrap();
    wrong
}

/// As docs/database.md says for PostgreSQL 14, where every role may create tables in `public`.
async fn close_schema_public(database: &str) {
    let mut admin = PgConnection::connect(database).await.unwrap();
    let old = "SELECT current_setting('server_version_num')::int < 150000";
    if sqlx::query_scalar(old).fetch_one(&mut admin).await.unwrap() {
        run(&mut admin, "REVOKE CREATE ON SCHEMA public FROM PUBLIC").await.unwrap();
    }
    admin.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_reads_the_views_and_no_table() {
    let app = spawn_api_at_rest().await;
    app.client().accept().await;
    close_schema_public(app.database_url()).await;
    let mut owner = PgConnection::connect(app.database_url()).await.unwrap();
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut owner).await.unwrap();
    // Roles belong to the whole server: one for this test.
    let reader = format!("{name}_reader");
    let create = format!("CREATE ROLE {reader} LOGIN PASSWORD 'read' IN ROLE quartet_reader");
    run(&mut owner, &create).await.unwrap();
    let wrong = wrong_about_reader(&url_of(app.database_url(), &reader, "read")).await;
    run(&mut owner, &format!("DROP ROLE {reader}")).await.unwrap();
    assert_eq!(wrong, [""; 0]);
}

/// The statements of docs/database.md, for this database.
fn documented_revokes(database: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/database.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, section) = page.split_once("## What readers can do").unwrap();
    let (_, block) = section.split_once("```sql\n").unwrap();
    let (statements, _) = block.split_once("```").unwrap();
    assert!(statements.contains(":\"database\""), "{statements}");
    statements.replace(":\"database\"", &format!("\"{database}\""))
}

/// What every role may do in a new database; and that Quartet works where it is taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_can_be_kept_from_temporary_tables_and_large_objects() {
    let app = spawn_app().await;
    let mut owner = PgConnection::connect(app.database_url()).await.unwrap();
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut owner).await.unwrap();
    let reader = format!("{name}_reader");
    let create = format!("CREATE ROLE {reader} LOGIN PASSWORD 'read' IN ROLE quartet_reader");
    run(&mut owner, &create).await.unwrap();
    let url = url_of(app.database_url(), &reader, "read");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let filling = [
        "CREATE TEMPORARY TABLE more (id int)",
        "SELECT lo_create(0)",
        "SELECT lo_creat(-1)",
        "SELECT lo_from_bytea(0, 'x')",
    ];
    let harmless = ["SELECT pg_advisory_lock(1), pg_advisory_unlock_all()", "NOTIFY anything"];
    let mut before = Vec::new();
    for statement in filling.iter().chain(&harmless) {
        before.push(run(&mut connection, statement).await);
    }
    let clear = "DROP TABLE more; SELECT lo_unlink(oid) FROM pg_largeobject_metadata
        WHERE lomowner = current_user::regrole";
    run(&mut connection, clear).await.unwrap();
    connection.close().await.unwrap();
    run(&mut owner, &documented_revokes(&name)).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut after = Vec::new();
    for statement in filling {
        after.push(run(&mut connection, statement).await);
    }
    connection.close().await.unwrap();
    run(&mut owner, &format!("DROP ROLE {reader}")).await.unwrap();
    // As the table there says of each.
    assert_eq!(before, vec![Ok(()); filling.len() + harmless.len()]);
    assert_eq!(after, vec![Err("42501".to_owned()); filling.len()]);

    let id = app.client().accept().await;
    app.wait_told(id, std::time::Duration::from_secs(30)).await;
    store::migrate(app.database_url()).await.unwrap();
    owner.close().await.unwrap();
}

/// On a server of its own, on which the role does not exist yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_not_create_roles_migrates_and_somebody_else_adds_the_reader() {
    let server = EmbeddedPostgres::start(Options::default()).await.unwrap();
    let mut admin = PgConnection::connect(&server.url("postgres")).await.unwrap();
    let prepare = "CREATE ROLE keeper LOGIN PASSWORD 'keep' NOCREATEROLE";
    run(&mut admin, prepare).await.unwrap();
    run(&mut admin, "CREATE ROLE grace LOGIN PASSWORD 'read'").await.unwrap();
    for database in ["before", "after"] {
        run(&mut admin, &format!("CREATE DATABASE {database} OWNER keeper")).await.unwrap();
    }
    let keeper = |database| url_of(&server.url(database), "keeper", "keep");
    let grace = |database| url_of(&server.url(database), "grace", "read");

    store::migrate(&keeper("before")).await.unwrap();
    close_schema_public(&server.url("before")).await;
    let role = "SELECT to_regrole('quartet_reader') IS NOT NULL";
    assert!(!sqlx::query_scalar::<_, bool>(role).fetch_one(&mut admin).await.unwrap());
    // As the operator's guide says.
    run(&mut admin, "CREATE ROLE quartet_reader").await.unwrap();
    run(&mut admin, "GRANT quartet_reader TO grace").await.unwrap();
    let mut owner = PgConnection::connect(&keeper("before")).await.unwrap();
    run(&mut owner, "GRANT USAGE ON SCHEMA operator TO quartet_reader").await.unwrap();
    run(&mut owner, "GRANT SELECT ON ALL TABLES IN SCHEMA operator TO quartet_reader")
        .await
        .unwrap();
    assert_eq!(wrong_about_reader(&grace("before")).await, [""; 0]);

    // Where the role is there already, the migrations grant.
    store::migrate(&keeper("after")).await.unwrap();
    close_schema_public(&server.url("after")).await;
    assert_eq!(wrong_about_reader(&grace("after")).await, [""; 0]);
    owner.close().await.unwrap();
    admin.close().await.unwrap();
    server.stop().await.unwrap();
}
