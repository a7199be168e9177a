//! The payments of a simulated third party, and how many are doubled.
//!
//! A payment is doubled when money leaves a second time for the same reference of the caller,
//! whatever keys the two creates had. That is the third party's own view: a repeat that it knows by
//! its idempotency key makes no payment, and two keys make two.
//!
//! Nothing is ever evicted: a lookup must find what was stored.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{LookupBy, Provider, Repeat};
use crate::sandbox::{Status, script::Reaction};

/// A create that was understood.
#[derive(Clone)]
pub(super) struct Order {
    /// What makes a repeat the same create, in a header or the body; `None`: nothing does.
    pub key: Option<String>,
    /// The caller's id of the payment; empty where it names none.
    pub reference: String,
    /// Where this payment's webhook goes, if the create says so.
    pub webhook_url: Option<String>,
    /// What was posted.
    pub body: Value,
}

/// A payment.
#[derive(Clone)]
pub(super) struct Payment {
    /// What it is looked up by: its own id, or the caller's key.
    pub id: String,
    pub order: Order,
    pub status: Status,
    /// How its create was answered.
    pub answer: Reaction,
}

/// What became of a create.
pub(super) enum Stored {
    New(Payment),
    /// It was a repeat.
    Before {
        payment: Payment,
        is_same_body: bool,
    },
}

struct Key {
    fingerprint: [u8; 32],
    /// `None`: its first request is still running.
    payment: Option<String>,
    since: Instant,
}

#[derive(Default)]
pub(super) struct Books {
    payments: HashMap<String, Payment>,
    keys: HashMap<String, Key>,
    payments_of: HashMap<String, u32>,
    creates_of: HashMap<String, u32>,
    lookups_of: HashMap<String, u32>,
}

impl Books {
    /// Counts a create; returns which one it is for its reference.
    pub fn enter_create(&mut self, order: &Order) -> u32 {
        count(&mut self.creates_of, &order.reference)
    }

    /// Counts a lookup; returns which one it is for its id.
    pub fn enter_lookup(&mut self, id: &str) -> u32 {
        count(&mut self.lookups_of, id)
    }

    pub fn find(&self, id: &str) -> Option<&Payment> {
        self.payments.get(id)
    }

    /// The status of the payment that the caller knows by this id of its own.
    pub fn status_of(&self, reference: &str) -> Option<Status> {
        let mut payments = self.payments.values();
        payments.find(|payment| payment.order.reference == reference).map(|payment| payment.status)
    }

    /// Whether the first request with this key is still running.
    pub fn is_running(&self, order: &Order) -> bool {
        let key = order.key.as_ref().and_then(|key| self.keys.get(key));
        key.is_some_and(|key| key.payment.is_none())
    }

    /// Keeps the key of a request that is running, unless it is known.
    pub fn start(&mut self, order: &Order) {
        if let Some(key) = &order.key {
            let new =
                || Key { fingerprint: fingerprint(order), payment: None, since: Instant::now() };
            self.keys.entry(key.clone()).or_insert_with(new);
        }
    }

    /// Stores a payment, unless its key says that it is a repeat. `scaled` is how long a key lives
    /// at the sandbox's speed. The flag says that money left a second time for this reference.
    pub fn store(
        &mut self,
        provider: &Provider,
        order: Order,
        status: Status,
        scaled: impl Fn(Duration) -> Duration,
    ) -> (Stored, bool) {
        if let Some(key) = order.key.as_ref().and_then(|key| self.keys.get(key))
            && let Some(payment) = key.payment.as_ref().and_then(|id| self.payments.get(id))
            && match &provider.repeat {
                Repeat::SameAnswer { lives, .. } => key.since.elapsed() < scaled(*lives),
                Repeat::Refused(_) => true,
            }
        {
            let is_same_body = key.fingerprint == fingerprint(&order);
            return (Stored::Before { payment: payment.clone(), is_same_body }, false);
        }
        let own_id = || format!("{}{}", provider.id_prefix, Uuid::now_v7().simple());
        let id = match (&provider.lookup_by, &order.key) {
            (LookupBy::Key, Some(key)) => key.clone(),
            _ => own_id(),
        };
        let answer = Reaction::status_code(200);
        let mut payment = Payment { id: id.clone(), order, status, answer };
        payment.answer = (provider.created)(&payment, provider.word(status));
        if let Some(key) = &payment.order.key {
            let key_of = Key {
                fingerprint: fingerprint(&payment.order),
                payment: Some(id.clone()),
                since: Instant::now(),
            };
            self.keys.insert(key.clone(), key_of);
        }
        let reference = &payment.order.reference;
        let is_doubled = !reference.is_empty() && count(&mut self.payments_of, reference) > 1;
        self.payments.insert(id, payment.clone());
        (Stored::New(payment), is_doubled)
    }

    /// Makes a payment final.
    pub fn settle(&mut self, id: &str, status: Status) {
        if let Some(payment) = self.payments.get_mut(id) {
            payment.status = status;
        }
    }
}

fn count(counts: &mut HashMap<String, u32>, of: &str) -> u32 {
    let count = counts.entry(of.to_owned()).or_default();
    *count += 1;
    *count
}

fn fingerprint(order: &Order) -> [u8; 32] {
    Sha256::digest(order.body.to_string()).into()
}
