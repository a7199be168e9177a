//! The load: clients that post at a steady rate, ask again until they are answered, post twice, and
//! keep what they were told.
//!
//! What is posted, and how, depends on the seed and the number of the post alone.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::{RwLock, RwLockWriteGuard},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::{Builder, Uuid};

use crate::{
    other,
    support::{Answer, Client, world::API_KEY},
};
use quartet::domain::{Backoff, Retries};

const POSTERS: u64 = 4;
/// Of the posts, those that name the other third party.
const TO_OTHER: f64 = 0.3;
/// How long a poster waits for an answer before it asks another process.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Waits before a post that was not answered is sent again. One that was refused for the moment waits
/// for as long as `Retry-After` asks.
const AGAIN: Backoff =
    Backoff { base: Duration::from_millis(150), max_delay: Duration::from_secs(2) };
/// Most posts at once of those that a restore has lost: more would be load of their own.
const POSTED_AGAIN: usize = 64;
/// How long after the last fault a post may be without an answer.
const ANSWERED: Duration = Duration::from_secs(30);

/// What the clients know.
#[derive(Default)]
pub struct Book {
    /// Ids that were answered 2xx, and what was posted.
    pub accepted: HashMap<Uuid, Accepted>,
    /// Ids that were answered 202: accepted just now.
    created: HashSet<Uuid>,
    /// Answers that a client must never see.
    pub violations: Vec<String>,
    /// Posts that were answered 429 or 503, and those that were not answered.
    pub refused: u64,
    pub unanswered: u64,
    /// Posts of an id that was accepted before.
    pub repeats: u64,
}

/// What was posted of an id.
#[derive(Clone)]
pub struct Accepted {
    pub amount: i64,
    body: String,
}

/// The clients.
pub struct Load {
    poster: Poster,
    stop: CancellationToken,
    posters: JoinSet<()>,
}

/// One post, drawn from the seed.
struct Post {
    id: Uuid,
    amount: i64,
    reference: String,
    /// The process that is asked first.
    first: usize,
    /// Posted by two clients at once.
    twin: bool,
    /// Posted again afterwards.
    repeated: bool,
    /// Posted again with other content.
    contradicted: bool,
    /// Read afterwards.
    read: bool,
    /// Names the other third party.
    to_other: bool,
}

/// One that posts and asks until it is answered. Cheap to clone.
#[derive(Clone)]
pub struct Poster {
    book: Arc<Mutex<Book>>,
    clients: Arc<[Client]>,
    log: Arc<File>,
    /// What a post has that names the other third party.
    other_metadata: &'static [(&'static str, &'static str)],
    /// Written while what was accepted may not be there.
    all_present: Arc<RwLock<()>>,
}

impl Load {
    /// Posts `rate` transactions a second to the processes at `addresses`; writes the accepted ids
    /// to `log`. Those that name the other third party have this metadata.
    pub fn start(
        seed: u64,
        rate: f64,
        addresses: &[SocketAddr],
        log: File,
        other_metadata: &'static [(&'static str, &'static str)],
    ) -> Self {
        let stop = CancellationToken::new();
        let clients = addresses.iter().map(|address| Client::new(*address).with_key(API_KEY));
        let clients = clients.collect();
        let poster = Poster {
            book: Arc::default(),
            clients,
            log: Arc::new(log),
            other_metadata,
            all_present: Arc::default(),
        };
        let mut posters = JoinSet::new();
        for number in 0..POSTERS {
            let period = Duration::from_secs_f64(POSTERS as f64 / rate);
            let (poster, stop) = (poster.clone(), stop.clone());
            posters.spawn(poster.run(seed ^ (number << 48), number, period, stop));
        }
        Self { poster, stop, posters }
    }

    pub fn poster(&self) -> &Poster {
        &self.poster
    }

