//! Scripts: what a test wants the simulated peers to do, call by call.
//!
//! A script is a list consumed one step a call. A call first takes the next step for its id, then
//! the next step for any id, then the default; where there is none of these, the random profile
//! decides. Delays in scripts are taken as written: the sandbox's speed does not divide them.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::Status;

/// How a peer reacts to one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaction {
    /// An HTTP answer.
    Answer(Answer),
    /// The request is taken and never answered.
    Hang,
    /// The connection is closed (TCP RST) without an answer.
    Reset,
}

/// One HTTP answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status_code: u16,
    pub body: Body,
    pub headers: Vec<(String, String)>,
    /// Time before the answer.
    pub delay: Duration,
}

/// The body of an [`Answer`].
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Empty,
    Json(Value),
    /// Sent as `text/html`, as gateways do.
    Text(String),
    /// The transaction as created, with this status: `{id, status, …}`.
    Transaction(Status),
}

impl Reaction {
    /// An answer with this status code and no body.
    pub fn status_code(status_code: u16) -> Self {
        Self::Answer(Answer {
            status_code,
            body: Body::Empty,
            headers: Vec::new(),
            delay: Duration::ZERO,
        })
    }

    /// An answer with this status code and `Retry-After` in seconds.
    pub fn retry_after(status_code: u16, seconds: u64) -> Self {
        Self::status_code(status_code).header("retry-after", seconds.to_string())
    }

    /// Sets the body of an answer; no effect on the other reactions.
    pub fn body(self, body: Body) -> Self {
        self.change(|answer| answer.body = body)
    }

    pub fn json(self, body: Value) -> Self {
        self.body(Body::Json(body))
    }

    pub fn text(self, body: impl Into<String>) -> Self {
        self.body(Body::Text(body.into()))
    }

    /// Adds a header to an answer; no effect on the other reactions.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|answer| answer.headers.push((name.into(), value.into())))
    }

    /// Waits before an answer; no effect on the other reactions.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|answer| answer.delay = delay)
    }

    fn change(mut self, change: impl FnOnce(&mut Answer)) -> Self {
        if let Self::Answer(answer) = &mut self {
            change(answer);
        }
        self
    }
}

/// What a scripted create does: what is stored and how it is answered, independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateStep {
    pub reaction: Reaction,
    /// `None`: nothing is stored.
    pub store: Option<Store>,
}

/// A scripted commit. What it stores keeps its status until [`set_status`] or another create: no
/// webhook is sent by itself.
///
/// [`set_status`]: super::ThirdParty::set_status
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub status: Status,
    /// From the arrival of the request; zero: before it is answered.
    pub after: Duration,
    /// Leave what is already stored, instead of overwriting it and counting a double create.
    pub if_absent: bool,
}

impl CreateStep {
    /// Any reaction; nothing is stored.
    pub fn new(reaction: Reaction) -> Self {
        Self { reaction, store: None }
    }

    /// 201 with status `pending`; stored.
    pub fn created() -> Self {
        Self::created_final(Status::Pending)
    }

    /// 201 with this status; stored.
    pub fn created_final(status: Status) -> Self {
        Self::new(Reaction::status_code(201).body(Body::Transaction(status))).stored(status)
    }

    /// 2xx without a `status` in its body; stored as `pending`.
    pub fn created_without_status() -> Self {
        Self::new(Reaction::status_code(200).json(json!({}))).stored(Status::Pending)
    }

    /// 504, but stored at once.
    pub fn gateway_timeout_stored(status: Status) -> Self {
        Self::gateway_timeout_lost().stored(status)
    }

    /// 504, and stored this long after the request arrived.
    pub fn gateway_timeout_stored_after(after: Duration, status: Status) -> Self {
        Self::gateway_timeout_stored(status).stored_after(after)
    }

    /// 504; never stored.
    pub fn gateway_timeout_lost() -> Self {
        Self::new(gateway_timeout())
    }

    /// Never answered; stored at once where a status is given.
    pub fn hang(store: Option<Status>) -> Self {
        Self { store: store.map(Store::at_once), ..Self::new(Reaction::Hang) }
    }

    /// Connection closed without an answer; stored at once where a status is given.
    pub fn reset(store: Option<Status>) -> Self {
        Self { store: store.map(Store::at_once), ..Self::new(Reaction::Reset) }
    }

    /// 503 with `Retry-After`.
    pub fn service_unavailable(retry_after_seconds: u64) -> Self {
        Self::new(Reaction::retry_after(503, retry_after_seconds))
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::new(Reaction::retry_after(429, retry_after_seconds))
    }

