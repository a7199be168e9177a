//! Quartet on a real high-availability set-up: three Patroni nodes with synchronous replication,
//! etcd, HAProxy; `just failover`.
//!
//! Under a steady load the primary is killed, comes back as a standby, hands over to another node,
//! and that one freezes and thaws. After each, Quartet must go on by itself. In the end all that
//! was answered 2xx is on the present primary, every transaction has ended, and DESIGN section 5
//! holds.
//!
//! It needs Patroni, etcd and HAProxy (Debian: `patroni etcd-server haproxy`), and is therefore no
//! part of a plain `cargo test`. The figures it prints are in docs/high-availability.md.

#[path = "../it/support/invariant_queries.rs"]
mod invariant_queries;
#[path = "../it/support/invariants.rs"]
mod invariants;
#[path = "../it/support/ports.rs"]
mod ports;
#[path = "../../src/dev/postgres/process.rs"]
mod process;
#[path = "../it/support/wait.rs"]
mod wait;

mod cluster;
mod daemon;
mod load;
mod quartet;

use std::time::{Duration, Instant};

use ::quartet::sandbox::{Profile, Sandbox, SandboxConfig};
use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};

use self::{
    cluster::Cluster,
    load::Load,
    quartet::{DEAD_AFTER, HEARTBEAT, Quartet},
    wait::wait_until,
};

const CALLERS: usize = 6;
/// Accepts before and after each event: some seconds.
const STRETCH: usize = 150;
const BOUND: Duration = Duration::from_secs(180);
/// What the test itself asks the database may hang on a connection to a node that is gone.
const QUERY: Duration = Duration::from_secs(3);
/// The longest a caller may wait for any answer: two seconds, and what a loaded machine adds.
const ANSWER: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let began = Instant::now();
    // reqwest is built without a TLS provider.
    rustls::crypto::ring::default_provider().install_default().ok();
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(dir.path()).await;
    // Work is under way whenever something happens.
    let profile = Profile {
        create_latency_max: Duration::from_millis(200),
        webhook_latency_max: Duration::from_millis(500),
        webhook_rate: 0.8,
        declined_rate: 0.1,
        ..Profile::faultless()
    };
    let sandbox = SandboxConfig { profile, webhook_retries: 3, ..SandboxConfig::default() };
    let sandbox = Sandbox::start(sandbox).await.unwrap();
    let mut quartet = Quartet::start(&cluster, &sandbox, 2, 2, dir.path()).await;
    let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(QUERY);
    let pool = pool.connect_lazy(&cluster.admin_url("quartet")).unwrap();
    println!("set up after {:.1?}", began.elapsed());
    let mut test = Test { load: Load::start(CALLERS, &quartet.apis()), pool };
    test.load.wait_accepts(STRETCH, BOUND).await;

    let first = cluster.wait_primary().await;
    let killed = Instant::now();
    cluster.kill_9(first);
    cluster.wait_promoted(first).await;
    println!("  {:>6.1?} until another node was the primary", killed.elapsed());
    test.resume("kill -9 of the primary", killed, &mut quartet).await;
    cluster.restart(first);
    cluster.wait_formed().await;
    println!("  {:>6.1?} until the killed node was a standby", killed.elapsed());

    let began_switch = Instant::now();
    cluster.switch_over().await;
    test.resume("switchover", began_switch, &mut quartet).await;

    // A primary that hangs and comes back does not know that it is none any more.
    cluster.wait_formed().await;
    let second = cluster.wait_primary().await;
    let mut stale = PgConnection::connect(&cluster.node_url(second, "quartet")).await.unwrap();
    sqlx::query("CREATE TABLE stale (id int)").execute(&mut stale).await.unwrap();
    cluster.wait_formed().await;
    let frozen_at = Instant::now();
    let frozen = cluster.freeze(second);
    let write = tokio::spawn(async move {
        sqlx::query("INSERT INTO stale VALUES (1)").execute(&mut stale).await.map(drop)
    });
    cluster.wait_promoted(second).await;
    println!("  {:>6.1?} until another node was the primary", frozen_at.elapsed());
    test.resume("a primary that freezes", frozen_at, &mut quartet).await;
    daemon::signal_all(&frozen, Signal::SIGCONT);
    let written = tokio::time::timeout(BOUND, write).await.expect("an answer").unwrap();
    assert!(written.is_err(), "a primary of the past has acknowledged a commit");
    cluster.wait_formed().await;
    println!("  {:>6.1?} until the thawed node was a standby", frozen_at.elapsed());
    let stale: i64 = test.ask("SELECT count(*) FROM stale").await;
    assert_eq!(stale, 0, "a commit that nobody acknowledged is not there");

    test.load.wait_accepts(STRETCH, BOUND).await;
    test.end(&sandbox, &cluster).await;
    println!("done after {:.1?}", began.elapsed());
}

