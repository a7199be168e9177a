//! A PgBouncer in transaction mode, as Debian packages it, in front of a test's database.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use url::Url;

use super::{ports, wait_until};

const READY: Duration = Duration::from_secs(10);
/// Where Debian has it, which is not in every user's `PATH`.
const SBIN: &str = "/usr/sbin/pgbouncer";

/// A running PgBouncer; killed when dropped.
pub struct PgBouncer {
    directory: TempDir,
    address: SocketAddr,
    url: String,
    child: Child,
}

impl PgBouncer {
    /// Starts one that has `sessions` sessions at `database_url`.
    pub async fn start(database_url: &str, sessions: u32) -> Self {
        Self::start_with(database_url, sessions, "").await
    }

    /// The same; takes these parameters of a session's start, and drops them.
    pub async fn start_ignoring(database_url: &str, sessions: u32, ignored: &str) -> Self {
        let ignore = format!("ignore_startup_parameters = {ignored}");
        Self::start_with(database_url, sessions, &ignore).await
    }

    /// The same, with more lines of settings.
    pub async fn start_with(database_url: &str, sessions: u32, more: &str) -> Self {
        let database: Url = database_url.parse().unwrap();
        let address = ports::free_address();
        let directory = tempfile::Builder::new().prefix("quartet-pgbouncer").tempdir().unwrap();
        // As in docs/database.md, but that the sessions belong to the test's superuser.
        let settings = format!(
            "[databases]\n\
             quartet = host=127.0.0.1 port={} dbname={} user={} password={}\n\
             [pgbouncer]\n\
             listen_addr = {}\n\
             listen_port = {}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {sessions}\n\
             max_client_conn = 500\n\
             server_reset_query =\n\
             log_connections = 0\n\
             log_disconnections = 0\n\
             {more}\n",
            database.port().unwrap(),
            database.path().trim_start_matches('/'),
            database.username(),
            database.password().unwrap_or_default(),
            address.ip(),
            address.port(),
        );
        let file = directory.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        if let Some(user) = unprivileged() {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
            for path in [directory.path(), &file] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        let child = launch(&directory);
        let url = format!("postgres://quartet@{address}/quartet");
        let mut bouncer = Self { directory, address, url, child };
        bouncer.wait_ready().await;
        bouncer
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// `kill -9`, and then a new one at the same address.
    pub async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(&self.directory);
        self.wait_ready().await;
    }

    async fn wait_ready(&mut self) {
        wait_until("PgBouncer answers", READY, async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("PgBouncer ended ({status}):\n{}", log(self.directory.path()));
            }
            tokio::net::TcpStream::connect(self.address).await.is_ok()
        })
        .await;
    }

    /// Whether it takes a connection with settings at its start.
    pub async fn takes_settings_at_the_start(&self) -> bool {
        let options: sqlx::postgres::PgConnectOptions = self.url.parse().unwrap();
        let options = options.options([("statement_timeout", "5s")]);
        PgConnection::connect_with(&options).await.is_ok()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of PgBouncer:\n{}", log(self.directory.path()));
        }
    }
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// PgBouncer refuses root, as Postgres does.
fn unprivileged() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let user = |name| User::from_name(name).unwrap();
    Some(user("postgres").or_else(|| user("nobody")).expect("a user that is not root"))
}

fn launch(directory: &TempDir) -> Child {
    let log = File::options().create(true).append(true).open(directory.path().join("log")).unwrap();
    let mut command = Command::new(binary());
    if let Some(user) = unprivileged() {
        command.args(["-u", &user.name]);
    }
    command
        .arg(directory.path().join("pgbouncer.ini"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|directory| directory.join("pgbouncer"));
    let found = found.find(|binary| binary.exists());
    found.or_else(|| Some(PathBuf::from(SBIN)).filter(|binary| binary.exists())).unwrap_or_else(
        || panic!("this test needs PgBouncer: `apt install pgbouncer` or `brew install pgbouncer`"),
    )
}
