//! The first request that creates a transaction, as it is kept to be sent again byte for byte.
//!
//! Headers with secrets are not kept: a repeat has the present ones. Everything else is sent as it
//! was the first time, whatever has become of the profile.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::request::{Content, Header, Method, Request};

/// A request that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// Where it was sent: sent elsewhere it would be no repeat.
    pub base_url: String,
    /// Without headers that hold secrets.
    pub request: Request,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    base_url: String,
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    content: Option<String>,
    body: String,
}

impl StoredRequest {
    pub fn new(base_url: &str, request: &Request) -> Self {
        let mut request = request.clone();
        request.headers.retain(|header| !header.is_secret);
        Self { base_url: base_url.to_owned(), request }
    }

    /// As bytes, which may hold what the client sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Request { method, path, query, headers, content, body } = &self.request;
        let written = Written {
            base_url: self.base_url.clone(),
            method: method.to_string(),
            path: path.clone(),
            query: query.clone(),
            headers: headers.iter().map(|h| (h.name.clone(), h.value.clone())).collect(),
            content: content.map(|content| content.to_string()),
            body: BASE64_STANDARD.encode(body),
        };
        // Texts alone: such a value always serialises.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// `None`: it was not written by [`Self::to_bytes`].
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(bytes).ok()?;
        let method: Method = keyword(written.method)?;
        let content: Option<Content> = match written.content {
            Some(word) => Some(keyword(word)?),
            None => None,
        };
        let header = |(name, value)| Header { name, value, is_secret: false };
        let request = Request {
            method,
            path: written.path,
            query: written.query,
            headers: written.headers.into_iter().map(header).collect(),
            content,
            body: BASE64_STANDARD.decode(written.body).ok()?,
        };
        Some(Self { base_url: written.base_url, request })
    }
}

fn keyword<T: serde::de::DeserializeOwned>(word: String) -> Option<T> {
    serde_json::from_value(word.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_but_for_secrets() {
        let header = |name: &str, is_secret| Header {
            name: name.to_owned(),
            value: format!("{name} value"),
            is_secret,
        };
        for content in [None, Some(Content::Json), Some(Content::Form)] {
            let request = Request {
                method: Method::Put,
                path: "/a%20b".to_owned(),
                query: vec![("q".to_owned(), "é&".to_owned())],
                headers: vec![header("Idempotency-Key", false), header("X-Key", true)],
                content,
                body: b"\0\xff{}".to_vec(),
            };
            let stored = StoredRequest::new("https://bank.example", &request);
            assert_eq!(stored.request.headers, [header("Idempotency-Key", false)]);
            assert_eq!(stored.request.body, request.body);
            let bytes = stored.to_bytes();
            assert!(!String::from_utf8_lossy(&bytes).contains("X-Key"));
            assert_eq!(StoredRequest::parse(&bytes), Some(stored));
        }
        assert_eq!(StoredRequest::parse(b"{}"), None);
    }
}