struct Test {
    load: Load,
    pool: PgPool,
}

impl Test {
    /// Asks the primary for a number, as often as it takes.
    async fn ask(&self, query: &'static str) -> i64 {
        wait::wait_for("the primary answers", BOUND, async || self.try_ask(query).await).await
    }

    async fn try_ask(&self, query: &'static str) -> Option<i64> {
        let asked = sqlx::query_scalar(query).fetch_one(&self.pool);
        tokio::time::timeout(QUERY, asked).await.ok()?.ok()
    }

    /// Waits until accepts and jobs go on after what happened at `moment`, and prints how it went.
    async fn resume(&mut self, what: &str, moment: Instant, quartet: &mut Quartet) {
        self.load.wait_accepts(STRETCH, BOUND).await;
        let until = Utc::now();
        quartet.wait_ready().await;
        wait_until("what was accepted until then has ended", BOUND, async || {
            self.unfinished(until).await == Some(0)
        })
        .await;
        let drained = moment.elapsed();
        let seen = self.load.seen().interruption(moment);
        println!("{what}:");
        println!("  {:>6.1?} until the first accept afterwards", seen.resumed);
        println!("  {:>6.1?} the longest time without an accept", seen.longest);
        println!("  {drained:>6.1?} until all accepted within {STRETCH} accepts had ended");
        println!("  {:>6.1?} the slowest refusal; refusals: {:?}", seen.slowest, seen.refused);
        assert!(seen.slowest < ANSWER, "a caller waited {:?}", seen.slowest);
        let kinds: Vec<&String> = seen.refused.keys().collect();
        assert!(kinds.iter().all(|kind| *kind == "503 with Retry-After"), "{kinds:?}");
    }

    /// How many transactions that were accepted before `until` have not ended at their client.
    async fn unfinished(&self, until: DateTime<Utc>) -> Option<i64> {
        let query = "SELECT count(*) FROM transactions
            WHERE created_at < $1 AND (status = 'pending' OR notified_version < version)";
        let asked = sqlx::query_scalar(query).bind(until).fetch_one(&self.pool);
        tokio::time::timeout(QUERY, asked).await.ok()?.ok()
    }

    /// Ends the load, lets everything come to rest, and checks it.
    async fn end(self, sandbox: &Sandbox, cluster: &Cluster) {
        let Self { load, pool } = self;
        let seen = load.stop().await;
        let accepted: Vec<_> = seen.accepted.iter().map(|(id, _)| *id).collect();
        wait_until("no job runs or waits", BOUND, async || {
            let busy = "SELECT count(*) FROM apalis.jobs
                WHERE status IN ('Pending', 'Queued', 'Running')";
            sqlx::query_scalar::<_, i64>(busy).fetch_one(&pool).await.is_ok_and(|busy| busy == 0)
        })
        .await;
        let expected = invariants::Expected {
            dead_after: DEAD_AFTER,
            heartbeat: HEARTBEAT,
            ..invariants::Expected::new(&accepted)
        };
        invariants::assert_held(&pool, sandbox, &expected).await;
        let unfinished = "SELECT count(*) FROM transactions
            WHERE status = 'pending' OR notified_version < version";
        let dead_letters = "SELECT count(*) FROM failed_jobs";
        for (what, query) in [("unfinished", unfinished), ("dead letters", dead_letters)] {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
            assert_eq!(count, 0, "{what}");
        }

        // What is read elsewhere is read on a standby, which has it all.
        let mut standby = PgConnection::connect(&cluster.standby_url("quartet")).await.unwrap();
        wait_until("a standby has it all", BOUND, async || {
            let query = "SELECT pg_is_in_recovery(), count(*) FROM transactions
                WHERE notified_version = version";
            let (recovers, count): (bool, i64) =
                sqlx::query_as(query).fetch_one(&mut standby).await.unwrap();
            recovers && usize::try_from(count).is_ok_and(|count| count >= accepted.len())
        })
        .await;
        println!(
            "{} accepted, 0 lost, each ended; {} refusals",
            accepted.len(),
            seen.refused.len()
        );
    }
}
