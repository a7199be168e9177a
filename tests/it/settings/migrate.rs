//! `quartet migrate` never waits in silence, and not without end.

use std::{
    future,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quartet::store::{MigrateError, migrate_within};
use sqlx::{Connection, Executor, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use tokio::join;

use super::{Admin, BOUND};
use crate::{
    migrations::{empty_database, released_database},
    support::{
        command::{QUARTET, command},
        postgres::TestDatabase,
        wait_until,
    },
};

/// What a run said.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    async fn migrate(&self, url: &str, wait: Duration) -> Result<(), MigrateError> {
        let report = |line: &str| self.0.lock().unwrap().push(line.to_owned());
        migrate_within(url, wait, &report, future::pending()).await
    }

    /// Waits until it has said that it waits for this session.
    async fn wait_for(&self, pid: i32) {
        wait_until("it says whom it waits for", BOUND, async || {
            self.text().contains(&format!("the session {pid}"))
        })
        .await;
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

/// Another program's session, by its name, which has begun something.
async fn session(database: &TestDatabase, begin: &'static str) -> (PgConnection, i32) {
    let options: PgConnectOptions = database.url().parse().unwrap();
    let options = options.application_name("nightly dump");
    let mut session = PgConnection::connect_with(&options).await.unwrap();
    session.execute(begin).await.unwrap();
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    (session, pid)
}

const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
const INVALID: &str = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_database_needs_no_end_of_anybodys_snapshot() {
    let (database, mut connection) = empty_database().await;
    let (_holder, _) = session(&database, SNAPSHOT).await;
    let lines = Lines::default();
    lines.migrate(database.url(), Duration::from_millis(500)).await.unwrap();

    // It is recorded as any other run records it.
    let recorded: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM public._sqlx_migrations ORDER BY version")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let files = Migrator::new(Path::new("migrations")).await.unwrap();
    let files: Vec<_> = files.iter().map(|file| (file.version, file.checksum.to_vec())).collect();
    assert_eq!(recorded, files);
    lines.migrate(database.url(), Duration::from_millis(500)).await.unwrap();
    // For a moment it may wait for autovacuum.
    assert!(!lines.text().contains("nightly dump"), "{}", lines.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_which_session_an_index_waits_for_and_gives_up() {
    let (database, _connection) = released_database().await;
    let mut admin = Admin::of(database.url()).await;
    let (mut holder, pid) = session(&database, SNAPSHOT).await;
    let lines = Lines::default();
    let began = Instant::now();
    let gave_up = lines.migrate(database.url(), Duration::from_secs(3)).await.unwrap_err();
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    for said in [lines.text(), gave_up.to_string()] {
        for part in
            [&format!("the session {pid}"), "user ", "nightly dump", "idle in transaction", "ago"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert!(lines.text().contains("20261124000010"), "{}", lines.text());
    // Nothing half-done is left, since nobody uses the table itself.
    assert_eq!(admin.texts(INVALID).await, [""; 0]);

    holder.execute("COMMIT").await.unwrap();
    lines.migrate(database.url(), BOUND).await.unwrap();
    assert_eq!(admin.texts(INVALID).await, [""; 0]);
}

/// What waits in the server would go on waiting there, with the locks that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_cancels_the_statement_and_the_next_run_goes_on() {
    const MIGRATES: &str =
        "SELECT query FROM pg_stat_activity WHERE application_name = 'quartet migrate'
            AND datname = current_database()";
    let (database, _connection) = released_database().await;
    let mut admin = Admin::of(database.url()).await;
    let (mut holder, pid) = session(&database, SNAPSHOT).await;
    let settings = [("DATABASE_URL".to_owned(), database.url().to_owned())];
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut migrate = command(QUARTET.as_ref(), &["migrate"], &settings);
    migrate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.reopen().unwrap());
    let mut migrate = migrate.spawn().unwrap();
    let text = || std::fs::read_to_string(said.path()).unwrap();
    wait_until("it says whom it waits for", BOUND, async || {
        assert!(migrate.try_wait().unwrap().is_none(), "it ended: {}", text());
        text().contains(&format!("the session {pid}"))
    })
    .await;
    kill(Pid::from_raw(migrate.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    wait_until("it ends", BOUND, async || migrate.try_wait().unwrap().is_some()).await;
    assert_eq!(migrate.wait().unwrap().code(), Some(143), "{}", text());
    assert!(text().ends_with("run `quartet migrate` again to go on\n"), "{}", text());
    wait_until("its sessions end", BOUND, async || admin.texts(MIGRATES).await.is_empty()).await;

    holder.execute("COMMIT").await.unwrap();
    Lines::default().migrate(database.url(), BOUND).await.unwrap();
    assert_eq!(admin.texts(INVALID).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_goes_on_when_the_session_ends() {
    let (database, _connection) = released_database().await;
    let mut admin = Admin::of(database.url()).await;
    // It has read the table, too: what a build that was given up leaves cannot be dropped yet.
    let (mut holder, pid) = session(
        &database,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM webhook_deliveries",
    )
    .await;
    let lines = Lines::default();
    let meanwhile = async {
        lines.wait_for(pid).await;
        holder.execute("COMMIT").await.unwrap();
    };
    let (run, ()) = join!(lines.migrate(database.url(), BOUND), meanwhile);
    run.unwrap();
    assert_eq!(admin.texts(INVALID).await, [""; 0]);
}

/// What it waits for must not make everybody else wait behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_use_is_left_to_the_others_between_its_tries() {
    let (database, _connection) = released_database().await;
    let mut admin = Admin::of(database.url()).await;
    let (mut holder, pid) =
        session(&database, "BEGIN; LOCK TABLE transactions IN ACCESS SHARE MODE").await;
    let lines = Lines::default();
    let meanwhile = async {
        lines.wait_for(pid).await;
        // Longer than it asks for the lock at a time, and far shorter than it waits in all.
        admin.run("SET statement_timeout = '15s'").await;
        for _ in 0..3 {
            admin.texts("SELECT count(*)::text FROM transactions").await;
        }
        let altered = "SELECT count(*)::text FROM information_schema.columns
            WHERE table_name = 'transactions' AND column_name = 'pruned_at'";
        assert_eq!(admin.texts(altered).await, ["0"], "it does not wait");
        holder.execute("COMMIT").await.unwrap();
    };
    let (run, ()) = join!(lines.migrate(database.url(), BOUND), meanwhile);
    run.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_says_that_it_waits_for_the_first() {
    let database = TestDatabase::create().await;
    // What a run holds for as long as it takes.
    let (mut first, pid) =
        session(&database, "SELECT pg_advisory_lock(x'7175617274657420'::bigint)").await;
    let ended = super::migrate(database.url(), &["--wait", "1s"]).await;
    let said = ended.expect_failure();
    assert!(said.contains("the lock of `quartet migrate` waits for"), "{said}");
    assert!(said.contains(&format!("the session {pid}")), "{said}");

    let lines = Lines::default();
    let meanwhile = async {
        lines.wait_for(pid).await;
        first.execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    };
    let (run, ()) = join!(lines.migrate(database.url(), BOUND), meanwhile);
    run.unwrap();
}
