//! The restore fault: a dump is taken under load, and after a while everything is stopped and
//! started again on that dump, as `docs/backup.md` says.
//!
//! What was accepted after the dump is gone, so its clients post it again. What they heard after
//! the dump may come again, too.

use std::{
    process::{Command, Output},
    time::Duration,
};

use futures_util::future::join_all;
use quartet::dev::postgres::Search;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use crate::{
    cluster::{CREATE_BACKOFF, Cluster},
    load::Poster,
};

/// The database that a restore takes the place of: that of all processes.
const DATABASE: &str = "postgres";
const REPLACED: &str = "replaced_by_a_restore";
/// Where the sessions are that rename databases.
const ELSEWHERE: &str = "template1";
const POLL: Duration = Duration::from_millis(20);

/// Dumps the database, and replaces it by the dump at `replace_at`.
pub async fn restore(cluster: &Cluster, poster: &Poster, replace_at: Instant) {
    let directory = tempfile::tempdir().expect("a directory for the dump");
    let dump = directory.path().join("quartet.dump").display().to_string();
    let url = cluster.world.database_url().to_owned();
    // Other faults may have the database restart meanwhile: then the dump begins again.
    let pg_dump = || program("pg_dump", &["-Fc", "--no-owner", "--no-acl", "-f", &dump, &url]);
    while !output(pg_dump()).await.status.success() {
        tokio::time::sleep(POLL).await;
    }
    tokio::time::sleep_until(replace_at).await;

    let questions = poster.hold_questions().await;
    let mut processes = join_all(cluster.processes.iter().map(Mutex::lock)).await;
    for process in &mut processes {
        process.kill_9();
    }
    let fenced = Instant::now();
    // Locked, so that it does not crash meanwhile.
    let postgres = cluster.postgres.lock().await;
    let mut admin = PgConnection::connect(&postgres.url(ELSEWHERE)).await.expect("a session");
    move_away(&mut admin).await;
    to_its_end(program("pg_restore", &["-1", "--no-owner", "--no-acl", "-d", &url, &dump])).await;
    let mut migrate = Command::new(env!("CARGO_BIN_EXE_quartet"));
    migrate.arg("migrate").env("DATABASE_URL", &url);
    to_its_end(migrate).await;
    execute(&mut admin, format!("DROP DATABASE {REPLACED} WITH (FORCE)")).await.expect("dropped");

    let lost = lost(&cluster.world.pool, poster.accepted()).await;
    poster.forget(&lost);
    cluster.world.sandbox.client().forget_versions();
    // No create of the old processes is stored after that: the lookups see all of them.
    tokio::time::sleep_until(fenced + CREATE_BACKOFF).await;
    for process in &mut processes {
        process.relaunch();
    }
    drop((processes, postgres));
    poster.post_again(&lost).await;
    drop(questions);
}

/// Renames the database and makes an empty one in its place. Whoever has a session is thrown out.
async fn move_away(admin: &mut PgConnection) {
    let close = format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false");
    execute(admin, close).await.expect("no new sessions");
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    let rename = format!("ALTER DATABASE {DATABASE} RENAME TO {REPLACED}");
    loop {
        sqlx::query(terminate).bind(DATABASE).execute(&mut *admin).await.expect("terminated");
        // Refused while a session is still about to end.
        if execute(admin, rename.clone()).await.is_ok() {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let create = format!("CREATE DATABASE {DATABASE} ENCODING 'UTF8' TEMPLATE template0");
    execute(admin, create).await.expect("a new database");
}

async fn execute(admin: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(admin).await?;
    Ok(())
}

/// The accepted ids that the restored database does not have.
async fn lost(pool: &PgPool, accepted: Vec<Uuid>) -> Vec<Uuid> {
    let lost = "SELECT id FROM unnest($1::uuid[]) id WHERE id NOT IN (SELECT id FROM transactions)";
    sqlx::query_scalar(lost).bind(accepted).fetch_all(pool).await.expect("the restored ids")
}

/// One of PostgreSQL's programs.
fn program(name: &str, args: &[&str]) -> Command {
    let found = Search::from_environment(None, None).find().expect("PostgreSQL's programs");
    let mut command = Command::new(found.bin_dir.join(name));
    command.args(args);
    command
}

async fn to_its_end(command: Command) {
    let name = command.get_program().to_owned();
    let output = output(command).await;
    assert!(output.status.success(), "{name:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn output(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("it is waited for").expect("it starts")
}
