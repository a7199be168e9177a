//! The database fails in each way that it does: callers hear so within two seconds, nothing that
//! was accepted is lost, nothing runs hot meanwhile, and everything heals by itself.

mod full_disk;
mod pooler;
mod refusals;
mod silence;

use std::time::{Duration, Instant};

use quartet::{
    config::Role,
    sandbox::{CreateStep, Profile, SandboxConfig, Status},
    signature::Secret,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    console::visitor::Visitor,
    database_loss::send_webhook,
    support::{
        Answer, Client, World,
        line::Line,
        process::{Process, ProcessBuilder},
        transaction, wait_until,
        world::OPERATOR_TOKEN,
    },
};

/// How soon everything is as before, with what a busy machine may add.
const HEALED: Duration = Duration::from_secs(30);
/// How soon somebody who asks hears that the database is away, and what a loaded machine may add.
const ANSWER: Duration = Duration::from_millis(2_000);
const NOISE: Duration = Duration::from_millis(500);
/// How long a process is watched during an outage, and what it may do in a second then, with all
/// that tries again: the writers of accepts, webhooks and outcomes, one that reads, four
/// claims, the leases, the watcher, the announcer, the figures, two periodic tasks, the pools.
const WATCHED: Duration = Duration::from_secs(5);
const MOST_CONNECTIONS: f64 = 50.0;
const MOST_QUESTIONS: f64 = 100.0;
const MOST_LINES: f64 = 25.0;
/// The share of a CPU.
const BUSY: f64 = 0.2;

/// A world on this database whose third party keeps everything pending.
async fn pending_world(url: &str) -> World {
    let profile = Profile::faultless();
    let world =
        World::on_database(url, SandboxConfig { profile, ..SandboxConfig::default() }).await;
    world.sandbox.third_party().set_create_default(CreateStep::created());
    world
}

/// A process of this world over a line, with the usual heartbeat of a second or more: with shorter
/// ones it would not be calm at the best of times.
fn process_on(world: &World, line: &Line) -> ProcessBuilder {
    world
        .process(Role::All)
        .set("DATABASE_URL", line.url())
        .set("QUARTET_DATABASE__MAX_CONNECTIONS", "20")
        .set("QUARTET_WORKER__HEARTBEAT", "1s")
        .set("QUARTET_WORKER__DEAD_AFTER", "3s")
        // Polling outlasts the outage, and finds the end soon after it.
        .set("QUARTET_POLL__MAX_DELAY", "5s")
        .set("QUARTET_POLL__DEADLINE", "10m")
}

/// Accepts some transactions, which are then polled for.
async fn accept_some(client: &Client, world: &World) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(client.accept().await);
    }
    wait_created(world, &ids).await;
    ids
}

async fn wait_created(world: &World, ids: &[Uuid]) {
    wait_until("they are created", HEALED, async || {
        ids.iter().all(|id| world.sandbox.third_party().status_of(*id).is_some())
    })
    .await;
}

/// The third party completes them; asserts that this reaches the client, and all that must hold.
async fn assert_all_end_well(client: &Client, world: &World, ids: &[Uuid]) {
    wait_created(world, ids).await;
    for id in ids {
        world.sandbox.third_party().set_status(*id, Status::Completed);
    }
    for id in ids {
        wait_until("the client hears the end", HEALED, async || {
            let transaction = client.get_transaction(*id).await.body;
            transaction["status"] == "completed" && transaction["notified_version"] == 2
        })
        .await;
    }
    world.wait_at_rest(HEALED).await;
    world.assert_invariants(ids).await;
}

/// Asserts that a call which began at `began` was refused as it should be.
#[track_caller]
fn assert_refused(what: &str, began: Instant, answer: &Answer) {
    let took = began.elapsed();
    answer.expect_problem(503);
    assert!(!answer.header("retry-after").is_empty(), "{what} has no Retry-After");
    assert!(took < ANSWER + NOISE, "{what} took {took:?}");
}

