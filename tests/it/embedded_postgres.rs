//! The embedded Postgres, which the tests and the demo stand on: its settings, its crashes, its
//! end.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use quartet::dev::postgres::{EmbeddedPostgres, Error, Options};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::wait_until;

const BOUND: Duration = Duration::from_secs(20);

async fn start() -> EmbeddedPostgres {
    EmbeddedPostgres::start(Options::default()).await.unwrap()
}

async fn connect(postgres: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect(&postgres.url("postgres")).await.unwrap()
}

async fn show(connection: &mut PgConnection, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

async fn data_directory(postgres: &EmbeddedPostgres) -> PathBuf {
    show(&mut connect(postgres).await, "SHOW data_directory").await.into()
}

/// Whether a process has this directory in its command line: a postmaster, whose children end with
/// it.
fn is_running(directory: &Path) -> bool {
    let directory = directory.to_str().unwrap();
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(directory)
    })
}

fn is_listening(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A directory that the server's user may enter.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_durable_private_and_configurable() {
    let settings = vec![("work_mem".to_owned(), "5MB".to_owned())];
    let options = Options { settings, ..Options::default() };
    let postgres = EmbeddedPostgres::start(options).await.unwrap();
    let mut connection = connect(&postgres).await;
    for (query, expected) in [
        ("SHOW work_mem", "5MB"),
        ("SHOW fsync", "on"),
        ("SHOW full_page_writes", "on"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW server_encoding", "UTF8"),
        ("SHOW listen_addresses", "127.0.0.1"),
        ("SHOW unix_socket_directories", ""),
    ] {
        assert_eq!(show(&mut connection, query).await, expected, "{query}");
    }
    // What the migrations need.
    let extensions = "CREATE EXTENSION hstore; CREATE EXTENSION pgcrypto";
    sqlx::raw_sql(extensions).execute(&mut connection).await.unwrap();
    let wrong = format!("postgres://postgres:wrong@127.0.0.1:{}/postgres", postgres.port());
    PgConnection::connect(&wrong).await.expect_err("the password is checked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_committed_and_keeps_the_address() {
    let mut postgres = start().await;
    let url = postgres.url("postgres");
    let mut connection = connect(&postgres).await;
    sqlx::raw_sql("CREATE TABLE kept (n bigint)").execute(&mut connection).await.unwrap();
    for round in 1..=3 {
        let insert = sqlx::query("INSERT INTO kept VALUES ($1)").bind(round);
        insert.execute(&mut connection).await.unwrap();
        postgres.restart_immediate().await.unwrap();
        sqlx::query("SELECT 1").execute(&mut connection).await.expect_err("the session was cut");
        assert_eq!(postgres.url("postgres"), url);
        connection = connect(&postgres).await;
        let kept = sqlx::query_scalar("SELECT count(*) FROM kept");
        let kept: i64 = kept.fetch_one(&mut connection).await.unwrap();
        assert_eq!(kept, round);
    }
    // Each twice: the second time does nothing.
    for _ in 0..2 {
        postgres.crash().await.unwrap();
        assert!(!is_listening(postgres.port()));
    }
    for _ in 0..2 {
        postgres.resume().await.unwrap();
        connect(&postgres).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_and_a_drop_leave_neither_process_nor_directory() {
    for graceful in [true, false] {
        let postgres = start().await;
        let (port, directory) = (postgres.port(), data_directory(&postgres).await);
        assert!(is_running(&directory));
        if graceful {
            postgres.stop().await.unwrap();
        } else {
            drop(postgres);
        }
        assert!(!is_listening(port), "graceful: {graceful}");
        assert!(!is_running(&directory), "graceful: {graceful}");
        assert!(!directory.parent().unwrap().exists(), "graceful: {graceful}");
    }
}

/// Linux ends the children of a *thread* that dies; test threads do.
#[test]
fn it_outlives_the_thread_and_the_runtime_that_started_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = thread::spawn(move || runtime().block_on(start()));
    let postgres = started.join().unwrap();
    runtime().block_on(async {
        for _ in 0..3 {
            connect(&postgres).await;
        }
        postgres.stop().await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_given_up_leaves_nothing() {
    let base = open_directory();
    let data_dir = base.path().join("postgres");
    let options = Options { data_dir: Some(data_dir.clone()), ..Options::default() };
    let start = EmbeddedPostgres::start(options.clone());
    tokio::time::timeout(Duration::from_millis(100), start).await.expect_err("it takes longer");
    wait_until("the given-up server ends", BOUND, async || !is_running(&data_dir)).await;
    let postgres = EmbeddedPostgres::start(options).await.unwrap();
    connect(&postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_directory_stays_and_has_one_owner() {
    let base = open_directory();
    let data_dir = Some(base.path().join("a/postgres"));
    let options = Options { data_dir, ..Options::default() };
    let postgres = EmbeddedPostgres::start(options.clone()).await.unwrap();
    let error = EmbeddedPostgres::start(options.clone()).await.unwrap_err();
    assert!(matches!(error, Error::DirectoryInUse(_)), "{error}");
    let create = sqlx::raw_sql("CREATE DATABASE quartet");
    create.execute(&mut connect(&postgres).await).await.unwrap();
    postgres.stop().await.unwrap();

    let postgres = EmbeddedPostgres::start(options).await.unwrap();
    PgConnection::connect(&postgres.url("quartet")).await.expect("the database was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_setting_is_reported_with_the_log() {
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let options = Options { settings, ..Options::default() };
    let error = EmbeddedPostgres::start(options).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_run_side_by_side() {
    let all = join_all((0..3).map(|_| start())).await;
    let mut ports: Vec<u16> = all.iter().map(EmbeddedPostgres::port).collect();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), all.len());
    for postgres in &all {
        connect(postgres).await;
    }
}
