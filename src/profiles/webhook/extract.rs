//! From a request that is authentic to its events.

use ring::digest::{self, digest};
use uuid::Uuid;

use super::{
    Rejection,
    document::{Document, FieldFault},
    event::{About, Claim, Event, EventProblem, MAX_ID_CHARS, MAX_STATUS_CHARS, Order, Report},
    incoming::{Incoming, UrlParts},
    profile::{Content, Trust},
    source::Source,
};
use crate::{
    domain::peer_answer,
    profiles::{Template, pointer::Pointer},
};

/// Most events in one webhook.
pub const MAX_EVENTS: usize = 1_000;
/// Most characters of a foreign id in a message.
const MAX_EXCERPT_CHARS: usize = 60;

/// A value's place, as the profile writes it and as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub text: String,
    pub source: Source,
}

/// A condition: one of these values stands at this place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub at: Place,
    pub is: Vec<String>,
}

/// Where the events of a webhook are, and what of them is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extraction {
    pub content: Content,
    pub trust: Trust,
    /// Whether the signature proves every byte of the body. Where it does not, no event's id is
    /// believed: somebody else could use up the id of an event that is still to come.
    pub binds_body: bool,
    pub items: Option<(String, Pointer)>,
    /// All of them hold for each event that is used.
    pub only: Vec<Condition>,
    /// None of them holds for an event that is used.
    pub ignore: Vec<Condition>,
    pub id: Option<Place>,
    pub provider_id: Option<Place>,
    pub status: Vec<Place>,
    pub event_id: Vec<Place>,
    pub order: Option<Place>,
    /// What an event must not contradict, and what it is of the transaction.
    pub same: Vec<(Place, Template)>,
}

/// One event where it stands.
struct Context<'a> {
    incoming: &'a Incoming<'a>,
    /// The headers that are signed.
    covered: &'a [String],
    body: &'a Document<'a>,
    event: &'a Document<'a>,
    /// The bytes that tell this event from the others.
    raw: &'a [u8],
}

impl Extraction {
    /// The events of a request whose sender is known. `covered` are the headers that are signed, in
    /// lower case.
    pub fn events(
        &self,
        incoming: &Incoming<'_>,
        covered: &[String],
    ) -> Result<Vec<Event>, Rejection> {
        let text;
        let body = match self.content {
            Content::Json => {
                let content_type = incoming.headers.lines("content-type").next();
                let charset = content_type.and_then(peer_answer::charset);
                text = peer_answer::text(incoming.body, charset);
                Document::json(&text).map_err(Rejection::Body)?
            }
            Content::Form => Document::form(incoming.body),
            Content::Query => Document::form(query(incoming).as_bytes()),
        };
        let Some((at, pointer)) = &self.items else {
            let raw = match self.content {
                Content::Query => query(incoming).as_bytes(),
                _ => incoming.body,
            };
            let context = Context { incoming, covered, body: &body, event: &body, raw };
            return Ok(self.event(&context).into_iter().collect());
        };
        let items = body.list(pointer, MAX_EVENTS);
        let items = items.ok_or_else(|| Rejection::NoItems(at.clone()))?;
        if items.len() > MAX_EVENTS {
            return Err(Rejection::TooManyEvents);
        }
        let events = items.into_iter().filter_map(|raw| {
            let (event, raw) = (&Document::item(raw), raw.as_bytes());
            self.event(&Context { incoming, covered, body: &body, event, raw })
        });
        Ok(events.collect())
    }

    /// The event of one item of a body that was taken apart already.
    pub fn event_of(&self, incoming: &Incoming<'_>, item: &str) -> Option<Event> {
        let (event, raw) = (&Document::item(item), item.as_bytes());
        self.event(&Context { incoming, covered: &[], body: event, event, raw })
    }

