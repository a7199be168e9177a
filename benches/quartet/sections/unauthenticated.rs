//! What a request without a key costs, at its worst, for each endpoint: CPU of the process a
//! request, and what four connections that send nothing else, each at the rate of a slow link, do
//! to a client that posts. Without that bound the attackers, which run on the same machine, would
//! be measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use crate::{
    bench::{Bench, Run},
    error::{BenchError, Doing},
    http::{self, Connection},
    load::Until,
    number::grouped,
    quantiles::Quantiles,
    section::{Section, Spread, Table, Target, Unit},
    stubs::Ending,
};

/// Connections that send the same request again and again.
const ATTACKERS: usize = 4;
/// What each of them sends at most, in bytes a second: a link of 4 Mbit/s.
const ATTACK_BYTES: f64 = 500_000.0;
/// What each of them sends at most, in requests a second.
const ATTACK_REQUESTS: f64 = 100.0;
/// As many bytes as a body may have.
const BODY: usize = 65_000;
/// As many bytes as a line of the head may have, beside the others.
const LINE: usize = 30_000;

const DEAREST: &str = "CPU of the dearest request";
const SLOWEST: &str = "posts beside the request that slows them most";

const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";
const JSON: &str = "content-type: application/json\r\n";
const SIGNATURE: &str = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A request, and what is the worst of it.
struct Case {
    name: &'static str,
    request: Vec<u8>,
}

fn case(name: &'static str, first_line: &str, headers: &str, body: &str) -> Case {
    Case { name, request: http::request(first_line, headers, body) }
}

/// The dearest requests that are known, of each endpoint.
fn cases() -> Vec<Case> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let signed = |signatures: &str| {
        format!(
            "{JSON}webhook-id: m\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {signatures}\r\n"
        )
    };
    let body = "x".repeat(BODY);
    let parameters = "a&".repeat(LINE / 2);
    let names: String = (0..900).map(|name| format!("{name:x}=&")).collect();
    let path = "a/".repeat(LINE / 2);
    let key = format!("authorization: Bearer {}\r\n", "k".repeat(LINE));
    let headers: String =
        (0..97).map(|index| format!("x{index}: {}\r\n", "y".repeat(300))).collect();
    let cookies = format!("cookie: {}\r\n", "quartet_console=a.b.AA; ".repeat(1_200));
    let wrong = "authorization: Bearer qk_wrong\r\n";
    let read = "GET /v1/transactions/0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03";
    let hook = "POST /v1/webhooks/third-party";
    vec![
        case("webhook: 8,000 empty signatures, 64 KB", hook, &signed(&"v1, ".repeat(7_500)), &body),
        case(
            "webhook: 600 signatures, 64 KB",
            hook,
            &signed(&format!("{SIGNATURE} ").repeat(600)),
            &body,
        ),
        case("webhook: one signature, 64 KB", hook, &signed(SIGNATURE), &body),
        case("webhook: unsigned, 64 KB", hook, JSON, &body),
        case("webhook: query", &format!("{hook}?{parameters}"), JSON, "{}"),
        case("post: no key, 64 KB", "POST /v1/transactions", JSON, &body),
        case("post: wrong key", "POST /v1/transactions", &format!("{JSON}{wrong}"), "{}"),
        case("post: key of 30 KB", "POST /v1/transactions", &format!("{JSON}{key}"), "{}"),
        case("read: wrong key", read, wrong, ""),
        case("read: wrong key, waits", &format!("{read}?wait_seconds=30"), wrong, ""),
        case("list: query of 15,000", &format!("GET /v1/transactions?{parameters}"), "", ""),
        case("list: query of 900 names", &format!("GET /v1/transactions?{names}"), "", ""),
        case("operator: wrong token", "GET /v1/operator/queues", wrong, ""),
        case("console: long path", &format!("GET /console/{path}"), "", ""),
        case("console: cookies", "GET /console", &cookies, ""),
        case("sign-in: page, query", &format!("GET /console/sign-in?{parameters}"), "", ""),
        case(
            "sign-in: form, 32,000 fields",
            "POST /console/sign-in",
            FORM,
            &format!("{}name={}", "a&".repeat(BODY / 2 - 100), "x".repeat(101)),
        ),
        case("/metrics", "GET /metrics", "", ""),
        case("/health/ready", "GET /health/ready", "", ""),
        case("/health/live", "GET /health/live", "", ""),
        case("/docs", "GET /docs", "", ""),
        case("/openapi.json", "GET /openapi.json", "", ""),
        case("404: long path", &format!("GET /{path}"), "", ""),
        case("404: 97 headers", "GET /nothing", &headers, ""),
    ]
}

