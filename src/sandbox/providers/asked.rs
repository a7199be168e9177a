//! A request to a simulated third party, read as its documentation says.

use std::collections::BTreeMap;

use poem::{
    Request,
    http::{HeaderMap, Method},
};
use serde_json::{Map, Value};
use url::form_urlencoded;

/// How the body of a create is written.
#[derive(Clone, Copy)]
pub(super) enum Content {
    Json,
    /// Names such as `metadata[key]` stay as they are.
    Form,
}

/// A request as it arrived.
pub(super) struct Asked {
    pub method: Method,
    pub path: String,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn new(request: &Request, body: Vec<u8>) -> Self {
        Self {
            method: request.method().clone(),
            path: request.original_uri().path().to_owned(),
            headers: request.headers().clone(),
            body,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as one object; `None`: it is none.
    pub fn object(&self, content: Content) -> Option<Value> {
        match content {
            Content::Json => serde_json::from_slice(&self.body).ok().filter(Value::is_object),
            Content::Form => {
                let pairs: BTreeMap<String, String> =
                    form_urlencoded::parse(&self.body).into_owned().collect();
                let pairs = pairs.into_iter().map(|(name, value)| (name, Value::String(value)));
                Some(Value::Object(Map::from_iter(pairs)))
            }
        }
    }
}

/// A text at a JSON pointer; empty where there is none.
pub(super) fn text<'a>(body: &'a Value, pointer: &str) -> &'a str {
    body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether this is an amount in decimals, such as `12.50`.
pub(super) fn is_decimal(amount: &str) -> bool {
    let (units, digits) = amount.split_once('.').unwrap_or((amount, "0"));
    let are_digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(units) && are_digits(digits)
}

/// Whether this is a currency in capitals.
pub(super) fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}
