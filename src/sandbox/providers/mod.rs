//! Third parties with interfaces of their own, simulated: `quartet sandbox --profile NAME`.
//!
//! Each is a [`Provider`], a table of what its public documentation says: paths, credentials, how
//! it knows a repeated create, its status words, what an absence looks like, and its webhooks. They
//! are written from that documentation and not from Quartet's profiles, with which they share no
//! code: where the two disagree, a demo shows it.
//!
//! `endpoint` serves the table over HTTP with the faults of the random
//! [`Profile`](super::Profile); `books` are its payments, and count the doubled ones; `webhooks`
//! signs and sends. Scripts do not apply to these third parties.

mod asked;
mod books;
mod credentials;
mod endpoint;
mod gocardless;
mod mollie;
mod momo;
mod pawapay;
mod paystack;
mod stripe;
mod webhooks;

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ring::hmac;
use serde_json::Value;
use uuid::Uuid;

pub(super) use self::endpoint::serve_provider;
use self::{
    asked::{Asked, Content},
    books::{Books, Order, Payment},
    credentials::Credentials,
};
use super::{SandboxConfig, Status, script::Reaction};

/// How one third party speaks.
struct Provider {
    /// As the profile for it is called.
    name: &'static str,
    /// Where OAuth2 tokens are issued; `None`: the API key itself is the bearer token.
    token_path: Option<&'static str>,
    /// What a call must have beside its bearer token; otherwise this is the answer.
    check: fn(&Asked, &Credentials) -> Option<Reaction>,
    /// The answer to a call without good credentials.
    unauthorized: fn() -> Reaction,
    /// The answer to a path that does not exist.
    no_route: fn() -> Reaction,
    create_path: &'static str,
    content: Content,
    /// Reads a create, or says how it is refused.
    order: fn(&Asked, &Value) -> Result<Order, Reaction>,
    /// The answer to a create that made a payment.
    created: fn(&Payment, &str) -> Reaction,
    repeat: Repeat,
    /// The path of a lookup, before the id.
    lookup_path: &'static str,
    lookup_by: LookupBy,
    found: fn(&Payment, &str) -> Reaction,
    absent: fn(&str) -> Reaction,
    /// What its own ids begin with.
    id_prefix: &'static str,
    /// Its words for pending, completed and declined.
    words: [&'static str; 3],
    /// A webhook about a payment, with this word and this id of the event.
    webhook: fn(&Payment, &str, &str) -> Notice,
    signing: Signing,
    /// The metadata that Quartet's profile for it reads.
    metadata: &'static [(&'static str, &'static str)],
    /// What a caller must present, as the profile for it calls the values.
    values: fn(&Credentials) -> Vec<(&'static str, String)>,
}

/// What a create under a key that was used does.
enum Repeat {
    /// It is answered so.
    Refused(fn(&Payment) -> Reaction),
    /// It is answered as the first one was.
    SameAnswer {
        /// How long a key is kept; after that the same request makes another payment.
        lives: Duration,
        /// The answer where the body is another one; `None`: as the first one was.
        other_body: Option<fn() -> Reaction>,
        /// The answer while the first request is still running; `None`: it waits for nothing.
        running: Option<fn() -> Reaction>,
    },
}

#[derive(PartialEq, Eq)]
enum LookupBy {
    /// The caller's key.
    Key,
    /// Its own id.
    OwnId,
}

/// A webhook before it is signed.
struct Notice {
    method: &'static str,
    content_type: &'static str,
    body: String,
}

/// What proves its webhooks.
enum Signing {
    Nothing,
    /// The HMAC of the body in hex digits, with the webhook secret or the API key.
    Hmac {
        header: &'static str,
        algorithm: hmac::Algorithm,
        is_api_key: bool,
    },
    /// `t=…,v1=…` over time and body, with the webhook secret.
    TimeAndBody {
        header: &'static str,
    },
    /// RFC 9421 with a key on P-256.
    MessageSignature,
}

const PROVIDERS: [&Provider; 6] = [
    &gocardless::OUTBOUND,
    &mollie::PAYMENTS,
    &momo::DISBURSEMENT,
    &pawapay::PAYOUTS,
    &paystack::TRANSFERS,
    &stripe::PAYOUTS,
];
/// Quartet's own contract.
const OWN: &str = "quartet";

/// The interface that the simulated third party speaks.
#[derive(Clone, Copy, Default)]
pub struct Interface(Option<&'static Provider>);

impl Interface {
    /// As its profile is called.
    pub fn name(self) -> &'static str {
        self.0.map_or(OWN, |provider| provider.name)
    }

    /// The metadata that a transaction needs.
    pub fn metadata(self) -> &'static [(&'static str, &'static str)] {
        self.0.map_or(&[], |provider| provider.metadata)
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == OWN {
            return Ok(Self(None));
        }
        let found = PROVIDERS.into_iter().find(|provider| provider.name == name);
        found.map(|provider| Self(Some(provider))).ok_or_else(|| {
            let names: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
            format!("must be one of {}, {OWN}", names.join(", "))
        })
    }
}

/// A provider that is running.
pub(super) struct Running {
    provider: &'static Provider,
    credentials: Credentials,
    books: Mutex<Books>,
    /// Where webhooks go that no create names an address for, as an entry in its dashboard.
    webhook_url: Mutex<Option<String>>,
}

impl Running {
    /// `None`: the interface is Quartet's own contract.
    pub fn new(config: &SandboxConfig) -> Option<Self> {
        Some(Self {
            provider: config.interface.0?,
            credentials: Credentials::new(config.api_key.clone(), config.webhook_secret.reveal()),
            books: Mutex::default(),
            webhook_url: Mutex::new(config.webhook_url.clone()),
        })
    }

    /// What a caller must present, as the profile calls the values: `SECRETS__TOKEN`.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        (self.provider.values)(&self.credentials)
    }

    pub fn set_webhook_url(&self, url: String) {
        *self.webhook_url.lock().unwrap_or_else(PoisonError::into_inner) = Some(url);
    }

    pub fn status_of(&self, id: Uuid) -> Option<Status> {
        self.books().status_of(&id.to_string())
    }

    fn webhook_url(&self) -> Option<String> {
        self.webhook_url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider {
    fn word(&self, status: Status) -> &'static str {
        let [pending, completed, declined] = self.words;
        match status {
            Status::Pending => pending,
            Status::Completed => completed,
            Status::Declined => declined,
        }
    }
}

/// An answer in JSON.
fn json(code: u16, body: Value) -> Reaction {
    Reaction::status_code(code).json(body)
}

/// Nothing is asked for beside the bearer token.
fn unchecked(_: &Asked, _: &Credentials) -> Option<Reaction> {
    None
}

/// The API key as the secret `token`.
fn token_alone(credentials: &Credentials) -> Vec<(&'static str, String)> {
    vec![("SECRETS__TOKEN", credentials.api_key.clone())]
}

/// The same, and the secret that webhooks are signed with.
fn token_and_webhook(credentials: &Credentials) -> Vec<(&'static str, String)> {
    let mut values = token_alone(credentials);
    values.push(("SECRETS__WEBHOOK", credentials.webhook_secret.clone()));
    values
}
