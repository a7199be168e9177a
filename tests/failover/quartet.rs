//! Quartet as it is deployed: `quartet migrate`, then processes for the API and for the jobs, which
//! know nothing of the database but where HAProxy listens.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use quartet::sandbox::Sandbox;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{cluster::Cluster, daemon::Daemon, ports::free_address, wait::wait_until};

pub const API_KEY: &str = "qk_failover_test";
/// 32 bytes in base64.
const MASTER_KEY: &str = "ZmFpbG92ZXIgdGVzdCBmYWlsb3ZlciB0ZXN0IDMyYiE=";
const READY: Duration = Duration::from_secs(30);
const PASSWORD: &str = "quartet";
pub const HEARTBEAT: Duration = Duration::from_secs(1);
pub const DEAD_AFTER: Duration = Duration::from_secs(3);

/// The processes of Quartet.
pub struct Quartet {
    processes: Vec<(SocketAddr, Daemon)>,
    apis: usize,
    http: reqwest::Client,
}

impl Quartet {
    /// Makes the database and its owner, who is no superuser, migrates it and starts processes.
    pub async fn start(
        cluster: &Cluster,
        sandbox: &Sandbox,
        apis: usize,
        workers: usize,
        dir: &Path,
    ) -> Self {
        let mut admin = PgConnection::connect(&cluster.admin_url("postgres")).await.unwrap();
        for statement in [
            format!("CREATE ROLE quartet LOGIN PASSWORD '{PASSWORD}'"),
            "CREATE DATABASE quartet OWNER quartet".to_owned(),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
        }
        admin.close().await.unwrap();
        let url = format!("postgres://quartet:{PASSWORD}@{}/quartet", cluster.primary());
        let migrated = quartet(&["migrate"]).env("DATABASE_URL", &url).output().unwrap();
        let output = String::from_utf8_lossy(&migrated.stderr);
        assert!(migrated.status.success(), "quartet migrate: {output}");

        let mut processes = Vec::new();
        for number in 0..apis + workers {
            let role = if number < apis { "api" } else { "worker" };
            let address = free_address();
            let public = processes.first().map_or(address, |(first, _)| *first);
            let mut command = quartet(&["serve", "--role", role]);
            command.envs(settings(sandbox)).env("DATABASE_URL", &url);
            command.env("QUARTET_HTTP__LISTEN", address.to_string());
            command.env("QUARTET_HTTP__PUBLIC_URL", format!("http://{public}"));
            let name = format!("{role}{number}");
            processes.push((address, Daemon::start(&name, dir, command, Signal::SIGKILL)));
        }
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy();
        let mut quartet = Self { processes, apis, http: http.build().unwrap() };
        quartet.wait_ready().await;
        quartet
    }

    /// Where the API is.
    pub fn apis(&self) -> Vec<SocketAddr> {
        self.processes[..self.apis].iter().map(|(address, _)| *address).collect()
    }

    /// Waits until every process says that it can work; none may have ended.
    pub async fn wait_ready(&mut self) {
        let http = self.http.clone();
        for (address, daemon) in &mut self.processes {
            wait_until("the process is ready", READY, async || {
                daemon.assert_runs();
                let ready = http.get(format!("http://{address}/health/ready")).send().await;
                ready.is_ok_and(|answer| answer.status() == 200)
            })
            .await;
        }
    }
}

fn quartet(arguments: &[&str]) -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_quartet")));
    command.args(arguments).env_clear();
    command
}

/// As in production, but for the waits that the test would have to sit out.
fn settings(sandbox: &Sandbox) -> Vec<(&'static str, String)> {
    let config = sandbox.config();
    vec![
        ("QUARTET_THIRD_PARTY__BASE_URL", sandbox.base_url()),
        ("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "2s".to_owned()),
        ("QUARTET_WEBHOOK__SECRETS", config.webhook_secret.reveal()),
        ("QUARTET_SECRETS__MASTER_KEY", MASTER_KEY.to_owned()),
        ("QUARTET_POLL__MAX_DELAY", "2s".to_owned()),
        ("QUARTET_NOTIFY__MAX_DELAY", "2s".to_owned()),
        ("QUARTET_WORKER__HEARTBEAT", format!("{}s", HEARTBEAT.as_secs())),
        ("QUARTET_WORKER__DEAD_AFTER", format!("{}s", DEAD_AFTER.as_secs())),
        ("QUARTET_WORKER__SHUTDOWN_GRACE", "3s".to_owned()),
        ("QUARTET_DEFAULT_CLIENT__NAME", "default".to_owned()),
        ("QUARTET_DEFAULT_CLIENT__API_KEY", API_KEY.to_owned()),
        ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", sandbox.callback_url()),
        ("QUARTET_NOTIFY__ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
        ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", config.client_secret.reveal()),
    ]
}