    /// Posts nothing more, waits for the answers, and returns what is known.
    pub async fn end(mut self) -> Book {
        self.stop.cancel();
        let ended = async { while self.posters.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(ANSWERED, ended).await;
        let mut book = std::mem::take(&mut *lock(&self.poster.book));
        if ended.is_err() {
            book.violations.push(format!("stuck: posts without an answer {ANSWERED:?} later"));
        }
        book
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("no poster panicked")
}

impl Poster {
    /// The ids that were answered 2xx.
    pub fn accepted(&self) -> Vec<Uuid> {
        lock(&self.book).accepted.keys().copied().collect()
    }

    /// Until this is dropped, nothing is asked of which the answer depends on what was accepted.
    pub async fn hold_questions(&self) -> RwLockWriteGuard<'_, ()> {
        self.all_present.write().await
    }

    /// These are new again: a restore has lost them.
    pub fn forget(&self, ids: &[Uuid]) {
        let mut book = lock(&self.book);
        for id in ids {
            book.created.remove(id);
        }
    }

    /// Posts again what was accepted, until it is once more.
    pub async fn post_again(&self, ids: &[Uuid]) {
        let posts = ids.iter().map(async |id| {
            let accepted = lock(&self.book).accepted[id].clone();
            self.post_until_accepted(*id, &accepted, 0).await;
        });
        stream::iter(posts).for_each_concurrent(POSTED_AGAIN, |post| post).await;
    }

    async fn run(self, seed: u64, number: u64, period: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(period);
        let mut posts = JoinSet::new();
        for nth in 0_u64.. {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            let post = Post::draw(seed, number, nth, self.clients.len());
            posts.spawn(self.clone().see_through(post));
        }
        while let Some(done) = posts.join_next().await {
            done.expect("a post is seen through");
        }
    }

    async fn see_through(self, post: Post) {
        let body = |amount| post.body(amount, self.other_metadata);
        let accepted = Accepted { amount: post.amount, body: body(post.amount) };
        if post.twin {
            tokio::join!(
                self.post_until_accepted(post.id, &accepted, post.first),
                self.post_until_accepted(post.id, &accepted, post.first + 1),
            );
        } else {
            self.post_until_accepted(post.id, &accepted, post.first).await;
        }
        if post.read {
            let _present = self.all_present.read().await;
            self.read(&post).await;
        }
        if post.repeated {
            lock(&self.book).repeats += 1;
            self.post_until_accepted(post.id, &accepted, post.first + 1).await;
        }
        if post.contradicted {
            let _present = self.all_present.read().await;
            let other = body(post.amount + 1);
            let refused =
                self.ask(post.id, post.first + 2, Method::POST, &other, |status| status == 409);
            refused.await;
        }
    }

    async fn post_until_accepted(&self, id: Uuid, post: &Accepted, first: usize) {
        let accepted = |status| matches!(status, 200 | 202);
        let answer = self.ask(id, first, Method::POST, &post.body, accepted).await;
        let Some(answer) = answer else { return };
        let mut book = lock(&self.book);
        let known = book.accepted.insert(id, post.clone()).is_some();
        if !known {
            writeln!(&*self.log, "{id} {}", answer.status).expect("the log takes a line");
        }
        if answer.status == 202 && !book.created.insert(id) {
            book.violations.push(format!("4: {id} was accepted as new twice"));
        }
        if answer.status == 200 && answer.header("idempotent-replayed") != "true" {
            book.violations.push(format!("6: 200 without Idempotent-Replayed for {id}"));
        }
    }

    /// What was accepted is there, whoever is asked.
    async fn read(&self, post: &Post) {
        let answer =
            self.ask(post.id, post.first + 1, Method::GET, "", |status| status == 200).await;
        let Some(answer) = answer else { return };
        if answer.body["amount"] != post.amount {
            let text = format!("6: {} was read with another content: {}", post.id, answer.text);
            lock(&self.book).violations.push(text);
        }
    }

    /// Asks one process after the other until an answer is `right`. One that is neither that nor a
    /// refusal for the moment is a violation, and ends it.
    async fn ask(
        &self,
        id: Uuid,
        first: usize,
        method: Method,
        body: &str,
        right: impl Fn(u16) -> bool,
    ) -> Option<Answer> {
        let path = match method {
            Method::GET => format!("/v1/transactions/{id}"),
            _ => "/v1/transactions".to_owned(),
        };
        let mut retries = Retries::new(AGAIN);
        for nth in first.. {
            let client = &self.clients[nth % self.clients.len()];
            let headers = [("content-type", "application/json")];
            let sent = client.try_send(method.clone(), &path, &headers, body.to_owned());
            let asked_to_wait = match tokio::time::timeout(MAX_WAIT, sent).await {
                Ok(Ok(answer)) if right(answer.status) => return Some(answer),
                Ok(Ok(answer)) if matches!(answer.status, 429 | 503) => {
                    lock(&self.book).refused += 1;
                    answer.header("retry-after").parse().ok().map(Duration::from_secs)
                }
                Ok(Ok(answer)) => {
                    lock(&self.book).violations.push(format!(
                        "6: {method} of {id} was answered {}: {}",
                        answer.status, answer.text
                    ));
                    return None;
                }
                _ => {
                    lock(&self.book).unanswered += 1;
                    None
                }
            };
            let wait = retries.next_delay(rand::random());
            tokio::time::sleep(asked_to_wait.unwrap_or(wait)).await;
        }
        None
    }
}

impl Post {
    fn draw(seed: u64, poster: u64, nth: u64, processes: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(nth.wrapping_mul(0x9E37_79B9)));
        let mut chance = |rate: f64| rng.random::<f64>() < rate;
        let (twin, repeated) = (chance(0.05), chance(0.1));
        let (contradicted, read) = (chance(0.03), chance(0.2));
        let to_other = chance(TO_OTHER);
        Self {
            id: Builder::from_random_bytes(rng.random()).into_uuid(),
            amount: rng.random_range(0..1_000_000),
            reference: format!("chaos {poster}-{nth}"),
            first: rng.random_range(0..processes),
            twin,
            repeated,
            contradicted,
            read,
            to_other,
        }
    }

    fn body(&self, amount: i64, other_metadata: &[(&str, &str)]) -> String {
        let mut body: Value = json!({
            "id": self.id, "amount": amount, "currency": "EUR", "reference": self.reference,
        });
        if self.to_other {
            body["third_party"] = other::NAME.into();
            body["metadata"] =
                other_metadata.iter().map(|(name, value)| (*name, Value::from(*value))).collect();
        }
        body.to_string()
    }
}
