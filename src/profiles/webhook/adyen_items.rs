//! `adapter = "adyen-items"`: Adyen's classic notifications, signed item by item inside the body.
//!
//! The signature is HMAC-SHA256 in base64 over eight fields joined by `:`; the key is in hex.
//! Nothing else of an item is signed, so nothing else is read. The source is
//! `util.is_valid_hmac_notification` of Adyen's Python library.

use chrono::{DateTime, Utc};
use subtle::{Choice, ConstantTimeEq};

use super::{
    Event, EventProblem, Rejection, Verifier,
    document::Document,
    extract::{Extraction, MAX_EVENTS},
    incoming::Incoming,
    keys::{Key, Keys},
    signature_header::Encoding,
};
use crate::{domain::peer_answer, profiles::pointer::Pointer};

const ITEMS: &str = "/notificationItems";
const ITEM: &str = "NotificationRequestItem";
const SIGNATURE: [&str; 2] = ["additionalData", "hmacSignature"];

/// The signed fields in their order.
pub const SIGNED: [&str; 8] = [
    "/pspReference",
    "/originalReference",
    "/merchantAccountCode",
    "/merchantReference",
    "/amount/value",
    "/amount/currency",
    "/eventCode",
    "/success",
];

/// Verifies each item of a body.
#[derive(Debug)]
pub struct AdyenItems {
    pub extraction: Extraction,
}

impl Verifier for AdyenItems {
    fn verify(
        &self,
        incoming: &Incoming<'_>,
        keys: &Keys,
        _: DateTime<Utc>,
    ) -> Result<Vec<Event>, Rejection> {
        let text = peer_answer::text(incoming.body, None);
        let body = Document::json(&text).map_err(Rejection::Body)?;
        let items = body.list(&Pointer::of(&[ITEMS.trim_start_matches('/')]), MAX_EVENTS);
        let items = items.filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| Rejection::NoItems(ITEMS.to_owned()))?;
        if items.len() > MAX_EVENTS {
            return Err(Rejection::TooManyEvents);
        }
        let keys = keys.candidates(None);
        let mut verified = Vec::new();
        for item in items {
            let item = Document::item(item).raw(&Pointer::of(&[ITEM])).unwrap_or("{}");
            let fields = signed_fields(&Document::item(item), &keys)?;
            verified.push((item, fields));
        }
        let events = verified.into_iter().filter_map(|(item, fields)| {
            let mut event = self.extraction.event_of(incoming, item)?;
            if fields.iter().any(|field| field.contains(':')) {
                event.dedupe_key = None;
                event.report = Err(EventProblem::AmbiguousFields);
            }
            Some(event)
        });
        Ok(events.collect())
    }
}

/// Checks an item's signature; returns its signed fields.
fn signed_fields(item: &Document<'_>, keys: &[&Key]) -> Result<Vec<String>, Rejection> {
    let given = item.scalar(&Pointer::of(&SIGNATURE)).ok().flatten();
    let given = given.filter(|given| !given.is_empty()).ok_or(Rejection::UnsignedItem)?;
    let no_match = || Rejection::NoMatch(SIGNATURE.join("."));
    let given = Encoding::Base64.decode(&given).ok_or_else(no_match)?;
    let fields = SIGNED.map(|field| {
        let steps: Vec<_> = field.split('/').skip(1).collect();
        item.scalar(&Pointer::of(&steps)).map(Option::unwrap_or_default)
    });
    let fields: Result<Vec<_>, _> = fields.into_iter().collect();
    let fields = fields.map_err(|_| no_match())?;
    let signed = [fields.join(":")];
    let matches = keys.iter().fold(Choice::from(0), |found, key| match key.mac(&signed) {
        Some(tag) => found | given.ct_eq(tag.as_ref()),
        None => found,
    });
    if bool::from(matches) { Ok(fields) } else { Err(no_match()) }
}