    /// `None`: the profile passes it over.
    fn event(&self, context: &Context<'_>) -> Option<Event> {
        let is_used = self.is_used(context);
        if is_used == Ok(false) {
            return None;
        }
        let event_id = self.event_id(context);
        let dedupe_key = match &event_id {
            Ok(event_id) => self.dedupe_key(context, event_id.as_deref()),
            Err(_) => None,
        };
        let order = self.order.as_ref().and_then(|place| {
            context.value(&place.source).ok().flatten().as_deref().and_then(Order::parse)
        });
        let claims = self.claims(context);
        let (event_id, report) = match (event_id, &claims) {
            (Ok(event_id), Ok(_)) => (event_id, self.report(context)),
            (Ok(event_id), Err(problem)) => (event_id, Err(problem.clone())),
            (Err(problem), _) => (None, Err(problem)),
        };
        let report = is_used.and(report);
        let claims = claims.unwrap_or_default();
        Some(Event { event_id, dedupe_key, order, claims, report })
    }

    /// Whether no condition passes the event over. An error: one of them cannot be read, so it may
    /// be an event that counts.
    fn is_used(&self, context: &Context<'_>) -> Result<bool, EventProblem> {
        let only = self.only.iter().map(|condition| (condition, true));
        let ignore = self.ignore.iter().map(|condition| (condition, false));
        let mut unread = None;
        for (Condition { at, is }, must_hold) in only.chain(ignore) {
            match context.value(&at.source) {
                Ok(value) => {
                    if value.is_some_and(|value| is.contains(&value)) != must_hold {
                        return Ok(false);
                    }
                }
                Err(problem) => {
                    unread.get_or_insert(problem.at(&at.text));
                }
            }
        }
        unread.map_or(Ok(true), Err)
    }

    /// What an event leaves out, it does not contradict.
    fn claims(&self, context: &Context<'_>) -> Result<Vec<Claim>, EventProblem> {
        let mut claims = Vec::new();
        for (place, is) in &self.same {
            if let Some(found) = context.used(place, self.trust)? {
                let found = bounded(found.trim().to_owned(), &place.text, MAX_ID_CHARS)?;
                claims.push(Claim { at: place.text.clone(), found, is: is.clone() });
            }
        }
        Ok(claims)
    }

    fn event_id(&self, context: &Context<'_>) -> Result<Option<String>, EventProblem> {
        let mut parts = Vec::new();
        for place in &self.event_id {
            match context.value(&place.source) {
                Ok(Some(part)) if !part.is_empty() => parts.push(part),
                // Nothing but the dedupe key needs it, and a hint does without.
                Ok(_) if self.trust == Trust::Hint => return Ok(None),
                Ok(_) => return Err(EventProblem::Missing(place.text.clone())),
                Err(problem) => return Err(problem.at(&place.text)),
            }
        }
        let Some(first) = self.event_id.first() else { return Ok(None) };
        bounded(parts.join(":"), &first.text, MAX_ID_CHARS).map(Some)
    }

    /// An event's id is a key by itself where it is signed and stands in the event. Otherwise the
    /// event's content is a part of the key, so that an id cannot be put on another event.
    fn dedupe_key(&self, context: &Context<'_>, event_id: Option<&str>) -> Option<String> {
        if !self.binds_body {
            return None;
        }
        let Some(event_id) = event_id else {
            // A hint may be the same bytes each time: the form of one that says only `id=…`.
            let is_settling = self.trust == Trust::Settle;
            return is_settling.then(|| content_key("", context.raw));
        };
        let is_signed = |place: &Place| match &place.source {
            Source::Header(name) => context.covers(name),
            _ => true,
        };
        let is_own = |place: &Place| matches!(place.source, Source::Event(_));
        let is_unique = self.items.is_none() || self.event_id.iter().any(is_own);
        if self.event_id.iter().all(is_signed) && is_unique {
            Some(event_id.to_owned())
        } else {
            Some(content_key(event_id, context.raw))
        }
    }

