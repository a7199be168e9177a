//! Each session sets what it needs, whatever is set for the role, the database or the environment.

use quartet::{
    config::Role,
    store::{self, SqlTransaction, Target},
};
use uuid::Uuid;

use super::{Admin, BOUND, Scratch, accept, faultless, name_of, patient};
use crate::support::{
    Client, World, pgbouncer::PgBouncer, postgres::own_server, wait_for, wait_until,
};

/// What a DBA may set for a role, and what sessions of ours have nevertheless.
const HOSTILE: [(&str, &str, &str); 27] = [
    ("synchronous_commit", "off", "on"),
    ("default_transaction_isolation", "serializable", "read committed"),
    ("transaction_isolation", "", "read committed"),
    ("search_path", "app, pg_catalog", "public, pg_temp"),
    ("statement_timeout", "50ms", "5s"),
    ("idle_in_transaction_session_timeout", "1ms", "10s"),
    ("idle_session_timeout", "1s", "0"),
    ("row_security", "on", "off"),
    ("standard_conforming_strings", "off", "on"),
    ("bytea_output", "escape", "hex"),
    ("IntervalStyle", "sql_standard", "postgres"),
    ("DateStyle", "German", "ISO, MDY"),
    ("TimeZone", "Pacific/Apia", "UTC"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("array_nulls", "off", "on"),
    ("transform_null_equals", "on", "off"),
    ("work_mem", "64kB", "16MB"),
    ("jit", "on", "off"),
    ("plan_cache_mode", "force_custom_plan", "-"),
    ("join_collapse_limit", "1", "8"),
    ("from_collapse_limit", "1", "8"),
    ("enable_indexscan", "off", "on"),
    ("enable_bitmapscan", "off", "on"),
    ("enable_hashjoin", "off", "on"),
    ("enable_mergejoin", "off", "on"),
    ("enable_sort", "off", "on"),
    ("extra_float_digits", "-15", "-"),
];

/// Writes down the settings of each session that changes a table of ours.
const WITNESS: &str = "
    CREATE TABLE public.witness (
        at text, pid int, name text, setting text,
        CONSTRAINT witness_once UNIQUE (at, pid, name, setting)
    );
    CREATE FUNCTION public.witness() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.witness
        SELECT TG_TABLE_NAME, pg_backend_pid(), name, current_setting(name)
        FROM unnest(TG_ARGV::text[]) AS name
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END
    $$;";
const WATCHED: [&str; 5] = [
    "public.transactions",
    "public.transaction_events",
    "public.webhook_deliveries",
    "apalis.jobs",
    "apalis.workers",
];

/// A database whose role, and a schema in its way, are as hostile as they can be.
async fn hostile() -> Scratch {
    let mut scratch = Scratch::migrated().await;
    scratch.admin.run(WITNESS).await;
    let names: Vec<_> = HOSTILE.iter().map(|(name, _, _)| format!("'{name}'")).collect();
    for table in WATCHED {
        let trigger = format!(
            "CREATE TRIGGER witness AFTER INSERT OR UPDATE ON {table}
             FOR EACH STATEMENT EXECUTE FUNCTION public.witness({})",
            names.join(", ")
        );
        scratch.admin.run(trigger).await;
    }
    let role = scratch.role.clone();
    scratch
        .admin
        .run(format!(
            "CREATE SCHEMA app AUTHORIZATION {role}; CREATE SCHEMA {role} AUTHORIZATION {role}"
        ))
        .await;
    for (name, value, _) in HOSTILE {
        if !value.is_empty() {
            let value = if name == "search_path" { value.to_owned() } else { format!("'{value}'") };
            scratch.admin.run(format!("ALTER ROLE {role} SET {name} = {value}")).await;
        }
    }
    scratch
}

/// What sessions had that they should not have.
async fn wrong(admin: &mut Admin) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, _, expected) in HOSTILE {
        // Writers choose some plans themselves, and any positive number of digits is exact.
        let expected = match name {
            "enable_hashjoin" | "enable_mergejoin" => continue,
            "plan_cache_mode" => "setting <> 'force_custom_plan'".to_owned(),
            "extra_float_digits" => "setting::int > 0".to_owned(),
            _ => format!("setting = '{expected}'"),
        };
        let seen = format!(
            "SELECT DISTINCT format('%s: %s = %s', at, name, setting) FROM public.witness
             WHERE name = '{name}' AND NOT ({expected})"
        );
        wrong.extend(admin.texts(&seen).await);
    }
    wrong
}

/// The tables in which sessions were seen.
async fn seen(admin: &mut Admin) -> Vec<String> {
    admin.texts("SELECT DISTINCT at FROM public.witness ORDER BY 1").await
}

