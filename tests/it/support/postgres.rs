//! One Postgres server for the whole test process, and a database of its own for each test.
//!
//! The server is embedded, or the one that `DATABASE_URL` names. A template is migrated once and
//! copied for each test. Everything about the server runs on one thread with its own runtime:
//! tests have a runtime each, and nothing async outlives the runtime that made it. The server is
//! stopped when the process exits; if that is killed, the embedded server ends with it.

use std::{
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use quartet::{
    dev::postgres::{EmbeddedPostgres, Options},
    store::{self, Database, Target},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::oneshot;
use url::Url;

/// This server is never crashed (see [`own_server`]), and databases come and go quickly without
/// waiting for the disk.
const UNSAFE_BUT_FAST: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];
/// Periodic tasks wait until a test makes them due.
const LATER: &str = "UPDATE maintenance_tasks SET due_at = now() + interval '1 year'";
/// How long the server may take to stop at exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

enum Order {
    Create { name: String, done: oneshot::Sender<()> },
    Drop { name: String },
    Stop { done: mpsc::Sender<()> },
}

struct Server {
    url: Url,
    orders: mpsc::Sender<Order>,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A migrated database of one test; dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
}

impl TestDatabase {
    pub async fn create() -> Self {
        // The first test starts the server; the others wait for it, off their runtimes' threads.
        let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(start)).await.unwrap();
        let name = database_name(&NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let (done, created) = oneshot::channel();
        server.orders.send(Order::Create { name: name.clone(), done }).unwrap();
        created.await.expect("the database is created");
        Self { url: database_url(&server.url, &name), name }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database as the program uses it.
    pub fn database(&self) -> Database {
        let target = Target::new(&self.url, false).unwrap();
        store::connect(&target, 3, Duration::from_secs(5), &Arc::default())
    }

    /// A small pool of the test's own, apart from the app's.
    pub fn pool(&self) -> PgPool {
        pool(&self.url)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Some(server) = SERVER.get() {
            // Not waited for; the server's thread may be gone at exit.
            let _ = server.orders.send(Order::Drop { name: self.name.clone() });
        }
    }
}

/// A small pool for a test's own queries; connects on first use.
pub fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(3).connect_lazy(url).unwrap()
}

/// A migrated server of the test's own, to be crashed; its database is `postgres`.
pub async fn own_server() -> EmbeddedPostgres {
    let server = EmbeddedPostgres::start(Options::default()).await.expect("Postgres starts");
    store::migrate(&server.url("postgres")).await.expect("the migrations apply");
    server
}

fn database_name(suffix: &str) -> String {
    format!("quartet_it_{}_{suffix}", process::id())
}

fn database_url(server: &Url, name: &str) -> String {
    let mut url = server.clone();
    url.set_path(name);
    url.into()
}

fn start() -> Server {
    let (orders, inbox) = mpsc::channel();
    let (started, url) = mpsc::channel();
    thread::Builder::new()
        .name("test-postgres".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve(&inbox, &started));
        })
        .unwrap();
    let url = url.recv().expect("Postgres starts and takes the migrations");
    // SAFETY: `stop_at_exit` is a plain function that is there for the whole life of the process.
    unsafe { nix::libc::atexit(stop_at_exit) };
    Server { url, orders }
}

/// Carries out orders one after another; there is nothing else to do on this runtime meanwhile.
async fn serve(inbox: &mpsc::Receiver<Order>, started: &mpsc::Sender<Url>) {
    let (server, url) = match std::env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => (None, url),
        _ => {
            let settings = UNSAFE_BUT_FAST.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let options = Options { settings: settings.into(), ..Options::default() };
            let server = EmbeddedPostgres::start(options).await.unwrap();
            let url = server.url("postgres");
            (Some(server), url)
        }
    };
    let server_url: Url = url.parse().unwrap();
    let template = database_name("template");
    let mut admin = PgConnection::connect(&url).await.unwrap();
    execute(&mut admin, format!("CREATE DATABASE {template}")).await;
    let template_url = database_url(&server_url, &template);
    store::migrate(&template_url).await.unwrap();
    // Else they would run in some tests, depending on how long the others take.
    let mut connection = PgConnection::connect(&template_url).await.unwrap();
    execute(&mut connection, LATER.to_owned()).await;
    connection.close().await.unwrap();
    started.send(server_url).unwrap();

    for order in inbox {
        match order {
            Order::Create { name, done } => {
                execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
                let _ = done.send(());
            }
            Order::Drop { name } => drop_database(&mut admin, &name).await,
            Order::Stop { done } => {
                match server {
                    Some(server) => server.stop().await.unwrap(),
                    None => drop_database(&mut admin, &template).await,
                }
                let _ = done.send(());
                return;
            }
        }
    }
}

async fn drop_database(admin: &mut PgConnection, name: &str) {
    execute(admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
}

async fn execute(admin: &mut PgConnection, statement: String) {
    sqlx::query(AssertSqlSafe(statement.clone()))
        .execute(admin)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

extern "C" fn stop_at_exit() {
    let Some(server) = SERVER.get() else { return };
    let (done, stopped) = mpsc::channel();
    if server.orders.send(Order::Stop { done }).is_ok() {
        let _ = stopped.recv_timeout(STOP_TIMEOUT);
    }
}
