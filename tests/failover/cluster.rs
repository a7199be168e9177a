//! Three Patroni nodes on one etcd, and HAProxy in front, set up by the files of `deploy/patroni`.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use nix::{sys::signal::Signal, unistd::Pid};
use quartet::dev::postgres::Search;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    daemon::{Daemon, account, children, postmaster, signal_all},
    ports::free_address,
    wait::{wait_for, wait_until},
};

const BOUND: Duration = Duration::from_secs(180);
const REST_TIMEOUT: Duration = Duration::from_millis(500);
/// Each question is a query of a Python program that has a cluster to keep.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Two rounds of Patroni's loop: on a busy machine a standby can drop out again at once, and
/// without a synchronous one nobody may take over.
const FORMED_FOR: Duration = Duration::from_secs(2);
const SUPERUSER_PASSWORD: &str = "superuser";
/// Patroni's own settings of time, in seconds: its loop is shorter than in production, so that the
/// test is, too. The lock is not: where a busy machine delays a round beyond `ttl`, a healthy
/// primary loses it.
const TIMES: [(&str, &str); 3] = [("TTL", "20"), ("LOOP_WAIT", "1"), ("RETRY_TIMEOUT", "8")];

/// Before this version Patroni writes the leader's key without looking whose it is by then.
const PATRONI: (u32, u32, u32) = (3, 0, 4);

/// Panics where Patroni is not there, or one with which a thawed primary can lose commits.
fn assert_patroni() {
    let output = Command::new("patroni").arg("--version").output().expect("patroni is installed");
    let output = String::from_utf8(output.stdout).unwrap();
    let version = output.trim().rsplit(' ').next().unwrap();
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    let found = (parts[0], parts[1], parts[2]);
    assert!(found >= PATRONI, "Patroni {version}: a frozen primary can take the lock back");
    println!("Patroni {version}; {TIMES:?}");
}

/// One node: Patroni and the Postgres that it runs.
struct Node {
    name: String,
    postgres: SocketAddr,
    rest: SocketAddr,
    data_dir: PathBuf,
    /// `None` after it was killed.
    patroni: Option<Daemon>,
}

/// What `GET /patroni` answers, in part.
#[derive(Debug, Deserialize)]
struct NodeState {
    state: String,
    role: String,
    #[serde(default)]
    sync_standby: bool,
    #[expect(dead_code, reason = "shown when a wait is in vain")]
    timeline: Option<u32>,
    #[expect(dead_code, reason = "shown when a wait is in vain")]
    replication_state: Option<String>,
}

impl NodeState {
    fn is_primary(&self) -> bool {
        self.state == "running" && matches!(self.role.as_str(), "primary" | "master")
    }

    /// `running` is a standby that catches up; `streaming` says so in `replication_state` alone.
    fn is_standby(&self) -> bool {
        self.state == "running" && self.role == "replica"
    }
}

fn is_formed(states: &[Result<NodeState, String>]) -> bool {
    let count = |is: fn(&NodeState) -> bool| {
        states.iter().filter(|state| state.as_ref().is_ok_and(is)).count()
    };
    let synchronous = count(|state| state.is_standby() && state.sync_standby);
    (count(NodeState::is_primary), count(NodeState::is_standby), synchronous) == (1, 2, 1)
}

impl Node {
    fn start(&mut self, dir: &Path) {
        let mut command = Command::new("patroni");
        command.arg(dir.join(format!("{}.yml", self.name)));
        self.patroni = Some(Daemon::start_unprivileged(&self.name, dir, command));
    }

    /// Patroni, the postmaster and its children.
    fn processes(&self) -> Vec<Pid> {
        let postmaster = postmaster(&self.data_dir);
        let children = postmaster.map(children).unwrap_or_default();
        self.patroni.iter().map(Daemon::id).chain(postmaster).chain(children).collect()
    }

    fn kill_9(&mut self) {
        if let Some(mut patroni) = self.patroni.take() {
            patroni.kill_9();
        }
        signal_all(postmaster(&self.data_dir).as_slice(), Signal::SIGKILL);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        signal_all(&self.processes(), Signal::SIGCONT);
        self.kill_9();
    }
}

/// The whole of it. Dropping it ends all processes.
pub struct Cluster {
    nodes: Vec<Node>,
    haproxy: Daemon,
    etcd: Daemon,
    etcd_address: SocketAddr,
    http: reqwest::Client,
    primary: SocketAddr,
    standby: SocketAddr,
    dir: PathBuf,
}