/// Sends some transactions through, each to its end.
async fn send_through(client: &Client) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(accept(client).await);
    }
    for id in &ids {
        wait_until("the client hears the end", BOUND, async || {
            let transaction = client.get_transaction(*id).await.body;
            transaction["status"] == "completed" && transaction["notified_version"] == 2
        })
        .await;
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_has_its_own_settings_whatever_the_role_has() {
    let mut scratch = hostile().await;
    let world = World::on_database(&scratch.url, faultless()).await;
    let api = patient(&world, Role::Api)
        .set("PGOPTIONS", "-c synchronous_commit=local -c search_path=app -c statement_timeout=1")
        .set("PGAPPNAME", "something")
        .set("PGTZ", "Asia/Tokyo")
        .spawn()
        .await;
    // It has sessions that idle, such as the listener's.
    let worker =
        world.process(Role::Worker).set("QUARTET_HTTP__PUBLIC_URL", api.url()).spawn().await;
    let ids = send_through(&api.client()).await;
    assert_eq!(wrong(&mut scratch.admin).await, Vec::<String>::new());
    assert_eq!(seen(&mut scratch.admin).await.len(), WATCHED.len());
    let said = [api.output(), worker.output()].concat();
    assert!(!said.contains("idle-session timeout"), "{said}");
    let rows = "SELECT count(*)::text FROM public.transactions";
    assert_eq!(scratch.admin.texts(rows).await, [ids.len().to_string()]);
    drop((api, worker));
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transaction_through_a_pooler_has_them_too() {
    let mut scratch = hostile().await;
    let bouncer = PgBouncer::start(&scratch.url, 4).await;
    let world = World::on_database(&scratch.url, faultless()).await;
    let app = patient(&world, Role::All)
        .set("DATABASE_URL", bouncer.url())
        .set("QUARTET_DATABASE__POOLER", "transaction")
        .spawn()
        .await;
    send_through(&app.client()).await;
    assert_eq!(wrong(&mut scratch.admin).await, Vec::<String>::new());
    assert_eq!(seen(&mut scratch.admin).await.len(), WATCHED.len());
    drop((app, bouncer));
    scratch.drop().await;
}

/// What the session of a pool has.
async fn synchronous_commit(target: Target) -> String {
    let database = store::connect(&target, 1, BOUND, &Default::default());
    let query = "SELECT current_setting('synchronous_commit')";
    let shown = sqlx::query_scalar(query).fetch_one(&database).await.unwrap();
    database.close().await;
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_never_weaker_than_on_and_what_is_stronger_stays() {
    let mut scratch = Scratch::migrated().await;
    let name = name_of(&scratch.url);
    for (set, expected) in [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        scratch.admin.run(format!("ALTER DATABASE {name} SET synchronous_commit = {set}")).await;
        let bouncer = PgBouncer::start(&scratch.url, 1).await;
        for (url, shares_sessions) in [(scratch.url.as_str(), false), (bouncer.url(), true)] {
            let target = Target::new(url, shares_sessions).unwrap();
            assert_eq!(synchronous_commit(target).await, expected, "{set}, {shares_sessions}");
        }
    }
    scratch.drop().await;
}

/// A setting of which Quartet does not care: whether a session has read the configuration again.
const MARK: &str = "deadlock_timeout";

/// Sets these for the whole server, and waits until that is in effect.
async fn set_for_the_server(admin: &mut Admin, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        admin.run(format!("ALTER SYSTEM SET {name} = '{value}'")).await;
    }
    admin.run("SELECT pg_reload_conf()").await;
    for (name, value) in settings {
        wait_until("the configuration is in effect", BOUND, async || {
            admin.texts(&format!("SELECT current_setting('{name}')")).await == [*value]
        })
        .await;
    }
}

/// What a session in a transaction has of `name`, once it has read the configuration in which
/// [`MARK`] has this value.
async fn after_reload(tx: &mut SqlTransaction, mark: &str, name: &str) -> String {
    let query = "SELECT current_setting($1), current_setting($2)";
    wait_for("the session has read the configuration", BOUND, async || {
        let row = sqlx::query_as(query).bind(MARK).bind(name).fetch_one(&mut **tx).await;
        let (marked, value): (String, String) = row.unwrap();
        (marked == mark).then_some(value)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_open_keeps_its_settings_when_the_servers_are_changed() {
    let server = own_server().await;
    let url = server.url("postgres");
    let mut admin = Admin::of(&url).await;
    let bouncer = PgBouncer::start(&url, 1).await;
    for (before, mark) in [("on", "1001ms"), ("remote_apply", "1003ms")] {
        let usual = [("synchronous_commit", before), ("idle_session_timeout", "0")];
        set_for_the_server(&mut admin, &usual).await;
        let mut open = Vec::new();
        for (url, shares_sessions) in [(url.as_str(), false), (bouncer.url(), true)] {
            let target = Target::new(url, shares_sessions).unwrap();
            let database = store::connect(&target, 1, BOUND, &Default::default());
            let tx = store::begin_snapshot(&database).await.unwrap();
            open.push((database, tx, shares_sessions));
        }
        let weak = [("synchronous_commit", "off"), ("idle_session_timeout", "1h"), (MARK, mark)];
        set_for_the_server(&mut admin, &weak).await;
        for (database, mut tx, shares_sessions) in open {
            let commit = after_reload(&mut tx, mark, "synchronous_commit").await;
            assert_eq!(commit, before, "through a pooler: {shares_sessions}");
            if !shares_sessions {
                assert_eq!(after_reload(&mut tx, mark, "idle_session_timeout").await, "0");
            }
            tx.rollback().await.unwrap();
            database.close().await;
        }
    }
    drop((admin, bouncer));
    server.stop().await.unwrap();
}

/// A temporary table of another program in a session that the pooler shares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_table_of_the_same_name_is_not_taken_for_ours() {
    use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};

    let scratch = Scratch::migrated().await;
    let bouncer = PgBouncer::start(&scratch.url, 1).await;
    let other: PgConnectOptions = bouncer.url().parse().unwrap();
    let mut other = PgConnection::connect_with(&other.extra_float_digits(None)).await.unwrap();
    other.execute("CREATE TEMP TABLE transactions (id int)").await.unwrap();
    let target = Target::new(bouncer.url(), true).unwrap();
    let database = store::connect(&target, 1, BOUND, &Default::default());
    let count = "SELECT count(content_hash) FROM transactions";
    let count: i64 = sqlx::query_scalar(count).fetch_one(&database).await.unwrap();
    assert_eq!(count, 0);
    database.close().await;
    drop((other, bouncer));
    scratch.drop().await;
}