    /// 500.
    pub fn server_error() -> Self {
        Self::new(Reaction::status_code(500).text("Internal Server Error"))
    }

    /// 409 'already exists'; with a status, the id is stored from then on, if it was not yet.
    pub fn conflict_exists(store: Option<Status>) -> Self {
        Self {
            store: store.map(|status| Store { if_absent: true, ..Store::at_once(status) }),
            ..Self::new(already_exists())
        }
    }

    /// A 4xx refusal.
    pub fn rejected(status_code: u16) -> Self {
        Self::new(Reaction::status_code(status_code).json(json!({ "error": "rejected" })))
    }

    /// Stores with this status, at once.
    pub fn stored(self, status: Status) -> Self {
        Self { store: Some(Store::at_once(status)), ..self }
    }

    /// Stores this long after the request's arrival, whether it is answered by then or not.
    pub fn stored_after(mut self, after: Duration) -> Self {
        if let Some(store) = &mut self.store {
            store.after = after;
        }
        self
    }

    /// Waits before the answer; the commit does not wait with it.
    pub fn delay(self, delay: Duration) -> Self {
        Self { reaction: self.reaction.delay(delay), ..self }
    }
}

impl Store {
    fn at_once(status: Status) -> Self {
        Self { status, after: Duration::ZERO, if_absent: false }
    }
}

/// What a scripted lookup answers.
#[derive(Clone, Debug, PartialEq)]
pub enum LookupStep {
    /// The truth: 200 with what is stored, else 404; after this delay.
    FromState(Duration),
    /// Whatever is stored, this.
    React(Reaction),
}

impl LookupStep {
    /// The truth, at once.
    pub fn normal() -> Self {
        Self::FromState(Duration::ZERO)
    }

    /// 404 although it may be stored.
    pub fn not_found() -> Self {
        Self::status_code(404)
    }

    pub fn status_code(status_code: u16) -> Self {
        Self::React(Reaction::status_code(status_code))
    }

    /// 200 with this body.
    pub fn answer(body: Value) -> Self {
        Self::React(Reaction::status_code(200).json(body))
    }

    pub fn hang() -> Self {
        Self::React(Reaction::Hang)
    }

    pub fn reset() -> Self {
        Self::React(Reaction::Reset)
    }

    /// Waits before the answer.
    pub fn delay(self, delay: Duration) -> Self {
        match self {
            Self::FromState(_) => Self::FromState(delay),
            Self::React(reaction) => Self::React(reaction.delay(delay)),
        }
    }
}

/// What a gateway in front of the third party says when it gave up waiting.
pub(super) fn gateway_timeout() -> Reaction {
    Reaction::status_code(504).text("<html><body>504 Gateway Time-out</body></html>")
}

pub(super) fn already_exists() -> Reaction {
    Reaction::status_code(409).json(json!({ "error": "already exists" }))
}

/// The steps of one kind of call that are still to come.
pub(super) struct Script<Step> {
    by_id: HashMap<Uuid, VecDeque<Step>>,
    any: VecDeque<Step>,
    default: Option<Step>,
}

impl<Step> Default for Script<Step> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), any: VecDeque::new(), default: None }
    }
}

impl<Step: Clone> Script<Step> {
    pub(super) fn push(&mut self, steps: Vec<Step>) {
        self.any.extend(steps);
    }

    pub(super) fn push_for(&mut self, id: Uuid, steps: Vec<Step>) {
        self.by_id.entry(id).or_default().extend(steps);
    }

    pub(super) fn set_default(&mut self, step: Option<Step>) {
        self.default = step;
    }

    /// Forgets all steps and the default.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The step of a call about `id`; `None` leaves it to the random profile.
    pub(super) fn next(&mut self, id: Uuid) -> Option<Step> {
        let own = self.by_id.get_mut(&id).and_then(VecDeque::pop_front);
        own.or_else(|| self.any.pop_front()).or_else(|| self.default.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_by_id_then_any_then_default() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut script = Script::default();
        assert_eq!(script.next(one), None);
        script.push(vec!["any 1", "any 2"]);
        script.push_for(one, vec!["own 1", "own 2"]);
        script.set_default(Some("default"));
        let order = [one, other, one, one, other].map(|id| script.next(id).unwrap());
        assert_eq!(order, ["own 1", "any 1", "own 2", "any 2", "default"]);
        script.clear();
        assert_eq!(script.next(one), None);
    }
}
