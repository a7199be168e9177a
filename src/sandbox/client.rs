//! The simulated client: `PUT /callback` and `PUT /callback/{anything}`, and its handle.
//!
//! It checks the Standard Webhooks signature over the raw body before it parses anything, and
//! answers 401 where it is wrong. Everything that arrives about an id is kept in order of arrival,
//! so that tests can see what a client received, when, and whether a version went down. What was
//! answered counts as acknowledged from the moment the answer leaves.
//!
//! Memory: deliveries are kept up to [`MAX_DELIVERIES_KEPT`]; later ones are counted only.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use poem::{
    Body, Request, Response, handler,
    web::{Data, RemoteAddr},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    MAX_BODY, Shared,
    script::{Reaction, Script},
    webhook::is_success,
};
use crate::signature::{ID_HEADER, SIGNATURE_HEADER, SignedHeaders, TIMESTAMP_HEADER, verify};

const TOLERANCE: Duration = Duration::from_secs(300);
const MAX_DELIVERIES_KEPT: usize = 500_000;

/// What the client counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientStats {
    /// `PUT` calls, whatever became of them.
    pub callbacks_received: u64,
    /// Answered 2xx.
    pub acknowledged: u64,
    /// Answered otherwise, bad signatures and bodies included.
    pub refused: u64,
    pub signature_failures: u64,
    /// Correctly signed, but not of the agreed form.
    pub malformed: u64,
    /// Acknowledged deliveries with a lower version than one acknowledged before.
    pub version_regressions: u64,
    /// Ids about which something was acknowledged.
    #[serde(rename = "ids_told")]
    pub ids_notified: u64,
    /// Ids of which a final status was acknowledged.
    #[serde(rename = "ids_told_final")]
    pub ids_notified_finally: u64,
}

/// One callback that arrived with a readable body.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub id: Uuid,
    /// Empty where the header is missing.
    pub webhook_id: String,
    /// As written: clients also hear `failed`, which the third party does not know.
    pub status: String,
    pub version: i64,
    pub occurred_at: DateTime<Utc>,
    pub signature_valid: bool,
    /// The path it was put to.
    pub path: String,
    /// When it arrived, on the clock for intervals.
    pub at: Instant,
    /// When it arrived, on the wall clock.
    pub time: DateTime<Utc>,
    /// `None`: not answered, or not yet.
    pub answered_status: Option<u16>,
}

impl Delivery {
    pub fn is_acknowledged(&self) -> bool {
        self.answered_status.is_some_and(is_success)
    }
}

#[derive(Deserialize)]
struct Callback {
    id: Uuid,
    status: String,
    version: i64,
    occurred_at: DateTime<Utc>,
}

/// What is remembered about an id beyond its deliveries.
#[derive(Default)]
struct Notified {
    deliveries: Vec<usize>,
    callbacks: u32,
    /// Ordinal and version of what was acknowledged.
    acknowledged: Vec<(u32, i64)>,
    /// The first of them that a version is compared with.
    compared_from: usize,
    finally: bool,
    regressed: bool,
}

/// The client's state.
#[derive(Default)]
pub(super) struct Inbox {
    deliveries: Vec<Delivery>,
    notified: HashMap<Uuid, Notified>,
    script: Script<Reaction>,
    pub stats: ClientStats,
}

impl Inbox {
    /// Keeps a delivery that just arrived; returns its ordinal for its id and its place.
    fn enter(&mut self, delivery: Delivery) -> (u32, usize) {
        let notified = self.notified.entry(delivery.id).or_default();
        notified.callbacks += 1;
        let place = self.deliveries.len();
        if place < MAX_DELIVERIES_KEPT {
            notified.deliveries.push(place);
            self.deliveries.push(delivery);
        }
        (notified.callbacks, place)
    }

    fn answered(&mut self, callback: &Callback, (nth, place): (u32, usize), code: u16) {
        if let Some(delivery) = self.deliveries.get_mut(place) {
            delivery.answered_status = Some(code);
        }
        if !is_success(code) {
            self.stats.refused += 1;
            return;
        }
        self.stats.acknowledged += 1;
        let notified = self.notified.entry(callback.id).or_default();
        // Order is that of arrival: an answer may overtake another one.
        let out_of_order = |&(other, version): &(u32, i64)| {
            (other < nth && version > callback.version)
                || (other > nth && version < callback.version)
        };
        if notified.acknowledged[notified.compared_from..].iter().any(out_of_order) {
            notified.regressed = true;
            self.stats.version_regressions += 1;
        }
        if notified.acknowledged.is_empty() {
            self.stats.ids_notified += 1;
        }
        notified.acknowledged.push((nth, callback.version));
        if callback.status != "pending" && !notified.finally {
            notified.finally = true;
            self.stats.ids_notified_finally += 1;
        }
    }

    fn deliveries_of(&self, id: Uuid) -> impl DoubleEndedIterator<Item = &Delivery> {
        let places = self
            .notified
            .get(&id)
            .map(|notified| notified.deliveries.as_slice())
            .unwrap_or_default();
        places.iter().filter_map(|place| self.deliveries.get(*place))
    }
}

