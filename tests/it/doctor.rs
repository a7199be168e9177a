//! `quartet doctor`: what it says of set-ups that are as they should be, and of broken ones.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::BoxFuture};
use quartet::{
    dev::postgres::{EmbeddedPostgres, Options},
    store,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use url::Url;

use crate::support::{
    World,
    command::{self, Ended},
    peer::Peer,
    pgbouncer::PgBouncer,
    ports, wait_until,
    world::set,
};

/// As `openssl rand -hex 16` prints it.
const OPERATOR_TOKEN: &str = "f81d4fae7dec11d0a76500a0c91e6bf6";
/// Whatever is away, it ends.
const BOUND: Duration = Duration::from_secs(60);

type Settings = Vec<(String, String)>;

/// A server as production has it, unlike that of the other tests, which waits for no disk.
struct Clinic {
    server: EmbeddedPostgres,
    world: World,
}

impl Clinic {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let options = Options { settings: settings.collect(), ..Options::default() };
        let server = EmbeddedPostgres::start(options).await.expect("Postgres starts");
        let world = World::on_database(&server.url("quartet"), Default::default()).await;
        let clinic = Self { server, world };
        clinic.execute("postgres", "CREATE DATABASE quartet").await;
        store::migrate(&clinic.server.url("quartet")).await.unwrap();
        // Before version 15 every role may create tables there.
        clinic.execute("quartet", "REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
        clinic
    }

    async fn execute(&self, database: &str, statement: &str) {
        let mut conn = PgConnection::connect(&self.server.url(database)).await.unwrap();
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    /// Settings of a production that works.
    fn settings(&self) -> Settings {
        let mut settings = self.world.settings();
        set(&mut settings, "QUARTET_OPERATOR_TOKEN", OPERATOR_TOKEN);
        set(&mut settings, "QUARTET_HTTP__PUBLIC_URL", "https://quartet.example.com");
        settings
    }

    /// The same, with this URL.
    fn settings_at(&self, url: &str) -> Settings {
        let mut settings = self.settings();
        set(&mut settings, "DATABASE_URL", url);
        settings
    }
}

/// What `quartet doctor` found.
struct Diagnosis {
    ended: Ended,
    findings: Vec<Value>,
}

impl Diagnosis {
    async fn of(settings: &Settings, args: &[&str]) -> Self {
        let args: Vec<&str> = ["doctor", "--json"].iter().chain(args).copied().collect();
        let began = Instant::now();
        let ended = command::run(&args, settings, "").await;
        assert!(began.elapsed() < BOUND, "took {:?}", began.elapsed());
        Self::read(ended)
    }

    fn read(ended: Ended) -> Self {
        let report: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
        let findings = report["findings"].as_array().unwrap().clone();
        let errors = findings.iter().filter(|finding| finding["level"] == "error").count();
        assert_eq!(report["errors"], errors, "{report}");
        assert_eq!(ended.success, errors == 0, "{ended:#?}");
        for finding in &findings {
            // What is not good says how to mend it.
            let is_ok = finding["level"] == "ok";
            assert!(is_ok || finding["remedy"].is_string(), "{finding}");
        }
        Self { ended, findings }
    }

    /// Asserts a finding of this level whose text and remedy contain these.
    #[track_caller]
    fn expect(&self, level: &str, found: &str, remedy: &str) -> &Value {
        let fits = |finding: &&Value| {
            finding["level"] == level
                && finding["found"].as_str().unwrap().contains(found)
                && finding["remedy"].as_str().unwrap_or_default().contains(remedy)
        };
        let fitting = self.findings.iter().find(fits);
        fitting.unwrap_or_else(|| panic!("no {level} {found:?} {remedy:?}: {:#?}", self.ended))
    }

    #[track_caller]
    fn expect_success(&self) {
        assert!(self.ended.success, "{:#?}", self.ended);
    }

    #[track_caller]
    fn expect_failure(&self) {
        assert!(!self.ended.success, "{:#?}", self.ended);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_set_up_has_no_finding_but_good_ones() {
    let clinic = Clinic::new(&[]).await;
    let diagnosis = Diagnosis::of(&clinic.settings(), &[]).await;
    diagnosis.expect_success();
    for finding in &diagnosis.findings {
        assert_eq!(finding["level"], "ok", "{finding}");
    }
    for (check, found) in [
        ("configuration", "all that --role all needs is set"),
        ("database", "PostgreSQL "),
        ("pooler", "sessions are kept"),
        ("notifications", "NOTIFY reaches"),
        ("clock", "agree"),
        ("third_party", "answered 404"),
        ("callbacks", "1 of 1 hosts"),
    ] {
        let found = diagnosis.expect("ok", found, "");
        assert_eq!(found["check"], check, "{found}");
    }
    // For people: within the columns of a terminal, with the same findings.
    let text = command::run(&["doctor"], &clinic.settings(), "").await;
    let text = text.expect();
    let count = diagnosis.findings.len();
    assert!(text.ends_with(&format!("\n0 errors, 0 warnings, {count} ok\n")), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), count, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_reached_is_named_with_the_reason() {
    let clinic = Clinic::new(&[]).await;
    let good = clinic.server.url("quartet");
    let change = |change: fn(&mut Url)| {
        let mut url: Url = good.parse().unwrap();
        change(&mut url);
        String::from(url)
    };
    let nobody = ports::free_address();
    let place = format!("127.0.0.1:{}", clinic.server.port());
    for (url, found, remedy) in [
        (
            change(|url| url.set_password(Some("wrong")).unwrap()),
            format!("password refused for user postgres at {place}"),
            "DATABASE_URL",
        ),
        (
            change(|url| url.set_path("elsewhere")),
            format!("there is no database elsewhere at {place}"),
            "CREATE DATABASE elsewhere",
        ),
        (
            format!("postgres://quartet:x@{nobody}/quartet"),
            format!("connection refused at {nobody}"),
            "start the server",
        ),
        (
            "postgres://quartet:x@nowhere.invalid/quartet".to_owned(),
            "the name nowhere.invalid is not resolved".to_owned(),
            "host",
        ),
        (change(|url| url.set_query(Some("sslmode=require"))), format!("no TLS with {place}"), ""),
    ] {
        let diagnosis = Diagnosis::of(&clinic.settings_at(&url), &[]).await;
        diagnosis.expect_failure();
        diagnosis.expect("error", &found, remedy);
        // What does not need it is looked at all the same.
        diagnosis.expect("ok", "answered 404", "");
        assert!(!diagnosis.ended.stdout.contains("wrong"), "{:#?}", diagnosis.ended);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_is_not_configured_is_found() {
    let clinic = Clinic::new(&[]).await;
    let direct = clinic.server.url("quartet");
    let refusing = PgBouncer::start(&direct, 4).await;
    let ignoring = "ignore_startup_parameters = options,extra_float_digits";
    let ignoring = PgBouncer::start_with(&direct, 4, ignoring).await;
    let single = PgBouncer::start_with(&direct, 1, "pool_mode = transaction").await;
    let session = "pool_mode = session\nignore_startup_parameters = options,extra_float_digits";
    let session = PgBouncer::start_with(&direct, 10, session).await;

    for bouncer in [&refusing, &ignoring, &single] {
        let diagnosis = Diagnosis::of(&clinic.settings_at(bouncer.url()), &[]).await;
        diagnosis.expect_failure();
        let found =
            diagnosis.expect("error", "a pooler at", "QUARTET_DATABASE__POOLER=transaction");
        assert_eq!(found["check"], "pooler", "{found}");
        // What is behind it is looked at, too.
        diagnosis.expect("ok", "PostgreSQL ", "");
    }
    let mut settings = clinic.settings_at(refusing.url());
    set(&mut settings, "QUARTET_DATABASE__POOLER", "transaction");
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_success();
    diagnosis.expect("warning", "no way around the pooler", "QUARTET_DATABASE__DIRECT_URL");

    set(&mut settings, "QUARTET_DATABASE__DIRECT_URL", &direct);
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_success();
    diagnosis.expect("ok", "sessions are shared, as configured", "");
    diagnosis.expect("ok", "NOTIFY reaches", "");

    set(&mut settings, "QUARTET_DATABASE__DIRECT_URL", clinic.server.url("postgres"));
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect("error", "another database than DATABASE_URL", "QUARTET_DATABASE__DIRECT_URL");

    // One that keeps sessions is none to be configured.
    let diagnosis = Diagnosis::of(&clinic.settings_at(session.url()), &[]).await;
    let found = diagnosis.expect("ok", "sessions are kept", "");
    assert_eq!(found["check"], "pooler", "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_holds_vacuum_back_is_named_with_the_statement_that_ends_it() {
    let clinic = Clinic::new(&[("max_prepared_transactions", "5"), ("wal_level", "logical")]).await;
    let url = clinic.server.url("quartet");
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let hold = "SET application_name = 'report'; BEGIN ISOLATION LEVEL REPEATABLE READ;
        SELECT count(*) FROM transactions";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    for statement in [
        "BEGIN; CREATE TABLE left_behind (id int); PREPARE TRANSACTION 'it''s left'",
        "SELECT pg_create_physical_replication_slot('abandoned', true)",
        "ALTER TABLE transactions SET (autovacuum_enabled = false)",
    ] {
        clinic.execute("quartet", statement).await;
    }

    // Age alone makes them worth a word.
    let young = "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE pid = $1 AND xact_start > clock_timestamp() - interval '1 s')
        OR EXISTS (SELECT FROM pg_prepared_xacts
            WHERE prepared > clock_timestamp() - interval '1 s')";
    wait_until("they are a second old", BOUND, async || {
        let young = sqlx::query_scalar::<_, bool>(young).bind(pid);
        !young.fetch_one(&clinic.world.pool).await.unwrap()
    })
    .await;
    let diagnosis = Diagnosis::of(&clinic.settings(), &["--open-for", "1s"]).await;
    let held = diagnosis.expect(
        "warning",
        &format!("pid {pid} (postgres, \"report\", 127.0.0.1) holds vacuum back"),
        &format!("SELECT pg_terminate_backend({pid})"),
    );
    assert!(held["found"].as_str().unwrap().contains("idle in transaction"), "{held}");
    diagnosis.expect("warning", "transaction 'it''s left'", "ROLLBACK PREPARED 'it''s left'");
    diagnosis.expect("warning", "slot 'abandoned'", "SELECT pg_drop_replication_slot('abandoned')");
    let table = diagnosis.expect("error", "public.transactions is left out", "");
    let remedies =
        ["SELECT pg_drop_replication_slot('abandoned')", "ROLLBACK PREPARED 'it''s left'"];
    let statements = remedies.into_iter().chain(table["remedy"].as_str());
    for statement in statements.chain(held["remedy"].as_str()) {
        clinic.execute("quartet", statement).await;
    }
    // Nothing is left of it, once what it said was done.
    let diagnosis = Diagnosis::of(&clinic.settings(), &["--open-for", "1s"]).await;
    diagnosis.expect_success();
    diagnosis.expect("ok", "no transaction is open for longer than 1s", "");
    drop(holder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_is_found() {
    let Some(library) = libfaketime() else {
        eprintln!("not run: libfaketime is not there (apt install faketime)");
        return;
    };
    let clinic = Clinic::new(&[]).await;
    for (offset, level, found) in [
        ("+20m", "error", "this machine is 20m ahead of the database"),
        ("-20m", "error", "this machine is 20m behind the database"),
        ("+1m", "warning", "this machine is 1m ahead of the database"),
        ("+2s", "ok", "this machine is 2s ahead of the database"),
    ] {
        let mut settings = clinic.settings();
        settings.push(("LD_PRELOAD".to_owned(), library.clone()));
        settings.push(("FAKETIME".to_owned(), offset.to_owned()));
        settings.push(("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()));
        let diagnosis = Diagnosis::of(&settings, &[]).await;
        let finding = diagnosis.expect(level, found, "");
        assert_eq!(finding["check"], "clock", "{finding}");
    }
}

fn libfaketime() -> Option<String> {
    let libraries = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let libraries = libraries.map(|directory| directory.join("faketime/libfaketime.so.1"));
    let path = libraries.into_iter().find(|library| library.exists())?;
    Some(path.to_string_lossy().into_owned())
}

type Written = BoxFuture<'static, ()>;

fn refuses(stream: TcpStream) -> Written {
    answer(stream, "401 Unauthorized", "")
}

fn knows_everything(stream: TcpStream) -> Written {
    answer(stream, "200 OK", "")
}

fn redirects(stream: TcpStream) -> Written {
    answer(stream, "308 Permanent Redirect", "location: https://new.example/\r\n")
}

fn is_busy(stream: TcpStream) -> Written {
    answer(stream, "503 Service Unavailable", "")
}

fn answer(mut stream: TcpStream, status: &'static str, headers: &'static str) -> Written {
    async move {
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n");
        // The caller may have gone.
        let _ = stream.write_all(head.as_bytes()).await;
    }
    .boxed()
}

/// Answers on a connection.
type Answerer = fn(TcpStream) -> Written;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_party_is_asked_for_nothing_but_an_unknown_id() {
    let clinic = Clinic::new(&[]).await;
    let answers: [(Answerer, &str, &str, &str); 4] = [
        (refuses, "error", "answered 401", "credentials"),
        (knows_everything, "error", "an id that does not exist", "__LOOKUP_PATH"),
        (redirects, "error", "redirects to https://new.example/", "BASE_URL"),
        (is_busy, "warning", "answered 503", "wait"),
    ];
    for (answers, level, found, remedy) in answers {
        let peer = Peer::start(answers).await;
        let mut settings = clinic.settings();
        set(&mut settings, "QUARTET_THIRD_PARTY__BASE_URL", peer.url());
        let diagnosis = Diagnosis::of(&settings, &[]).await;
        diagnosis.expect(level, found, remedy);
        let asked = peer.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(asked[0].starts_with("GET /transaction/"), "{asked:?}");
    }
    let nobody = ports::free_address();
    let mut settings = clinic.settings();
    set(&mut settings, "QUARTET_THIRD_PARTY__BASE_URL", format!("http://{nobody}"));
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect("error", "cannot be reached: no connection", "egress");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_cannot_be_notified_are_named() {
    let clinic = Clinic::new(&[]).await;
    let nobody = ports::free_address();
    for (name, url) in [
        ("closed", format!("http://{nobody}/hook")),
        ("inside", "http://10.1.2.3/hook".to_owned()),
        ("unknown", "https://nowhere.invalid/hook".to_owned()),
    ] {
        let mut settings = clinic.settings();
        set(&mut settings, "QUARTET_NOTIFY__ALLOWED_NETWORKS", "127.0.0.0/8,10.0.0.0/8");
        let args = ["clients", "add", name, "--callback-url", &url];
        command::run(&args, &settings, "").await.expect();
    }
    let diagnosis = Diagnosis::of(&clinic.settings(), &[]).await;
    // A client's own fault is no fault of the deployment.
    diagnosis.expect_success();
    diagnosis.expect("ok", "1 of 4 hosts", "");
    diagnosis.expect(
        "warning",
        &format!("http://{nobody} (closed) cannot be connected to"),
        "egress",
    );
    diagnosis.expect("warning", "http://10.1.2.3 (inside) leads to 10.1.2.3", "ALLOWED_NETWORKS");
    diagnosis.expect("warning", "https://nowhere.invalid (unknown) has a name", "name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_wrong_or_weak_are_named() {
    let clinic = Clinic::new(&[]).await;
    let mut settings = clinic.settings();
    settings.push(("QUARTET_HTTP__LISTN".to_owned(), "0.0.0.0:80".to_owned()));
    set(&mut settings, "QUARTET_POLL__FIRST", "soon");
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_failure();
    diagnosis.expect("error", "QUARTET_HTTP__LISTN is no setting", "");
    diagnosis.expect("error", "QUARTET_POLL__FIRST", "");

    let mut settings = clinic.settings();
    set(&mut settings, "QUARTET_OPERATOR_TOKEN", "example-for-you-1");
    set(&mut settings, "QUARTET_HTTP__PUBLIC_URL", "http://localhost:8080");
    set(&mut settings, "QUARTET_WEBHOOK__SECRETS", "whsec_c2hvcnQ=");
    set(&mut settings, "QUARTET_SECRETS__MASTER_KEY", "");
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_success();
    diagnosis.expect("warning", "entry 1 ", "openssl rand");
    diagnosis.expect("warning", "http://localhost:8080 leads to 127.0.0.1", "PUBLIC_URL");
    diagnosis.expect("warning", "has 5 bytes", "whsec_");
    diagnosis.expect("warning", "they are stored in plain", "generate-key");
    // A worker serves no API.
    let diagnosis = Diagnosis::of(&settings, &["--role", "worker"]).await;
    let checks: Vec<_> = diagnosis.findings.iter().map(|finding| &finding["check"]).collect();
    assert!(checks.iter().all(|check| **check != "operator_token"), "{checks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_services_are_ignored_and_typos_are_not() {
    let clinic = Clinic::new(&[]).await;
    let mut settings = clinic.settings();
    for (name, value) in [
        ("QUARTET_PORT", "tcp://10.96.0.1:80"),
        ("QUARTET_SERVICE_HOST", "10.96.0.1"),
        ("QUARTET_DB_RW_SERVICE_PORT", "5432"),
        ("QUARTET_DB_RW_PORT_5432_TCP_ADDR", "fd00::17"),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_success();
    diagnosis.expect("ok", "4 variables of Kubernetes services are ignored", "");
    // Every command reads the same settings.
    command::run(&["clients", "list"], &settings, "").await.expect();
    set(&mut settings, "QUARTET_PORT", "8080");
    let refused = command::run(&["clients", "list"], &settings, "").await;
    assert!(refused.expect_failure().contains("QUARTET_PORT is no setting"), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_as_quartet_needs_it_is_named_with_the_statement() {
    let clinic = Clinic::new(&[]).await;
    let create = "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'
        TEMPLATE template0";
    clinic.execute("postgres", create).await;
    let url = clinic.server.url("ascii");
    let diagnosis = Diagnosis::of(&clinic.settings_at(&url), &[]).await;
    diagnosis.expect_failure();
    diagnosis.expect("error", "encoding is SQL_ASCII", "ENCODING 'UTF8'");
    diagnosis.expect("error", "older than this release, or not there", "quartet migrate");

    // What a session sets for itself is named, and no fault.
    clinic.execute("quartet", "ALTER DATABASE quartet SET synchronous_commit = off").await;
    let diagnosis = Diagnosis::of(&clinic.settings(), &[]).await;
    diagnosis.expect_success();
    diagnosis.expect("ok", "synchronous_commit is on: the server says off", "");
    clinic.execute("quartet", "ALTER DATABASE quartet RESET synchronous_commit").await;

    clinic.execute("quartet", "CREATE ROLE poor LOGIN PASSWORD 'poor'").await;
    let mut url: Url = clinic.server.url("quartet").parse().unwrap();
    url.set_username("poor").unwrap();
    url.set_password(Some("poor")).unwrap();
    let settings = clinic.settings_at(url.as_str());
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_failure();
    let rights = diagnosis.expect("error", "the role poor lacks rights", "GRANT USAGE ON SCHEMA");
    // Once what it says is done, it is content.
    clinic.execute("quartet", rights["remedy"].as_str().unwrap()).await;
    let diagnosis = Diagnosis::of(&settings, &[]).await;
    diagnosis.expect_success();
}