/// Who calls during an outage.
struct Callers {
    client: Client,
    operator: Client,
    anonymous: Client,
    console: Visitor,
    secret: Secret,
}

impl Callers {
    async fn of(process: &Process, world: &World) -> Self {
        let mut console = Visitor::of(process.url());
        console.sign_in(&[("token", OPERATOR_TOKEN), ("name", "Ada")]).await;
        console.get("/console").await.expect(200);
        Self {
            console,
            client: process.client(),
            operator: process.operator(),
            anonymous: process.anonymous(),
            secret: world.sandbox.config().webhook_secret.clone(),
        }
    }

    /// Asserts that whatever writes is refused in time. Returns the id of the post: it may have
    /// been written for all that.
    async fn assert_writes_refused(&self, known: Uuid) -> Uuid {
        let id = Uuid::now_v7();
        let new = transaction(id);
        let body = json!({ "note": "pause" });
        let began = Instant::now();
        // Each is timed by itself: they are answered at once, and not one after another.
        let refused = async |what: &str, answer: &Answer| assert_refused(what, began, answer);
        tokio::join!(
            async { refused("accept", &self.client.post_transaction(&new).await).await },
            async {
                refused("a webhook", &send_webhook(&self.anonymous, &self.secret, known).await)
                    .await;
            },
            async {
                let pause = "/v1/operator/queues/update_status/pause";
                refused("an action", &self.operator.post(pause, &body).await).await;
            },
            async { refused("ready", &self.anonymous.get("/health/ready").await).await },
        );
        self.assert_alive().await;
        id
    }

    /// Asserts that whatever reads is refused in time.
    async fn assert_reads_refused(&self, known: Uuid) {
        let began = Instant::now();
        let (query, list, queues, page) = tokio::join!(
            self.client.get_transaction(known),
            self.operator.list_dead_letters(""),
            self.operator.get("/v1/operator/queues"),
            self.console.get("/console"),
        );
        for (what, answer) in [("a query", query), ("a list", list), ("the queues", queues)] {
            assert_refused(what, began, &answer);
        }
        page.expect(503);
        assert!(!page.header("retry-after").is_empty(), "the console has no Retry-After");
    }

    async fn assert_alive(&self) {
        let began = Instant::now();
        self.anonymous.get("/health/live").await.expect(200);
        assert!(began.elapsed() < NOISE, "{:?}", began.elapsed());
    }

    /// The value of a metric.
    async fn metric(&self, name: &str) -> f64 {
        let text = self.anonymous.get("/metrics").await.text;
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// Asserts that a process whose database is away tries again in peace.
async fn assert_calm(process: &Process, line: &Line) {
    let counts = || [line.connections(), line.questions(), process.output().lines().count()];
    let (began, before, cpu_before) = (Instant::now(), counts(), process.cpu_time());
    wait_until("it was watched", WATCHED * 2, async || began.elapsed() >= WATCHED).await;
    let seconds = began.elapsed().as_secs_f64();
    let share = (process.cpu_time() - cpu_before).as_secs_f64() / seconds;
    let after = counts();
    let rate = |index: usize| (after[index] - before[index]) as f64 / seconds;
    let rates = [rate(0), rate(1), rate(2)];
    println!(
        "in a second of the outage: {:.1} connections, {:.1} questions, {:.1} log lines, \
         {:.1} % of a CPU",
        rates[0],
        rates[1],
        rates[2],
        share * 100.0
    );
    let most = [MOST_CONNECTIONS, MOST_QUESTIONS, MOST_LINES];
    for ((what, rate), most) in
        ["connections", "questions", "log lines"].iter().zip(rates).zip(most)
    {
        assert!(rate <= most, "{rate:.1} {what} in a second, more than {most}");
    }
    assert!(share < BUSY, "it is busy waiting: {share:.2} of a CPU");
}