    fn report(&self, context: &Context<'_>) -> Result<Report, EventProblem> {
        let used = |place: &Option<Place>| match place {
            Some(place) => context.used(place, self.trust),
            None => Ok(None),
        };
        let id = match (&self.id, used(&self.id)?) {
            (Some(place), Some(text)) => Some(our_id(&text, &place.text)?),
            _ => None,
        };
        let provider_id = match (&self.provider_id, used(&self.provider_id)?) {
            (Some(place), Some(text)) => Some(bounded(text, &place.text, MAX_ID_CHARS)?),
            _ => None,
        };
        let about = match (id, provider_id) {
            (Some(id), Some(provider_id)) => About::Both { id, provider_id },
            (Some(id), None) => About::Id(id),
            (None, Some(provider_id)) => About::ProviderId(provider_id),
            (None, None) => {
                let place = self.id.as_ref().or(self.provider_id.as_ref());
                let place = place.map(|place| place.text.clone()).unwrap_or_default();
                return Err(EventProblem::Missing(place));
            }
        };
        Ok(Report { about, status: self.status(context)? })
    }

    fn status(&self, context: &Context<'_>) -> Result<Option<String>, EventProblem> {
        let mut words = Vec::new();
        for place in &self.status {
            match context.used(place, self.trust)? {
                Some(word) => words.push(word.trim().to_owned()),
                None if self.trust == Trust::Hint => return Ok(None),
                None => return Err(EventProblem::Missing(place.text.clone())),
            }
        }
        let Some(first) = self.status.first() else { return Ok(None) };
        bounded(words.join(":"), &first.text, MAX_STATUS_CHARS).map(Some)
    }
}

/// Why a value cannot be read, before it is known where it stands.
enum ValueProblem {
    Field(FieldFault),
    RepeatedHeader(String),
}

impl ValueProblem {
    fn at(self, place: &str) -> EventProblem {
        match self {
            Self::Field(fault) => EventProblem::Field { at: place.to_owned(), fault },
            Self::RepeatedHeader(name) => EventProblem::RepeatedHeader(name),
        }
    }
}

impl Context<'_> {
    fn value(&self, source: &Source) -> Result<Option<String>, ValueProblem> {
        match source {
            Source::Header(name) => match self.incoming.headers.only(name) {
                Ok(value) => Ok(value.map(str::to_owned)),
                Err(_) => Err(ValueProblem::RepeatedHeader(name.clone())),
            },
            Source::Event(pointer) => self.event.scalar(pointer).map_err(ValueProblem::Field),
            Source::Body(pointer) => self.body.scalar(pointer).map_err(ValueProblem::Field),
        }
    }

    /// A value that says what happened: one that settles something must be signed.
    fn used(&self, place: &Place, trust: Trust) -> Result<Option<String>, EventProblem> {
        if let Source::Header(name) = &place.source
            && trust == Trust::Settle
            && !self.covers(name)
        {
            return Err(EventProblem::NotSigned(name.clone()));
        }
        let value = self.value(&place.source).map_err(|problem| problem.at(&place.text))?;
        Ok(value.filter(|value| !value.trim().is_empty()))
    }

    fn covers(&self, header: &str) -> bool {
        self.covered.iter().any(|name| name == header)
    }
}

fn query<'a>(incoming: &Incoming<'a>) -> &'a str {
    UrlParts::of(incoming.url).query.unwrap_or_default()
}

fn our_id(text: &str, at: &str) -> Result<Uuid, EventProblem> {
    Uuid::parse_str(text.trim()).map_err(|_| EventProblem::NotOurs {
        at: at.to_owned(),
        excerpt: peer_answer::excerpt(text, MAX_EXCERPT_CHARS),
    })
}

/// A text that can be stored.
fn bounded(text: String, at: &str, max: usize) -> Result<String, EventProblem> {
    if text.chars().count() > max {
        return Err(EventProblem::TooLong { at: at.to_owned(), max });
    }
    if text.contains(char::is_control) {
        return Err(EventProblem::ControlCharacters(at.to_owned()));
    }
    Ok(text)
}

/// A key of an event's id and its bytes.
fn content_key(event_id: &str, raw: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(digest(&digest::SHA256, event_id.as_bytes()).as_ref());
    context.update(raw);
    format!("sha256:{}", hex::encode(context.finish()))
}
