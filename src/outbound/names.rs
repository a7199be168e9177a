//! Looking names up, without the blocking pool of threads that the system's resolver needs: there a
//! name whose server never answers holds a thread for tens of seconds, and enough of them hold up
//! every other name of the process.
//!
//! Each [`Names`] has limits of its own, so that the third party's name never waits for those of
//! callback URLs. A name is looked up once at a time, for all calls that want it; [`MAX_LOOKUPS`]
//! names at the same time; and each lookup ends within its limit.
//!
//! It reads `/etc/hosts` and `/etc/resolv.conf` (on macOS the system's configuration), with search
//! domains and `ndots`, and again soon after one of them has changed. Where there is no
//! `resolv.conf`, the server on this machine is asked, as resolv.conf(5) says. `DNS__SERVERS`
//! replaces the servers. Other sources of the system's resolver (nsswitch: mDNS, LDAP) are not
//! asked. Answers are cached for as long as they say, within bounds.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{self, RecordType},
    },
    system_conf::read_system_conf,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use crate::config;

/// Most names that are looked up at the same time. Each may have a few sockets open.
const MAX_LOOKUPS: usize = 256;
/// Bounds of how long an answer is used, whatever it says.
const MAX_POSITIVE_TTL: Duration = Duration::from_secs(300);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// How often it is looked whether the system's files have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// What the system's resolver reads.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    #[error("the name does not exist")]
    Absent,
    #[error("no name server answered in time")]
    Late,
    #[error("the name cannot be resolved: {0}")]
    Failed(String),
}

type Answer = Result<Vec<SocketAddr>, LookupError>;

/// Looks names up. Cheap to clone; clones share their limits.
#[derive(Clone)]
pub(super) struct Names(Arc<Resolver>);

struct Resolver {
    servers: Vec<SocketAddr>,
    limit: Duration,
    current: Mutex<Option<Current>>,
    places: Semaphore,
    under_way: Mutex<HashMap<String, Shared<BoxFuture<'static, Answer>>>>,
}

/// What was made of the system's files as they are.
struct Current {
    sources: Sources,
    stamps: Stamps,
    looked: Instant,
}

/// Who is asked: the hosts file, then the name servers.
#[derive(Clone)]
struct Sources {
    hosts: Arc<Hosts>,
    resolver: TokioResolver,
}

/// When the files changed last, and how long they are.
type Stamps = [Option<(SystemTime, u64)>; FILES.len()];

impl Names {
    /// Lookups that end within `limit`.
    pub fn new(config: &config::Dns, limit: Duration) -> Self {
        Self(Arc::new(Resolver {
            servers: config.servers.clone(),
            limit,
            current: Mutex::default(),
            places: Semaphore::new(MAX_LOOKUPS),
            under_way: Mutex::default(),
        }))
    }

    /// The addresses of a name, with port 0.
    pub async fn look_up(&self, name: String) -> Answer {
        self.begin(name).await
    }

    /// The lookup that is under way, or a new one. It goes on also where nobody waits for it any
    /// more.
    fn begin(&self, name: String) -> Shared<BoxFuture<'static, Answer>> {
        let mut under_way = self.under_way();
        if let Some(lookup) = under_way.get(&name) {
            return lookup.clone();
        }
        let (names, wanted) = (self.clone(), name.clone());
        let lookup = tokio::spawn(async move {
            let limit = names.0.limit;
            let answer = tokio::time::timeout(limit, names.0.resolve(&wanted)).await;
            names.under_way().remove(&wanted);
            answer.unwrap_or(Err(LookupError::Late))
        });
        let lookup = async move {
            lookup.await.unwrap_or_else(|error| Err(LookupError::Failed(error.to_string())))
        };
        let lookup = lookup.boxed().shared();
        under_way.insert(name, lookup.clone());
        lookup
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Shared<BoxFuture<'static, Answer>>>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.look_up(name.as_str().to_owned()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Resolver {
    async fn resolve(&self, name: &str) -> Answer {
        // Nobody closes the semaphore.
        let _place = self.places.acquire().await;
        let sources = self.current().map_err(|error| LookupError::Failed(error.to_string()))?;
        if let Some(addresses) = in_hosts(&sources.hosts, name) {
            return Ok(addresses);
        }
        match sources.resolver.lookup_ip(name).await {
            Ok(found) => {
                let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
                if addresses.is_empty() { Err(LookupError::Absent) } else { Ok(addresses) }
            }
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                Err(LookupError::Absent)
            }
            Err(NetError::Timeout) => Err(LookupError::Late),
            Err(error) => Err(LookupError::Failed(error.to_string())),
        }
    }

    /// Who is asked by the system's files as they are, or were a few seconds ago.
    fn current(&self) -> Result<Sources, NetError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = match &*current {
            Some(known) if known.looked.elapsed() < LOOK_AGAIN => return Ok(known.sources.clone()),
            _ => FILES.map(stamp),
        };
        let looked = Instant::now();
        if let Some(known) = &mut *current
            && known.stamps == stamps
        {
            known.looked = looked;
            return Ok(known.sources.clone());
        }
        // Without such a file there are only name servers.
        let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        let sources = Sources { hosts, resolver: self.build()? };
        *current = Some(Current { sources: sources.clone(), stamps, looked });
        Ok(sources)
    }

    fn build(&self) -> Result<TokioResolver, NetError> {
        let (config, mut options) = match &self.servers[..] {
            [] => system(),
            servers => (of_servers(servers), ResolverOpts::default()),
        };
        // Two tries fit into the limit, also where one of the address families is not answered.
        options.timeout = options.timeout.min(self.limit * 2 / 5);
        options.attempts = 1;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(MAX_POSITIVE_TTL);
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider);
        builder.with_options(options).build()
    }
}

