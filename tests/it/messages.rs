//! What a command says when it cannot do its work: what is wrong, and what to do; never a driver's
//! or a parser's words.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::{Uid, User};
use quartet::dev::postgres::{EmbeddedPostgres, Options};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use crate::support::{
    World,
    command::{self, Ended},
    ports,
    postgres::TestDatabase,
    world::set,
};

/// What no operator can make use of.
const BARE: [&str; 12] = [
    "pool timed out",
    "at line",
    "error returned from database",
    "error with configuration",
    "error communicating",
    "while executing",
    "os error",
    "the database is unavailable",
    "the database refused the query",
    "Error {",
    "InvalidCertificate",
    "found in string",
];
/// A command that tries something hopeless again and again would take longer.
const SOON: Duration = Duration::from_secs(30);

/// Asserts that it failed, says this, and says what to do in words for people.
#[track_caller]
fn expect_said(ended: &Ended, found: &str) {
    let said = ended.expect_failure();
    assert!(said.contains(found), "{found:?} is not in: {said}");
    for bare in BARE {
        assert!(!said.contains(bare), "{bare:?} is in: {said}");
    }
}

async fn run_on(url: &str, args: &[&str]) -> Ended {
    let settings = [("DATABASE_URL".to_owned(), url.to_owned())];
    command::run(args, &settings, "").await
}

async fn serve_on(url: &str) -> Ended {
    let mut settings = World::new().await.settings();
    set(&mut settings, "DATABASE_URL", url);
    set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
    let began = Instant::now();
    let ended = tokio::time::timeout(SOON, command::run(&["serve"], &settings, "")).await;
    ended.unwrap_or_else(|_| panic!("serve goes on trying after {:?}", began.elapsed()))
}

fn changed(url: &str, change: impl FnOnce(&mut Url)) -> String {
    let mut url: Url = url.parse().unwrap();
    change(&mut url);
    url.into()
}

