//! What a webhook says: events, each with its own outcome.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::document::FieldFault;
use crate::profiles::Template;

/// Most characters of an event's id, of a third party's id and of a dedupe key.
pub const MAX_ID_CHARS: usize = 255;
/// Most characters of a status word.
pub const MAX_STATUS_CHARS: usize = 200;

/// One event of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The third party's id of the event, for people. Whether it can be believed depends on what
    /// is signed: `dedupe_key` decides what is a repeat.
    pub event_id: Option<String>,
    /// What a repeat of this event has in common with it, and no other event has. `None`: a repeat
    /// is handled again, which does no harm where an event only makes a poll due.
    pub dedupe_key: Option<String>,
    pub order: Option<Order>,
    /// What it says beside that, to be compared with the transaction.
    pub claims: Vec<Claim>,
    /// What the event says, or why it says nothing that can be used.
    pub report: Result<Report, EventProblem>,
}

/// A value of an event that must be the transaction's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it stands, as the profile writes it.
    pub at: String,
    pub found: String,
    /// What it is of the transaction.
    pub is: Template,
}

impl Claim {
    /// As JSON, to be compared later: see [`Self::read_all`].
    pub fn write_all(claims: &[Self]) -> Value {
        let claims = claims
            .iter()
            .map(|Self { at, found, is }| json!({ "at": at, "found": found, "is": is.as_str() }));
        claims.collect()
    }

    /// What [`Self::write_all`] wrote; `None` where it cannot be read.
    pub fn read_all(claims: &Value) -> Option<Vec<Self>> {
        let claims = claims.as_array()?.iter().map(|claim| {
            let text = |name: &str| claim[name].as_str();
            let is = Template::parse(text("is")?).ok()?;
            Some(Self { at: text("at")?.to_owned(), found: text("found")?.to_owned(), is })
        });
        claims.collect()
    }
}

/// What an event says about a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub about: About,
    /// The third party's word; several are joined by `:`.
    pub status: Option<String>,
}

/// The transaction that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Id(Uuid),
    ProviderId(String),
    Both { id: Uuid, provider_id: String },
}

/// Why one event cannot be used. The others of the same webhook can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventProblem {
    #[error("`{0}` is missing")]
    Missing(String),
    #[error("`{at}` {fault}")]
    Field { at: String, fault: FieldFault },
    /// It may be about something that Quartet did not create.
    #[error("`{at}` is no id of ours: {excerpt}")]
    NotOurs { at: String, excerpt: String },
    #[error("`{at}` must be at most {max} characters")]
    TooLong { at: String, max: usize },
    #[error("`{0}` has control characters")]
    ControlCharacters(String),
    #[error("the header `{0}` is not signed")]
    NotSigned(String),
    #[error("the header `{0}` is there twice")]
    RepeatedHeader(String),
    /// Which part of the signed text is which field is open then.
    #[error("a signed field contains the separator `:`")]
    AmbiguousFields,
}

/// Where an event stands in the third party's own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Number(i64),
    Time(DateTime<Utc>),
}

impl Order {
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.parse().ok().map(Self::Number);
        let time = || DateTime::parse_from_rfc3339(text).ok().map(|time| Self::Time(time.into()));
        number.or_else(time)
    }
}
