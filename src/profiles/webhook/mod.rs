//! Webhooks of any third party: who sent a request, and what events it holds. Pure: the caller has
//! the bytes, the secrets and the time.
//!
//! A profile's `[webhook]` section ([`WebhookProfile`]) says how the third party proves itself and
//! where the fields of an event are. [`WebhookProfile::receiver`] checks it, with an error for each
//! key that is wrong, and makes a [`Receiver`] of it. That reads keys ([`Receiver::read_key`]) and
//! verifies requests ([`Receiver::verify`]).
//!
//! Guarantees:
//! - Nothing is parsed before the sender is proved, where the profile has a proof.
//! - HMACs and shared credentials are compared in constant time, with each key that is active.
//! - A profile in which nothing proves the body cannot settle a transaction: its webhooks are
//!   hints.
//! - A value that settles something is signed, a header included.
//! - A body holds at most [`MAX_EVENTS`] events. What is wrong with one of them is a problem of
//!   that event alone; fields that the profile does not name may be anything.
//! - Keys, tokens and signatures are in no error and in no `Debug`.

mod adapter;
mod adyen_items;
mod answers;
mod built;
mod check;
mod document;
mod event;
mod extract;
mod faults;
mod incoming;
mod interpreter;
mod keys;
mod profile;
mod rejection;
mod rfc9421;
mod scheme;
mod signature_header;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod timestamp;

use std::fmt;

use chrono::{DateTime, Utc};

pub use self::{
    answers::{Answers, OkAnswer},
    document::FieldFault,
    event::{About, Claim, Event, EventProblem, MAX_ID_CHARS, Order, Report},
    extract::MAX_EVENTS,
    faults::{Fault, Vars},
    incoming::{Headers, Incoming},
    keys::{Key, KeyError, Keys, SecretEncoding},
    profile::{
        Adapter, ConditionSection, Content, Format, Hash, MessageAlgorithm, Method, OneOrMany,
        SameSection, Scalar, Scheme, SignatureSection, TimestampSection, Trust, WebhookProfile,
    },
    rejection::Rejection,
    signature_header::Encoding,
    timestamp::{DEFAULT_TOLERANCE, TimeUnit},
};

/// Most bytes of a body that are read, whatever the server lets through.
pub const MAX_BODY: usize = 1024 * 1024;

/// Tells who sent a request, and what events it holds.
pub(crate) trait Verifier: fmt::Debug + Send + Sync {
    fn verify(
        &self,
        incoming: &Incoming<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Vec<Event>, Rejection>;
}

/// Receives the webhooks of one third party, as its profile says.
#[derive(Debug)]
pub struct Receiver {
    /// The methods that are taken; without `HEAD`.
    pub methods: Vec<Method>,
    pub trust: Trust,
    pub answers: Answers,
    key_kind: keys::KeyKind,
    verifier: Box<dyn Verifier>,
}

impl Receiver {
    /// Whether there must be a key: without one, every request is refused.
    pub fn needs_key(&self) -> bool {
        !matches!(self.key_kind, keys::KeyKind::Nothing)
    }

    /// Reads a secret or a public key as the profile says that it is written. White space around it
    /// is refused, because it would change the key: a file's last line break is the caller's to
    /// remove.
    pub fn read_key(&self, text: &str) -> Result<Key, KeyError> {
        self.key_kind.read(text)
    }

    /// The events of a request that the third party sent, near enough to `now`; none where the
    /// profile passes all of them over.
    pub fn verify(
        &self,
        incoming: &Incoming<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Vec<Event>, Rejection> {
        if !self.methods.iter().any(|method| method.as_str() == incoming.method) {
            return Err(Rejection::Method(incoming.method.chars().take(20).collect()));
        }
        if incoming.body.len() > MAX_BODY {
            return Err(Rejection::TooLarge(MAX_BODY));
        }
        self.verifier.verify(incoming, keys, now)
    }
}