#[handler]
pub(super) async fn receive_callback(
    request: &Request,
    remote: &RemoteAddr,
    body: Body,
    Data(shared): Data<&Arc<Shared>>,
) -> Response {
    shared.inbox().stats.callbacks_received += 1;
    let refuse = |code: u16, reason: String| {
        let mut inbox = shared.inbox();
        inbox.stats.refused += 1;
        match code {
            401 => inbox.stats.signature_failures += 1,
            _ => inbox.stats.malformed += 1,
        }
        Reaction::status_code(code).json(json!({ "error": reason }))
    };
    let no_transaction = |_| Value::Null;

    let bytes = match body.into_bytes_limit(MAX_BODY).await {
        Ok(bytes) => bytes,
        Err(error) => {
            let answer = refuse(400, error.to_string());
            return shared.respond(answer, remote, no_transaction, |_| {}).await;
        }
    };
    let headers = SignedHeaders {
        id: request.header(ID_HEADER),
        timestamp: request.header(TIMESTAMP_HEADER),
        signature: request.header(SIGNATURE_HEADER),
    };
    let secrets = std::slice::from_ref(&shared.config.client_secret);
    let now = Utc::now();
    let skew = shared.client_skew_seconds.load(Ordering::Relaxed);
    let its_time = now.timestamp().saturating_add(skew);
    let verified = verify(secrets, headers, &bytes, its_time, TOLERANCE);
    let callback = serde_json::from_slice::<Callback>(&bytes);

    let entered = callback.as_ref().ok().map(|callback| {
        shared.inbox().enter(Delivery {
            id: callback.id,
            webhook_id: headers.id.unwrap_or_default().to_owned(),
            status: callback.status.clone(),
            version: callback.version,
            occurred_at: callback.occurred_at,
            signature_valid: verified.is_ok(),
            path: request.original_uri().path().to_owned(),
            at: Instant::now(),
            time: now,
            answered_status: verified.is_err().then_some(401),
        })
    });
    if let Err(error) = verified {
        let answer = refuse(401, error.to_string());
        return shared.respond(answer, remote, no_transaction, |_| {}).await;
    }
    let (callback, entered) = match (callback, entered) {
        (Ok(callback), Some(entered)) => (callback, entered),
        (Err(error), _) => {
            let answer = refuse(400, error.to_string());
            return shared.respond(answer, remote, no_transaction, |_| {}).await;
        }
        // A callback that parsed was entered: this arm is for the compiler only.
        (Ok(_), None) => return Response::default(),
    };

    let step = shared.inbox().script.next(callback.id);
    let reaction = match step {
        Some(reaction) => reaction,
        None => {
            let config = &shared.config;
            let fate = config.profile.callback_fate(config.seed, callback.id, entered.0);
            Reaction::status_code(if fate.fails { 500 } else { 204 })
                .delay(shared.scaled(fate.latency))
        }
    };
    let note = |code| shared.inbox().answered(&callback, entered, code);
    shared.respond(reaction, remote, no_transaction, note).await
}

/// A handle on the simulated client: scripts its answers, reads what it received.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Shared>);

impl Client {
    /// Answers to the next callbacks about any id, one each.
    pub fn script(&self, answers: Vec<Reaction>) {
        self.0.inbox().script.push(answers);
    }

    /// Answers to the next callbacks about `id`; they go before those for any id.
    pub fn script_for(&self, id: Uuid, answers: Vec<Reaction>) {
        self.0.inbox().script.push_for(id, answers);
    }

    /// The answer where no script has one; `None`: the random profile.
    pub fn set_default(&self, answer: impl Into<Option<Reaction>>) {
        self.0.inbox().script.set_default(answer.into());
    }

    /// Forgets all scripted answers and the default.
    pub fn clear_scripts(&self) {
        self.0.inbox().script.clear();
    }

    /// Puts the clock that signatures are checked with this much ahead; negative is behind.
    pub fn set_clock_skew_seconds(&self, seconds: i64) {
        self.0.client_skew_seconds.store(seconds, Ordering::Relaxed);
    }

    /// What arrived about `id`, in order of arrival, badly signed ones included.
    pub fn deliveries_of(&self, id: Uuid) -> Vec<Delivery> {
        self.0.inbox().deliveries_of(id).cloned().collect()
    }

    /// Everything that arrived, in order of arrival, badly signed ones included.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.0.inbox().deliveries.clone()
    }

    /// The last delivery about `id` that was answered 2xx.
    pub fn last_acknowledged(&self, id: Uuid) -> Option<Delivery> {
        let inbox = self.0.inbox();
        inbox.deliveries_of(id).rev().find(|delivery| delivery.is_acknowledged()).cloned()
    }

    /// The versions that a correct sender may hold for the last one that was acknowledged, by id:
    /// that one; and where the sender was restored from a backup and has sent nothing since, any of
    /// those before, because the backup may be older than the last one.
    pub fn last_versions(&self) -> HashMap<Uuid, Vec<i64>> {
        let of = |notified: &Notified| {
            let (before, since) = notified.acknowledged.split_at(notified.compared_from);
            match since.iter().max() {
                Some((_, version)) => vec![*version],
                None => before.iter().map(|(_, version)| *version).collect(),
            }
        };
        let inbox = self.0.inbox();
        inbox.notified.iter().map(|(id, notified)| (*id, of(notified))).collect()
    }

    /// The ids for which an acknowledged version went down.
    pub fn regressions(&self) -> Vec<Uuid> {
        let inbox = self.0.inbox();
        inbox
            .notified
            .iter()
            .filter(|(_, notified)| notified.regressed)
            .map(|(id, _)| *id)
            .collect()
    }

    /// A lower version than one acknowledged before is no regression: the sender was restored from
    /// a backup.
    pub fn forget_versions(&self) {
        for notified in self.0.inbox().notified.values_mut() {
            notified.compared_from = notified.acknowledged.len();
        }
    }

    pub fn stats(&self) -> ClientStats {
        self.0.inbox().stats
    }
}
