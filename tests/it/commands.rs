//! The commands of the binary, run as an operator runs them.

use std::{
    fs,
    io::{Read, Seek},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use quartet::config::Role;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::join;
use uuid::Uuid;

use crate::support::{
    World,
    command::{Ended, QUARTET, command, run},
    contents,
    postgres::TestDatabase,
    spawn_api, transaction, wait_for, wait_until,
    world::MASTER_KEY,
};

const BOUND: Duration = Duration::from_secs(20);
/// A demo of a few transactions, a first start of Postgres included.
const DEMO: Duration = Duration::from_secs(60);

fn settings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// A database without any schema of ours.
async fn empty_database() -> TestDatabase {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let clear = "DROP SCHEMA public CASCADE; DROP SCHEMA apalis CASCADE; CREATE SCHEMA public;";
    sqlx::raw_sql(clear).execute(&mut connection).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_may_run_twice_at_once_on_an_empty_database() {
    let database = empty_database().await;
    let settings = settings(&[("DATABASE_URL", database.url())]);
    let migrate = || run(&["migrate"], &settings, "");
    let (one, other, third) = join!(migrate(), migrate(), migrate());
    for ended in [one, other, third, migrate().await] {
        ended.expect();
    }
    let jobs = "SELECT count(*) FROM apalis.jobs";
    let jobs: i64 = sqlx::query_scalar(jobs).fetch_one(&database.pool()).await.unwrap();
    assert_eq!(jobs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_on_an_unmigrated_database_says_what_to_do() {
    let world = World::new().await;
    let database = empty_database().await;
    let mut settings = world.settings();
    crate::support::world::set(&mut settings, "DATABASE_URL", database.url());
    crate::support::world::set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
    let ended = run(&["serve"], &settings, "").await;
    let text = ended.expect_failure();
    assert!(text.contains("run `quartet migrate`"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_names_every_variable_that_is_missing_or_wrong() {
    let ended = run(&["serve"], &[], "").await;
    let text = ended.expect_failure();
    for variable in ["DATABASE_URL", "QUARTET_WEBHOOK__SECRETS", "QUARTET_THIRD_PARTY__BASE_URL"] {
        assert!(text.contains(variable), "{variable} is not in {text}");
    }
    let wrong = settings(&[
        ("DATABASE_URL", "mysql://localhost"),
        ("QUARTET_HTTP__LISTEN", "everywhere"),
        ("QUARTET_WEBHOOK__SECRETS", "secret-secret"),
        ("QUARTET_THIRD_PARTY__BASE_URL", "/relative"),
        ("QUARTET_POLL__FACTOR", "0"),
        ("QUARTET_WORKER__HEARTBEAT", "5"),
        ("QUARTET_NOTIFY__ATTEMPTS", "5"),
    ]);
    let ended = run(&["serve"], &wrong, "").await;
    let text = ended.expect_failure();
    for (variable, _) in &wrong {
        assert!(text.contains(variable), "{variable} is not in {text}");
    }
    assert!(!text.contains("secret-secret"), "a secret is shown: {text}");
    // Where it cannot listen.
    let world = World::new().await;
    let mut settings = world.settings();
    let taken = world.sandbox.address();
    crate::support::world::set(&mut settings, "QUARTET_HTTP__LISTEN", taken);
    let ended = run(&["serve"], &settings, "").await;
    let text = ended.expect_failure();
    assert!(text.contains("QUARTET_HTTP__LISTEN"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_added_listed_rotated_and_disabled() {
    let app = spawn_api().await;
    let settings = settings(&[
        ("DATABASE_URL", app.database_url()),
        ("QUARTET_SECRETS__MASTER_KEY", MASTER_KEY),
    ]);
    let clients =
        async |args: &[&str]| -> Ended { run(&[&["clients"], args].concat(), &settings, "").await };
    let status = async |key: &str| {
        let client = app.anonymous().with_key(key);
        client.post_transaction(&transaction(Uuid::now_v7())).await.status
    };
    let add = ["add", "shop", "--callback-url", "https://shop.example/callback", "--json"];
    let added = clients(&add).await.expect_json();
    let key = added["api_key"].as_str().unwrap().to_owned();
    assert!(added["signing_secret"].as_str().unwrap().starts_with("whsec_"), "{added}");
    assert_eq!(status(&key).await, 202);

    // Neither is anywhere in the database.
    let row = "SELECT to_jsonb(clients)::text || encode(api_key_hash, 'escape') FROM clients
        WHERE name = 'shop'";
    let row: String = sqlx::query_scalar(row).fetch_one(&app.pool).await.unwrap();
    let secret = added["signing_secret"].as_str().unwrap().trim_start_matches("whsec_");
    assert!(!row.contains(&key) && !row.contains(secret), "{row}");
    let listed = clients(&["list", "--json"]).await;
    assert!(!listed.expect().contains(&key) && !listed.stdout.contains("whsec_"), "{listed:?}");
    let listed = listed.expect_json();
    let shop = listed.as_array().unwrap().iter().find(|client| client["name"] == "shop").unwrap();
    assert_eq!(shop["callback_url"], "https://shop.example/callback");
    assert_eq!(shop["disabled_at"], Value::Null);
    assert!(clients(&["list"]).await.expect().contains("shop"));

    let rotated = clients(&["rotate-key", "shop", "--json"]).await.expect_json();
    let new_key = rotated["api_key"].as_str().unwrap().to_owned();
    assert_eq!((status(&key).await, status(&new_key).await), (401, 202));
    clients(&["disable", "shop"]).await.expect();
    assert_eq!(status(&new_key).await, 401);

    // What cannot be done is said, and fails.
    assert!(clients(&add).await.expect_failure().contains("shop"));
    for args in [&["rotate-key", "nobody"], &["disable", "nobody"]] {
        assert!(clients(args).await.expect_failure().contains("nobody"));
    }
    let wrong = clients(&["add", "x", "--callback-url", "ftp://example.org"]).await;
    assert!(wrong.expect_failure().contains("--callback-url"), "{wrong:?}");
    let wrong = clients(&["rotate-key", "shop", "--overlap", "24"]).await;
    assert!(wrong.expect_failure().contains("has no unit"), "{wrong:?}");
    // What is no secret may be most of one.
    for args in [
        &["add", "x", "--callback-url", "http://x/", "--signing-secret", "whsec_almost*"][..],
        &["rotate-secret", "shop", "--signing-secret", "whsec_almost*"],
    ] {
        let wrong = clients(args).await;
        assert!(wrong.expect_failure().contains("--signing-secret"), "{wrong:?}");
        assert!(!wrong.stderr.contains("almost"), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sign_webhook_prints_is_accepted() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let body = json!({ "id": id, "status": "completed" }).to_string();
    let secrets = format!(
        "{},whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        app.sandbox.config().webhook_secret.reveal()
    );
    let settings = settings(&[("QUARTET_WEBHOOK__SECRETS", &secrets)]);
    let printed = run(&["sign-webhook"], &settings, &body).await;
    let lines: Vec<(&str, &str)> =
        printed.expect().lines().map(|line| line.split_once(": ").unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["webhook-id", "webhook-timestamp", "webhook-signature"]);

    let headers = [&[("content-type", "application/json")], &lines[..]].concat();
    let path = "/v1/webhooks/third-party";
    let sent = app.anonymous().send(reqwest::Method::POST, path, &headers, body.clone()).await;
    assert_eq!(sent.expect(200), &json!({ "outcome": "settled", "duplicate": false }));
    let other = body.replace("completed", "declined");
    let sent = app.anonymous().send(reqwest::Method::POST, path, &headers, other).await;
    sent.expect_problem(401);
    // The published example of Standard Webhooks.
    let args = [
        "sign-webhook",
        "--secret",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "--webhook-id",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        "--timestamp",
        "1649367553",
    ];
    let vector = r#"{"email":"test@example.com","username":"test_user"}"#;
    let printed = run(&args, &[], vector).await;
    let signature = "webhook-signature: v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    assert_eq!(printed.expect().lines().nth(2), Some(signature));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_prints_the_committed_document() {
    let printed = run(&["openapi"], &[], "").await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/quartet.json");
    assert!(printed.expect() == fs::read_to_string(path).unwrap(), "run `just openapi`");
}

/// The processes that descend from `ancestor`: id and command line.
fn descendants(ancestor: u32) -> Vec<(u32, String)> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        // After the name: state, parent.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let parent = rest.split(' ').nth(1).unwrap().parse::<u32>().unwrap();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        processes.push((id, parent, line));
    }
    let mut family = vec![ancestor];
    let mut found = Vec::new();
    while let Some(member) = family.pop() {
        for (id, parent, line) in &processes {
            if *parent == member {
                family.push(*id);
                found.push((*id, line.clone()));
            }
        }
    }
    found
}

/// Waits until a session of the demo's own Postgres is there; returns all that it started.
async fn wait_postgres(demo: &mut Child) -> Vec<u32> {
    wait_for("its Postgres serves sessions", DEMO, async || {
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended too early");
        let found = descendants(demo.id());
        let serves = found.iter().any(|(_, line)| line.starts_with("postgres: postgres postgres"));
        serves.then(|| found.into_iter().map(|(id, _)| id).collect())
    })
    .await
}

/// Those of `ids` that still run; a process that ended and was not waited for does not.
fn left_of(ids: &[u32]) -> Vec<u32> {
    let runs = |id: &&u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    ids.iter().filter(runs).copied().collect()
}

/// Starts a demo; `drop_to` runs it as that user.
fn start_demo(binary: &Path, args: &[&str], drop_to: Option<&User>) -> Child {
    let mut demo = command(binary, &[&["demo"], args].concat(), &[]);
    demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    if let Some(user) = drop_to {
        demo.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    demo.spawn().unwrap()
}

async fn run_demo(binary: &Path, drop_to: Option<&User>) {
    let mut demo = start_demo(binary, &["--transactions", "20", "--speed", "60"], drop_to);
    let started = wait_postgres(&mut demo).await;
    wait_until("the demo ends", DEMO, async || demo.try_wait().unwrap().is_some()).await;
    let ended: Ended = demo.wait_with_output().unwrap().into();
    assert!(ended.expect().contains("20"), "{ended:?}");
    assert_eq!(left_of(&started), Vec::<u32>::new(), "left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_sends_all_through_and_leaves_nothing_behind() {
    run_demo(QUARTET.as_ref(), None).await;
}

/// Each profile that ships has a simulated third party, and nothing is lost or doubled with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_runs_with_each_profile_in_the_program() {
    let listed = run(&["third-party", "list"], &[], "").await;
    let names: Vec<&str> = listed.expect().lines().collect();
    assert!(names.len() > 6, "{names:?}");
    let demos = stream::iter(names).map(async |name| {
        let args = ["demo", "--profile", name, "--transactions", "12", "--speed", "60"];
        (name, tokio::time::timeout(DEMO, run(&args, &[], "")).await.expect(name))
    });
    for (name, ended) in demos.buffer_unordered(3).collect::<Vec<_>>().await {
        let text = ended.expect();
        assert!(text.ends_with("\n0 lost, 0 doubled\n"), "{name}: {text}");
        let row = |label: &str| text.lines().find(|line| line.contains(label)).unwrap_or_default();
        assert!(row("| third party  ").contains(name), "{name}: {text}");
        assert!(row("| ended ").contains("12 in"), "{name}: {text}");
        assert!(row("third party faults").contains(", 0 refused"), "{name}: {text}");
    }
    let ended = run(&["demo", "--profile", "paypal"], &[], "").await;
    assert!(ended.expect_failure().contains("must be one of gocardless-outbound"), "{ended:?}");
    let set = settings(&[("QUARTET_THIRD_PARTY__PROFILE", "paystack")]);
    let ended = run(&["demo"], &set, "").await;
    assert!(ended.expect_failure().contains("unset QUARTET_THIRD_PARTY__PROFILE"), "{ended:?}");
    let set = settings(&[("QUARTET_THIRD_PARTY__SECRETS__TOKEN", "sk_hush")]);
    let said = run(&["demo", "--profile", "paystack"], &set, "").await;
    let said = said.expect_failure();
    assert!(said.contains("SECRETS__TOKEN") && !said.contains("sk_hush"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_and_dev_refuse_a_real_third_party_and_a_real_client() {
    for (variable, in_file) in [
        ("QUARTET_THIRD_PARTY__BASE_URL", "[third_party]\nbase_url"),
        ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", "[default_client]\ncallback_url"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, format!("{in_file} = \"https://bank.example\"")).unwrap();
        let file = file.path().to_str().unwrap();
        let set = settings(&[(variable, "https://bank.example")]);
        for name in ["demo", "dev"] {
            let by_file = run(&[name, "--config", file], &[], "").await;
            for ended in [by_file, run(&[name], &set, "").await] {
                let text = ended.expect_failure();
                assert!(text.contains(&format!("unset {variable}")), "{name}: {text}");
            }
        }
    }
}

/// A database that they did not start may be anybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_and_dev_write_into_no_database_unless_they_are_asked_to() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let before = contents(&pool).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, format!("database_url = \"{}\"", database.url())).unwrap();
    let file = file.path().to_str().unwrap();
    for name in ["demo", "dev"] {
        for (variable, args) in [
            ("DATABASE_URL", &[][..]),
            ("QUARTET_DATABASE__DIRECT_URL", &[]),
            ("DATABASE_URL", &["--config", file]),
        ] {
            let set = match args {
                [] => settings(&[(variable, database.url())]),
                _ => Vec::new(),
            };
            let ended = run(&[&[name], args].concat(), &set, "").await;
            let said = ended.expect_failure();
            assert!(said.contains(&format!("unset {variable}")), "{name} {variable}: {said}");
            assert!(said.contains("--use-database-url"), "{name} {variable}: {said}");
        }
        let ended = run(&[name, "--use-database-url"], &[], "").await;
        assert!(ended.expect_failure().contains("DATABASE_URL, which is not set"), "{ended:?}");
        let help = run(&[name, "--help"], &[], "").await;
        for part in ["PG_BIN_DIR", "DATABASE_URL", "--use-database-url", "QUARTET_HTTP__LISTEN"] {
            assert!(help.expect().contains(part), "{name}: {part}: {}", help.stdout);
        }
    }
    assert_eq!(contents(&pool).await, before);
    let set = settings(&[("DATABASE_URL", database.url())]);
    let args = ["demo", "--use-database-url", "--transactions", "3", "--speed", "60"];
    run(&args, &set, "").await.expect();
    let written = "SELECT count(*) FROM transactions";
    let written: i64 = sqlx::query_scalar(written).fetch_one(&pool).await.unwrap();
    assert_eq!(written, 3);
}

/// The banner is what its reader looks for: no line of a log comes into it or after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_prints_its_banner_last_and_alone() {
    // What the environment asks of other servers does not concern its own.
    let set = settings(&[("QUARTET_HTTP__LISTEN", "127.0.0.1:0"), ("PGSSLMODE", "verify-full")]);
    let args = ["dev", "--speed", "60", "--transactions", "5"];
    let (mut out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut dev = command(QUARTET.as_ref(), &args, &set);
    dev.stdin(Stdio::null()).current_dir("/");
    dev.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut dev = dev.spawn().unwrap();
    let text = |file: &mut fs::File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    // At an offset of its own: the position of a duplicate is the process's too.
    let banner = wait_for("the banner is printed", DEMO, async || {
        assert!(dev.try_wait().unwrap().is_none(), "dev ended too early");
        let path = format!("/proc/{}/fd/1", dev.id());
        let text = fs::read_to_string(path).unwrap_or_default();
        text.ends_with("Ctrl-C ends it.\n").then_some(text)
    })
    .await;
    let value = |name: &str| {
        let line = banner.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {banner}")).trim().to_owned()
    };
    assert!(banner.starts_with("API and Swagger UI:"), "{banner}");
    let samples: Vec<&str> =
        banner.lines().filter_map(|line| line.strip_prefix("Sample transaction:  ")).collect();
    assert_eq!(samples.len(), 5, "{banner}");
    let (key, url) = (value("API key (client):"), value("API and Swagger UI:"));
    let url = url.strip_suffix("/docs").unwrap();
    let shell = banner.lines().find(|line| line.starts_with("QUARTET=")).unwrap();
    assert!(shell.starts_with(&format!("QUARTET='{url}' KEY='{key}' SECRET='whsec_")), "{shell}");
    // What the simulated peers do wrong meanwhile is not logged.
    let http = reqwest::Client::new();
    for sample in samples {
        wait_until("the sample has ended", DEMO, async || {
            let answer = http.get(sample).bearer_auth(&key).send().await.unwrap();
            answer.json::<Value>().await.unwrap()["status"] != "pending"
        })
        .await;
    }
    kill(Pid::from_raw(dev.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    wait_until("dev ends", DEMO, async || dev.try_wait().unwrap().is_some()).await;
    assert!(dev.wait().unwrap().success());
    let mut err = err;
    assert_eq!((text(&mut out), text(&mut err)), (banner, String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_that_is_killed_leaves_no_postgres_behind() {
    let mut demo = start_demo(QUARTET.as_ref(), &["--transactions", "2000", "--speed", "1"], None);
    let started = wait_postgres(&mut demo).await;
    demo.kill().unwrap();
    demo.wait().unwrap();
    wait_until("Postgres ends with it", BOUND, async || left_of(&started).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_runs_as_an_ordinary_user() {
    if !Uid::effective().is_root() {
        return; // The other tests do.
    }
    let user = User::from_name("nobody").unwrap().expect("every Unix has it");
    // Where that user may read it.
    let readable = tempfile::tempdir().unwrap();
    fs::set_permissions(readable.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = readable.path().join("quartet");
    // By another process: a file that this one has open for writing may be inherited by a process
    // that another test is just starting, and cannot be executed then (ETXTBSY).
    let copied = std::process::Command::new("cp").arg(QUARTET).arg(&binary).status().unwrap();
    assert!(copied.success());
    run_demo(&binary, Some(&user)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_serves_health_but_no_api() {
    let process = World::new().await.process(Role::Worker).spawn().await;
    process.client().get("/health/live").await.expect(200);
    process.client().get("/v1/transactions").await.expect_problem(404);
}