/// A name's addresses in the hosts file; `None` where it has none. They are all that counts then,
/// as for the system's resolver: a name that is given an address of one family there must not get
/// one of the other family from elsewhere.
fn in_hosts(hosts: &Hosts, name: &str) -> Option<Vec<SocketAddr>> {
    let name = name.to_ascii_lowercase().parse::<rr::Name>().ok()?;
    let addresses: Vec<SocketAddr> = [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|family| hosts.lookup_static_host(&Query::query(name.clone(), family)))
        .flat_map(|found| {
            found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
        })
        .map(|ip| SocketAddr::new(ip, 0))
        .collect();
    (!addresses.is_empty()).then_some(addresses)
}

/// The system's configuration.
fn system() -> (ResolverConfig, ResolverOpts) {
    match read_system_conf() {
        Ok((config, options)) => {
            let (domain, search, servers) = config.into_parts();
            // As resolv.conf(5) says: the machine's own domain is searched where no list is given.
            let domain = domain.filter(|_| search.is_empty());
            (ResolverConfig::from_parts(domain, search, servers), options)
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the system's name servers cannot be read from /etc/resolv.conf: names are looked \
                 up in /etc/hosts and asked of 127.0.0.1; QUARTET_DNS__SERVERS names others"
            );
            let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        }
    }
}

fn of_servers(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|address| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    });
    ResolverConfig::from_name_servers(servers.collect())
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    /// Names that are asked of a server that never answers.
    async fn silent(limit: Duration) -> (Names, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![server.local_addr().unwrap()];
        (Names::new(&config::Dns { servers }, limit), server)
    }

    #[test]
    fn the_hosts_file_decides_about_its_names_alone() {
        let mut hosts = Hosts::default();
        let file = "10.0.0.5 Partner.example # private\n10.0.0.6 two.example\nfd00::6 two.example";
        hosts.read_hosts_conf(file.as_bytes()).unwrap();
        let found = |name| {
            let found = in_hosts(&hosts, name)?;
            Some(found.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>())
        };
        assert_eq!(found("partner.EXAMPLE").unwrap(), ["10.0.0.5"], "and no IPv6 address");
        assert_eq!(found("two.example").unwrap(), ["10.0.0.6", "fd00::6"]);
        assert_eq!(found("other.example"), None);
    }

    #[tokio::test]
    async fn a_name_that_is_not_answered_ends_in_time_for_all_that_wait_and_holds_up_no_other() {
        let limit = Duration::from_millis(500);
        let (names, _server) = silent(limit).await;
        let began = Instant::now();
        let calls = (0..100).map(|_| names.look_up("shop.example".to_owned()));
        let calls = futures_util::future::join_all(calls);
        let other = async {
            // Both address families, of the files and the resolver itself.
            let found = names.look_up("localhost".to_owned()).await.unwrap();
            assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
            assert!(names.under_way().contains_key("shop.example"), "it is still looked up");
        };
        let (answers, ()) = tokio::join!(calls, other);
        assert_eq!(answers, vec![Err(LookupError::Late); 100]);
        assert!(began.elapsed() < BOUND);
        assert!(names.under_way().is_empty());
    }
}
