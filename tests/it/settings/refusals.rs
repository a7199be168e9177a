//! What cannot be set is refused, at migrate and at start, with the reason and what mends it.

use std::time::Duration;

use quartet::{
    app::{App, AppError},
    config::{Config, Role},
    store::postgres::requirements::Level,
};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Admin, BOUND, Scratch, faultless, migrate, name_of,
    schemas::{finding, findings},
    spawn_on, url_as,
};
use crate::support::{World, pgbouncer::PgBouncer, postgres::TestDatabase, wait_until, world::set};

/// Starts an app on this database, and returns why it does not run.
pub(super) async fn start_refused(url: &str) -> String {
    let mut settings = World::new().await.settings();
    set(&mut settings, "DATABASE_URL", url);
    set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
    let app = App::build(Config::load(settings, None).unwrap(), Role::All).await.unwrap();
    let ended = tokio::time::timeout(BOUND, app.run(CancellationToken::new()));
    match ended.await.expect("it ends").unwrap_err() {
        AppError::Requirements(unmet) => unmet.to_string(),
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_encoding_than_utf8_is_refused() {
    let database = TestDatabase::create().await;
    let mut admin = Admin::of(database.url()).await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = format!("{}_{}", name_of(database.url()), encoding.to_lowercase());
        let create = format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'
             TEMPLATE template0"
        );
        admin.run(create).await;
        let mut url: Url = database.url().parse().unwrap();
        url.set_path(&name);
        let ended = migrate(url.as_str(), &[]).await;
        let said = ended.expect_failure();
        assert!(said.contains(&format!("encoding is {encoding}")), "{said}");
        assert!(said.contains("UTF8") && said.contains("TEMPLATE template0"), "{said}");
        let said = start_refused(url.as_str()).await;
        assert!(said.contains(&format!("encoding is {encoding}")), "{said}");
        let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(Admin::of(url.as_str()).await.texts(tables).await, [""; 0]);
        admin.run(format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collation_that_has_ids_in_another_order_is_warned_about() {
    let scratch = Scratch::migrated().await;
    let name = format!("{}_danish", name_of(&scratch.url));
    let mut admin = Admin::of(scratch.database.url()).await;
    admin
        .run(format!(
            "CREATE DATABASE {name} LOCALE_PROVIDER icu ICU_LOCALE 'da' LOCALE 'C' ENCODING 'UTF8'
             TEMPLATE template0"
        ))
        .await;
    let mut danish: Url = scratch.database.url().parse().unwrap();
    danish.set_path(&name);
    migrate(danish.as_str(), &[]).await.expect();
    let collation = finding(danish.as_str(), "collation").await;
    assert_eq!(collation.level, Level::Warning);
    drop(spawn_on(danish.as_str()).await);
    let ours = findings(&scratch.url).await;
    let ours = ours.iter().find(|finding| finding.check == "collation").unwrap();
    assert_eq!(ours.level, Level::Ok);
    admin.run(format!("DROP DATABASE {name} WITH (FORCE)")).await;
    scratch.drop().await;
}

/// Runs the statements that a refusal names.
async fn follow(admin: &mut Admin, said: &str) {
    let grants = said.split([';', ':', '\n']).map(str::trim);
    let grants: Vec<_> = grants.filter(|part| part.starts_with("GRANT ")).collect();
    assert!(!grants.is_empty(), "{said}");
    for grant in grants {
        admin.run(grant).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_create_nothing_is_told_the_grants() {
    let mut scratch = Scratch::empty().await;
    let (role, name) = (scratch.role.clone(), name_of(&scratch.url));
    scratch
        .admin
        .run(format!(
            "ALTER DATABASE {name} OWNER TO CURRENT_USER; ALTER SCHEMA public OWNER TO CURRENT_USER;
             REVOKE ALL ON SCHEMA public FROM PUBLIC"
        ))
        .await;
    let ended = migrate(&scratch.url, &[]).await;
    let said = ended.expect_failure().to_owned();
    assert!(said.contains("extension hstore is missing"), "{said}");
    assert!(said.contains(&format!("GRANT CREATE ON DATABASE {name} TO {role}")), "{said}");
    assert!(said.contains(&format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}")), "{said}");
    scratch.admin.run("CREATE EXTENSION hstore; CREATE EXTENSION pgcrypto").await;
    let ended = migrate(&scratch.url, &[]).await;
    follow(&mut scratch.admin, ended.expect_failure()).await;
    migrate(&scratch.url, &[]).await.expect();
    let app = spawn_on(&scratch.url).await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    drop(app);
    scratch.drop().await;
}

/// As providers install them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions_in_a_schema_of_their_own_are_found() {
    let mut scratch = Scratch::empty().await;
    let role = scratch.role.clone();
    scratch
        .admin
        .run(
            "CREATE SCHEMA \"The extensions\"; CREATE EXTENSION hstore SCHEMA \"The extensions\";
             CREATE EXTENSION pgcrypto SCHEMA \"The extensions\"",
        )
        .await;
    let ended = migrate(&scratch.url, &[]).await;
    let said = ended.expect_failure();
    let grant = format!("GRANT USAGE ON SCHEMA \"The extensions\" TO {role}");
    assert!(said.contains(&grant), "{said}");
    scratch.admin.run(grant).await;
    migrate(&scratch.url, &[]).await.expect();

    let bouncer = PgBouncer::start(&scratch.url, 4).await;
    for (url, pooler) in [(scratch.url.as_str(), "none"), (bouncer.url(), "transaction")] {
        let world = World::on_database(url, faultless()).await;
        let app = world.app().set("QUARTET_DATABASE__POOLER", pooler).spawn().await;
        let id = app.client().accept().await;
        app.wait_told(id, BOUND).await;
        app.operator().get("/v1/operator/jobs").await.expect(200);
        drop(app);
    }
    drop(bouncer);
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_use_the_tables_is_told_the_grants() {
    let mut scratch = Scratch::migrated().await;
    let role = scratch.role.clone();
    scratch.admin.run(format!("REVOKE INSERT ON transactions FROM {role}")).await;
    let said = start_refused(&scratch.url).await;
    assert!(said.contains(&format!("GRANT INSERT ON public.transactions TO {role}")), "{said}");
    follow(&mut scratch.admin, &said).await;
    drop(spawn_on(&scratch.url).await);

    // Everything, and what the schema that is not there yet cannot need.
    scratch.admin.run(format!("DROP OWNED BY {role}")).await;
    let said = start_refused(&scratch.url).await;
    follow(&mut scratch.admin, &said).await;
    drop(spawn_on(&scratch.url).await);

    // What only retention needs is a warning.
    scratch.admin.run(format!("REVOKE DELETE ON minute_figures FROM {role}")).await;
    assert_eq!(finding(&scratch.url, "rights").await.level, Level::Warning);
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_role_than_the_owner_is_told_who_migrates() {
    let mut scratch = Scratch::migrated().await;
    let (role, name) = (scratch.role.clone(), name_of(&scratch.url));
    scratch
        .admin
        .run(format!(
            "GRANT CREATE ON DATABASE {name} TO {role};
             GRANT CREATE ON SCHEMA public, apalis, operator TO {role}"
        ))
        .await;
    let ended = migrate(&scratch.url, &[]).await;
    let said = ended.expect_failure();
    assert!(said.contains("run `quartet migrate` as "), "{said}");
    scratch.drop().await;
}

/// One that creates what the migrations do would leave views that may not read their tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_belongs_to_one_role_whoever_migrates() {
    const UNDONE: &str = "DROP TABLE waiting_webhooks;
        DELETE FROM _sqlx_migrations WHERE version = 20261129150000";

    let mut scratch = Scratch::empty().await;
    let role = scratch.role.clone();
    migrate(&scratch.url, &[]).await.expect();
    scratch
        .admin
        .run(format!(
            "CREATE ROLE {role}_member LOGIN PASSWORD 'relay'; GRANT {role} TO {role}_member"
        ))
        .await;
    let member = url_as(&scratch.url, &format!("{role}_member"), "relay");
    for url in [&member, scratch.database.url()] {
        scratch.admin.run(UNDONE).await;
        migrate(url, &[]).await.expect();
        let owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class
            WHERE relkind IN ('r', 'v')
                AND relnamespace::regnamespace::text IN ('public', 'apalis', 'operator')";
        assert_eq!(scratch.admin.texts(owners).await, [role.as_str()], "{url}");
    }
    drop(spawn_on(&member).await);
    scratch.admin.run(format!("DROP OWNED BY {role}_member; DROP ROLE {role}_member")).await;
    scratch.drop().await;
}

/// Its tables would be altered, or its migrations taken for ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_of_another_program_are_left_alone() {
    let mut scratch = Scratch::empty().await;
    for (theirs, named) in [
        ("CREATE TABLE clients (id int)", "public.clients"),
        ("CREATE VIEW transactions AS SELECT 1 AS content_hash", "public.transactions"),
        (
            "CREATE TABLE _sqlx_migrations (version bigint);
             INSERT INTO _sqlx_migrations VALUES (1)",
            "public._sqlx_migrations",
        ),
    ] {
        let owner = format!("ALTER TABLE {named} OWNER TO {}", scratch.role);
        scratch.admin.run(theirs).await;
        for owned in [false, true] {
            if owned {
                scratch.admin.run(&owner).await;
            } else {
                let read = format!("GRANT SELECT ON {named} TO {}", scratch.role);
                scratch.admin.run(read).await;
            }
            let ended = migrate(&scratch.url, &[]).await;
            let said = ended.expect_failure();
            assert!(said.contains(&format!("another program's tables: {named}")), "{said}");
            assert!(said.contains("a database of its own") && !said.contains("GRANT"), "{said}");
        }
        let kind = if theirs.starts_with("CREATE VIEW") { "VIEW" } else { "TABLE" };
        scratch.admin.run(format!("DROP {kind} {named}")).await;
    }
    migrate(&scratch.url, &[]).await.expect();
    scratch.drop().await;
}

/// As after `ALTER TABLE … OWNER TO` for each table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_whose_owner_may_not_write_is_refused() {
    let mut scratch = Scratch::migrated().await;
    let role = scratch.role.clone();
    let function = "public.quartet_note_ambiguous_create()";
    scratch
        .admin
        .run(format!("CREATE ROLE {role}_old; ALTER FUNCTION {function} OWNER TO {role}_old"))
        .await;
    for said in [
        start_refused(&scratch.url).await,
        migrate(scratch.database.url(), &[]).await.expect_failure().to_owned(),
    ] {
        assert!(said.contains("quartet_note_ambiguous_create() belongs to"), "{said}");
    }
    let finding = finding(&scratch.url, "owners").await;
    assert_eq!(finding.level, Level::Error);
    scratch.admin.run(finding.remedy.unwrap()).await;
    drop(spawn_on(&scratch.url).await);
    scratch.admin.run(format!("DROP ROLE {role}_old")).await;
    scratch.drop().await;
}

/// What a superuser may have set, and no session of ours can mend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_break_a_promise_is_refused() {
    let mut scratch = Scratch::migrated().await;
    let role = scratch.role.clone();
    for (check, breaks) in [
        (
            "session_replication_role",
            format!("ALTER ROLE {role} SET session_replication_role = replica"),
        ),
        ("logged_tables", "ALTER TABLE circuits SET UNLOGGED".to_owned()),
        ("row_security", "ALTER TABLE transactions ENABLE ROW LEVEL SECURITY".to_owned()),
    ] {
        scratch.admin.run(breaks).await;
        let said = start_refused(&scratch.url).await;
        let finding = finding(&scratch.url, check).await;
        assert_eq!((finding.level, said.contains(&finding.found)), (Level::Error, true), "{said}");
        scratch.admin.run(finding.remedy.unwrap()).await;
        let rest = findings(&scratch.url).await;
        assert!(rest.iter().all(|finding| finding.level < Level::Error), "{rest:?}");
    }
    scratch.drop().await;
}

/// A provider's way of saving a full disk: it may pass, and is said with what undoes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_reads_is_not_migrated_and_waited_for_at_the_start() {
    let mut scratch = Scratch::migrated().await;
    let name = name_of(&scratch.url);
    scratch
        .admin
        .run(format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await;
    let ended = migrate(&scratch.url, &[]).await;
    let said = ended.expect_failure().to_owned();
    assert!(
        said.contains(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")),
        "{said}"
    );
    let world = World::on_database(&scratch.url, faultless()).await;
    let mut process = world.process(Role::All).launch();
    wait_until("it says why it waits", BOUND, async || {
        process.output().contains("transactions only read")
    })
    .await;
    assert!(!process.is_ready().await);
    scratch.admin.run(format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    process.wait_ready().await;
    drop(process);
    scratch.drop().await;
}

/// A pooler that takes the settings of a session and drops them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_do_not_arrive_are_noticed() {
    let database = TestDatabase::create().await;
    let bouncer = PgBouncer::start_ignoring(database.url(), 4, "options,extra_float_digits").await;
    let mut settings = World::new().await.settings();
    set(&mut settings, "DATABASE_URL", bouncer.url());
    set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
    let app = App::build(Config::load(settings, None).unwrap(), Role::All).await.unwrap();
    let ended = tokio::time::timeout(BOUND, app.run(CancellationToken::new()));
    let error = ended.await.expect("it ends").unwrap_err();
    // Either the check says so, or the first statement meets another connection's.
    let said = format!("{error} {error:?}");
    assert!(said.contains("QUARTET_DATABASE__POOLER=transaction"), "{said}");
}

/// Settings of the test's own server: the program starts, and says what it cannot promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_fsync_is_warned_about() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut connection).await.unwrap();
    let world = World::on_database(database.url(), faultless()).await;
    let process = world.process(Role::Api).spawn().await;
    let warns = || process.output().contains("fsync = off");
    if fsync == "off" {
        wait_until("it warns", Duration::from_secs(10), async || warns()).await;
    } else {
        assert!(!warns());
    }
}