/// Runs the section.
pub async fn run(bench: &Bench) -> Result<Section, BenchError> {
    let title = "Requests without a key, at their worst (`serve --role api`)";
    let mut section = Section::new("unauthenticated", title);
    let elapsed = bench.pick(Duration::from_secs(1), Duration::from_millis(50));
    let database = bench.server.database("bench_unauthenticated").await?;
    // Without a token the console is closed, and its sign-in costs nothing.
    let settings = [("QUARTET_OPERATOR_TOKEN", "bench_operator_0123456789abcdef0123")];
    let run = bench.run_on(database, Ending::Never, "api", &settings).await?;
    run.load().closed(1, &Until::elapsed(elapsed)).await?;
    let (mut rows, mut dearest, mut slowest) = (Vec::new(), 0.0_f64, 0.0_f64);
    for Case { name, request } in cases() {
        let (mut cpus, mut ratios) = (Vec::new(), Vec::new());
        let mut last = Cost::default();
        for _ in 0..bench.extent.repeats {
            last = cost(&run, &request, elapsed).await?;
            cpus.push(last.cpu.as_secs_f64() * 1e6);
            let alone = post_latency(&run, elapsed).await?;
            let attack = Attack::begin(run.serves[0].address(), request.clone());
            let beside = post_latency(&run, elapsed).await?;
            attack.end();
            ratios.push(beside / alone.max(f64::EPSILON));
        }
        let (cpu, ratio) = (Spread::of(&cpus).median, Spread::of(&ratios).median);
        dearest = dearest.max(cpu);
        slowest = slowest.max(ratio);
        rows.push(vec![
            name.to_owned(),
            match last.statuses {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}, later {last}"),
            },
            grouped(request.len() as f64),
            grouped(last.answer as f64),
            format!("{} µs", grouped(cpu)),
            format!("{ratio:.2} ×"),
        ]);
    }
    section.sample(DEAREST, Unit::Micros, dearest);
    section.target(DEAREST, Target::AtMost(2_000.0));
    section.sample(SLOWEST, Unit::Times, slowest);
    section.target(SLOWEST, Target::AtMost(2.0));
    let heads = ["request", "status", "bytes", "bytes answered", "CPU", "posts beside"];
    section.tables.push(Table { heads: heads.map(str::to_owned).into(), rows });
    section.notes.push(format!(
        "CPU is that of the process, for one request. 'posts beside' is the median time of a post \
         beside {ATTACKERS} connections that send this request, each at most {} bytes and \
         {ATTACK_REQUESTS} requests a second, over the median alone just before",
        grouped(ATTACK_BYTES)
    ));
    run.stop().await?;
    Ok(section)
}

/// What one request costs the process.
#[derive(Default)]
struct Cost {
    cpu: Duration,
    /// Of the first answer and of the last one: the documents are refused when they are asked for
    /// too often.
    statuses: (u16, u16),
    /// Bytes of the longest answer's body.
    answer: usize,
}

async fn cost(run: &Run, request: &[u8], elapsed: Duration) -> Result<Cost, BenchError> {
    let mut connection = open(run.serves[0].address()).await?;
    let (mut count, mut cost) = (0_u32, Cost::default());
    let (began, cpu) = (Instant::now(), run.serves[0].cpu()?);
    while began.elapsed() < elapsed || count == 0 {
        let answered = connection.send(request).await.doing("send a request without a key")?;
        let first = if count == 0 { answered.status } else { cost.statuses.0 };
        cost.statuses = (first, answered.status);
        cost.answer = cost.answer.max(answered.body.len());
        count += 1;
        if answered.status == 400 {
            // The connection is closed behind it.
            connection = open(run.serves[0].address()).await?;
        }
    }
    cost.cpu = Duration::from_secs_f64((run.serves[0].cpu()? - cpu).max(0.0)) / count;
    Ok(cost)
}

async fn open(address: SocketAddr) -> Result<Connection, BenchError> {
    Connection::open(address).await.doing("connect")
}

/// The median time of a post on one connection, in milliseconds.
async fn post_latency(run: &Run, elapsed: Duration) -> Result<f64, BenchError> {
    let accepted = run.load().closed(1, &Until::elapsed(elapsed)).await?;
    Ok(Quantiles::of_nanos(&accepted.latencies).at(0.5))
}

/// Connections that send a request at the rate of an attacker, on a thread of their own.
struct Attack {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Attack {
    fn begin(address: SocketAddr, request: Vec<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build()
            else {
                return;
            };
            let gap = (request.len() as f64 / ATTACK_BYTES).max(1.0 / ATTACK_REQUESTS);
            let attack = async || {
                let mut turns = tokio::time::interval(Duration::from_secs_f64(gap));
                turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(mut connection) = Connection::open(address).await else { return };
                    loop {
                        turns.tick().await;
                        let sent = connection.send(&request).await;
                        let is_kept = sent.is_ok_and(|answer| answer.status != 400);
                        if !is_kept || stopped.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
            };
            runtime.block_on(join_all((0..ATTACKERS).map(async |_| attack().await)));
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has printed why.
            let _ = thread.join();
        }
    }
}
