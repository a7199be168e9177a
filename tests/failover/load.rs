//! Callers that post steadily, ask again after each refusal as clients should, and note every
//! answer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{quartet::API_KEY, wait::wait_until};

/// From one caller's accept to its next post.
const PAUSE: Duration = Duration::from_millis(60);
/// From a refusal to the next try, for a caller that does not wait as long as `Retry-After` says,
/// so that the first moment is seen at which it works again.
const RETRY: Duration = Duration::from_millis(100);
/// Longer than any answer may take.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// What the callers saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Answered 2xx, and when.
    pub accepted: Vec<(Uuid, Instant)>,
    /// Any other answer.
    pub refused: Vec<Refusal>,
}

#[derive(Debug)]
pub struct Refusal {
    pub at: Instant,
    pub kind: String,
    pub took: Duration,
}

/// What became of the accepts after a moment.
#[derive(Debug)]
pub struct Interruption {
    /// The longest time without any accept.
    pub longest: Duration,
    /// From the moment to the accept that ended it.
    pub resumed: Duration,
    /// How many answers there were of each other kind.
    pub refused: BTreeMap<String, usize>,
    pub slowest: Duration,
}

impl Seen {
    /// Between `from` and now.
    pub fn interruption(&self, from: Instant) -> Interruption {
        let mut times: Vec<Instant> = self.accepted.iter().map(|(_, at)| *at).collect();
        times.sort();
        // The last one before `from`, and all after.
        let first = times.partition_point(|at| *at < from).saturating_sub(1);
        let gaps = times[first..].windows(2).map(|pair| (pair[1] - pair[0], pair[1]));
        let (longest, end) = gaps.max().expect("accepts around the moment");
        let mut refused = BTreeMap::new();
        let refusals = || self.refused.iter().filter(|refusal| refusal.at >= from);
        for refusal in refusals() {
            *refused.entry(refusal.kind.clone()).or_default() += 1;
        }
        let slowest = refusals().map(|refusal| refusal.took).max().unwrap_or_default();
        Interruption { longest, resumed: end.saturating_duration_since(from), refused, slowest }
    }
}

/// The callers.
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `callers` of them, which take turns between `apis`.
    pub fn start(callers: usize, apis: &[SocketAddr]) -> Self {
        let http = reqwest::Client::builder().timeout(MAX_WAIT).no_proxy().build().unwrap();
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), CancellationToken::new());
        let callers = (0..callers).map(|number| {
            let caller = Caller {
                http: http.clone(),
                apis: apis.to_vec(),
                seen: seen.clone(),
                turn: number,
            };
            tokio::spawn(caller.run(stop.clone()))
        });
        let callers = callers.collect();
        Self { seen, stop, callers }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Waits for `count` more accepts.
    pub async fn wait_accepts(&self, count: usize, bound: Duration) {
        let goal = self.seen().accepted.len() + count;
        wait_until("the load goes on", bound, async || {
            let ended = self.callers.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a caller ended");
            self.seen().accepted.len() >= goal
        })
        .await;
    }

    /// Ends the load; what is posted is posted until it is accepted.
    pub async fn stop(self) -> Seen {
        self.stop.cancel();
        for caller in self.callers {
            caller.await.unwrap();
        }
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

struct Caller {
    http: reqwest::Client,
    apis: Vec<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
    turn: usize,
}

impl Caller {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let id = Uuid::now_v7();
            while !self.post(id).await {
                tokio::time::sleep(RETRY).await;
            }
            self.look(id).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn url(&mut self, path: &str) -> String {
        self.turn += 1;
        format!("http://{}{path}", self.apis[self.turn % self.apis.len()])
    }

    /// Whether it was accepted, this time or before.
    async fn post(&mut self, id: Uuid) -> bool {
        let url = self.url("/v1/transactions");
        let began = Instant::now();
        let body = json!({ "id": id, "amount": 1250, "currency": "EUR" }).to_string();
        let request = self.http.post(url).bearer_auth(API_KEY).body(body);
        let kind = match request.header("content-type", "application/json").send().await {
            Ok(answer) if matches!(answer.status().as_u16(), 200 | 202) => {
                self.seen.lock().unwrap().accepted.push((id, Instant::now()));
                return true;
            }
            Ok(answer) => {
                let retry = answer.headers().contains_key("retry-after");
                let with = if retry { "with Retry-After" } else { "WITHOUT Retry-After" };
                format!("{} {with}", answer.status().as_u16())
            }
            Err(error) if error.is_timeout() => "no answer in time".to_owned(),
            Err(_) => "no answer".to_owned(),
        };
        let refusal = Refusal { at: Instant::now(), kind, took: began.elapsed() };
        self.seen.lock().unwrap().refused.push(refusal);
        false
    }

    /// What was accepted is there, for every process, or the database is away.
    async fn look(&mut self, id: Uuid) {
        let url = self.url(&format!("/v1/transactions/{id}"));
        if let Ok(answer) = self.http.get(url).bearer_auth(API_KEY).send().await {
            let status = answer.status().as_u16();
            assert!(
                matches!(status, 200 | 503),
                "{id} was accepted, and reading it answers {status}"
            );
        }
    }
}
