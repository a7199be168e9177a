//! Backup and restore, by the commands of `docs/backup.md`: a dump under load, restored into
//! another cluster, on which everything goes on.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use quartet::{
    config::Role,
    dev::postgres::{EmbeddedPostgres, Options, Search},
    sandbox::{Profile, SandboxConfig},
};
use tokio::join;
use uuid::Uuid;

use super::{Admin, BOUND, accept, migrate, patient, post};
use crate::support::{Client, World, invariant_queries, postgres::own_server, wait_until};

/// Posted before the dump begins; posting goes on meanwhile.
const BEFORE: usize = 100;

fn program(name: &str) -> PathBuf {
    let found = Search::from_environment(None, None).find().expect("PostgreSQL's programs");
    found.bin_dir.join(name)
}

/// The options of both programs in the guide.
const RIGHTS: [&str; 2] = ["--no-owner", "--no-acl"];

/// Runs one of PostgreSQL's programs as the guide does, to its end.
async fn run(name: &str, first: &str, rest: &[&str]) {
    let args = [&[first], &RIGHTS[..], rest].concat();
    let guide = include_str!("../../../docs/backup.md");
    let as_in_the_guide = format!("{name} {first} {}", RIGHTS.join(" "));
    assert!(guide.contains(&as_in_the_guide), "docs/backup.md lacks {as_in_the_guide}");
    let mut command = Command::new(program(name));
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Posts without end, and returns what was accepted.
async fn keep_posting(client: &Client, done: &AtomicBool) -> Vec<Uuid> {
    let mut ids = Vec::new();
    while !done.load(Ordering::Relaxed) {
        ids.push(accept(client).await);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_under_load_is_restored_into_another_cluster_and_everything_goes_on() {
    let old = own_server().await;
    // Creates take a while, so that some are under way when the dump is taken.
    let profile = Profile {
        create_latency_min: Duration::from_millis(100),
        create_latency_max: Duration::from_millis(900),
        webhook_rate: 0.5,
        ..Profile::faultless()
    };
    let config = SandboxConfig { profile, ..SandboxConfig::default() };
    let world = World::on_database(&old.url("postgres"), config).await;
    let process = patient(&world, Role::All).spawn().await;
    let mut admin = Admin::of(&old.url("postgres")).await;
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("quartet.dump");
    let dump = dump.to_str().unwrap();
    let done = AtomicBool::new(false);
    let client = process.client();
    let posting = join_all((0..4).map(|_| keep_posting(&client, &done)));
    let dumping = async {
        wait_until("there is load", BOUND, async || {
            let posted = admin.texts("SELECT count(*)::text FROM transactions").await;
            posted[0].parse::<usize>().unwrap() >= BEFORE
        })
        .await;
        run("pg_dump", "-Fc", &["-f", dump, &old.url("postgres")]).await;
        done.store(true, Ordering::Relaxed);
    };
    let (accepted, ()) = join!(posting, dumping);
    let accepted = accepted.concat();
    // The old cluster is fenced: its processes and itself are gone.
    drop(process);
    drop(admin);
    old.stop().await.unwrap();

    let new = EmbeddedPostgres::start(Options::default()).await.unwrap();
    let url = new.url("postgres");
    run("pg_restore", "-1", &["-d", &url, dump]).await;
    migrate(&url, &[]).await.expect();
    let mut admin = Admin::of(&url).await;
    admin.run("ANALYZE").await;
    let dumped = admin.texts("SELECT id::text FROM transactions").await;
    let dumped: Vec<Uuid> = dumped.iter().map(|id| id.parse().unwrap()).collect();
    let lost: Vec<Uuid> = accepted.iter().filter(|id| !dumped.contains(id)).copied().collect();
    assert!(dumped.len() >= BEFORE && !lost.is_empty(), "{} {}", dumped.len(), lost.len());
    let running = "SELECT count(*)::text FROM apalis.jobs WHERE lock_by IS NOT NULL";
    assert_ne!(admin.texts(running).await, ["0"], "nothing ran when it was dumped");
    // What the schema promises was restored, too.
    let readers = "SELECT has_table_privilege('quartet_reader', 'operator.jobs', 'SELECT')::text";
    assert_eq!(admin.texts(readers).await, ["true"]);
    let trigger = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'notify_workers'";
    assert_eq!(admin.texts(trigger).await, ["D"]);

    let world = world.moved_to(&url);
    let process = patient(&world, Role::All).spawn().await;
    // Nobody else has these, so their clients post them again.
    for id in &lost {
        post(&process.client(), *id).await;
    }
    let all: Vec<Uuid> = dumped.iter().chain(&lost).copied().collect();
    let unfinished = "SELECT count(*)::text FROM transactions
        WHERE status = 'pending' OR notified_version < version";
    wait_until("every transaction has ended at its client", BOUND, async || {
        admin.texts(unfinished).await == ["0"]
    })
    .await;
    world.wait_at_rest(BOUND).await;
    let third_party = world.sandbox.third_party();
    assert_eq!(third_party.violations(), Vec::<Uuid>::new(), "created although a lookup shows it");
    assert_eq!(third_party.double_creates(), Vec::<Uuid>::new(), "stored twice");
    let lease = Duration::from_secs(6);
    let mut wrong = invariant_queries::check_rows(&world.pool, lease).await.unwrap();
    wrong.extend(invariant_queries::check_accepted(&world.pool, &all).await.unwrap());
    assert_eq!(wrong, [""; 0]);
    let letters = "SELECT kind || ' ' || reason FROM failed_jobs";
    assert_eq!(admin.texts(letters).await, [""; 0]);
    drop((process, admin));
    new.stop().await.unwrap();
}