impl Cluster {
    /// Starts it in `dir` and waits until it has a primary and two standbys, one of them
    /// synchronous.
    pub async fn start(dir: &Path) -> Self {
        assert_patroni();
        if let Some(user) = account() {
            chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let (etcd, etcd_address) = start_etcd(dir);
        let mut nodes: Vec<Node> = (1..=3)
            .map(|number| Node {
                name: format!("node{number}"),
                postgres: free_address(),
                rest: free_address(),
                data_dir: dir.join(format!("node{number}")),
                patroni: None,
            })
            .collect();
        let binaries = Search::from_environment(None, None).find().expect("Postgres's binaries");
        for node in &nodes {
            let config = patroni_config(node, etcd_address, &binaries.bin_dir, dir);
            fs::write(dir.join(format!("{}.yml", node.name)), config).unwrap();
        }
        let (primary, standby) = (free_address(), free_address());
        fs::write(dir.join("haproxy.cfg"), haproxy_config(&nodes, primary, standby)).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
        let haproxy = Daemon::start_unprivileged("haproxy", dir, haproxy);
        nodes.iter_mut().for_each(|node| node.start(dir));
        let http = reqwest::Client::builder().timeout(REST_TIMEOUT).no_proxy().build().unwrap();
        let dir = dir.to_owned();
        let mut cluster = Self { nodes, haproxy, etcd, etcd_address, http, primary, standby, dir };
        cluster.wait_formed().await;
        cluster
    }

    /// Waits until there is one primary, a synchronous standby and another standby; panics with
    /// what each node says of itself.
    pub async fn wait_formed(&mut self) {
        self.etcd.assert_runs();
        self.haproxy.assert_runs();
        let started = Instant::now();
        let mut formed_since = None;
        loop {
            let states = join_all(self.nodes.iter().map(|node| self.state(node))).await;
            // The nodes say what they saw in their last round; who may take over stands in etcd.
            let heir = self.synchronous_standby().await;
            if heir.is_none() || !is_formed(&states) {
                formed_since = None;
            } else if formed_since.get_or_insert_with(Instant::now).elapsed() >= FORMED_FOR {
                return;
            }
            assert!(
                started.elapsed() < BOUND,
                "waited {BOUND:?} in vain for a primary and two standbys, one of them synchronous \
                 (now {heir:?}): {states:#?}"
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The standby that may take over, as etcd has it.
    async fn synchronous_standby(&self) -> Option<String> {
        let range = serde_json::json!({ "key": BASE64_STANDARD.encode("/service/quartet/sync") });
        let url = format!("http://{}/v3/kv/range", self.etcd_address);
        let answer = self.http.post(url).body(range.to_string()).send().await.ok()?;
        let found: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        let value = BASE64_STANDARD.decode(found["kvs"][0]["value"].as_str()?).ok()?;
        let sync: Value = serde_json::from_slice(&value).ok()?;
        Some(sync["sync_standby"].as_str()?.to_owned())
    }

    /// What a node's Patroni says of it.
    async fn state(&self, node: &Node) -> Result<NodeState, String> {
        let answer = self.http.get(format!("http://{}/patroni", node.rest)).send();
        let body =
            async { answer.await?.bytes().await }.await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    /// The number of the node that is the primary, as soon as there is one.
    pub async fn wait_primary(&self) -> usize {
        self.wait_primary_where("there is a primary", |_| true).await
    }

    /// Waits until another node than `former` is the primary.
    pub async fn wait_promoted(&self, former: usize) {
        self.wait_primary_where("another node is the primary", |node| node != former).await;
    }

    async fn wait_primary_where(&self, what: &str, is: impl Fn(usize) -> bool) -> usize {
        let find = async || {
            let primary = self.find("primary").await.filter(|node| is(*node));
            if primary.is_none() {
                tokio::time::sleep(ASK_EVERY).await;
            }
            primary
        };
        wait_for(what, BOUND, find).await
    }

    async fn find(&self, role: &str) -> Option<usize> {
        // At once: a node that is frozen does not answer.
        let all = join_all((0..self.nodes.len()).map(|node| self.is(node, role))).await;
        all.into_iter().position(|is| is)
    }

    /// Whether Patroni says so; a node that does not answer is nothing.
    async fn is(&self, node: usize, role: &str) -> bool {
        let node = &self.nodes[node];
        if node.patroni.is_none() {
            return false;
        }
        let answer = self.http.get(format!("http://{}/{role}", node.rest)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// `kill -9` of Patroni and of the postmaster.
    pub fn kill_9(&mut self, node: usize) {
        self.nodes[node].kill_9();
    }

    /// Starts a node that was killed.
    pub fn restart(&mut self, node: usize) {
        let dir = self.dir.clone();
        self.nodes[node].start(&dir);
    }

    /// Stops all processes of a node where they are, as a machine that hangs; returns them.
    pub fn freeze(&self, node: usize) -> Vec<Pid> {
        let processes = self.nodes[node].processes();
        signal_all(&processes, Signal::SIGSTOP);
        processes
    }

    /// Hands the primary's part over to the synchronous standby, as for maintenance.
    pub async fn switch_over(&self) {
        wait_until("the primary hands over", BOUND, async || self.try_switch_over().await).await;
    }

    async fn try_switch_over(&self) -> bool {
        let (Some(primary), Some(candidate)) =
            (self.find("primary").await, self.find("sync").await)
        else {
            return false;
        };
        let (primary, candidate) = (&self.nodes[primary], &self.nodes[candidate]);
        let body = serde_json::json!({ "leader": primary.name, "candidate": candidate.name });
        let url = format!("http://{}/switchover", primary.rest);
        // It answers when it is over.
        let answer = self.http.post(url).timeout(BOUND).body(body.to_string()).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// The superuser's way to a database, through HAProxy, to the primary.
    pub fn admin_url(&self, database: &str) -> String {
        url(self.primary, database)
    }

    /// Through HAProxy to a standby.
    pub fn standby_url(&self, database: &str) -> String {
        url(self.standby, database)
    }

    /// Around HAProxy to a node.
    pub fn node_url(&self, node: usize, database: &str) -> String {
        url(self.nodes[node].postgres, database)
    }

    /// Where HAProxy leads to the primary.
    pub fn primary(&self) -> SocketAddr {
        self.primary
    }
}

fn url(address: SocketAddr, database: &str) -> String {
    format!("postgres://postgres:{SUPERUSER_PASSWORD}@{address}/{database}")
}

fn start_etcd(dir: &Path) -> (Daemon, SocketAddr) {
    let (client, peer) = (free_address(), free_address());
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--name", "etcd", "--logger", "zap", "--log-level", "warn"])
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("etcd={peer_url}")]);
    (Daemon::start_unprivileged("etcd", dir, command), client)
}

fn patroni_config(node: &Node, etcd: SocketAddr, bin_dir: &Path, dir: &Path) -> String {
    let pgpass = dir.join(format!("{}.pgpass", node.name));
    let values = [
        ("NAME", node.name.clone()),
        ("HOST", node.postgres.ip().to_string()),
        ("PORT", node.postgres.port().to_string()),
        ("REST_PORT", node.rest.port().to_string()),
        ("ETCD", format!("'{etcd}'")),
        ("DATA_DIR", node.data_dir.display().to_string()),
        ("BIN_DIR", bin_dir.display().to_string()),
        ("PGPASS", pgpass.display().to_string()),
        ("SUPERUSER_PASSWORD", SUPERUSER_PASSWORD.to_owned()),
        ("REPLICATION_PASSWORD", "replication".to_owned()),
        ("NETWORK", "127.0.0.1/32".to_owned()),
    ];
    let times = TIMES.map(|(name, value)| (name, value.to_owned()));
    fill_in("patroni.yml", values.into_iter().chain(times))
}

fn haproxy_config(nodes: &[Node], primary: SocketAddr, standby: SocketAddr) -> String {
    let listen = [("LISTEN_PRIMARY", primary), ("LISTEN_STANDBY", standby)];
    let mut values: Vec<(String, String)> =
        listen.map(|(name, value)| (name.to_owned(), value.to_string())).into();
    for (index, node) in nodes.iter().enumerate() {
        let number = index + 1;
        values.extend([
            (format!("NAME_{number}"), node.name.clone()),
            (format!("POSTGRES_{number}"), node.postgres.to_string()),
            (format!("REST_HOST_{number}"), node.rest.ip().to_string()),
            (format!("REST_PORT_{number}"), node.rest.port().to_string()),
        ]);
    }
    fill_in("haproxy.cfg", values)
}

/// A file of `deploy/patroni` with its values.
fn fill_in(
    file: &str,
    values: impl IntoIterator<Item = (impl std::fmt::Display, String)>,
) -> String {
    let path = format!("{}/deploy/patroni/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut text = fs::read_to_string(path).unwrap();
    for (name, value) in values {
        let place = format!("@{name}@");
        assert!(text.contains(&place), "{file} has no {place}");
        text = text.replace(&place, &value);
    }
    let mut settings = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    assert!(!settings.any(|line| line.contains('@')), "not all is filled in:\n{text}");
    text
}