async fn execute(url: &str, statement: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_reached_is_named_with_its_place_and_the_remedy() {
    let database = TestDatabase::create().await;
    let good: Url = database.url().parse().unwrap();
    let place = format!("{}:{}", good.host_str().unwrap(), good.port().unwrap());
    let user = good.username().to_owned();
    let nobody = ports::free_address();
    let id = Uuid::now_v7().to_string();
    for (url, found, ends_serve) in [
        (
            changed(good.as_str(), |url| url.set_password(Some("wrong-s3cret")).unwrap()),
            format!("error: password refused for user {user} at {place}"),
            true,
        ),
        (
            changed(good.as_str(), |url| url.set_path("elsewhere")),
            format!("error: there is no database elsewhere at {place}"),
            true,
        ),
        (
            changed(good.as_str(), |url| url.set_query(Some("sslmode=require"))),
            format!("error: no TLS with {place}: server does not support TLS"),
            true,
        ),
        (
            changed(good.as_str(), |url| url.set_query(Some("options=-cno_such_setting%3D1"))),
            format!("error: {place} does not know a setting of the session"),
            true,
        ),
        (
            format!("postgres://quartet:x@{nobody}/quartet"),
            format!("error: connection refused at {nobody}"),
            false,
        ),
        (
            "postgres://quartet:x@nowhere.invalid/quartet".to_owned(),
            "error: the name nowhere.invalid is not resolved".to_owned(),
            false,
        ),
    ] {
        for args in [
            &["migrate"][..],
            &["clients", "list"],
            &["dead-letters", "replay", "--all", "--dry-run"],
            &["explain", &id],
            &["queues", "list", "--json"],
        ] {
            let ended = run_on(&url, args).await;
            expect_said(&ended, &found);
            assert!(ended.stderr.contains("\n  what to do: "), "{args:?}: {ended:?}");
            assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
            assert_eq!(ended.stdout, "", "{args:?}");
        }
        if ends_serve {
            expect_said(&serve_on(&url).await, &found);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_can_never_work_is_refused_before_anything_is_tried() {
    for (url, found) in [
        ("postgres://u:p@one:5432,two:5432/db", "Quartet connects to one host only"),
        ("postgres://u:p@one,two/db", "Quartet connects to one host only"),
        ("postgres:///db?host=one,two", "Quartet connects to one host only"),
        ("postgres://u:p@h/db?target_session_attrs=standby", "Quartet works on the primary"),
        ("postgres://u:p@h/db?channel_binding=require", "remove it; sslmode=verify-full"),
        ("postgres://u:p@h/db?sslmod=verify-full", "did you mean sslmode?"),
        ("postgres://u:p@h/db?sslmode=verify_full", "must be one of disable, allow, prefer"),
        ("postgres://u:p@h/db?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("postgres://u:p@h/db?sslmode=verify-ca", "sslmode=verify-ca needs sslrootcert"),
        (
            "postgres://u:p@h/db?sslmode=verify-full&sslrootcert=/no/such.pem",
            "the file /no/such.pem of sslrootcert cannot be read",
        ),
        ("postgres://u:p@h/db?sslmode=verify-full&sslrootcert=/", "names the directory /"),
        (
            "postgres://u:p@h/db?sslmode=require&sslrootcert=/dev/../etc/passwd",
            "has no certificate in PEM",
        ),
        ("postgres://u:p@h/db?sslcert=/no/such.pem", "sslcert and sslkey must be given together"),
        ("postgres://u:s3cret#@h/db", "%40"),
    ] {
        for ended in [run_on(url, &["clients", "list"]).await, serve_on(url).await] {
            expect_said(&ended, found);
            assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
        }
    }
    // What libpq knows and Quartet does by itself may stay.
    let database = TestDatabase::create().await;
    let query = "target_session_attrs=read-write&connect_timeout=3&keepalives=1&sslmode=prefer";
    let url = changed(database.url(), |url| url.set_query(Some(query)));
    run_on(&url, &["clients", "list"]).await.expect();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_not_there_is_to_be_migrated() {
    let database = TestDatabase::create().await;
    let clear = "DROP SCHEMA public CASCADE; DROP SCHEMA apalis CASCADE;
        DROP SCHEMA operator CASCADE; CREATE SCHEMA public;";
    execute(database.url(), clear).await;
    let id = Uuid::now_v7().to_string();
    for args in [
        &["clients", "list"][..],
        &["jobs", "list"],
        &["explain", &id],
        &["dead-letters", "replay", "--all", "--dry-run"],
        &["queues", "pause", "notify_client"],
        &["audit"],
        &["circuit"],
    ] {
        let ended = run_on(database.url(), args).await;
        expect_said(&ended, "run `quartet migrate`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_is_named_without_a_line_of_it() {
    let database = TestDatabase::create().await;
    // As a newer release leaves it.
    execute(
        database.url(),
        "INSERT INTO public._sqlx_migrations
            (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'later', true, '', 0)",
    )
    .await;
    let ended = run_on(database.url(), &["migrate"]).await;
    expect_said(&ended, "migration 99990101000000 that this release does not know");
    // Something else has the name of a table of ours.
    let clear = "DROP SCHEMA public CASCADE; DROP SCHEMA apalis CASCADE;
        DROP SCHEMA operator CASCADE; CREATE SCHEMA public;
        CREATE TYPE public.failed_jobs AS (x int)";
    execute(database.url(), clear).await;
    let ended = run_on(database.url(), &["migrate"]).await;
    expect_said(&ended, "\"failed_jobs\" already exists");
    assert!(ended.stderr.contains(" was not applied: "), "{ended:?}");
    assert!(ended.stderr.contains("what to do: "), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_and_a_table_that_is_locked_are_said_so() {
    let database = TestDatabase::create().await;
    let role = format!("{}_poor", database.url().rsplit('/').next().unwrap());
    execute(database.url(), &format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let url = changed(database.url(), |url| {
        url.set_username(&role).unwrap();
        url.set_password(Some("x")).unwrap();
    });
    for args in [&["clients", "list"][..], &["queues", "pause", "notify_client"]] {
        let ended = run_on(&url, args).await;
        expect_said(&ended, "the database's role may not do this: permission denied");
        assert!(ended.stderr.contains("docs/database.md"), "{ended:?}");
    }
    execute(database.url(), &format!("DROP ROLE {role}")).await;

    let mut other = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE clients").execute(&mut other).await.unwrap();
    let ended = run_on(database.url(), &["clients", "list"]).await;
    expect_said(&ended, "the database worked at a statement for longer than it may");
    assert!(ended.stderr.contains("quartet doctor"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_by_its_name() {
    let database = TestDatabase::create().await;
    let id = Uuid::now_v7().to_string();
    for (args, found) in [
        (&["explain", "abc"][..], "abc is no transaction id (a UUID)"),
        (&["jobs", "list", "--transaction-id", "7"], "7 is no transaction id (a UUID)"),
        (&["audit", "--transaction-id", "x-y"], "x-y is no transaction id (a UUID)"),
        (&["dead-letters", "show", "abc"], "abc is no dead letter's id (a UUID)"),
        (&["dead-letters", "replay", "abc"], "abc is no dead letter's id (a UUID)"),
        (&["explain", &id], "there is no transaction with the id"),
        (&["dead-letters", "show", &id], "there is no dead letter with this id"),
        (&["jobs", "show", "abc"], "there is no job with this id"),
        (&["jobs", "list", "--state", "waiting"], "must be one of due, scheduled"),
        (&["dead-letters", "list", "--older-than", "2"], "has no unit"),
        (&["dead-letters", "list", "--older-than", "soon"], "such as 200ms, 15m or 7d"),
        (&["dead-letters", "list", "--limit", "many"], "must be a whole number"),
        (&["dead-letters", "list", "--client", "nobody"], "there is no client named nobody"),
        (&["clients", "disable", "nobody"], "there is no client named nobody"),
        (&["sandbox", "--speed", "fast"], "must be a number"),
        (&["sandbox", "--listen", "here"], "such as 127.0.0.1:8080"),
    ] {
        let ended = run_on(database.url(), args).await;
        expect_said(&ended, found);
    }
    let ended = command::run(&["clients", "list"], &[], "").await;
    expect_said(&ended, "DATABASE_URL is not set: set it to postgres://user:password@host");
}

/// A server with TLS whose certificate an authority of the test's own has issued.
struct Secure {
    server: EmbeddedPostgres,
    files: TempDir,
}

impl Secure {
    /// The certificate is for this name.
    async fn start(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap().pem();

        let files = tempfile::Builder::new().prefix("quartet-tls").tempdir().unwrap();
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let write = |name: &str, text: &str| {
            let path = files.path().join(name);
            fs::write(&path, text).unwrap();
            own_by_server(&path);
            path.to_str().unwrap().to_owned()
        };
        fs::write(files.path().join("authority.pem"), authority).unwrap();
        let settings = [
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", write("server.pem", &certificate)),
            ("ssl_key_file", write("server.key", &key.serialize_pem())),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        let options = Options { settings: settings.into(), ..Options::default() };
        let server = EmbeddedPostgres::start(options).await.expect("Postgres starts");
        quartet::store::migrate(&server.url("postgres")).await.unwrap();
        Self { server, files }
    }

    fn authority(&self) -> String {
        self.files.path().join("authority.pem").to_str().unwrap().to_owned()
    }

    fn url(&self, query: &str) -> String {
        format!("{}?{query}", self.server.url("postgres"))
    }
}

/// The server reads a key only where no other user can.
fn own_by_server(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    if Uid::effective().is_root() {
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).unwrap());
        let user = user.expect("every Unix has one of them");
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_systems_certificates_can_be_trusted_as_by_libpq() {
    let secure = Secure::start("127.0.0.1").await;
    let authority = secure.authority();
    let list = async |query: &str, certificates: Option<&str>| {
        let mut settings = vec![("DATABASE_URL".to_owned(), secure.url(query))];
        let certificates = certificates.map(|file| ("SSL_CERT_FILE".to_owned(), file.to_owned()));
        settings.extend(certificates);
        command::run(&["clients", "list"], &settings, "").await
    };
    // Where the system trusts the authority, and where it does not.
    for query in ["sslrootcert=system", "sslrootcert=system&sslmode=verify-full"] {
        list(query, Some(&authority)).await.expect();
        let ended = list(query, None).await;
        expect_said(&ended, "its certificate is of an authority that is not trusted");
        assert!(ended.stderr.contains("sslrootcert=FILE"), "{ended:?}");
    }
    let ended = list("sslrootcert=system", Some("/dev/null")).await;
    expect_said(&ended, "this system has no trusted certificates; install ca-certificates");
    list(&format!("sslmode=verify-full&sslrootcert={authority}"), None).await.expect();
    list(&format!("sslmode=verify-ca&sslrootcert={authority}"), None).await.expect();
    // A root certificate is checked although `require` alone checks none.
    list("sslmode=require", None).await.expect();
    list(&format!("sslmode=require&sslrootcert={authority}"), None).await.expect();
    let other = Secure::start("elsewhere.example").await;
    let wrong = list(&format!("sslmode=require&sslrootcert={}", other.authority()), None).await;
    expect_said(&wrong, "its certificate is of an authority that is not trusted");
    let url = other.url(&format!("sslmode=verify-full&sslrootcert={}", other.authority()));
    for ended in [run_on(&url, &["clients", "list"]).await, serve_on(&url).await] {
        expect_said(&ended, "its certificate is for another name");
    }
}
