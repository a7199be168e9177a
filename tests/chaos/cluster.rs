//! What the faults are done to: Postgres, five processes of the built program, the simulated peers,
//! and a link in each way between them.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use quartet::{
    config::Role,
    dev::postgres::{EmbeddedPostgres, Options},
    sandbox::{Profile, SandboxConfig},
    store,
};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    link::Link,
    other::{self, Other},
    plan::{APIS, NODES, Node, WORKERS, Way},
    support::{
        World, ports,
        process::{Process, ProcessBuilder},
    },
    witness,
};

/// Few, so that they can be used up; the processes have 75 at most.
const MAX_CONNECTIONS: &str = "100";
const READY: Duration = Duration::from_secs(30);

/// Longer than a create may take to be stored, however it is answered: the third party hides
/// nothing for longer than Quartet waits, so that a double create is a defect.
pub const CREATE_BACKOFF: Duration = Duration::from_millis(2_500);

/// Short enough that everything ends soon after the last fault.
const SETTINGS: [(&str, &str); 17] = [
    ("QUARTET_DATABASE__MAX_CONNECTIONS", "15"),
    ("QUARTET_THIRD_PARTY__TIMEOUT", "1500ms"),
    ("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "500ms"),
    ("QUARTET_CIRCUIT__MIN_CALLS", "20"),
    ("QUARTET_CIRCUIT__WINDOW", "3s"),
    ("QUARTET_CIRCUIT__OPEN_FOR", "500ms"),
    ("QUARTET_CIRCUIT__MAX_OPEN_FOR", "2s"),
    ("QUARTET_POLL__MAX_DELAY", "1500ms"),
    ("QUARTET_POLL__DEADLINE", "15s"),
    ("QUARTET_NOTIFY__BASE", "100ms"),
    ("QUARTET_NOTIFY__MAX_DELAY", "1s"),
    ("QUARTET_NOTIFY__TIMEOUT", "800ms"),
    ("QUARTET_WORKER__HEARTBEAT", "250ms"),
    // `plan::DEAD_AFTER`.
    ("QUARTET_WORKER__DEAD_AFTER", "1s"),
    ("QUARTET_WORKER__SHUTDOWN_GRACE", "2s"),
    ("QUARTET_RECONCILE__INTERVAL", "2s"),
    ("QUARTET_RECONCILE__RATE", "200"),
];

/// All that peers do wrong by themselves.
fn profile() -> Profile {
    let ms = Duration::from_millis;
    Profile {
        create_latency_min: ms(5),
        create_latency_max: ms(600),
        timeout_rate: 0.15,
        timeout_latency: ms(700),
        timeout_stored_rate: 0.5,
        timeout_stored_min: ms(100),
        timeout_stored_max: ms(1_000),
        declined_rate: 0.2,
        final_in_answer_rate: 0.1,
        webhook_rate: 0.7,
        webhook_latency_min: ms(20),
        webhook_latency_max: ms(2_000),
        webhook_duplicate_rate: 0.2,
        webhook_bad_signature_rate: 0.1,
        webhook_late_rate: 0.1,
        webhook_late_by: ms(3_000),
        webhook_out_of_order_rate: 0.2,
        lookup_latency_min: ms(1),
        lookup_latency_max: ms(50),
        lookup_error_rate: 0.1,
        client_latency_min: ms(1),
        client_latency_max: ms(100),
        client_failure_rate: 0.15,
    }
}

/// Everything that runs.
pub struct Cluster {
    pub postgres: Mutex<EmbeddedPostgres>,
    /// The sandbox, and a way to the database beside the links.
    pub world: World,
    /// By the numbers of [`NODES`].
    pub processes: Vec<Mutex<Process>>,
    /// Where each process serves.
    pub addresses: Vec<SocketAddr>,
    /// Their third party beside the sandbox's.
    pub other: Other,
    links: HashMap<Way, Link>,
    /// The ways to `other`; they share the troubles of those to the third party.
    other_links: HashMap<Way, Link>,
    directory: PathBuf,
}

impl Cluster {
    /// Starts everything and waits until it is ready. Logs go to `directory`.
    pub async fn start(seed: u64, directory: &Path) -> Self {
        let settings = vec![("max_connections".to_owned(), MAX_CONNECTIONS.to_owned())];
        let postgres = EmbeddedPostgres::start(Options { settings, ..Options::default() });
        let postgres = postgres.await.expect("Postgres starts");
        let url = postgres.url("postgres");
        store::migrate(&url).await.expect("the migrations apply");
        let config = SandboxConfig {
            seed,
            profile: profile(),
            webhook_retries: 2,
            ..SandboxConfig::default()
        };
        let other = Other::start(config.clone(), directory).await;
        let world = World::on_database(&url, config).await;
        witness::install(&world.pool).await;

        let addresses: Vec<SocketAddr> = NODES.iter().map(|_| ports::free_address()).collect();
        let links = link_up(&world, postgres.port(), &addresses).await;
        let webhooks = links[&Way::Webhooks(APIS[0])].address();
        other.sandbox.set_webhook_url(format!("http://{webhooks}/v1/webhooks/{}", other::NAME));
        let mut other_links = HashMap::new();
        for node in WORKERS {
            other_links.insert(Way::ThirdParty(node), Link::to(other.address()).await);
        }
        let mut processes = Vec::new();
        for node in (0..NODES.len()).map(Node) {
            let log = open_log(directory, NODES[node.0]);
            // A process that only serves the API calls nobody.
            let way = other_links.get(&Way::ThirdParty(node));
            let base_url = format!("http://{}", way.map_or(other.address(), Link::address));
            let parties = other.write_settings(NODES[node.0], &base_url, CREATE_BACKOFF);
            let process = builder(&world, &links, &addresses, node, &url)
                .set("QUARTET_THIRD_PARTIES__DIRECTORY", parties.display())
                .set("QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES", other::NAME)
                .output(log)
                .launch();
            processes.push(Mutex::new(process));
        }
        for process in &processes {
            process.lock().await.wait_ready().await;
        }
        let (postgres, directory) = (Mutex::new(postgres), directory.to_owned());
        Self { postgres, world, processes, addresses, other, links, other_links, directory }
    }

    /// The links of one way.
    pub fn links(&self, way: Way) -> impl Iterator<Item = &Link> {
        self.links.get(&way).into_iter().chain(self.other_links.get(&way))
    }

    /// What a process has logged so far.
    pub fn log(&self, node: Node) -> String {
        let text = std::fs::read(log_path(&self.directory, NODES[node.0])).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until all processes can work; complains about those that cannot.
    pub async fn wait_ready(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, process) in NODES.iter().zip(&self.processes) {
            let mut process = process.lock().await;
            let ready = async {
                while !process.is_ready().await {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            if tokio::time::timeout(READY, ready).await.is_err() {
                let state = process.ended().map_or("is not ready".to_owned(), |status| {
                    format!("ended by itself ({status})")
                });
                complaints.push(format!("process: {name} {state}, {READY:?} after the last fault"));
            }
        }
        complaints
    }
}

async fn link_up(world: &World, postgres: u16, addresses: &[SocketAddr]) -> HashMap<Way, Link> {
    let sandbox = world.sandbox.address();
    let mut links = HashMap::from([(Way::Callbacks, Link::to(sandbox).await)]);
    for node in (0..NODES.len()).map(Node) {
        let postgres = SocketAddr::from(([127, 0, 0, 1], postgres));
        links.insert(Way::Database(node), Link::to(postgres).await);
    }
    for node in WORKERS {
        links.insert(Way::ThirdParty(node), Link::to(sandbox).await);
    }
    for node in APIS {
        links.insert(Way::Webhooks(node), Link::to(addresses[node.0]).await);
    }
    links
}

fn builder(
    world: &World,
    links: &HashMap<Way, Link>,
    addresses: &[SocketAddr],
    node: Node,
    url: &str,
) -> ProcessBuilder {
    let role = match (APIS.contains(&node), WORKERS.contains(&node)) {
        (true, true) => Role::All,
        (true, false) => Role::Api,
        (false, _) => Role::Worker,
    };
    let link = |way: Way| format!("http://{}", links[&way].address());
    // A worker's webhooks go to the API of the same number.
    let api = if APIS.contains(&node) { node } else { Node(node.0 - WORKERS[0].0) };
    let own_way = world.process(role);
    let with_settings = SETTINGS
        .iter()
        .fold(own_way, |builder, (variable, value)| builder.set(variable, value))
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", humantime::format_duration(CREATE_BACKOFF))
        .set("DATABASE_URL", database_url(url, &links[&Way::Database(node)], NODES[node.0]))
        .set("QUARTET_HTTP__LISTEN", addresses[node.0])
        .set("QUARTET_HTTP__PUBLIC_URL", link(Way::Webhooks(api)))
        .set("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", link(Way::Callbacks) + "/callback");
    if role == Role::Api {
        return with_settings;
    }
    with_settings.set("QUARTET_THIRD_PARTY__BASE_URL", link(Way::ThirdParty(node)))
}

/// Through the process's own link, as its own role.
fn database_url(url: &str, link: &Link, name: &str) -> Url {
    let mut url: Url = url.parse().unwrap();
    url.set_port(Some(link.address().port())).unwrap();
    url.set_username(&witness::role(name)).unwrap();
    url
}

fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

fn open_log(directory: &Path, name: &str) -> File {
    OpenOptions::new().create(true).append(true).open(log_path(directory, name)).unwrap()
}
